"""Feature spaces, and NIfTI images reduced to them by affine: parcels are averaged, ROI voxels are taken.

Positions in mm decide, never flat indices, so images stored left-to-right and right-to-left agree.
An atlas is brought to the run's grid (each run voxel takes the label it lies in, as nilearn's
nearest-neighbour resampling has it); an ROI keeps its own voxels (each takes the run voxel it lies
in), so that its V is the same for runs of any grid.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cachetools import LRUCache, cached

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand, sha256_file
from fmriscale.common.quarantine import Rejected
from fmriscale.config import FeatureConfig
from fmriscale.config.paths import is_atlas_name
from fmriscale.corpus.manifest import FeatureSpace, PublishedAtlas
from fmriscale.ingest.read import gifti, grayordinates
from fmriscale.ingest.read.atlases import Atlas, fetch_atlas
from fmriscale.ingest.read.averaging import share
from fmriscale.ingest.read.content import check_content, check_input
from fmriscale.ingest.read.geometry import flat, millimetres, nearest, world
from fmriscale.ingest.read.labels import feature_labels, whole_labels
from fmriscale.ingest.read.nifti import Image, read_volume, stream

PLACEMENT_BYTES = 256 * 2**20
"""Memory for feature spaces laid over the grids of runs; the least recently used go first."""


@dataclass(frozen=True, eq=False)
class VolumeMembers:
    """Where the features lie in a volume.

    Attributes
    ----------
    affine : ndarray [4, 4]
        Of the atlas or mask.
    index : ndarray [X, Y, Z] of int32
        Feature of every voxel of the atlas or mask, -1 outside.
    is_mask : bool
        Every voxel is a feature of its own.
    """

    affine: np.ndarray
    index: np.ndarray
    is_mask: bool


@dataclass(frozen=True, eq=False)
class Features:
    """A feature space and where its features lie.

    Attributes
    ----------
    space : FeatureSpace
        Name, V, labels, centroids.
    definition : tuple
        What makes it: two spaces of one name must agree in it.
    members : VolumeMembers, grayordinates.Members, gifti.SurfaceMembers or None
        Where they lie in a file of their form; None for given columns.
    """

    space: FeatureSpace
    definition: tuple
    members: VolumeMembers | grayordinates.Members | gifti.SurfaceMembers | None = None


@dataclass(frozen=True, eq=False)
class VoxelMap:
    """A feature space laid over one grid.

    Attributes
    ----------
    voxels : ndarray of int
        Voxels of the run (flat, first axis fastest) that belong to features, as they lie in memory.
    feature : ndarray of int32
        Their features.
    atlas_voxels : ndarray of int
        For every voxel of the atlas, the run voxel it lies in; -1 outside the field of view.
    atlas_feature : ndarray of int32
        Its feature.
    """

    voxels: np.ndarray
    feature: np.ndarray
    atlas_voxels: np.ndarray
    atlas_feature: np.ndarray


def feature_files(config: FeatureConfig) -> list[Path]:
    """Return the files that a feature space is made from."""
    atlas = None if config.labels_img is None or is_atlas_name(config.labels_img) else config.labels_img
    given = [atlas, config.mask_img, config.template, config.parcels, *(config.labels_gii or [])]
    given += [config.labels] if isinstance(config.labels, str) else []
    return [expand(path) for path in given if path]


@cached(LRUCache(maxsize=64), key=repr, info=True)
def load_features(config: FeatureConfig) -> Features:
    """Read a feature space from its recipe."""
    for path in feature_files(config):
        if not path.is_file():
            raise UserError(f"{path}: no such file; features '{config.name}' need it")
    if config.columns is not None:
        labels = feature_labels(config, range(1, config.columns + 1))
        space = FeatureSpace(config.name, config.columns, labels)
        return Features(space, ("columns", config.columns, labels))
    if config.labels_gii is not None:
        return Features(*gifti.load_surfaces(config, config.labels_gii))
    if config.structures is not None:
        return Features(*grayordinates.load_structures(config, config.structures))
    if config.parcels is not None and config.parcels.endswith(".tsv"):
        from fmriscale.ingest.read.grayordinates import load_parcel_table

        return Features(*load_parcel_table(config, expand(config.parcels)))
    if config.parcels is not None:
        return Features(*grayordinates.load_parcels(config, expand(config.parcels)))
    if config.labels_img is not None and is_atlas_name(config.labels_img):
        atlas = fetch_atlas(config.labels_img)
        return _from_volume(config, atlas.path, atlas)
    path = expand(config.labels_img or config.mask_img or "")
    if path.name.endswith(".dlabel.nii"):
        return Features(*grayordinates.load_dlabel(config, path))
    return _from_volume(config, path)


def _from_volume(config: FeatureConfig, path: Path, atlas: Atlas | None = None) -> Features:
    """Read a NIfTI atlas or mask."""
    check_input(path, "nifti")
    try:
        volume = read_volume(path)
    except Exception as error:
        raise UserError(f"{path}: not a readable NIfTI image ({error}); copy it again") from error
    if volume.unplaced:
        raise UserError(
            f"{path}: {volume.unplaced}; give the atlas or mask as it was released, or export it again with "
            "its orientation"
        )
    values, shape = volume.values, volume.values.shape
    if values.dtype.kind not in "biuf":
        raise UserError(f"{path}: voxels of type {values.dtype} are not real numbers")
    if values.ndim > 3:
        values = values.reshape(*values.shape[:3], -1)
        values = values[..., 0] if values.shape[3] == 1 else values
    if values.ndim != 3:
        raise UserError(f"{path}: shape {shape} is not 3D; features '{config.name}' need one volume")
    if config.labels_img is not None:
        return _from_labels(config, path, values, volume.affine, atlas)
    return _from_mask(config, path, values, volume.affine)


def _from_labels(
    config: FeatureConfig, path: Path, values: np.ndarray, affine: np.ndarray, atlas: Atlas | None
) -> Features:
    """Every integer above 0 is one feature, in ascending order."""
    try:
        values = whole_labels(values)
    except ValueError as error:
        raise UserError(f"{path}: labels_img {error}") from error
    present = np.unique(values[values > 0])
    if present.size == 0:
        raise UserError(f"{path}: labels_img holds no label above 0")
    index = np.full(values.shape, -1, np.int32)
    inside = values > 0
    index[inside] = np.searchsorted(present, values[inside]).astype(np.int32)
    positions = world(np.argwhere(inside), affine)
    counts = np.bincount(index[inside], minlength=present.size)
    sums = [np.bincount(index[inside], positions[:, axis], present.size) for axis in range(3)]
    labels = feature_labels(config, present.tolist())
    if atlas is not None and labels is None:
        labels = atlas.names_of(present.tolist())
    sha256 = sha256_file(path)
    published = atlas and PublishedAtlas(atlas.name, atlas.template, sha256)
    positions = millimetres(np.stack(sums, 1) / counts[:, None])
    space = FeatureSpace(config.name, present.size, labels, positions, published)
    return Features(space, ("labels_img", sha256, labels), VolumeMembers(affine, index, False))


def _from_mask(config: FeatureConfig, path: Path, values: np.ndarray, affine: np.ndarray) -> Features:
    """Every voxel that reaches the threshold is one feature, last axis fastest as in nilearn's maskers."""
    threshold = config.mask_threshold
    if threshold is not None and threshold <= 0:
        raise UserError(
            f"features '{config.name}': mask_threshold {threshold:g} would take the whole image; "
            "give a value above 0, or none to take every voxel above 0"
        )
    values = np.where(np.isnan(values), 0, values)  # NaN is background
    if np.isinf(values).any():
        raise UserError(f"{path}: mask_img holds infinite values; mend it")
    inside = values > 0 if threshold is None else values >= threshold
    count = int(inside.sum())
    if count == 0:
        wanted = "is above 0" if threshold is None else f"reaches mask_threshold {threshold:g}"
        raise UserError(f"{path}: no voxel of mask_img {wanted}; its largest value is {values.max():g}")
    index = np.full(values.shape, -1, np.int32)
    index[inside] = np.arange(count, dtype=np.int32)
    positions = millimetres(world(np.argwhere(inside), affine))
    labels = feature_labels(config, range(1, count + 1))
    space = FeatureSpace(config.name, count, labels, positions)
    definition = ("mask_img", sha256_file(path), threshold, labels)
    return Features(space, definition, VolumeMembers(affine, index, True))


