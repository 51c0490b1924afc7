"""Reduce CIFTI series to V features, by what each row is, never by its place in the file."""

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
from fmriscale.ingest.read.content import check_input
from fmriscale.ingest.read.geometry import flat, millimetres, nearest, world
from fmriscale.ingest.read.labels import feature_labels

FS_LR_91K = {
    "CORTEX_LEFT": 29696,
    "CORTEX_RIGHT": 29716,
    "ACCUMBENS_LEFT": 135,
    "ACCUMBENS_RIGHT": 140,
    "AMYGDALA_LEFT": 315,
    "AMYGDALA_RIGHT": 332,
    "BRAIN_STEM": 3472,
    "CAUDATE_LEFT": 728,
    "CAUDATE_RIGHT": 755,
    "CEREBELLUM_LEFT": 8709,
    "CEREBELLUM_RIGHT": 9144,
    "DIENCEPHALON_VENTRAL_LEFT": 706,
    "DIENCEPHALON_VENTRAL_RIGHT": 712,
    "HIPPOCAMPUS_LEFT": 764,
    "HIPPOCAMPUS_RIGHT": 795,
    "PALLIDUM_LEFT": 297,
    "PALLIDUM_RIGHT": 260,
    "PUTAMEN_LEFT": 1060,
    "PUTAMEN_RIGHT": 1010,
    "THALAMUS_LEFT": 1288,
    "THALAMUS_RIGHT": 1248,
}
"""Grayordinates of every structure in the fsLR 91k space of the HCP and of fMRIPrep (91,282 in all)."""


@dataclass(frozen=True, eq=False)
class LabelledMembers:
    """Features given by their grayordinates.

    Attributes
    ----------
    members : Grayordinates
        Those of all features.
    feature : ndarray of int32
        Feature of each.
    """

    members: Grayordinates
    feature: np.ndarray


@dataclass(frozen=True)
class FsLRStructures:
    """Every grayordinate of some structures of fsLR 91k, in feature order."""

    structures: tuple[str, ...]


@dataclass(frozen=True)
class NamedParcels:
    """Features given by the names of parcels."""

    names: ParcelNames


Members = LabelledMembers | FsLRStructures | NamedParcels


# ---------------------------------------------------------------- feature spaces


def load_dlabel(config: FeatureConfig, path: Path) -> tuple[FeatureSpace, tuple, LabelledMembers]:
    """Read a .dlabel.nii: every label above 0 is one feature, in ascending order."""
    header = _header(path)
    try:
        keys, table = read_labels(header)
    except Exception as error:
        raise UserError(f"{path}: {error}") from error
    inside = np.flatnonzero(keys > 0)
    present = np.unique(keys[inside])
    if present.size == 0 or not isinstance(header.rows, Grayordinates):
        raise UserError(f"{path}: holds no grayordinate with a label above 0")
    feature = np.searchsorted(present, keys[inside]).astype(np.int32)
    members = header.rows.take(inside)
    numbers = present.tolist()
    labels = feature_labels(config, numbers) or tuple(table.get(k, str(k)) for k in numbers)
    space = FeatureSpace(config.name, len(numbers), labels, _centroids(members, feature))
    return space, ("labels_img", sha256_file(path), labels), LabelledMembers(members, feature)


def _centroids(members: Grayordinates, feature: np.ndarray) -> tuple[tuple[float, float, float], ...] | None:
    """Return the centres of features in mm; vertices have no place in mm without their surface."""
    if (members.vertex >= 0).any():
        return None
    positions = world(members.voxel, members.affine)
    sums = [np.bincount(feature, positions[:, axis]) for axis in range(3)]
    return millimetres(np.stack(sums, 1) / np.bincount(feature)[:, None])


def load_structures(
    config: FeatureConfig, structures: list[str]
) -> tuple[FeatureSpace, tuple, LabelledMembers | FsLRStructures]:
    """Take every grayordinate of some structures: those of a template file, or of fsLR 91k."""
    wanted = [name.upper().removeprefix("CIFTI_STRUCTURE_") for name in structures]
    if config.template is None:
        wanted = _known_structures(config, wanted, list(FS_LR_91K))
        n_features = sum(FS_LR_91K[name] for name in wanted)
        labels = feature_labels(config, range(1, n_features + 1))
        space = FeatureSpace(config.name, n_features, labels)
        return space, ("structures", tuple(wanted), labels), FsLRStructures(tuple(wanted))
    path = expand(config.template)
    rows = _header(path).rows
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
    return space, ("structures", tuple(wanted), sha256_file(path), labels), LabelledMembers(members, feature)


def _known_structures(config: FeatureConfig, wanted: list[str], known: list[str]) -> list[str]:
    if wanted == ["ALL"]:
        return known
    if not wanted or len(set(wanted)) < len(wanted) or not set(wanted) <= set(known):
        raise UserError(
            f"features '{config.name}': structures {wanted} must be [all] or, each once, some of "
            f"{', '.join(known)}"
        )
    return wanted


def load_parcels(config: FeatureConfig, path: Path) -> tuple[FeatureSpace, tuple, NamedParcels]:
    """Take the parcels of a .ptseries.nii, in its order."""
    names = _header(path).rows
    if isinstance(names, Grayordinates):
        raise UserError(f"{path}: holds grayordinates, not parcels; give a .ptseries.nii")
    if len(set(names)) < len(names):
        raise UserError(f"{path}: names a parcel twice; parcels are matched by name")
    labels = feature_labels(config, range(1, len(names) + 1)) or names
    return FeatureSpace(config.name, len(names), labels), ("parcels", names, labels), NamedParcels(names)


