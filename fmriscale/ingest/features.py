"""Reduce an image to V features, by affine: atlas parcels are averaged, ROI voxels are taken.

Positions in mm decide, never flat indices, so images stored left-to-right and right-to-left agree.
An atlas is brought to the run's grid (each run voxel takes the label it lies in, as nilearn's
nearest-neighbour resampling has it); an ROI keeps its own voxels (each takes the run voxel it lies
in), so that its V is the same for runs of any grid.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np

from fmriscale.config import FeatureConfig
from fmriscale.corpus.manifest import FeatureSpace
from fmriscale.errors import UserError
from fmriscale.files import expand, sha256_file
from fmriscale.ingest.quality import Rejected
from fmriscale.ingest.volumes import Image, stream


@dataclass(frozen=True, eq=False)
class Features:
    """A feature space and, for images, where its voxels lie.

    Attributes
    ----------
    space : FeatureSpace
        Name, V, labels, centroids.
    definition : tuple
        What makes it: two spaces of one name must agree in it.
    affine : ndarray [4, 4] or None
        Of the atlas or mask; None for given columns.
    index : ndarray [X, Y, Z] of int32 or None
        Feature of every voxel of the atlas or mask, -1 outside.
    is_mask : bool
        Every voxel is a feature of its own.
    """

    space: FeatureSpace
    definition: tuple
    affine: np.ndarray | None = None
    index: np.ndarray | None = None
    is_mask: bool = False


@dataclass(frozen=True, eq=False)
class Placement:
    """A feature space laid over one grid.

    Attributes
    ----------
    voxels : ndarray of int64
        Voxels of the run (flat, first axis fastest) that belong to features, sorted by feature.
    feature : ndarray of int32
        Their features.
    atlas_voxels : ndarray of int64
        For every voxel of the atlas, the run voxel it lies in; -1 outside the field of view.
    atlas_feature : ndarray of int32
        Its feature.
    """

    voxels: np.ndarray
    feature: np.ndarray
    atlas_voxels: np.ndarray
    atlas_feature: np.ndarray


@lru_cache(maxsize=64)
def load_features(config: FeatureConfig) -> Features:
    """Read a feature space from its recipe.

    Raises
    ------
    UserError
        A file is missing or is not what it should be.
    """
    if config.columns is not None:
        space = FeatureSpace(config.name, config.columns, _labels(config, range(1, config.columns + 1)))
        return Features(space, ("columns", config.columns, space.labels))
    path = expand(config.labels_img or config.mask_img or "")
    if not path.is_file():
        raise UserError(f"{path}: no such file; features '{config.name}' need it")
    try:
        image = nib.Nifti1Image.from_filename(path)
        values = np.squeeze(np.asarray(image.dataobj))
    except Exception as error:
        raise UserError(f"{path}: not a readable NIfTI image ({error})") from error
    if values.ndim != 3 and len(image.shape) == 3:
        values = np.asarray(image.dataobj)
    if values.ndim != 3:
        raise UserError(f"{path}: shape {image.shape} is not 3D; features '{config.name}' need one volume")
    if config.labels_img is not None:
        return _from_labels(config, path, values, np.asarray(image.affine))
    return _from_mask(config, path, values, np.asarray(image.affine))


def _from_labels(config: FeatureConfig, path: Path, values: np.ndarray, affine: np.ndarray) -> Features:
    """Every integer above 0 is one feature, in ascending order."""
    if not np.array_equal(values, np.round(values)):
        raise UserError(f"{path}: labels_img must hold whole numbers; is it a probability map or a mask?")
    present = np.unique(values[values > 0]).astype(np.int64)
    if present.size == 0:
        raise UserError(f"{path}: labels_img holds no label above 0")
    index = np.full(values.shape, -1, np.int32)
    inside = values > 0
    index[inside] = np.searchsorted(present, values[inside]).astype(np.int32)
    positions = _world(np.argwhere(inside), affine)
    counts = np.bincount(index[inside], minlength=present.size)
    sums = [np.bincount(index[inside], positions[:, axis], present.size) for axis in range(3)]
    labels = _labels(config, present.tolist())
    space = FeatureSpace(config.name, present.size, labels, _millimetres(np.stack(sums, 1) / counts[:, None]))
    return Features(space, ("labels_img", sha256_file(path), labels), affine, index)


def _from_mask(config: FeatureConfig, path: Path, values: np.ndarray, affine: np.ndarray) -> Features:
    """Every voxel above the threshold is one feature, last axis fastest as in nilearn's maskers."""
    inside = values > config.mask_threshold
    count = int(inside.sum())
    if count == 0:
        raise UserError(f"{path}: no voxel of mask_img is above mask_threshold {config.mask_threshold:g}")
    index = np.full(values.shape, -1, np.int32)
    index[inside] = np.arange(count, dtype=np.int32)
    positions = _millimetres(_world(np.argwhere(inside), affine))
    space = FeatureSpace(config.name, count, None, positions)
    definition = ("mask_img", sha256_file(path), config.mask_threshold)
    return Features(space, definition, affine, index, is_mask=True)


