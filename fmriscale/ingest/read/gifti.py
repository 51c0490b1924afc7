"""GIFTI series, one .func.gii per hemisphere, reduced to parcel means by the vertices of label files."""

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
from fmriscale.ingest.read.content import reading, reading_input
from fmriscale.ingest.read.labels import feature_labels, whole_labels

_STRUCTURES = {"L": "CortexLeft", "R": "CortexRight"}

_NO_PARCEL = re.compile(r"(.*medial.?wall|\?*|unknown)", re.IGNORECASE)
"""Names of what is no cortex: the medial wall, unknown, ???."""


@dataclass(frozen=True, eq=False)
class SurfaceMembers:
    """The vertices of features."""

    feature: tuple[np.ndarray, np.ndarray]  # feature of every left and every right vertex, -1 = none


@dataclass(frozen=True, eq=False)
class Hemisphere:
    """The series of one hemisphere."""

    values: np.ndarray  # [vertices, T], as stored
    t_r: float | None  # repetition time, s, where the metadata state it

    def cut(self, volumes: slice) -> "Hemisphere":
        """Return some of its volumes."""
        return replace(self, values=self.values[:, volumes])


def load_surfaces(config: FeatureConfig, files: list[str]) -> tuple[FeatureSpace, tuple, SurfaceMembers]:
    """Read the label files of both hemispheres; every label above 0 that names a parcel is one feature."""
    if len(files) != 2:
        what = f"labels_gii needs two files, [left, right]; got {len(files)}"
        raise UserError(f"features '{config.name}': {what}")
    paths = [expand(file) for file in files]
    hemispheres = [_read_labels(path, side) for path, side in zip(paths, "LR", strict=True)]
    names = [tuple(table.values()) for _, table in hemispheres]
    if set(names[0]) & set(names[1]):
        names = [tuple(f"{side}_{name}" for name in own) for side, own in zip("LR", names, strict=True)]
    features, n_features = [], 0
    for keys, table in hemispheres:
        present = np.array(list(table))
        inside = np.isin(keys, present)
        feature = np.full(keys.size, -1, np.int32)
        feature[inside] = np.searchsorted(present, keys[inside]) + n_features
        features.append(feature)
        n_features += len(present)
    labels = feature_labels(config, range(1, n_features + 1)) or (*names[0], *names[1])
    space = FeatureSpace(config.name, n_features, labels)
    definition = ("labels_gii", *(sha256_file(path) for path in paths), labels)
    return space, definition, SurfaceMembers((features[0], features[1]))


def _read_labels(path: Path, side: str) -> tuple[np.ndarray, dict[int, str]]:
    """Return the key of every vertex, and the names of the keys that are parcels, in ascending order."""
    with reading_input(path, "gifti"):
        image = nib.GiftiImage.from_filename(path)
        arrays = image.get_arrays_from_intent("NIFTI_INTENT_LABEL")
        keys = whole_labels(np.asarray(arrays[0].data).ravel())
        table = {int(key): str(name) for key, name in image.labeltable.get_labels_as_dict().items()}
    if len(arrays) != 1:
        raise UserError(f"{path}: holds {len(arrays)} label maps; write the wanted one alone")
    if structure := _other_structure(image, side):
        raise UserError(f"{path}: is of {structure}; labels_gii is [left, right]")
    names = {key: table.get(key, str(key)) for key in np.unique(keys[keys > 0]).tolist()}
    parcels = {key: name for key, name in names.items() if not _NO_PARCEL.fullmatch(name.strip())}
    if not parcels:
        raise UserError(f"{path}: holds no label above 0 that names a parcel")
    return keys, parcels


def _other_structure(image: nib.GiftiImage, side: str) -> str | None:
    """Return the structure that a file states, if it is the other hemisphere."""
    for meta in (image.meta, *(array.meta for array in image.darrays[:1])):
        structure = meta.get("AnatomicalStructurePrimary")
        if structure in _STRUCTURES.values() and structure != _STRUCTURES[side]:
            return structure
    return None


def open_hemisphere(path: Path, side: str) -> Hemisphere:
    """Read one hemisphere of a run."""
    with reading(path, "gifti", f"{path.name}: "):
        image = nib.GiftiImage.from_filename(path)
        arrays = [np.asarray(array.data) for array in image.darrays]
        # One array a time point is what the format means; some tools write one [vertices, T].
        values = arrays[0] if len(arrays) == 1 and arrays[0].ndim == 2 else np.stack(arrays, axis=1)
    if values.ndim != 2 or values.dtype.kind not in "iuf":
        raise Rejected("unreadable", f"{path.name} holds {values.shape} of {values.dtype}, no series")
    if structure := _other_structure(image, side):
        raise Rejected("unreadable", f"{path.name} is of {structure}; name hemispheres as what they are")
    return Hemisphere(values, _time_step(image))


def _time_step(image: nib.GiftiImage) -> float | None:
    """Return TimeStep of the file or of its first array in s; GIFTI gives it in ms."""
    for meta in (image.meta, image.darrays[0].meta):
        try:
            return float(meta["TimeStep"]) / 1000.0
        except (KeyError, ValueError):
            continue
    return None


def reduce_hemispheres(
    hemispheres: tuple[Hemisphere, Hemisphere], members: SurfaceMembers, n_features: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the means over the vertices of features [T, V], and the share of vertices with data [V]."""
    n_left, n_right = (hemisphere.values.shape[1] for hemisphere in hemispheres)
    if n_left != n_right:
        raise Rejected("unreadable", f"{n_left} volumes on the left, {n_right} on the right; correct one")
    for side, hemisphere, feature in zip("LR", hemispheres, members.feature, strict=True):
        if len(hemisphere.values) != feature.size:
            what = f"hemisphere {side} has {len(hemisphere.values)} vertices, its label file {feature.size}"
            raise Rejected("other_space", f"{what}; choose label files on the run's surface")
    feature = np.concatenate(members.feature)
    blocks = (hemisphere.values for hemisphere in hemispheres)
    signals, has_data = average_rows(blocks, feature, n_features, n_left)
    inside = feature >= 0
    return signals, share(has_data[inside], feature[inside], n_features)
