"""NIfTI files of both versions, compressed or not; 4D images are read in blocks of time."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import isal_zlib
from nibabel.imageglobals import logger as nibabel_logger

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejected
from fmriscale.common.suggest import did_you_mean_path
from fmriscale.ingest.read.content import open_content, reading, reading_input
from fmriscale.ingest.read.convert import not_a_series

BLOCK_BYTES = 2 * 2**20  # Size of a block: small enough to stay in cache, so that reducing it is nearly free

_SECONDS = {8: 1.0, 16: 1e-3, 24: 1e-6}  # Unit of time by bits 3 to 5 of a NIfTI header's xyzt_units

_UNREADABLE: Any = (OSError, EOFError, ValueError, OverflowError, MemoryError, isal_zlib.error)


@contextmanager
def open_nifti(path: Path) -> Iterator[Any]:
    """Open an image of NIfTI-1 or NIfTI-2; its numbers can be read within the context."""
    level = nibabel_logger.level
    nibabel_logger.setLevel(logging.CRITICAL + 1)  # what is odd in a header stands in the rejection
    try:
        with open_content(path) as handle:
            size = handle.read(4)
            handle.seek(0)
            is_second = 540 in (int.from_bytes(size, "little"), int.from_bytes(size, "big"))
            yield (nib.Nifti2Image if is_second else nib.Nifti1Image).from_stream(handle)
    finally:
        nibabel_logger.setLevel(level)


def _orientation_flaw(image: Any) -> str | None:
    """Return why a header gives its voxels no position; qform or sform is enough."""
    if max(image.header["qform_code"], image.header["sform_code"]) <= 0:
        return "qform_code and sform_code of its header are 0: nothing says where its voxels lie"
    affine = np.asarray(image.affine)
    usable = np.isfinite(affine).all() and np.linalg.matrix_rank(affine) == 4
    return None if usable else "its affine places no voxel"


def read_volume(path: Path) -> tuple[np.ndarray, np.ndarray, str | None]:
    """Return voxels [X, Y, Z, ...], affine [4, 4], and why the header gives no position; None = it does."""
    with open_nifti(path) as image:
        return np.asarray(image.dataobj), np.asarray(image.affine), _orientation_flaw(image)


def read_grid(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Return shape and affine of an image that the recipe names."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; affine_from needs it{did_you_mean_path(path)}")
    with reading_input(path, "nifti"), open_nifti(path) as image:
        flaw, shape, affine = _orientation_flaw(image), image.shape[:3], np.asarray(image.affine)
    if flaw is not None:
        raise UserError(f"{path}: {flaw}; give affine_from an image that says it")
    return shape, affine


@dataclass(frozen=True)
class Image:
    """The header of a 4D image; the voxels stay on disk, where value = raw * slope + inter."""

    path: Path
    shape: tuple[int, int, int]  # voxels in x, y, z
    n_volumes: int
    affine: np.ndarray  # [4, 4], voxel index to mm
    t_r: float | None  # repetition time, s, where the header states it with its unit
    dtype: np.dtype  # of the voxels on disk
    offset: int  # byte of the first voxel
    slope: float
    inter: float
    affine_from: str | None = None  # name of the image that the affine was taken from; None = the run's own

    def cut(self, volumes: slice) -> "Image":
        """Return some of its volumes."""
        size = int(np.prod(self.shape)) * self.dtype.itemsize
        n_volumes = volumes.stop - volumes.start
        return replace(self, offset=self.offset + volumes.start * size, n_volumes=n_volumes)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the raw voxels in time blocks [t, X*Y*Z], first voxel axis fastest; see `stream_rows`."""
        return stream_rows(self.path, self.offset, self.dtype, (self.n_volumes, int(np.prod(self.shape))))


def open_image(path: Path, affine_from: Path | None = None) -> Image:
    """Read the header of a 4D NIfTI image; one without an affine takes that of `affine_from`."""
    with reading(path, "nifti"), open_nifti(path) as image:
        header, data = image.header, image.dataobj  # an ArrayProxy: type and position, not the voxels
        flaw = _orientation_flaw(image)
    if len(image.shape) != 4:
        raise Rejected("unreadable", not_a_series(path, image.shape))
    if data.dtype.kind not in "iuf":
        raise Rejected("unreadable", f"voxels of type {data.dtype} are not real numbers")
    affine = np.asarray(image.affine) if flaw is None else _affine_of(affine_from, image.shape[:3], flaw)
    unit = _SECONDS.get(int(header["xyzt_units"]) & 0b111000)
    step = float(header.get_zooms()[3])
    x, y, z, n_volumes = (int(n) for n in image.shape)
    return Image(
        path=path,
        shape=(x, y, z),
        n_volumes=n_volumes,
        affine=affine,
        t_r=step * unit if unit and step > 0 else None,
        dtype=data.dtype,
        offset=int(data.offset),
        slope=float(data.slope),
        inter=float(data.inter),
        affine_from=affine_from.name if affine_from is not None and flaw is not None else None,
    )


def _affine_of(affine_from: Path | None, shape: tuple[int, ...], flaw: str) -> np.ndarray:
    """Return the affine for a run that has none, from the image that the recipe names."""
    if affine_from is None:
        remedy = "export the run again with its orientation, or name an image on the same grid by affine_from"
        raise Rejected("no_orientation", f"{flaw}, left and right may be swapped; {remedy}")
    grid, affine = read_grid(affine_from)
    if grid != shape:
        what = f"{affine_from.name} (affine_from) has {grid} voxels, the run {shape}"
        raise Rejected("no_orientation", f"{flaw}; {what}: name an image on the run's own grid")
    return affine


def stream_rows(path: Path, offset: int, dtype: np.dtype, shape: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield the raw numbers [rows, length] of a plain or gzipped file in read-only blocks of rows."""
    n_rows, length = shape
    per_block = max(1, BLOCK_BYTES // max(1, length * dtype.itemsize))
    try:
        # What `read` returns is used as it is: `readinto` of a gzip file would copy it once more.
        with open_content(path) as handle:
            handle.seek(offset)
            for start in range(0, n_rows, per_block):
                rows = min(per_block, n_rows - start)
                wanted = rows * length * dtype.itemsize
                data = handle.read(wanted)
                if len(data) < wanted:
                    raise EOFError(f"{wanted - len(data)} bytes are missing")
                block = np.frombuffer(data, dtype).reshape(rows, length)
                # Some machines wrote big-endian files; arithmetic wants native numbers.
                yield block if dtype.isnative else block.astype(dtype.newbyteorder("="))
            handle.read(1)  # the checksum of a .gz file is verified only at its end
    except _UNREADABLE as error:
        raise Rejected("unreadable", f"damaged or cut short: {error}; copy the file again") from error