def _labels(config: FeatureConfig, numbers: list[int] | range) -> tuple[str, ...] | None:
    """Read label names: 'index name ...' a line by index, or one name a line in order."""
    if config.labels is None:
        return None
    path = expand(config.labels)
    try:
        lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}; features.labels of '{config.name}'") from error
    if all(len(words) > 1 and words[0].isdigit() for words in lines):
        by_index = {int(words[0]): words[1] for words in lines}
        if missing := [n for n in numbers if n not in by_index]:
            raise UserError(f"{path}: no name for label {missing[0]} of features '{config.name}'")
        return tuple(by_index[n] for n in numbers)
    if len(lines) != len(numbers):
        raise UserError(
            f"{path}: {len(lines)} names for the {len(numbers)} features of '{config.name}'; "
            "give one name a line in order, or 'index name'"
        )
    return tuple(words[0] for words in lines)


def place(features: Features, image: Image) -> Placement:
    """Lay a feature space over a run's grid; kept, since most runs of a data set share one."""
    return _place(features, image.shape, image.affine.astype(np.float64).tobytes())


@lru_cache(maxsize=8)
def _place(features: Features, shape: tuple[int, int, int], affine_bytes: bytes) -> Placement:
    affine = np.frombuffer(affine_bytes).reshape(4, 4)
    assert features.index is not None and features.affine is not None
    atlas = np.argwhere(features.index >= 0)
    atlas_feature = features.index[tuple(atlas.T)]
    atlas_voxels = _flat(_nearest(_world(atlas, features.affine), affine), shape)
    if features.is_mask:
        inside = atlas_voxels >= 0
        voxels, feature = atlas_voxels[inside], atlas_feature[inside]
    else:
        voxels, feature = _atlas_on_grid(features.index, features.affine, shape, affine)
    order = np.argsort(feature, kind="stable")
    return Placement(voxels[order], feature[order], atlas_voxels, atlas_feature)


