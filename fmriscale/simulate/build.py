"""`fmriscale simulate`: write the simulated timbre experiment as an fMRIPrep derivative."""

import io
import json
import os
import shutil
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import nibabel as nib
import numpy as np

from fmriscale import __version__
from fmriscale.config import SimulateConfig
from fmriscale.errors import EXIT_OK, UserError
from fmriscale.files import atomic_write, expand, fsync_folder
from fmriscale.recipe import config_hash, parse, to_dict
from fmriscale.simulate import design, signal

SPACE = "space-MNI152NLin2009cAsym"
TRUTH = "simulation.json"
"""Sidecar with the settings (the known truth) and their hash; its presence says that the folder is whole."""


def main(args: list[str]) -> int:
    """Run the verb; return the exit code."""
    config = parse(SimulateConfig, args, prog="fmriscale simulate")
    out = expand(config.out)
    if is_finished(config, out):
        print(f"{out}: already written with these settings, nothing to do")
        return EXIT_OK
    simulate(config, out)
    runs = config.n_subjects * config.n_runs
    print(
        f"{out}: simulated {config.n_subjects} subjects x {config.n_runs} runs = {runs} runs of "
        f"{config.n_volumes} volumes, ROI of {config.n_roi_voxels} voxels in {out / 'roi_mask.nii.gz'}"
    )
    return EXIT_OK


def identity(config: SimulateConfig) -> str:
    """Return the hash of everything that determines the files; the folder's own name does not."""
    return config_hash(replace(config, out="")) + f"-{__version__}"


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
    """Write the derivative under a temporary name and rename it to `out`.

    Raises
    ------
    UserError
        Sizes that cannot hold the experiment.
    """
    place = check(config)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        write_root(config, temporary, place)
        jobs = min(config.n_subjects, len(os.sched_getaffinity(0)))
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            list(pool.map(write_subject, repeat(config), repeat(temporary), range(config.n_subjects)))
        truth = {"hash": identity(config), "config": to_dict(replace(config, out=""))}
        atomic_write(temporary / TRUTH, json_text(truth))
        if out.exists():
            out.rmdir()
        temporary.rename(out)
        fsync_folder(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check(config: SimulateConfig) -> signal.Anatomy:
    """Refuse sizes that cannot hold the experiment; return the anatomy."""
    if min(config.n_subjects, config.n_runs) < 1:
        raise UserError("simulate: n_subjects and n_runs must be at least 1")
    if design.n_cycles(config.n_volumes, config.t_r) < 1:
        raise UserError(
            f"simulate: n_volumes {config.n_volumes} x t_r {config.t_r} s is too short; one cycle needs 24 s"
        )
    if len(config.shape) != 3 or min(config.shape) < 6:
        raise UserError(f"simulate: shape is {config.shape}; give three sizes of at least 6 voxels")
    if not 0 <= config.individual <= 1:
        raise UserError(f"simulate: individual is {config.individual}; it is a share from 0 to 1")
    try:
        return signal.anatomy(config)
    except ValueError as error:
        raise UserError(f"simulate: {error}; lower n_roi_voxels or enlarge shape") from error


def write_root(config: SimulateConfig, folder: Path, place: signal.Anatomy) -> None:
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
    people = [f"sub-{s + 1:02d}\t{design.key_of(s)}" for s in range(config.n_subjects)]
    atomic_write(folder / "participants.tsv", "\n".join(["participant_id\tkey", *people]) + "\n")
    write_image(folder / "roi_mask.nii.gz", place.roi.astype(np.uint8), place.affine, config.t_r)


def write_subject(config: SimulateConfig, folder: Path, subject: int) -> None:
    """Write every run of one subject, counted from 0."""
    place = signal.anatomy(config)
    label = f"sub-{subject + 1:02d}"
    func = folder / label / "func"
    func.mkdir(parents=True)
    for number in range(config.n_runs):
        events = design.events(subject, number, config.n_volumes, config.t_r, config.seed)
        task = events["condition"].iloc[0]
        stem = f"{label}_task-{task}_run-{number + 1:02d}"
        bold_TV, motion_T6 = signal.run(config, place, subject, number, events)
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
        table = signal.confounds(bold_TV, motion_T6, place, config.t_r)
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
