"""Write the simulated experiment as an fMRIPrep derivative."""

import io
import json
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

from fmriscale.common.console import counted
from fmriscale.common.errors import UserError
from fmriscale.common.files import atomic_write
from fmriscale.common.version import __version__
from fmriscale.common.workers import WorkerDied, available_cores, map_in_order
from fmriscale.config import SimulateConfig
from fmriscale.simulate import signal
from fmriscale.simulate.anatomy import ROI, Anatomy, BrainTexture
from fmriscale.simulate.design import Design, label

SPACE = "space-MNI152NLin2009cAsym"
DESCRIPTION = {
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


def write_derivative(config: SimulateConfig, anatomy: Anatomy, design: Design, folder: Path) -> None:
    """Write images, confounds and events, subjects in parallel."""
    write_json(folder / "dataset_description.json", DESCRIPTION)
    people = [f"{label(s)}\t{design.key(s)}" for s in design.subjects]
    atomic_write(folder / "participants.tsv", "\n".join(["participant_id\tkey", *people]) + "\n")
    write_image(folder / ROI, anatomy.roi.astype(np.uint8), anatomy.affine, config.t_r)
    work = [(config, anatomy, design, folder, subject) for subject in design.subjects]
    done = map_in_order(write_subject, work, min(config.n_subjects, available_cores()))
    for written in counted(done, len(work), "subjects"):
        if isinstance(written, WorkerDied):
            remedy = "make shape or n_volumes smaller"
            raise UserError(f"simulate: a process died twice (out of memory?); {remedy}")


def write_subject(
    config: SimulateConfig, anatomy: Anatomy, design: Design, folder: Path, subject: int
) -> None:
    """Write every run of one subject, counted from 0."""
    texture, func = BrainTexture(anatomy), folder / label(subject) / "func"
    func.mkdir(parents=True, exist_ok=True)
    for number in range(config.n_runs):
        events = design.events(subject, number)
        task = events["condition"].iloc[0]
        stem = f"{label(subject)}_task-{task}_run-{number + 1:02d}"
        bold_TV, motion_T6 = signal.run(config, texture, subject, number, events)
        write_bold(config, anatomy, bold_TV, func / f"{stem}_{SPACE}", task)
        table = confounds_table(config, anatomy, bold_TV, motion_T6)
        tsv = {"sep": "\t", "index": False, "na_rep": "n/a", "lineterminator": "\n"}
        confounds = func / f"{stem}_desc-confounds_timeseries"
        atomic_write(confounds.with_suffix(".tsv"), table.to_csv(float_format="%.8g", **tsv))
        write_json(confounds.with_suffix(".json"), {})
        atomic_write(func / f"{stem}_events.tsv", events.to_csv(**tsv))


def write_bold(config: SimulateConfig, anatomy: Anatomy, bold_TV: np.ndarray, stem: Path, task: str) -> None:
    """Write the image of a run, its sidecar and its brain mask."""
    image_XYZT = np.zeros((*config.shape, config.n_volumes), np.int16)
    image_XYZT[anatomy.brain] = np.rint(bold_TV.T)
    preproc = stem.with_name(f"{stem.name}_desc-preproc_bold")
    write_image(preproc.with_suffix(".nii.gz"), image_XYZT, anatomy.affine, config.t_r)
    timing = {"RepetitionTime": config.t_r, "StartTime": 0.0, "SliceTimingCorrected": True}
    write_json(preproc.with_suffix(".json"), {"TaskName": task, "SkullStripped": False, **timing})
    mask = stem.with_name(f"{stem.name}_desc-brain_mask.nii.gz")
    write_image(mask, anatomy.brain.astype(np.uint8), anatomy.affine, config.t_r)


def confounds_table(config: SimulateConfig, anatomy: Anatomy, bold_TV: np.ndarray, motion_T6: np.ndarray):
    """Return the confounds of a run, with the means of tissues."""
    tissues = {"global_signal": anatomy.brain, "csf": anatomy.csf, "white_matter": anatomy.white_matter}
    columns = {name: mask[anatomy.brain] for name, mask in tissues.items()}
    means = {name: bold_TV[:, own].mean(axis=1, dtype=float) for name, own in columns.items()}
    return signal.confounds(means, motion_T6, config.t_r).assign(**signal.dvars(bold_TV))


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


def write_json(path: Path, value: object) -> None:
    """Write JSON with sorted keys and a final newline."""
    atomic_write(path, json.dumps(value, indent=1, sort_keys=True) + "\n")
