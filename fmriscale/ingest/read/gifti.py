"""Reduce GIFTI series, a .func.gii for each hemisphere, to parcel means by the vertices of label files."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand, sha256_file
from fmriscale.common.quarantine import Rejected
from fmriscale.config import FeatureConfig
from fmriscale.corpus.manifest import FeatureSpace
from fmriscale.ingest.read.averaging import average_rows, share
from fmriscale.ingest.read.content import check_content, check_input
from fmriscale.ingest.read.labels import feature_labels, whole_labels

SIDES = ("L", "R")

_STRUCTURES = {"L": "CortexLeft", "R": "CortexRight"}

_NO_PARCEL = re.compile(r"(.*medial.?wall|\?*|unknown)", re.IGNORECASE)
"""Names of what is no cortex: the medial wall, unknown, ???."""


@dataclass(frozen=True, eq=False)
class SurfaceMembers:
    """Features given by the vertices of two hemispheres.

    Attributes
    ----------
    feature : tuple of ndarray of int32
        Feature of every vertex of the left and of the right hemisphere, -1 = none.
    """

    feature: tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Hemisphere:
    """The series of one hemisphere.

    Attributes
    ----------
    values : ndarray [vertices, T]
        As stored.
    t_r : float or None
        Repetition time, s, where the metadata state it.
    """

    values: np.ndarray
    t_r: float | None

    def cut(self, volumes: slice) -> "Hemisphere":
        """Return some of its volumes."""
        return replace(self, values=self.values[:, volumes])


def load_surfaces(config: FeatureConfig, files: list[str]) -> tuple[FeatureSpace, tuple, SurfaceMembers]:
    """Read the label files of both hemispheres; every label above 0 that names a parcel is one feature.

    Labels keep their names where left and right differ in them, and else get L_ or R_ in front.
    """
    if len(files) != len(SIDES):
        raise UserError(
            f"features '{config.name}': labels_gii needs two files, [left, right]; got {len(files)}"
        )
    paths = [expand(file) for file in files]
    hemispheres = [_read_labels(path, side) for path, side in zip(paths, SIDES, strict=True)]
    names = [tuple(table[key] for key in present) for _, present, table in hemispheres]
    if set(names[0]) & set(names[1]):
        names = [tuple(f"{s}_{n}" for n in side) for s, side in zip(SIDES, names, strict=True)]
    features, n_features = [], 0
    for keys, present, _ in hemispheres:
        feature = np.full(keys.size, -1, np.int32)
        inside = np.isin(keys, present)
        feature[inside] = np.searchsorted(present, keys[inside]) + n_features
        features.append(feature)
        n_features += len(present)
    labels = feature_labels(config, range(1, n_features + 1)) or (*names[0], *names[1])
    space = FeatureSpace(config.name, n_features, labels)
    definition = ("labels_gii", *(sha256_file(path) for path in paths), labels)
    return space, definition, SurfaceMembers((features[0], features[1]))


def _read_labels(path: Path, side: str) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Return the key of every vertex, the keys that are parcels, ascending, and their names."""
    check_input(path, "gifti")
    try:
        image = nib.GiftiImage.from_filename(path)
        arrays = image.get_arrays_from_intent("NIFTI_INTENT_LABEL")
        keys = whole_labels(np.asarray(arrays[0].data).ravel())
        table = {int(key): str(name) for key, name in image.labeltable.get_labels_as_dict().items()}
    except Exception as error:
        raise UserError(f"{path}: not a readable .label.gii ({error})") from error
    if len(arrays) != 1:
        raise UserError(f"{path}: holds {len(arrays)} label maps; write the wanted one alone")
    if stated := _other_side(image, side):
        raise UserError(f"{path}: is of {stated}; labels_gii is [left, right]")
    used = np.unique(keys[keys > 0]).tolist()
    present = [key for key in used if not _NO_PARCEL.fullmatch(table.get(key, str(key)).strip())]
    if not present:
        raise UserError(f"{path}: holds no label above 0 that names a parcel")
    return keys, np.array(present), {key: table.get(key, str(key)) for key in present}


def _other_side(image: nib.GiftiImage, side: str) -> str | None:
    """Return the structure that a file says it is of, if it is not the wanted side."""
    for meta in (image.meta, *(array.meta for array in image.darrays[:1])):
        stated = meta.get("AnatomicalStructurePrimary")
        if stated in _STRUCTURES.values() and stated != _STRUCTURES[side]:
            return stated
    return None


def open_hemisphere(path: Path, side: str) -> Hemisphere:
    """Read one hemisphere of a run."""
    check_content(path, "gifti", f"{path.name}: ")
    try:
        image = nib.GiftiImage.from_filename(path)
        arrays = [np.asarray(array.data) for array in image.darrays]
        # One array a time point is what the format means; some tools write one [vertices, T].
        values = arrays[0] if len(arrays) == 1 and arrays[0].ndim == 2 else np.stack(arrays, axis=1)
    except Exception as error:  # a damaged XML file raises whatever comes first
        raise Rejected(
            "unreadable", f"{path.name} is not readable as GIFTI: {error}; copy it again"
        ) from error
    if values.ndim != 2 or values.dtype.kind not in "iuf":
        raise Rejected(
            "unreadable", f"{path.name} holds {values.shape} of {values.dtype}, no series of vertices"
        )
    if stated := _other_side(image, side):
        raise Rejected("unreadable", f"{path.name} is of {stated}; name hemispheres as what they are")
    return Hemisphere(values, _time_step(image))


def _time_step(image: nib.GiftiImage) -> float | None:
    """Return TimeStep, which GIFTI gives in ms, as s; of the file or of its first array."""
    for meta in (image.meta, image.darrays[0].meta):
        try:
            return float(meta["TimeStep"]) / 1000.0
        except (KeyError, ValueError):
            continue
    return None


def reduce_hemispheres(
    hemispheres: tuple[Hemisphere, Hemisphere], surfaces: SurfaceMembers, n_features: int
) -> tuple[np.ndarray, np.ndarray]:
    """Average the vertices of every feature."""
    n_volumes = [hemisphere.values.shape[1] for hemisphere in hemispheres]
    if n_volumes[0] != n_volumes[1]:
        raise Rejected(
            "unreadable",
            f"{n_volumes[0]} volumes on the left, {n_volumes[1]} on the right; both must come from one run",
        )
    for side, hemisphere, feature in zip(SIDES, hemispheres, surfaces.feature, strict=True):
        if len(hemisphere.values) != feature.size:
            raise Rejected(
                "other_space",
                f"hemisphere {side} has {len(hemisphere.values)} vertices, its label file {feature.size}; "
                "choose label files on the run's surface",
            )
    feature = np.concatenate(surfaces.feature)
    blocks = (hemisphere.values for hemisphere in hemispheres)
    signals, holds_data = average_rows(blocks, feature, n_features, n_volumes[0])
    member = feature >= 0
    return signals, share(holds_data[member], feature[member], n_features)