def _atlas_on_grid(
    index: np.ndarray, atlas_affine: np.ndarray, shape: tuple[int, int, int], affine: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the run voxels that lie in a labelled atlas voxel, slice by slice to spare memory."""
    voxels, feature = [], []
    plane = np.stack(np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij"), -1).reshape(-1, 2)
    for z in range(shape[2]):
        here = np.column_stack([plane, np.full(len(plane), z)])
        found = _flat(_nearest(_world(here, affine), atlas_affine), index.shape)
        label = np.where(found >= 0, index.ravel(order="F")[found], -1)
        hit = label >= 0
        voxels.append(_flat(here[hit], shape))
        feature.append(label[hit])
    return np.concatenate(voxels), np.concatenate(feature)


def _world(voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the positions of voxel indices [n, 3] in mm."""
    return voxels @ affine[:3, :3].T + affine[:3, 3]


def _nearest(positions: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the voxel indices [n, 3] nearest to positions in mm.

    A position half-way between two voxels goes to the one further along the WORLD axis, whichever way
    the image is stored; rounding to 1e-4 voxels first keeps it half-way in both.
    """
    inverse = np.linalg.inv(affine)
    exact = np.round(positions @ inverse[:3, :3].T + inverse[:3, 3], 4)
    forward = nib.io_orientation(affine)[:, 1] > 0
    return np.where(forward, np.floor(exact + 0.5), np.ceil(exact - 0.5)).astype(np.int64)


def _flat(voxels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return flat indices, first axis fastest; -1 outside the grid."""
    inside = np.all((voxels >= 0) & (voxels < np.asarray(shape)), axis=1)
    flat = voxels[:, 0] + shape[0] * (voxels[:, 1] + shape[1] * voxels[:, 2])
    return np.where(inside, flat, -1)


def _millimetres(positions: np.ndarray) -> tuple[tuple[float, float, float], ...]:
    """Round positions to micrometres, so that they read well and hash alike everywhere."""
    return tuple((float(x), float(y), float(z)) for x, y, z in np.round(positions, 3) + 0.0)


def reduce_image(
    image: Image, features: Features, brain: np.ndarray | None, min_coverage: float
) -> tuple[np.ndarray, np.ndarray]:
    """Reduce an image to its features in one pass over the file.

    Parameters
    ----------
    image : Image
        A 4D image.
    features : Features
        Of an atlas or a mask.
    brain : ndarray of bool [X*Y*Z] or None
        Brain mask, first axis fastest. None = voxels that are zero or not a number throughout are taken
        to lie outside the brain.
    min_coverage : float
        Share of its voxels that a feature needs within the field of view.

    Returns
    -------
    ndarray [T, V] of float64
        Mean of every feature's covered voxels, 0 where it has none.
    ndarray [V] of float64
        Share of every feature's atlas voxels that hold data.

    Raises
    ------
    Rejected
        The feature space lies elsewhere (`other_space`), the file is damaged (`unreadable`), or some but
        not all volumes of a voxel are NaN or infinite (`not_finite`).
    """
    placement, n_features = place(features, image), features.space.n_features
    in_view = _share(placement.atlas_voxels >= 0, placement.atlas_feature, n_features)
    if not (in_view >= max(min_coverage, 1e-9)).any():
        raise Rejected(
            "other_space",
            f"no feature of '{features.space.name}' lies in the run's field of view; they are in different "
            "spaces: choose the space entity of the run or another atlas",
        )
    voxels, feature = placement.voxels, placement.feature
    if brain is not None:
        voxels, feature = voxels[brain[voxels]], feature[brain[voxels]]
    if voxels.size == 0:
        raise Rejected(
            "other_space",
            f"features '{features.space.name}' and the brain mask have no voxel in common; "
            "choose the space entity of the run or another atlas",
        )
    sums, holds_data = _sum_voxels(image, voxels, feature, n_features)
    counts = np.bincount(feature[holds_data], minlength=n_features)
    signals = sums / np.maximum(counts, 1) * image.slope
    signals[:, counts > 0] += image.inter
    filled = np.zeros(int(np.prod(image.shape)) + 1, bool)  # the last one stands for 'outside': index -1
    filled[voxels[holds_data]] = True
    return signals, _share(filled[placement.atlas_voxels], placement.atlas_feature, n_features)


def _sum_voxels(
    image: Image, voxels: np.ndarray, feature: np.ndarray, n_features: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sum raw voxels by feature; tell which voxels hold data (not zero or NaN throughout)."""
    present, starts = np.unique(feature, return_index=True)
    sums = np.zeros((image.n_volumes, n_features))
    holds_data = np.zeros(voxels.size, bool)
    broken = np.zeros(voxels.size, np.int64)
    empty = _raw_zero(image)
    done = 0
    for block in stream(image):
        values = block.take(voxels, axis=1)
        if values.dtype.kind == "f":
            bad = ~np.isfinite(values)
            if bad.any():
                broken += bad.sum(axis=0)
                values[bad] = empty
        holds_data |= True if empty is None else (values != empty).any(axis=0)
        rows = slice(done, done + len(block))
        sums[rows, present] = np.add.reduceat(values, starts, axis=1, dtype=np.float64)
        done += len(block)
    if (holds_data & (broken > 0)).any() or (broken == image.n_volumes).all():
        raise Rejected(
            "not_finite",
            f"{(broken > 0).sum()} of the {voxels.size} voxels used are NaN or infinite in some volumes; "
            "find the step of preprocessing that made them",
        )
    # Voxels without data add `empty` to the sums; take it out again so that only covered voxels count.
    without = np.bincount(feature[~holds_data], minlength=n_features)
    return sums - without * float(empty or 0), holds_data


def _raw_zero(image: Image) -> np.generic | None:
    """Return the stored number that means 0, in the type of the voxels; None if there is none."""
    empty = -image.inter / image.slope
    if image.dtype.kind == "f":
        return image.dtype.type(empty)
    limits = np.iinfo(image.dtype)
    return image.dtype.type(empty) if empty.is_integer() and limits.min <= empty <= limits.max else None


def _share(flags: np.ndarray, feature: np.ndarray, n_features: int) -> np.ndarray:
    """Return, per feature, the share of its atlas voxels that are flagged."""
    total = np.bincount(feature, minlength=n_features)
    return np.bincount(feature, flags, n_features) / np.maximum(total, 1)


def read_brain_mask(path: Path, image: Image) -> np.ndarray:
    """Read a brain mask on the run's own grid.

    Returns
    -------
    ndarray of bool [X*Y*Z]
        First axis fastest.

    Raises
    ------
    Rejected
        It is damaged or lies on another grid.
    """
    try:
        mask = nib.Nifti1Image.from_filename(path)
        values = np.asarray(mask.dataobj)
    except Exception as error:
        raise Rejected("unreadable", f"brain mask {path.name}: {error}; copy it again") from error
    if values.shape != image.shape or not np.allclose(np.asarray(mask.affine), image.affine, atol=1e-3):
        raise Rejected(
            "other_space",
            f"brain mask {path.name} has another grid ({values.shape}) than the run ({image.shape}); "
            "both must come from one preprocessing",
        )
    return values.ravel(order="F") > 0
