"""Small surfaces and grayordinates with known content, which nibabel writes as real CIFTI and GIFTI files."""

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.cifti2.cifti2_axes import BrainModelAxis, LabelAxis, ParcelsAxis, SeriesAxis
from nibabel.gifti.gifti import GiftiDataArray, GiftiImage, GiftiLabel, GiftiLabelTable

N_VERTICES = 50
GRID = (9, 8, 7)
GRID_AFFINE = np.array([[-2.0, 0, 0, 8], [0, 2, 0, -6], [0, 0, 2, -4], [0, 0, 0, 1]])


def surface(structure: str, vertices: np.ndarray, n_vertices: int = N_VERTICES) -> BrainModelAxis:
    """Return the axis of some vertices of one structure, in the given order."""
    return BrainModelAxis.from_surface(vertices, n_vertices, name=structure)


def volume(structure: str, voxels: np.ndarray, affine: np.ndarray = GRID_AFFINE) -> BrainModelAxis:
    """Return the axis of some voxels [n, 3] of one structure, in the given order."""
    return BrainModelAxis(structure, voxel=voxels, affine=affine, volume_shape=GRID)


def voxels(first: int, count: int) -> np.ndarray:
    """Return voxels [count, 3] of the small grid, from a flat index on."""
    return np.stack(np.unravel_index(np.arange(first, first + count), GRID), axis=1)


def whole_brain() -> BrainModelAxis:
    """Return both cortices without their medial walls (vertices 0 to 9), and two structures of voxels."""
    cortex = np.arange(10, N_VERTICES)
    return (
        surface("CORTEX_LEFT", cortex)
        + surface("CORTEX_RIGHT", cortex)
        + volume("THALAMUS_LEFT", voxels(100, 30))
        + volume("THALAMUS_RIGHT", voxels(200, 25))
    )


def series(axis: BrainModelAxis | ParcelsAxis, n_volumes: int, seed: int = 0) -> np.ndarray:
    """Return numbers [T, rows] around 1000."""
    return np.random.default_rng(seed).normal(1000, 20, (n_volumes, len(axis))).astype(np.float32)


def write_series(
    path: Path,
    values: np.ndarray,
    axis: BrainModelAxis | ParcelsAxis,
    t_r: float = 0.72,
    unit: str = "SECOND",
) -> Path:
    """Write a .dtseries.nii or .ptseries.nii [T, rows]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = SeriesAxis(start=0, step=t_r, size=len(values), unit=unit)
    nib.Cifti2Image(values, (time, axis)).to_filename(path)
    return path


def write_dlabel(path: Path, keys: np.ndarray, axis: BrainModelAxis, names: dict[int, str]) -> Path:
    """Write a .dlabel.nii with one map."""
    table = {0: ("???", (0, 0, 0, 0))} | {key: (name, (1, 0, 0, 1)) for key, name in names.items()}
    image = nib.Cifti2Image(keys[None].astype(np.float32), (LabelAxis(["map"], [table]), axis))
    image.to_filename(path)
    return path


def parcel_axis(names: list[str]) -> ParcelsAxis:
    """Return parcels of two vertices each."""
    return ParcelsAxis.from_brain_models(
        [(name, surface("CORTEX_LEFT", np.array([2 * i, 2 * i + 1]))) for i, name in enumerate(names)]
    )


def write_func(path: Path, values: np.ndarray, t_r: float | None = None) -> Path:
    """Write a .func.gii of [vertices, T] with one array per time point; t_r (s) goes to TimeStep in ms."""
    meta = {} if t_r is None else {"TimeStep": f"{1000 * t_r:f}"}
    arrays = [
        GiftiDataArray(v, "NIFTI_INTENT_TIME_SERIES", "NIFTI_TYPE_FLOAT32", meta=meta)
        for v in values.T.astype(np.float32)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    GiftiImage(darrays=arrays).to_filename(path)
    return path


def write_label_gii(path: Path, keys: np.ndarray, names: dict[int, str]) -> Path:
    """Write a .label.gii with one map."""
    table = GiftiLabelTable()
    for key, name in names.items():
        table.labels.append(GiftiLabel(key=key))
        table.labels[-1].label = name
    array = GiftiDataArray(keys.astype(np.int32), "NIFTI_INTENT_LABEL", "NIFTI_TYPE_INT32")
    GiftiImage(labeltable=table, darrays=[array]).to_filename(path)
    return path
