"""A made-up fMRIPrep run of realistic size: the same bytes on every machine, cached in a folder."""

import gzip
import io
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.cifti2.cifti2 import Cifti2Image
from nibabel.cifti2.cifti2_axes import BrainModelAxis, LabelAxis, SeriesAxis
from scipy.ndimage import uniform_filter
from scipy.spatial import KDTree

SHAPE, T_R, N_PARCELS = (91, 109, 91), 2.0, 400
AFFINE = np.array([[2.0, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
VOLUMES_PER_MEMBER = 200
STEM = "sub-{subject}_task-rest_run-{run:02d}"
N_GRAYORDINATES, N_COLUMNS = 91_282, 20_000


def radius() -> np.ndarray:
    """Distance [X, Y, Z] from the centre, 1 on the surface of a brain of usual size."""
    axes = [(np.arange(n) - (n - 1) / 2) / (0.37 * n) for n in SHAPE]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    return np.sqrt(x**2 + y**2 + z**2).astype(np.float32)


def write_atlas(folder: Path) -> Path:
    """400 patches of a sheet of about 125,000 voxels, as much as a cortical atlas of 2 mm has."""
    path = folder / "atlas_400.nii.gz"
    if not path.exists():
        distance = radius()
        sheet = np.argwhere((distance > 0.7) & (distance < 1.0))
        seeds = np.random.default_rng(0).choice(len(sheet), N_PARCELS, replace=False)
        labels = np.zeros(SHAPE, np.int16)
        labels[tuple(sheet.T)] = 1 + KDTree(sheet[seeds]).query(sheet)[1]
        nib.Nifti1Image(labels, AFFINE).to_filename(path)
    return path


def _volumes() -> bytes:
    """200 int16 volumes: a smooth head, and noise that is smooth in space and autocorrelated in time."""
    rng, distance = np.random.default_rng(1), radius()
    coarse = rng.normal(size=SHAPE).astype(np.float32)
    for _ in range(3):
        coarse = uniform_filter(coarse, 9)
    head = np.clip(1.1 - distance, 0, 0.1) / 0.1 * (900 + 300 * coarse / coarse.std())
    spread = np.where(distance < 1, 6.0, np.where(distance < 1.1, 1.5, 0.0)).astype(np.float32)
    noise = np.zeros(SHAPE, np.float32)
    voxels = io.BytesIO()
    for _ in range(VOLUMES_PER_MEMBER):
        fresh = uniform_filter(rng.standard_normal(SHAPE, np.float32), 2)
        noise = 0.6 * noise + 0.8 * fresh / fresh.std()
        volume = np.maximum(head + spread * noise, 0)
        voxels.write(volume.astype("<i2").tobytes(order="F"))
    return voxels.getvalue()


def write_run(root: Path, subject: str, run: int, n_volumes: int) -> Path:
    """A run beneath sub-*/func; beyond 200 volumes the same 200 come again, a gzip member each."""
    folder = root / f"sub-{subject}" / "func"
    stem = folder / STEM.format(subject=subject, run=run)
    path = Path(f"{stem}_desc-preproc_bold.nii.gz")
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    member = root.parent / "volumes.gz"
    if not member.exists():
        member.write_bytes(gzip.compress(_volumes(), 1, mtime=0))
    header = nib.Nifti1Header()
    header.set_data_shape((*SHAPE, n_volumes))
    header.set_data_dtype(np.int16)
    header.set_sform(AFFINE, 1)
    header.set_zooms((2, 2, 2, T_R))
    header.set_xyzt_units("mm", "sec")
    header["vox_offset"], header["magic"] = 352, b"n+1"
    header["descrip"] = f"subject {subject} run {run}"  # runs of one content would be taken for copies
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as handle:
        handle.write(gzip.compress(header.binaryblock + bytes(4), 1, mtime=0))
        for _ in range(n_volumes // VOLUMES_PER_MEMBER):
            handle.write(member.read_bytes())
    temporary.replace(path)
    nib.Nifti1Image((radius() < 1.05).astype(np.uint8), AFFINE).to_filename(f"{stem}_desc-brain_mask.nii.gz")
    Path(f"{stem}_desc-preproc_bold.json").write_text(json.dumps({"RepetitionTime": T_R}))
    table = confounds(n_volumes, seed=run)
    table.to_csv(f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a")
    Path(f"{stem}_desc-confounds_timeseries.json").write_text("{}")
    return path


def confounds(n_volumes: int, seed: int) -> pd.DataFrame:
    """As wide a table as fMRIPrep's: motion, tissues, CompCor, cosines, outliers."""
    rng = np.random.default_rng(seed)
    table = {}
    tissues = ("csf", "white_matter", "global_signal", "csf_wm")
    for name in (*tissues, *(f"{k}_{a}" for k in ("trans", "rot") for a in "xyz")):
        value = np.cumsum(rng.normal(size=n_volumes)) * 0.01
        change = np.r_[np.nan, np.diff(value)]
        table |= {name: value, f"{name}_derivative1": change}
        table |= {f"{name}_power2": value**2, f"{name}_derivative1_power2": change**2}
    table["framewise_displacement"] = np.r_[np.nan, np.abs(rng.normal(size=n_volumes - 1)) * 0.1]
    for name in ("std_dvars", "dvars", "rmsd"):
        table[name] = np.r_[np.nan, 1 + 0.05 * rng.normal(size=n_volumes - 1)]
    time = (np.arange(n_volumes) + 0.5) / n_volumes
    for k in range(int(2 * n_volumes * T_R / 128)):
        table[f"cosine{k:02d}"] = np.cos(np.pi * (k + 1) * time)
    for kind, count in (("a", 100), ("t", 6), ("c", 20), ("w", 20)):
        table |= {f"{kind}_comp_cor_{k:02d}": rng.normal(size=n_volumes) for k in range(count)}
    table |= {f"motion_outlier{k:02d}": np.eye(n_volumes)[7 * k + 9] for k in range(5)}
    return pd.DataFrame(table)


def write_tree(root: Path, n_files: int = 10_000) -> None:
    """Names of a large study, 40 files a subject; the files are empty."""
    kinds = ("preproc_bold.nii.gz", "preproc_bold.json", "brain_mask.nii.gz", "confounds_timeseries.tsv")
    if not root.exists():
        for number in range(n_files // 40):
            folder = root / f"sub-{number:04d}" / "func"
            folder.mkdir(parents=True)
            for run in range(10):
                stem = STEM.format(subject=f"{number:04d}", run=run + 1)
                for kind in kinds:
                    (folder / f"{stem}_desc-{kind}").touch()


def write_cifti(root: Path, atlas: Path, n_volumes: int = 300) -> None:
    """A dense series on the usual number of grayordinates, and its dense atlas."""
    if atlas.exists():
        return
    folder = root / "sub-01" / "func"
    folder.mkdir(parents=True)
    half, rest = 29_696, N_GRAYORDINATES - 2 * 29_696
    axis = BrainModelAxis.from_surface(np.arange(half), 32_492, "CORTEX_LEFT")
    axis += BrainModelAxis.from_surface(np.arange(half), 32_492, "CORTEX_RIGHT")
    voxels = np.argwhere(np.ones((32, 32, 32)))[:rest]
    axis += BrainModelAxis("BRAIN_STEM", voxels, affine=np.eye(4), volume_shape=(32, 32, 32))
    labels = (np.arange(N_GRAYORDINATES) * N_PARCELS // N_GRAYORDINATES + 1)[None].astype(np.float32)
    table = {0: ("none", (0, 0, 0, 0)), **{k: (f"p{k}", (1, 1, 1, 1)) for k in range(1, N_PARCELS + 1)}}
    series = SeriesAxis(0, T_R, n_volumes)
    values = np.random.default_rng(0).normal(1000, 10, (n_volumes, N_GRAYORDINATES)).astype(np.float32)
    path = folder / f"{STEM.format(subject='01', run=1)}_space-fsLR_den-91k_bold.dtseries.nii"
    Cifti2Image(values, (series, axis)).to_filename(path)
    Cifti2Image(labels, (LabelAxis(["parcels"], [table]), axis)).to_filename(atlas)


def write_array(root: Path, n_volumes: int = 1_200) -> None:
    """Given columns, 100 MB of them."""
    if not root.exists():
        root.mkdir(parents=True)
        values = np.random.default_rng(0).normal(size=(n_volumes, N_COLUMNS)).astype(np.float32)
        np.save(root / "sub-01_ts.npy", values)
