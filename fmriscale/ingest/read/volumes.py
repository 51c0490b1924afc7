"""Read images as a stream of blocks, at the speed of decompression: 4D NIfTI in blocks of time."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib

from fmriscale.common.quarantine import Rejected
from fmriscale.ingest.read.content import check_content, open_content
from fmriscale.ingest.read.convert import not_a_series
from fmriscale.ingest.read.nifti import open_nifti, read_grid, why_unplaced

BLOCK_BYTES = 2 * 2**20
"""Size of a block: small enough to stay in cache, so that reducing it is nearly free."""

_SECONDS = {8: 1.0, 16: 1e-3, 24: 1e-6}
"""Unit of time by bits 3 to 5 of a NIfTI header's xyzt_units."""

_UNREADABLE: Any = (OSError, EOFError, ValueError, OverflowError, MemoryError, isal_zlib.error)


@dataclass(frozen=True)
class Image:
    """The header of a 4D image; the voxels stay on disk.

    Attributes
    ----------
    path : Path
        The .nii or .nii.gz file.
    shape : tuple of int
        Voxels in x, y, z.
    n_volumes : int
        T.
    affine : ndarray [4, 4]
        Voxel index to mm.
    t_r : float or None
        Repetition time, s, where the header states it with its unit.
    dtype : numpy.dtype
        Of the voxels on disk.
    offset : int
        Byte of the first voxel.
    slope, inter : float
        value = raw * slope + inter.
    affine_from : str or None
        Name of the image that the affine was taken from; None = it is the run's own.
    """

    path: Path
    shape: tuple[int, int, int]
    n_volumes: int
    affine: np.ndarray
    t_r: float | None
    dtype: np.dtype
    offset: int
    slope: float
    inter: float
    affine_from: str | None = None

    def cut(self, volumes: slice) -> "Image":
        """Return some of its volumes."""
        size = int(np.prod(self.shape)) * self.dtype.itemsize
        n_volumes = volumes.stop - volumes.start
        return replace(self, offset=self.offset + volumes.start * size, n_volumes=n_volumes)


def open_image(path: Path, affine_from: Path | None = None) -> Image:
    """Read the header of a 4D NIfTI image."""
    check_content(path, "nifti")
    try:
        with open_nifti(path) as image:
            header, data = image.header, image.dataobj  # an ArrayProxy: type and place, not the voxels
            flaw = why_unplaced(image)
    except Exception as error:  # a damaged header raises whatever comes first
        raise Rejected("unreadable", f"not a readable NIfTI image: {error}; copy it again") from error
    if len(image.shape) != 4:
        raise Rejected("unreadable", not_a_series(path, image.shape))
    if data.dtype.kind not in "iuf":
        raise Rejected("unreadable", f"voxels of type {data.dtype} are not real numbers")
    affine = np.asarray(image.affine) if flaw is None else _borrowed(image.shape[:3], flaw, affine_from)
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


def _borrowed(shape: tuple[int, ...], flaw: str, affine_from: Path | None) -> np.ndarray:
    """Return the affine for a run that has none, from the image that the recipe names."""
    if affine_from is None:
        raise Rejected(
            "no_orientation",
            f"{flaw}, left and right may be swapped; export the run again with its orientation, or name an "
            "image on the same grid by affine_from",
        )
    grid, affine = read_grid(affine_from)
    if grid != shape:
        raise Rejected(
            "no_orientation",
            f"{flaw}; {affine_from.name} (affine_from) has {grid} voxels, the run {shape}: name an image on "
            "the run's own grid",
        )
    return affine


def stream(image: Image) -> Iterator[np.ndarray]:
    """Yield the raw voxels in time blocks [t, X*Y*Z], first voxel axis fastest; see `stream_rows`."""
    n_voxels = int(np.prod(image.shape))
    return stream_rows(image.path, image.offset, image.dtype, (image.n_volumes, n_voxels))


def stream_rows(path: Path, offset: int, dtype: np.dtype, shape: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield the raw numbers of a plain or gzipped file in blocks of rows, not to be written to."""
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
