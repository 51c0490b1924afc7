"""`fmriscale simulate`: write the simulated timbre experiment, as an fMRIPrep derivative or as a corpus."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

from fmriscale.common.errors import EXIT_OK, UserError
from fmriscale.common.files import atomic_write, expand, fsync_folder, sha256_file, writing_to
from fmriscale.common.version import __version__
from fmriscale.config import SimulateConfig
from fmriscale.config.command_line import CommandLine
from fmriscale.config.recipe import config_hash, parse, to_dict
from fmriscale.simulate.anatomy import ROI, Anatomy, make_anatomy
from fmriscale.simulate.design import Design

TRUTH = "simulation.json"
"""Sidecar with the settings (the known truth) and their hash; its presence says that the folder is whole."""
LIMITS = (  # Settings, what holds of them, and the remedy
    ("n_subjects n_runs first_subject n_roi_voxels", lambda n: n >= 1, "it must be at least 1"),
    ("seed", lambda seed: seed >= 0, "it must be at least 0"),
    ("voxel_mm", lambda mm: mm > 0, "give the edge of a voxel, above 0 mm"),
    ("shape", lambda sizes: len(sizes) == 3 and min(sizes) >= 6, "give three sizes of at least 6 voxels"),
    ("individual", lambda share: 0 <= share <= 1, "it is a share from 0 to 1"),
    ("autoregression", lambda correlation: 0 <= correlation < 1, "give 0 to below 1"),
    ("smoothness motion", lambda mm: mm >= 0, "give 0 or more"),
)


def parser_of_verb() -> CommandLine:
    """Return the options of the verb: those of its recipe alone."""
    return CommandLine("fmriscale simulate", SimulateConfig)


def main(args: list[str]) -> int:
    """Run the verb; return the exit code."""
    config = parse(SimulateConfig, args, prog="fmriscale simulate")
    out = expand(config.out)
    check(config)  # a folder is judged by settings that make sense alone
    if is_finished(config, out):
        print(f"{out}: already written with these settings, nothing to do")
        return EXIT_OK
    simulate(config, out)
    roi, n_runs = f"ROI of {config.n_roi_voxels} voxels", config.n_subjects * config.n_runs
    where = f"{roi} in {out / ROI}" if config.form == "fmriprep" else f"a corpus of the {roi}"
    people = f"{config.n_subjects} subjects x {config.n_runs} runs"
    print(f"{out}: simulated {people} = {n_runs} runs of {config.n_volumes} volumes, {where}")
    return EXIT_OK


def check(config: SimulateConfig) -> tuple[Anatomy, Design]:
    """Refuse sizes and strengths that cannot make the experiment; return the anatomy and the events."""
    for names, holds, remedy in LIMITS:
        for name in names.split():
            if not holds(value := getattr(config, name)):
                raise UserError(f"simulate: {name} is {value}; {remedy}")
    try:
        return make_anatomy(config), Design(config)
    except ValueError as error:
        raise UserError(f"simulate: {error}; lower n_roi_voxels or enlarge shape") from error


def identity(config: SimulateConfig) -> str:
    """Return the hash of everything that determines the files; where they and the events lie does not."""
    events = None if config.events is None else sha256_file(expand(config.events))
    return config_hash(replace(config, out="", events=events)) + f"-{__version__}"


def is_finished(config: SimulateConfig, out: Path) -> bool:
    """Tell whether `out` already holds exactly this experiment; refuse a folder that holds something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    truth = out / TRUTH
    try:
        known = json.loads(truth.read_text())["hash"]
    except (OSError, ValueError, KeyError, TypeError):
        what = "exists and is not a simulated experiment"
        raise UserError(f"{out}: {what}; choose another out or move it away") from None
    if known != identity(config):
        what = f"holds an experiment simulated with other settings (see {truth})"
        raise UserError(f"{out}: {what}; choose another out or remove the folder")
    return True


def simulate(config: SimulateConfig, out: Path) -> None:
    """Write the experiment under a temporary name and rename it to `out`."""
    anatomy, design = check(config)
    # Imported here, as a refusal needs neither scipy nor nibabel.
    if config.form == "corpus":
        from fmriscale.simulate.corpus import write_corpus as write
    else:
        from fmriscale.simulate.derivative import write_derivative as write

    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with writing_to(temporary):
            write(config, anatomy, design, temporary)
            truth = {"hash": identity(config), "config": to_dict(replace(config, out=""))}
            atomic_write(temporary / TRUTH, json.dumps(truth, indent=1, sort_keys=True) + "\n")
            if out.exists():
                out.rmdir()
            temporary.rename(out)
            fsync_folder(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
