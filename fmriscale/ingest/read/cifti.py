"""CIFTI files: their grayordinates or parcels, and their series in blocks of rows, whatever their size."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.cifti2.cifti2 import Cifti2Header
from nibabel.cifti2.cifti2_axes import BrainModelAxis, LabelAxis, ParcelsAxis, SeriesAxis

from fmriscale.common.quarantine import Rejected
from fmriscale.ingest.read.content import reading
from fmriscale.ingest.read.labels import whole_labels
from fmriscale.ingest.read.nifti import open_nifti, stream_rows


@dataclass(frozen=True, eq=False)
class Grayordinates:
    """Vertices of surfaces and voxels of a volume."""

    structure: np.ndarray  # [n] of str, without CIFTI_STRUCTURE_
    vertex: np.ndarray  # [n], number of the vertex in its structure, -1 = a voxel
    voxel: np.ndarray  # [n, 3], indices of the voxel, -1 = a vertex
    n_vertices: dict[str, int]  # vertices of every surface, those without data included
    shape: tuple[int, int, int]  # of the volume; (0, 0, 0) = there is none
    affine: np.ndarray  # [4, 4], voxel index to mm

    def __len__(self) -> int:
        return self.structure.size

    def take(self, rows: np.ndarray) -> "Grayordinates":
        """Return some of them."""
        return replace(self, structure=self.structure[rows], vertex=self.vertex[rows], voxel=self.voxel[rows])


ParcelNames = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Header:
    """The header of a CIFTI file."""

    rows: Grayordinates | ParcelNames
    columns: Any  # axis of nibabel: SeriesAxis, LabelAxis, ...
    data: Any  # ArrayProxy of nibabel: type, position and scaling of the numbers on disk
    keys: np.ndarray | None = None  # the numbers of a label file


def read_header(path: Path) -> Header:
    """Read the two headers of a CIFTI-2 file, plain or gzipped."""
    with open_nifti(path) as image:
        contents = [extension.get_content() for extension in image.header.extensions]
        header = next((content for content in contents if isinstance(content, Cifti2Header)), None)
        if header is None:
            raise ValueError("there is no CIFTI extension in its header")
        columns, axis = header.get_axis(0), header.get_axis(1)
        keys = np.asarray(image.dataobj) if isinstance(columns, LabelAxis) else None
    if image.shape != (1, 1, 1, 1, len(columns), len(axis)):
        raise ValueError(f"shape {image.shape[-2:]} contradicts {len(columns)} by {len(axis)} of its header")
    if isinstance(axis, BrainModelAxis):
        return Header(_grayordinates(axis), columns, image.dataobj, keys)
    if isinstance(axis, ParcelsAxis):
        return Header(tuple(str(name) for name in axis.name), columns, image.dataobj, keys)
    raise ValueError("it holds neither grayordinates nor parcels")


def _grayordinates(axis: Any) -> Grayordinates:
    """Convert a BrainModelAxis of nibabel; refuse what lies outside its own surfaces or volume."""
    shape, on_surface = axis.volume_shape or (0, 0, 0), axis.vertex >= 0
    names, which = np.unique(axis.name, return_inverse=True)
    limits = np.array([axis.nvertices.get(name, 0) for name in names])[which]
    deep = axis.voxel[~on_surface]
    if (axis.vertex >= limits)[on_surface].any() or ((deep < 0) | (deep >= shape)).any():
        raise ValueError("its vertices or voxels lie outside its surfaces or volume")
    return Grayordinates(
        structure=np.array([_short(name) for name in names])[which],
        vertex=axis.vertex,
        voxel=axis.voxel,
        n_vertices={_short(name): int(n) for name, n in axis.nvertices.items()},
        shape=shape,
        affine=np.eye(4) if axis.affine is None else axis.affine,
    )


def _short(name: str) -> str:
    return name.removeprefix("CIFTI_STRUCTURE_")


def read_labels(header: Header) -> tuple[np.ndarray, dict[int, str]]:
    """Return the key of every grayordinate of a .dlabel.nii, and the name of every key."""
    if header.keys is None:
        raise ValueError("it holds no labels; give a .dlabel.nii")
    if len(header.columns) != 1:
        names = ", ".join(header.columns.name)
        raise ValueError(f"it holds {len(header.columns)} maps ({names}); write the wanted one alone")
    names = {int(key): str(name) for key, (name, _) in header.columns.label[0].items()}
    return whole_labels(header.keys.ravel()), names


@dataclass(frozen=True, eq=False)
class Series:
    """The header of a .dtseries.nii or .ptseries.nii; the numbers stay on disk."""

    path: Path
    rows: Grayordinates | ParcelNames
    n_volumes: int
    t_r: float | None  # repetition time, s; None where the series is not one in time
    data: Any  # ArrayProxy of nibabel: type, position and scaling of the numbers
    first: int = 0  # volume of the file that is the first of the series

    def cut(self, volumes: slice) -> "Series":
        """Return some of its volumes."""
        return replace(self, first=volumes.start, n_volumes=volumes.stop - volumes.start)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the time series of the rows in blocks [r, T]."""
        slope, inter = float(self.data.slope), float(self.data.inter)
        shape, end = (len(self.rows), int(self.data.shape[-2])), self.first + self.n_volumes
        for rows in stream_rows(self.path, int(self.data.offset), self.data.dtype, shape):
            block = rows[:, self.first : end]
            yield block if (slope, inter) == (1.0, 0.0) else block * slope + inter


def open_series(path: Path) -> Series:
    """Read the header of a CIFTI series."""
    with reading(path, "cifti"):
        header = read_header(path)
    series, data = header.columns, header.data
    if not isinstance(series, SeriesAxis):
        raise Rejected("unreadable", "not a series in time; give a .dtseries.nii or .ptseries.nii")
    if data.dtype.kind not in "iuf":
        raise Rejected("unreadable", f"numbers of type {data.dtype} are not real numbers")
    in_time = series.unit == "SECOND" and series.step > 0
    return Series(path, header.rows, len(series), float(series.step) if in_time else None, data)
