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

from fmriscale.ingest.content import open_content

UNPLACED = "qform_code and sform_code of its header are 0: nothing says where its voxels lie"


@dataclass(frozen=True, eq=False)
class Volume:
    """An image in memory.

    Attributes
    ----------
    values : ndarray [X, Y, Z, ...]
        Scaled.
    affine : ndarray [4, 4]
        Voxel index to mm.
    is_placed : bool
        Whether the header says where the voxels lie.
    """

    values: np.ndarray
    affine: np.ndarray
    is_placed: bool


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
    """Open an image of NIfTI-1 or NIfTI-2; its numbers can be read within the context.

    Raises
    ------
    Exception
        Whatever a missing or damaged file makes nibabel raise.
    """
    with quiet(), open_content(path) as handle:
        size = handle.read(4)
        handle.seek(0)
        is_second = 540 in (int.from_bytes(size, "little"), int.from_bytes(size, "big"))
        yield (nib.Nifti2Image if is_second else nib.Nifti1Image).from_stream(handle)


def read_volume(path: Path) -> Volume:
    """Read an image whole.

    Raises
    ------
    Exception
        Whatever a missing or damaged file makes nibabel raise.
    """
    with open_nifti(path) as image:
        return Volume(np.asarray(image.dataobj), np.asarray(image.affine), is_placed(image))


def is_placed(image: Any) -> bool:
    """Tell whether a header says where the voxels lie: by qform or sform, and by a usable matrix."""
    affine = np.asarray(image.affine)
    codes = image.header["qform_code"], image.header["sform_code"]
    usable = np.isfinite(affine).all() and np.linalg.matrix_rank(affine) == 4
    return bool(max(codes) > 0 and usable)
