"""Write the simulated experiment as an fMRIPrep derivative."""

import io
import json
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

from fmriscale.common.errors import UserError
from fmriscale.common.files import atomic_write
from fmriscale.common.version import __version__
from fmriscale.common.workers import WorkerDied, available_cores, map_in_order
from fmriscale.config import SimulateConfig
from fmriscale.simulate import signal
from fmriscale.simulate.anatomy import ROI, Anatomy, anatomy
from fmriscale.simulate.design import Design, label
from fmriscale.simulate.texture import BrainTexture

SPACE = "space-MNI152NLin2009cAsym"


def write_derivative(config: SimulateConfig, place: Anatomy, design: Design, folder: Path) -> None:
    """Write images, confounds and events, subjects in parallel."""
    write_root(config, folder, place, design)
    work = [(config, folder, design, subject) for subject in design.subjects]
    for written in map_in_order(write_subject, work, min(config.n_subjects, available_cores())):
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
