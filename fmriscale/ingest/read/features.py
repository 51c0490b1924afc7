"""Feature spaces, and NIfTI images reduced to them: means of parcels, or the voxels of an ROI.

Positions in mm decide, never flat indices. Each run voxel takes the label of the atlas at its position, as in
nilearn's nearest-neighbour resampling; each voxel of an ROI takes the run voxel at its position.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cachetools import LRUCache, cached

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand, sha256_file
from fmriscale.common.quarantine import Rejected
from fmriscale.common.suggest import did_you_mean_path
from fmriscale.config import FeatureConfig
from fmriscale.config.paths import is_atlas_name
from fmriscale.corpus.manifest import FeatureSpace, PublishedAtlas
from fmriscale.ingest.read import gifti, grayordinates
from fmriscale.ingest.read.atlases import Atlas, fetch_atlas
from fmriscale.ingest.read.averaging import share
from fmriscale.ingest.read.content import reading, reading_input
from fmriscale.ingest.read.geometry import centroids, flat, millimetres, nearest, world
from fmriscale.ingest.read.labels import feature_labels, whole_labels
from fmriscale.ingest.read.nifti import Image, read_volume

MAP_BYTES = 256 * 2**20
"""Memory for feature spaces mapped to the grids of runs; the least recently used go first."""

STRETCH = 1024
"""Voxels that are taken in another order than that of the file, to add them up faster."""


@dataclass(frozen=True, eq=False)
class VolumeMembers:
    """The voxels of features, in the atlas or mask that defines them."""

    affine: np.ndarray  # [4, 4], of the atlas or mask
    index: np.ndarray  # int32 [X, Y, Z], feature of every voxel, -1 outside
    is_mask: bool  # every voxel is a feature of its own


@dataclass(frozen=True, eq=False)
class Features:
    """A feature space, and the members of its features in files of one form."""

    space: FeatureSpace
    definition: tuple  # equal for equal feature spaces: two of one name must agree in it
    members: VolumeMembers | gifti.SurfaceMembers | grayordinates.Members | None = None  # None = columns


@dataclass(frozen=True, eq=False)
class VoxelMap:
    """A feature space mapped to one grid; flat indices of the run's voxels have the first axis fastest."""

    voxels: np.ndarray  # run voxels that belong to features, see `_alternate`
    feature: np.ndarray  # their features
    atlas_voxels: np.ndarray  # for every voxel of the atlas, the run voxel at its position; -1 = out of view
    atlas_feature: np.ndarray  # int32, its feature


@cached(LRUCache(maxsize=64), key=repr, info=True)
def load_features(config: FeatureConfig) -> Features:
    """Read a feature space from its recipe."""
    is_named = config.labels_img is not None and is_atlas_name(config.labels_img)
    given = [None if is_named else config.labels_img, config.mask_img, config.template, config.parcels]
    given += [*(config.labels_gii or []), config.labels if isinstance(config.labels, str) else None]
    for path in map(expand, filter(None, given)):
        if not path.is_file():
            hint = did_you_mean_path(path)
            raise UserError(f"{path}: no such file; features '{config.name}' need it{hint}")
    if config.columns is not None:
        labels = feature_labels(config, range(1, config.columns + 1))
        space = FeatureSpace(config.name, config.columns, labels)
        return Features(space, ("columns", config.columns, labels))
    if config.labels_gii is not None:
        return Features(*gifti.load_surfaces(config, config.labels_gii))
    if config.structures is not None:
        return Features(*grayordinates.load_structures(config, config.structures))
    if config.parcels is not None:
        return Features(*grayordinates.load_parcels(config, expand(config.parcels)))
    if config.labels_img is not None and is_named:
        atlas = fetch_atlas(config.labels_img)
        return _load_labels(config, atlas.path, atlas)
    path = expand(config.labels_img or config.mask_img or "")
    if path.name.endswith(".dlabel.nii"):
        return Features(*grayordinates.load_dlabel(config, path))
    return _load_mask(config, path) if config.labels_img is None else _load_labels(config, path)


