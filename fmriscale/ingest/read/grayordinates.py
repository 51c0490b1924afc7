"""CIFTI series and tables of parcels reduced to features, by what each row is, never by its position."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand, sha256_file
from fmriscale.common.quarantine import Rejected
from fmriscale.config import FeatureConfig
from fmriscale.corpus.manifest import FeatureSpace
from fmriscale.ingest.read.averaging import average_rows, share
from fmriscale.ingest.read.cifti import Grayordinates, Header, ParcelNames, Series, read_header, read_labels
from fmriscale.ingest.read.confounds_table import load_table
from fmriscale.ingest.read.content import reading_input
from fmriscale.ingest.read.geometry import Positions, centroids, flat, nearest, world
from fmriscale.ingest.read.labels import feature_labels

_SIDES = {
    "CORTEX": (29696, 29716),
    "ACCUMBENS": (135, 140),
    "AMYGDALA": (315, 332),
    "BRAIN_STEM": (3472,),
    "CAUDATE": (728, 755),
    "CEREBELLUM": (8709, 9144),
    "DIENCEPHALON_VENTRAL": (706, 712),
    "HIPPOCAMPUS": (764, 795),
    "PALLIDUM": (297, 260),
    "PUTAMEN": (1060, 1010),
    "THALAMUS": (1288, 1248),
}
FS_LR_91K = {
    name + side: size
    for name, sizes in _SIDES.items()
    for side, size in zip(("_LEFT", "_RIGHT") if len(sizes) == 2 else ("",), sizes, strict=True)
}
"""Grayordinates of every structure in the fsLR 91k space of the HCP and of fMRIPrep (91,282 in all)."""


@dataclass(frozen=True, eq=False)
class LabelledMembers:
    """The grayordinates of features."""

    grayordinates: Grayordinates  # those of all features
    feature: np.ndarray  # int32, feature of each


@dataclass(frozen=True)
class FsLRStructures:
    """Features that are the grayordinates of some structures of fsLR 91k, in order."""

    structures: tuple[str, ...]


@dataclass(frozen=True)
class NamedParcels:
    """Features that are parcels of a series, matched by name."""

    names: ParcelNames


Members = LabelledMembers | FsLRStructures | NamedParcels
Loaded = tuple[FeatureSpace, tuple, Members]  # and what two feature spaces of one name must agree in


def load_dlabel(config: FeatureConfig, path: Path) -> Loaded:
    """Read a .dlabel.nii: every label above 0 is one feature, in ascending order."""
    header = _read_header(path)
    try:
        keys, table = read_labels(header)
    except Exception as error:
        raise UserError(f"{path}: {error}") from error
    inside = np.flatnonzero(keys > 0)
    present = np.unique(keys[inside])
    if present.size == 0 or not isinstance(header.rows, Grayordinates):
        raise UserError(f"{path}: holds no grayordinate with a label above 0")
    feature = np.searchsorted(present, keys[inside]).astype(np.int32)
    grayordinates, numbers = header.rows.take(inside), present.tolist()
    labels = feature_labels(config, numbers) or tuple(table.get(k, str(k)) for k in numbers)
    space = FeatureSpace(config.name, len(numbers), labels, _centroids(grayordinates, feature))
    return space, ("labels_img", sha256_file(path), labels), LabelledMembers(grayordinates, feature)


def _centroids(members: Grayordinates, feature: np.ndarray) -> Positions | None:
    """Return the centres of features in mm; None for vertices, which have no position without a surface."""
    on_surface = (members.vertex >= 0).any()
    return None if on_surface else centroids(members.voxel, members.affine, feature)


def load_structures(config: FeatureConfig, structures: list[str]) -> Loaded:
    """Take every grayordinate of some structures: those of a template file, or of fsLR 91k."""
    wanted = [name.upper().removeprefix("CIFTI_STRUCTURE_") for name in structures]
    if config.template is None:
        wanted = _known_structures(config, wanted, list(FS_LR_91K))
        n_features = sum(FS_LR_91K[name] for name in wanted)
        labels = feature_labels(config, range(1, n_features + 1))
        space = FeatureSpace(config.name, n_features, labels)
        return space, ("structures", wanted, labels), FsLRStructures(wanted)
    path = expand(config.template)
    rows = _read_header(path).rows
    if not isinstance(rows, Grayordinates):
        raise UserError(f"{path}: holds no grayordinates; give a .dtseries, .dscalar or .dlabel file")
    wanted = _known_structures(config, wanted, list(dict.fromkeys(rows.structure.tolist())))
    members = rows.take(np.flatnonzero(np.isin(rows.structure, wanted)))
    feature = np.arange(len(members), dtype=np.int32)
    labels = feature_labels(config, range(1, len(members) + 1)) or tuple(
        f"{name}_{vertex}" if vertex >= 0 else f"{name}_{i}_{j}_{k}"
        for name, vertex, (i, j, k) in zip(members.structure, members.vertex, members.voxel, strict=True)
    )
    space = FeatureSpace(config.name, len(members), labels, _centroids(members, feature))
    return space, ("structures", wanted, sha256_file(path), labels), LabelledMembers(members, feature)


def _known_structures(config: FeatureConfig, wanted: list[str], known: list[str]) -> tuple[str, ...]:
    if wanted == ["ALL"]:
        return tuple(known)
    if not wanted or len(set(wanted)) < len(wanted) or not set(wanted) <= set(known):
        rule = f"structures {wanted} must be [all] or, each once, some of {', '.join(known)}"
        raise UserError(f"features '{config.name}': {rule}")
    return tuple(wanted)


def load_parcels(config: FeatureConfig, path: Path) -> Loaded:
    """Take the parcels of a .ptseries.nii, or the columns of a .tsv, in their order."""
    names = _columns(path) if path.suffix == ".tsv" else _read_header(path).rows
    if isinstance(names, Grayordinates):
        raise UserError(f"{path}: holds grayordinates, not parcels; give a .ptseries.nii")
    if len(set(names)) < len(names):
        raise UserError(f"{path}: names a parcel twice; parcels are matched by name")
    labels = feature_labels(config, range(1, len(names) + 1)) or names
    return FeatureSpace(config.name, len(names), labels), ("parcels", names, labels), NamedParcels(names)


def _columns(path: Path) -> ParcelNames:
    """Return the names of the columns of a table."""
    try:
        table = load_table(path)
    except Rejected as why:
        raise UserError(f"{path.parent}/{why.detail}; parcels needs a table with names") from why
    return (*table.names, *2 * table.conflicting)


def _read_header(path: Path) -> Header:
    with reading_input(path, "cifti"):
        return read_header(path)


def read_parcel_table(path: Path, members: NamedParcels) -> np.ndarray:
    """Read the series of the wanted parcels [T, V] from the columns of a table; a missing one is NaN."""
    table = load_table(path)
    rows = _parcel_rows(table.names, members.names)
    values = table.numbers(lambda _: True).to_numpy(np.float64)
    return np.where(rows >= 0, values[:, rows], np.nan)


def reduce_series(series: Series, members: Members, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the means over the rows of features [T, V], and the share of their members with data [V]."""
    rows, member_feature = _find_rows(series.rows, members)
    if not (rows >= 0).any():
        raise Rejected("other_space", "the run holds none of the features; choose labels in its space")
    feature = np.full(len(series.rows), -1, np.int32)
    feature[rows[rows >= 0]] = member_feature[rows >= 0]
    signals, has_data = average_rows(series.blocks(), feature, n_features, series.n_volumes)
    filled = np.append(has_data, False)  # the last one stands for 'not in the run': row -1
    return signals, share(filled[rows], member_feature, n_features)


