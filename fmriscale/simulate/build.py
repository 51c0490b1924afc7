"""`fmriscale simulate`: write the simulated timbre experiment, as an fMRIPrep derivative or as a corpus."""

import io
import json
import os
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np

from fmriscale import __version__
from fmriscale.config import SimulateConfig
from fmriscale.errors import EXIT_OK, UserError
from fmriscale.files import atomic_write, expand, fsync_folder, sha256_file, writing_to
from fmriscale.pool import WorkerDied, available_cores, in_order
from fmriscale.recipe import config_hash, parse, to_dict
from fmriscale.simulate import corpus, signal
from fmriscale.simulate.anatomy import Anatomy, anatomy
from fmriscale.simulate.design import Design, label
from fmriscale.simulate.texture import BrainTexture

SPACE = "space-MNI152NLin2009cAsym"
ROI = "roi_mask.nii.gz"
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
    """Say whether `out` already holds exactly this experiment.

    Raises
    ------
    UserError
        The folder holds something else, which is left alone.
    """
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
    """Write the experiment under a temporary name and rename it to `out`.

    Raises
    ------
    UserError
        Sizes or events that cannot make the experiment, or a folder that cannot be written.
    """
    place, design = check(config)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with writing_to(temporary):
            if config.form == "corpus":
                corpus.write_corpus(config, place, design, temporary)
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


def write_derivative(config: SimulateConfig, place: Anatomy, design: Design, folder: Path) -> None:
    """Write images, confounds and events, subjects in parallel."""
    write_root(config, folder, place, design)
    work = [(config, folder, design, subject) for subject in design.subjects]
    for written in in_order(write_subject, work, min(config.n_subjects, available_cores())):
        if isinstance(written, WorkerDied):
            raise UserError(
                "simulate: a process died twice (out of memory?); make shape or n_volumes smaller"
            )


def write_root(config: SimulateConfig, folder: Path, place: Anatomy, design: Design) -> None:
    """Write the description, the participants and the ROI at the root of the derivative."""
    description = {
        "Name": "Simulated heard-and-imagined timbre experiment (not brain data)",
        "BIDSVersion": "1.8.0",
        "DatasetType": "derivative",
        "License": "CC0",
        "GeneratedBy": [
            {
                "Name": "fmriscale simulate",
                "Version": __version__,
                "Description": "Simulated; laid out and named as fMRIPrep writes its derivatives.",
            }
        ],
    }
    atomic_write(folder / "dataset_description.json", json_text(description))
    people = [f"{label(s)}\t{design.key(s)}" for s in design.subjects]
    atomic_write(folder / "participants.tsv", "\n".join(["participant_id\tkey", *people]) + "\n")
    write_image(folder / ROI, place.roi.astype(np.uint8), place.affine, config.t_r)


def write_subject(config: SimulateConfig, folder: Path, design: Design, subject: int) -> None:
    """Write every run of one subject, counted from 0."""
    place = anatomy(config)
    texture = BrainTexture(place)
    func = folder / label(subject) / "func"
    func.mkdir(parents=True, exist_ok=True)
    for number in range(config.n_runs):
        events = design.events(subject, number)
        task = events["condition"].iloc[0]
        stem = f"{label(subject)}_task-{task}_run-{number + 1:02d}"
        bold_TV, motion_T6 = signal.run(config, texture, subject, number, events)
        image_XYZT = np.zeros((*config.shape, config.n_volumes), np.int16)
        image_XYZT[place.brain] = np.rint(bold_TV.T)
        preproc = func / f"{stem}_{SPACE}_desc-preproc_bold"
        write_image(preproc.with_suffix(".nii.gz"), image_XYZT, place.affine, config.t_r)
        sidecar = {
            "RepetitionTime": config.t_r,
            "TaskName": task,
            "SkullStripped": False,
            "StartTime": 0.0,
            "SliceTimingCorrected": True,
        }
        atomic_write(preproc.with_suffix(".json"), json_text(sidecar))
        mask = func / f"{stem}_{SPACE}_desc-brain_mask.nii.gz"
        write_image(mask, place.brain.astype(np.uint8), place.affine, config.t_r)
        tissues = {"global_signal": place.brain, "csf": place.csf, "white_matter": place.white_matter}
        means = {
            name: bold_TV[:, mask[place.brain]].mean(axis=1, dtype=float) for name, mask in tissues.items()
        }
        table = signal.confounds(means, motion_T6, config.t_r).assign(**signal.dvars(bold_TV))
        confounds = func / f"{stem}_desc-confounds_timeseries"
        tsv = {"sep": "\t", "index": False, "na_rep": "n/a", "lineterminator": "\n"}
        atomic_write(confounds.with_suffix(".tsv"), table.to_csv(float_format="%.8g", **tsv))
        atomic_write(confounds.with_suffix(".json"), json_text({}))
        atomic_write(func / f"{stem}_events.tsv", events.to_csv(**tsv))


def write_image(path: Path, array: np.ndarray, affine: np.ndarray, t_r: float) -> None:
    """Write a gzipped NIfTI whose bytes depend on its content alone (no time, no file name)."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_qform(affine, code=4)
    image.header.set_sform(affine, code=4)
    if array.ndim == 4:
        image.header.set_zooms((*image.header.get_zooms()[:3], t_r))
    buffer = io.BytesIO()
    image.to_file_map({"header": nib.FileHolder(fileobj=buffer), "image": nib.FileHolder(fileobj=buffer)})
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    atomic_write(path, packer.compress(buffer.getvalue()) + packer.flush())


def json_text(value: object) -> str:
    """Return JSON with sorted keys and a final newline."""
    return json.dumps(value, indent=1, sort_keys=True) + "\n"
