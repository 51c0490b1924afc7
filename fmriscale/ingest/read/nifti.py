"""NIfTI files of both versions, packed or not, told by content; and where their voxels lie."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.imageglobals import logger as nibabel_logger

from fmriscale.common.errors import UserError
from fmriscale.ingest.read.content import check_input, open_content


@dataclass(frozen=True, eq=False)
class Volume:
    """An image in memory.

    Attributes
    ----------
    values : ndarray [X, Y, Z, ...]
        Scaled.
    affine : ndarray [4, 4]
        Voxel index to mm.
    unplaced : str or None
        Why the header does not say where the voxels lie; None = it does.
    """

    values: np.ndarray
    affine: np.ndarray
    unplaced: str | None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep nibabel from printing what it finds odd in a header; the rejection says what matters."""
    level = nibabel_logger.level
    nibabel_logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        nibabel_logger.setLevel(level)


@contextmanager
def open_nifti(path: Path) -> Iterator[Any]:
    """Open an image of NIfTI-1 or NIfTI-2; its numbers can be read within the context."""
    with quiet(), open_content(path) as handle:
        size = handle.read(4)
        handle.seek(0)
        is_second = 540 in (int.from_bytes(size, "little"), int.from_bytes(size, "big"))
        yield (nib.Nifti2Image if is_second else nib.Nifti1Image).from_stream(handle)


def read_volume(path: Path) -> Volume:
    """Read an image whole."""
    with open_nifti(path) as image:
        return Volume(np.asarray(image.dataobj), np.asarray(image.affine), why_unplaced(image))


def why_unplaced(image: Any) -> str | None:
    """Return why a header does not say where the voxels lie; one of qform and sform is enough."""
    if max(image.header["qform_code"], image.header["sform_code"]) <= 0:
        return "qform_code and sform_code of its header are 0: nothing says where its voxels lie"
    affine = np.asarray(image.affine)
    usable = np.isfinite(affine).all() and np.linalg.matrix_rank(affine) == 4
    return None if usable else "its affine places no voxel"


def read_grid(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Return the extents of an image of the recipe and its affine."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; affine_from needs it")
    check_input(path, "nifti")
    try:
        with open_nifti(path) as image:
            flaw, shape, affine = why_unplaced(image), image.shape[:3], np.asarray(image.affine)
    except Exception as error:
        raise UserError(f"{path}: not a readable NIfTI image ({error}); copy it again") from error
    if flaw is not None:
        raise UserError(f"{path}: {flaw}; give affine_from an image that says it")
    return shape, affine
