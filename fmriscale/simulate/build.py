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
from fmriscale.config.recipe import config_hash, parse, to_dict
from fmriscale.simulate.anatomy import ROI, Anatomy, anatomy
from fmriscale.simulate.design import Design

TRUTH = "simulation.json"
"""Sidecar with the settings (the known truth) and their hash; its presence says that the folder is whole."""


def main(args: list[str]) -> int:
    """Run the verb; return the exit code."""
    config = parse(SimulateConfig, args, prog="fmriscale simulate")
    out = expand(config.out)
    check(config)  # a folder is judged by settings that make sense alone
    if is_finished(config, out):
        print(f"{out}: already written with these settings, nothing to do")
        return EXIT_OK
    simulate(config, out)
    runs = config.n_subjects * config.n_runs
    roi = f"ROI of {config.n_roi_voxels} voxels"
    print(
        f"{out}: simulated {config.n_subjects} subjects x {config.n_runs} runs = {runs} runs of "
        f"{config.n_volumes} volumes, "
        + (f"{roi} in {out / ROI}" if config.form == "fmriprep" else f"a corpus of the {roi}")
    )
    return EXIT_OK


def identity(config: SimulateConfig) -> str:
    """Return the hash of everything that determines the files; where they and the events lie does not."""
    events = None if config.events is None else sha256_file(expand(config.events))
    return config_hash(replace(config, out="", events=events)) + f"-{__version__}"


def is_finished(config: SimulateConfig, out: Path) -> bool:
    """Say whether `out` already holds exactly this experiment."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    truth = out / TRUTH
    try:
        known = json.loads(truth.read_text())["hash"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{out}: exists and is not a simulated experiment; choose another out or move it away"
        ) from None
    if known != identity(config):
        raise UserError(
            f"{out}: holds an experiment simulated with other settings (see {truth}); "
            "choose another out or remove the folder"
        )
    return True


def simulate(config: SimulateConfig, out: Path) -> None:
    """Write the experiment under a temporary name and rename it to `out`."""
    place, design = check(config)
    # Imported here, as a refusal needs neither scipy nor nibabel.
    from fmriscale.simulate.corpus import write_corpus
    from fmriscale.simulate.derivative import json_text, write_derivative

    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with writing_to(temporary):
            if config.form == "corpus":
                write_corpus(config, place, design, temporary)
            else:
                write_derivative(config, place, design, temporary)
            truth = {"hash": identity(config), "config": to_dict(replace(config, out=""))}
            atomic_write(temporary / TRUTH, json_text(truth))
            if out.exists():
                out.rmdir()
            temporary.rename(out)
            fsync_folder(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check(config: SimulateConfig) -> tuple[Anatomy, Design]:
    """Refuse sizes and strengths that cannot make the experiment; return the anatomy and the events."""
    lowest = dict.fromkeys(("n_subjects", "n_runs", "first_subject", "n_roi_voxels"), 1)
    for name, low in (*lowest.items(), ("seed", 0)):
        if getattr(config, name) < low:
            raise UserError(f"simulate: {name} is {getattr(config, name)}; it must be at least {low}")
    if not config.voxel_mm > 0:
        raise UserError(f"simulate: voxel_mm is {config.voxel_mm}; give the edge of a voxel, above 0 mm")
    if len(config.shape) != 3 or min(config.shape) < 6:
        raise UserError(f"simulate: shape is {config.shape}; give three sizes of at least 6 voxels")
    if not 0 <= config.individual <= 1:
        raise UserError(f"simulate: individual is {config.individual}; it is a share from 0 to 1")
    if not 0 <= config.autoregression < 1:
        raise UserError(f"simulate: autoregression is {config.autoregression}; give 0 to below 1")
    for name in ("smoothness", "motion"):
        if getattr(config, name) < 0:
            raise UserError(f"simulate: {name} is {getattr(config, name)}; give 0 or more")
    try:
        return anatomy(config), Design(config)
    except ValueError as error:
        raise UserError(f"simulate: {error}; lower n_roi_voxels or enlarge shape") from error
