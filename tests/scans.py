"""Small scans with known content, written as real files: images, fMRIPrep derivatives, atlases."""

import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from fmriscale.config import CorpusConfig, DatasetConfig, FeatureConfig, QualityConfig
from fmriscale.ingest.find.sources import find_runs

SHAPE = (8, 9, 7)
N_LABELS = 6
T_R = 2.0
AFFINE = np.array([[3.0, 0, 0, -10], [0, 3, 0, -12], [0, 0, 3, -9], [0, 0, 0, 1]])


def brain_like(n_volumes: int, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Return voxels [X, Y, Z, T] around 1000 with noise that is smooth in time, int16."""
    noise = np.random.default_rng(seed).normal(size=(*shape, n_volumes))
    noise[..., 1:] += 0.8 * noise[..., :-1]
    return (1000 + 20 * noise).astype(np.int16)


def write_image(
    path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE, t_r: float | None = T_R, **header: Any
) -> Path:
    """Write a NIfTI image; with t_r None, the header has no repetition time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, affine)
    for name, value in header.items():
        image.header[name] = value
    if t_r is not None:
        image.header.set_xyzt_units("mm", "sec")
        image.header.set_zooms((*image.header.get_zooms()[:3], t_r))
    image.to_filename(path)
    return path


def write_atlas(path: Path, shape: tuple[int, ...] = SHAPE, affine: np.ndarray = AFFINE) -> Path:
    """Write an atlas of six slabs with labels 10, 20, ..., and a margin of 0."""
    labels = np.zeros(shape, np.int16)
    inner = labels[1:-1, 1:-1, 1:-1]
    inner[:] = (10 * (1 + np.arange(inner.shape[0]) * N_LABELS // inner.shape[0]))[:, None, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(labels, affine).to_filename(path)
    return path


def confounds(n_volumes: int, seed: int = 0) -> pd.DataFrame:
    """Return confounds with the columns of fMRIPrep and its n/a in the first row."""
    rng = np.random.default_rng(seed + 1000)
    table = {}
    for name in (*(f"{k}_{a}" for k in ("trans", "rot") for a in "xyz"), "white_matter", "csf"):
        value = np.cumsum(rng.normal(size=n_volumes)) * 0.01
        change = np.r_[np.nan, np.diff(value)]
        table |= {name: value, f"{name}_derivative1": change}
        table |= {f"{name}_power2": value**2, f"{name}_derivative1_power2": change**2}
    time = (np.arange(n_volumes) + 0.5) / n_volumes
    table |= {f"cosine0{k}": np.cos(np.pi * (k + 1) * time) for k in range(2)}
    table["framewise_displacement"] = np.r_[np.nan, np.abs(rng.normal(size=n_volumes - 1)) * 0.1]
    table["std_dvars"] = np.r_[np.nan, 1 + 0.05 * rng.normal(size=n_volumes - 1)]
    return pd.DataFrame(table)


def write_fmriprep_run(root: Path, subject: str, run: int = 1, n_volumes: int = 40, **options: Any) -> Path:
    """Write one run as fMRIPrep does; options: task, space, voxels, table, t_r, affine, events."""
    space = f"_space-{options['space']}" if "space" in options else ""
    stem = f"sub-{subject}_task-{options.get('task', 'rest')}_run-{run:02d}"
    folder = root / f"sub-{subject}" / "func"
    seed = int(subject) * 100 + run
    voxels = options.get("voxels", brain_like(n_volumes, seed))
    affine, t_r = options.get("affine", AFFINE), options.get("t_r", T_R)
    path = write_image(folder / f"{stem}{space}_desc-preproc_bold.nii.gz", voxels, affine, t_r)
    if t_r is not None:
        (folder / f"{stem}{space}_desc-preproc_bold.json").write_text(json.dumps({"RepetitionTime": t_r}))
    mask = nib.Nifti1Image(np.ones(voxels.shape[:3], np.uint8), affine)
    mask.to_filename(folder / f"{stem}{space}_desc-brain_mask.nii.gz")
    table = options.get("table", confounds(voxels.shape[-1], seed))
    table.to_csv(folder / f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a")
    if "events" in options:
        (folder / f"{stem}_events.tsv").write_text(options["events"])
    return path


def grow(root: Path, *files: str) -> Path:
    """Make a tree of empty files; braces give alternatives, as in a shell: `a_{x,y}.nii`."""
    for file in files:
        before, opening, rest = file.partition("{")
        if opening:
            inside, _, after = rest.partition("}")
            grow(root, *(before + choice + after for choice in inside.split(",")))
        else:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).touch()
    return root


def dataset(root: Path, atlas: Path | None = None, **settings: Any) -> DatasetConfig:
    """Return a data set of kind fmriprep on the small atlas; `settings` override its fields."""
    given: dict[str, Any] = {
        "name": "toy",
        "kind": "fmriprep",
        "root": str(root),
        "features": FeatureConfig(name="slabs", labels_img=str(atlas)) if atlas else None,
        "quality": QualityConfig(min_volumes=10),
    }
    return DatasetConfig(**(given | settings))


def corpus(out: Path, *datasets: DatasetConfig, **settings: Any) -> CorpusConfig:
    """Return a recipe for one process."""
    return CorpusConfig(**({"datasets": list(datasets), "out": str(out), "jobs": 1} | settings))


def fragile(number: int) -> int:
    """Return the number; kill this process if it is 2."""
    if number == 2:
        os._exit(1)
    return number


def hanging(path: str) -> int:
    """Return the length of a file; wait for ever if it is a pipe that nobody writes to."""
    return len(Path(path).read_bytes())


VOLUMES = FeatureConfig(name="f", labels_img="atlas.nii.gz")


def found(root: Path, features: FeatureConfig = VOLUMES, **given: Any) -> tuple[list, list]:
    """Return the runs and rejections of a tree of (empty) files."""
    return find_runs(dataset(root, features=features, **given))[:2]


def reasons(root: Path, **given: Any) -> dict[str, str]:
    """Return the reason why each file of a tree is not a run, by name."""
    return {r.source.rpartition("/")[2]: r.reason for r in found(root, **given)[1]}