def map_to_grid(atlas: VolumeMembers, image: Image) -> VoxelMap:
    """Lay a feature space over a run's grid; kept, since most runs of a data set share one."""
    return _place(atlas, image.shape, image.affine.astype(np.float64).tobytes())


def _placement_bytes(placement: VoxelMap) -> int:
    return sum(part.nbytes for part in vars(placement).values())


@cached(LRUCache(maxsize=PLACEMENT_BYTES, getsizeof=_placement_bytes), info=True)
def _place(atlas: VolumeMembers, shape: tuple[int, int, int], affine_bytes: bytes) -> VoxelMap:
    affine = np.frombuffer(affine_bytes).reshape(4, 4)
    voxels = np.argwhere(atlas.index >= 0)
    atlas_feature = atlas.index[tuple(voxels.T)]
    atlas_voxels = flat(nearest(world(voxels, atlas.affine), affine), shape)
    if atlas.is_mask:
        inside = atlas_voxels >= 0
        voxels, feature = atlas_voxels[inside], atlas_feature[inside]
    else:
        voxels, feature = _atlas_on_grid(atlas, shape, affine)
    order = np.argsort(voxels, kind="stable")
    return VoxelMap(voxels[order], feature[order], atlas_voxels, atlas_feature)


def _atlas_on_grid(
    atlas: VolumeMembers, shape: tuple[int, int, int], affine: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the run voxels that lie in a labelled atlas voxel, slice by slice to spare memory."""
    voxels, feature = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
    labels = atlas.index.ravel(order="F")
    plane = np.stack(np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij"), -1).reshape(-1, 2)
    for z in range(shape[2]):
        here = np.column_stack([plane, np.full(len(plane), z)])
        found = flat(nearest(world(here, affine), atlas.affine), atlas.index.shape)
        label = np.where(found >= 0, labels[found], -1)
        hit = label >= 0
        voxels.append(flat(here[hit], shape))
        feature.append(label[hit])
    return np.concatenate(voxels), np.concatenate(feature)


def reduce_image(
    image: Image, features: Features, brain: np.ndarray | None, min_coverage: float
) -> tuple[np.ndarray, np.ndarray]:
    """Reduce an image to its features in one pass over the file."""
    if not isinstance(features.members, VolumeMembers):
        raise Rejected("n_features", f"features '{features.space.name}' are not for NIfTI images")
    placement, n_features = map_to_grid(features.members, image), features.space.n_features
    in_view = share(placement.atlas_voxels >= 0, placement.atlas_feature, n_features)
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
    return signals, share(filled[placement.atlas_voxels], placement.atlas_feature, n_features)


def _sum_voxels(
    image: Image, voxels: np.ndarray, feature: np.ndarray, n_features: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sum raw voxels by feature; tell which voxels hold data (not zero or NaN throughout)."""
    from fmriscale.ingest.read.voxels import (  # compiled: corpora of arrays do without
        add_volumes,
        still_empty,
    )

    sums = np.zeros((image.n_volumes, n_features))
    broken = np.zeros(voxels.size, np.int64)
    zero = _raw_zero(image)
    empty = float(zero or 0)
    without_data = np.arange(voxels.size if zero is not None else 0)
    done = 0
    for block in stream(image):
        add_volumes(block, voxels, feature, empty, sums[done : done + len(block)], broken)
        without_data = without_data[: still_empty(block, voxels, empty, without_data)]
        done += len(block)
    holds_data = np.ones(voxels.size, bool)
    holds_data[without_data] = False
    if (holds_data & (broken > 0)).any() or (broken == image.n_volumes).all():
        raise Rejected(
            "not_finite",
            f"{(broken > 0).sum()} of the {voxels.size} voxels used are NaN or infinite in some volumes; "
            "find the step of preprocessing that made them",
        )
    # Voxels without data add `empty` to the sums; take it out again so that only covered voxels count.
    without = np.bincount(feature[~holds_data], minlength=n_features)
    return sums - without * empty, holds_data


def _raw_zero(image: Image) -> np.generic | None:
    """Return the stored number that means 0, in the type of the voxels; None if there is none."""
    empty = -image.inter / image.slope
    if image.dtype.kind == "f":
        return image.dtype.type(empty)
    limits = np.iinfo(image.dtype)
    return image.dtype.type(empty) if empty.is_integer() and limits.min <= empty <= limits.max else None


def read_brain_mask(path: Path, image: Image) -> np.ndarray:
    """Read a brain mask on the run's own grid."""
    who = f"brain mask {path.name}: "
    check_content(path, "nifti", who)
    try:
        mask = read_volume(path)
    except Exception as error:
        raise Rejected("unreadable", f"{who}{error}; copy it again") from error
    values = mask.values
    if values.dtype.kind not in "biuf" or np.isinf(values).any():
        raise Rejected("unreadable", f"{who}holds values that are no finite numbers; mend it")
    if mask.unplaced and image.affine_from is None:
        raise Rejected("no_orientation", f"{who}{mask.unplaced}; write it on the grid of its run")
    affine = image.affine if mask.unplaced else mask.affine
    if values.shape != image.shape or not np.allclose(affine, image.affine, atol=1e-3):
        raise Rejected(
            "other_space",
            f"brain mask {path.name} has another grid ({values.shape}) than the run ({image.shape}); "
            "both must come from one preprocessing",
        )
    return values.ravel(order="F") > 0