def _read_volume(config: FeatureConfig, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return voxels [X, Y, Z] and affine of a NIfTI atlas or mask."""
    with reading_input(path, "nifti"):
        values, affine, flaw = read_volume(path)
    if flaw:
        raise UserError(f"{path}: {flaw}; give it as it was released, or export it again")
    if values.dtype.kind not in "biuf":
        raise UserError(f"{path}: voxels of type {values.dtype} are not real numbers")
    if values.ndim > 3 and set(values.shape[3:]) == {1}:
        values = values.reshape(values.shape[:3])
    if values.ndim != 3:
        raise UserError(f"{path}: shape {values.shape} is not 3D; features '{config.name}' need one volume")
    return values, affine


def _load_labels(config: FeatureConfig, path: Path, atlas: Atlas | None = None) -> Features:
    """Take every integer above 0 as one feature, in ascending order."""
    values, affine = _read_volume(config, path)
    try:
        values = whole_labels(values)
    except ValueError as error:
        raise UserError(f"{path}: labels_img {error}") from error
    inside = values > 0
    present = np.unique(values[inside])
    if present.size == 0:
        raise UserError(f"{path}: labels_img holds no label above 0")
    index = np.full(values.shape, -1, np.int32)
    index[inside] = np.searchsorted(present, values[inside]).astype(np.int32)
    centres = centroids(np.argwhere(inside), affine, index[inside])
    labels = feature_labels(config, present.tolist())
    if atlas is not None and labels is None:
        labels = atlas.names_of(present.tolist())
    sha256 = sha256_file(path)
    published = atlas and PublishedAtlas(atlas.name, atlas.template, sha256)
    space = FeatureSpace(config.name, present.size, labels, centres, published)
    return Features(space, ("labels_img", sha256, labels), VolumeMembers(affine, index, is_mask=False))


def _load_mask(config: FeatureConfig, path: Path) -> Features:
    """Take every voxel that reaches the threshold as one feature, in the order of nilearn's maskers."""
    values, affine = _read_volume(config, path)
    threshold = config.mask_threshold
    if threshold is not None and threshold <= 0:
        what = f"mask_threshold {threshold:g} would take the whole image"
        raise UserError(f"features '{config.name}': {what}; give a value above 0, or none")
    values = np.where(np.isnan(values), 0, values)  # NaN is background
    if np.isinf(values).any():
        raise UserError(f"{path}: mask_img holds infinite values; correct it")
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
    return Features(space, definition, VolumeMembers(affine, index, is_mask=True))


def map_to_grid(members: VolumeMembers, image: Image) -> VoxelMap:
    """Map a feature space to a run's grid; cached, since most runs of a data set share one."""
    return _map_to_grid(members, image.shape, image.affine.astype(np.float64).tobytes())


_MAPS = LRUCache(maxsize=MAP_BYTES, getsizeof=lambda map_: sum(a.nbytes for a in vars(map_).values()))


@cached(_MAPS, info=True)
def _map_to_grid(members: VolumeMembers, shape: tuple[int, int, int], affine_bytes: bytes) -> VoxelMap:
    affine = np.frombuffer(affine_bytes).reshape(4, 4)
    atlas_voxels = np.argwhere(members.index >= 0)
    atlas_feature = members.index[tuple(atlas_voxels.T)]
    atlas_voxels = flat(nearest(world(atlas_voxels, members.affine), affine), shape)
    if members.is_mask:
        in_view = atlas_voxels >= 0
        voxels, feature = atlas_voxels[in_view], atlas_feature[in_view]
    else:
        voxels, feature = _resample_atlas(members, shape, affine)
    order = np.argsort(voxels, kind="stable")
    order = order[_alternate(feature[order])]
    voxels, feature = (array[order].astype(f"u{array.itemsize}") for array in (voxels, feature))
    return VoxelMap(voxels, feature, atlas_voxels, atlas_feature)


def _alternate(feature: np.ndarray) -> np.ndarray:
    """Return an order of voxels in which neighbours are of different features.

    To add to one sum, a processor need not wait for another; adding twice to the same, it does. A voxel moves
    within a stretch that the cache holds. Voxels of one feature stay in order, so that no sum changes.
    """
    place = np.arange(feature.size)
    stretch = place // STRETCH
    group = stretch * (1 + feature.max(initial=0)) + feature
    grouped = np.argsort(group, kind="stable")
    n_before = np.empty_like(place)  # of the same feature, in the same stretch
    n_before[grouped] = place - np.searchsorted(group[grouped], group[grouped])
    return np.lexsort((n_before, stretch))


def _resample_atlas(
    atlas: VolumeMembers, shape: tuple[int, int, int], affine: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the run voxels that lie in a labelled atlas voxel, slice by slice to save memory."""
    voxels, feature = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
    labels = atlas.index.ravel(order="F")
    plane = np.stack(np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij"), -1).reshape(-1, 2)
    for z in range(shape[2]):
        in_slice = np.column_stack([plane, np.full(len(plane), z)])
        in_atlas = flat(nearest(world(in_slice, affine), atlas.affine), atlas.index.shape)
        label = np.where(in_atlas >= 0, labels[in_atlas], -1)
        voxels.append(flat(in_slice[label >= 0], shape))
        feature.append(label[label >= 0])
    return np.concatenate(voxels), np.concatenate(feature)


def reduce_image(
    image: Image, features: Features, brain: np.ndarray | None, min_coverage: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return signals [T, V] and the share of each feature's voxels with data [V]; `brain` [X*Y*Z]: mask."""
    name, n_features = features.space.name, features.space.n_features
    if not isinstance(features.members, VolumeMembers):
        raise Rejected("n_features", f"features '{name}' are not for NIfTI images")
    remedy = "choose the space entity of the run or another atlas"
    voxel_map = map_to_grid(features.members, image)
    in_view = share(voxel_map.atlas_voxels >= 0, voxel_map.atlas_feature, n_features)
    if not (in_view >= max(min_coverage, 1e-9)).any():
        what = f"no feature of '{name}' lies in the run's field of view; they are in different spaces"
        raise Rejected("other_space", f"{what}: {remedy}")
    voxels, feature = voxel_map.voxels, voxel_map.feature
    if brain is not None:
        voxels, feature = voxels[brain[voxels]], feature[brain[voxels]]
    if voxels.size == 0:
        what = f"features '{name}' and the brain mask have no voxel in common"
        raise Rejected("other_space", f"{what}; {remedy}")
    sums, has_data = _sum_voxels(image, voxels, feature, n_features)
    counts = np.bincount(feature[has_data], minlength=n_features)
    signals = sums / np.maximum(counts, 1) * image.slope
    signals[:, counts > 0] += image.inter
    filled = np.zeros(int(np.prod(image.shape)) + 1, bool)  # the last one stands for 'outside': index -1
    filled[voxels[has_data]] = True
    return signals, share(filled[voxel_map.atlas_voxels], voxel_map.atlas_feature, n_features)


def _sum_voxels(
    image: Image, voxels: np.ndarray, feature: np.ndarray, n_features: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return sums of raw voxels by feature [T, V], and which voxels hold data: not zero or NaN throughout."""
    from fmriscale.ingest.read.voxels import add_volumes, still_empty  # corpora of arrays do without numba

    sums = np.zeros((image.n_volumes, n_features))
    broken = np.zeros(voxels.size, np.int64)
    zero = _raw_zero(image)
    empty = float(zero or 0)
    without_data = np.arange(voxels.size if zero is not None else 0)
    start = 0
    for block in image.blocks():
        add_volumes(block, voxels, feature, empty, sums[start : start + len(block)], broken)
        without_data = without_data[: still_empty(block, voxels, empty, without_data)]
        start += len(block)
    has_data = np.ones(voxels.size, bool)
    has_data[without_data] = False
    if (has_data & (broken > 0)).any() or (broken == image.n_volumes).all():
        what = f"{(broken > 0).sum()} of the {voxels.size} voxels used are NaN or infinite in some volumes"
        raise Rejected("not_finite", f"{what}; find the step of preprocessing that made them")
    # Voxels without data add `empty` to the sums; take it out again so that only covered voxels count.
    without = np.bincount(feature[~has_data], minlength=n_features)
    return sums - without * empty, has_data


def _raw_zero(image: Image) -> np.generic | None:
    """Return the stored number that means 0, in the type of the voxels; None if there is none."""
    empty = -image.inter / image.slope
    if image.dtype.kind == "f":
        return image.dtype.type(empty)
    limits = np.iinfo(image.dtype)
    return image.dtype.type(empty) if empty.is_integer() and limits.min <= empty <= limits.max else None


def read_brain_mask(path: Path, image: Image) -> np.ndarray:
    """Read a brain mask on the run's own grid as flags [X*Y*Z], first axis fastest."""
    prefix = f"brain mask {path.name}: "
    with reading(path, "nifti", prefix):
        values, own_affine, flaw = read_volume(path)
    if values.dtype.kind not in "biuf" or np.isinf(values).any():
        raise Rejected("unreadable", f"{prefix}holds values that are no finite numbers; correct it")
    if flaw and image.affine_from is None:
        raise Rejected("no_orientation", f"{prefix}{flaw}; write it on the grid of its run")
    affine = image.affine if flaw else own_affine
    if values.shape != image.shape or not np.allclose(affine, image.affine, atol=1e-3):
        what = f"brain mask {path.name} has another grid ({values.shape}) than the run ({image.shape})"
        raise Rejected("other_space", f"{what}; both must come from one preprocessing")
    return values.ravel(order="F") > 0