def _find_rows(run: Grayordinates | ParcelNames, members: Members) -> tuple[np.ndarray, np.ndarray]:
    """Return, for every member of every feature, its row in the run (-1 = none) and its feature."""
    if isinstance(members, NamedParcels):
        if isinstance(run, Grayordinates):
            raise Rejected("other_space", "dense, but the features are parcels; give a .ptseries.nii")
        rows = _parcel_rows(run, members.names)
        return rows, np.arange(rows.size)
    if not isinstance(run, Grayordinates):
        raise Rejected("other_space", "a parcel series needs features with parcels; give a .dtseries.nii")
    if isinstance(members, FsLRStructures):
        rows = np.concatenate([_structure_rows(run, structure) for structure in members.structures])
        return rows, np.arange(rows.size)
    return _grayordinate_rows(run, members.grayordinates), members.feature


def _parcel_rows(run: ParcelNames, names: ParcelNames) -> np.ndarray:
    """Match parcels by name, -1 = not in the run; a further one in the run means another parcellation."""
    row_of = {name: row for row, name in enumerate(run)}
    if len(row_of) < len(run):
        raise Rejected("other_space", "the run names a parcel twice; parcels are matched by name")
    if unknown := sorted(set(run) - set(names)):
        what = f"parcel '{unknown[0]}' and {len(unknown) - 1} more are none of the features"
        raise Rejected("other_space", f"{what}; all runs must come from one parcellation")
    return np.array([row_of.get(name, -1) for name in names])


def _structure_rows(run: Grayordinates, structure: str) -> np.ndarray:
    """Return the rows of a whole structure of fsLR 91k, ordered by vertex or voxel."""
    rows = np.flatnonzero(run.structure == structure)
    if rows.size != FS_LR_91K[structure]:
        what = f"{structure} has {rows.size} grayordinates, {FS_LR_91K[structure]} in fsLR 91k"
        raise Rejected("other_space", f"{what}; set features.template to a file of the run's space")
    i, j, k = run.voxel[rows].T
    return rows[np.lexsort((i, j, k, run.vertex[rows]))]


def _grayordinate_rows(run: Grayordinates, wanted: Grayordinates) -> np.ndarray:
    """Return the row of every wanted vertex (by structure and number) and voxel (by position), -1 = none."""
    rows = np.full(len(wanted), -1)
    for structure, n_vertices in wanted.n_vertices.items():
        in_wanted = np.flatnonzero((wanted.structure == structure) & (wanted.vertex >= 0))
        in_run = np.flatnonzero((run.structure == structure) & (run.vertex >= 0))
        if not in_wanted.size or not in_run.size:
            continue
        if run.n_vertices[structure] != n_vertices:
            both = f"{run.n_vertices[structure]} vertices in the run, {n_vertices} in the features"
            raise Rejected("other_space", f"{structure} has {both}; choose labels on the run's surface")
        row_of = np.full(n_vertices, -1)
        row_of[run.vertex[in_run]] = in_run
        rows[in_wanted] = row_of[wanted.vertex[in_wanted]]
    in_wanted, in_run = np.flatnonzero(wanted.vertex < 0), np.flatnonzero(run.vertex < 0)
    if in_wanted.size and in_run.size:
        row_of = np.full(int(np.prod(run.shape)) + 1, -1)  # the last one stands for 'outside'
        row_of[flat(run.voxel[in_run], run.shape)] = in_run
        positions = world(wanted.voxel[in_wanted], wanted.affine)
        rows[in_wanted] = row_of[flat(nearest(positions, run.affine), run.shape)]
    return rows