def _header(path: Path) -> Header:
    check_input(path, "cifti")
    try:
        return read_header(path)
    except Exception as error:  # a damaged header raises whatever comes first
        raise UserError(f"{path}: not a readable CIFTI file ({error})") from error


# ---------------------------------------------------------------- runs


def reduce_series(series: Series, layout: Members, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    """Reduce a CIFTI series to its features in one pass over the file."""
    rows, members = find_rows(series.rows, layout)
    if not (rows >= 0).any():
        raise Rejected("other_space", "the run holds none of the features; choose labels in its space")
    feature = np.full(len(series.rows), -1, np.int32)
    feature[rows[rows >= 0]] = members[rows >= 0]
    signals, holds_data = average_rows(series.blocks(), feature, n_features, series.n_volumes)
    filled = np.append(holds_data, False)  # the last one stands for 'not in the run': row -1
    return signals, share(filled[rows], members, n_features)


def find_rows(run: Grayordinates | ParcelNames, layout: Members) -> tuple[np.ndarray, np.ndarray]:
    """Return, for every member of every feature, its row in the run (-1 = none) and its feature."""
    if isinstance(layout, NamedParcels):
        if isinstance(run, Grayordinates):
            raise Rejected(
                "other_space", "a dense series, but the features are parcels; give a .ptseries.nii"
            )
        rows = parcel_rows(run, layout.names)
        return rows, np.arange(rows.size)
    if not isinstance(run, Grayordinates):
        raise Rejected("other_space", "a parcel series needs features with parcels; give a .dtseries.nii")
    if isinstance(layout, FsLRStructures):
        rows = np.concatenate([_standard_rows(run, structure) for structure in layout.structures])
        return rows, np.arange(rows.size)
    return _grayordinate_rows(run, layout.members), layout.feature


def parcel_rows(run: ParcelNames, names: ParcelNames) -> np.ndarray:
    """Match parcels by name; one that is not in the run is missing, one too many is another parcellation."""
    place = {name: row for row, name in enumerate(run)}
    if len(place) < len(run):
        raise Rejected("other_space", "the run names a parcel twice; parcels are matched by name")
    if unknown := sorted(set(run) - set(names)):
        raise Rejected(
            "other_space",
            f"parcel '{unknown[0]}' and {len(unknown) - 1} more are none of the features; all runs must come "
            "from one parcellation",
        )
    return np.array([place.get(name, -1) for name in names])


def _standard_rows(run: Grayordinates, structure: str) -> np.ndarray:
    """Return the rows of a whole structure, by vertex or voxel; it must be as large as fsLR 91k has it."""
    rows = np.flatnonzero(run.structure == structure)
    if rows.size != FS_LR_91K[structure]:
        raise Rejected(
            "other_space",
            f"{structure} has {rows.size} grayordinates, {FS_LR_91K[structure]} in fsLR 91k; "
            "set features.template to a file of the run's space",
        )
    i, j, k = run.voxel[rows].T
    return rows[np.lexsort((i, j, k, run.vertex[rows]))]


def _grayordinate_rows(run: Grayordinates, wanted: Grayordinates) -> np.ndarray:
    """Return the row of every wanted vertex (by structure and number) and voxel (by position), -1 = none."""
    rows = np.full(len(wanted), -1)
    for structure, n_vertices in wanted.n_vertices.items():
        ours = np.flatnonzero((wanted.structure == structure) & (wanted.vertex >= 0))
        theirs = np.flatnonzero((run.structure == structure) & (run.vertex >= 0))
        if ours.size and theirs.size and run.n_vertices[structure] != n_vertices:
            raise Rejected(
                "other_space",
                f"{structure} has {run.n_vertices[structure]} vertices in the run, {n_vertices} in the "
                "features; choose labels on the run's surface",
            )
        place = np.full(n_vertices, -1)
        if ours.size:
            place[run.vertex[theirs]] = theirs
            rows[ours] = place[wanted.vertex[ours]]
    ours, theirs = np.flatnonzero(wanted.vertex < 0), np.flatnonzero(run.vertex < 0)
    if ours.size and theirs.size:
        place = np.full(int(np.prod(run.shape)) + 1, -1)  # the last one stands for 'outside'
        place[flat(run.voxel[theirs], run.shape)] = theirs
        positions = world(wanted.voxel[ours], wanted.affine)
        rows[ours] = place[flat(nearest(positions, run.affine), run.shape)]
    return rows


# ---------------------------------------------------------------- parcels in text tables


def load_parcel_table(config: FeatureConfig, path: Path) -> tuple[FeatureSpace, tuple, NamedParcels]:
    """Take the columns of a table as parcels, in its order."""
    try:
        table = load_table(path)
    except Rejected as why:
        raise UserError(f"{path.parent}/{why.detail}; parcels needs a table with names") from why
    if table.torn:
        raise UserError(f"{path}: names {table.torn[0]} twice; parcels are matched by name")
    names = table.names
    labels = feature_labels(config, range(1, len(names) + 1)) or names
    return FeatureSpace(config.name, len(names), labels), ("parcels", names, labels), NamedParcels(names)


def read_parcel_table(path: Path, layout: NamedParcels) -> np.ndarray:
    """Read the series of the wanted parcels [T, V]; one that is not there is NaN."""
    table = load_table(path)
    table.check_torn(lambda _: True)
    rows = parcel_rows(table.names, layout.names)
    values = table.numbers(lambda _: True).to_numpy(np.float64)
    return np.where(rows >= 0, values[:, rows], np.nan)
