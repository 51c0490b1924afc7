"""What the features of a recipe are called."""

from collections.abc import Sequence

import numpy as np

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand
from fmriscale.config import FeatureConfig
from fmriscale.ingest.read.label_files import read_names

_BACKGROUND = ("background", "unknown", "clear label", "")


def whole_labels(values: np.ndarray) -> np.ndarray:
    """Return the labels of an atlas as integers; NaN is background, as 0 is."""
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), 0, values)
        if np.isinf(values).any():
            raise ValueError("holds infinite values; mend it")
        if not np.array_equal(values, np.round(values)):
            raise ValueError("must hold whole numbers; is it a probability map or a mask?")
    return values.astype(np.int64)


def feature_labels(config: FeatureConfig, numbers: Sequence[int]) -> tuple[str, ...] | None:
    """Return the names that a recipe gives: a list in order, or a text file."""
    if config.labels is None:
        return None
    if isinstance(config.labels, list):
        return _in_order(config, config.labels, len(numbers), "labels")
    path = expand(config.labels)
    names = read_names(path, numbers)
    if isinstance(names, list):
        return _in_order(config, names, len(numbers), str(path))
    if missing := [n for n in numbers if n not in names]:
        raise UserError(f"{path}: no name for label {missing[0]} of features '{config.name}'; add it")
    return tuple(names[n] for n in numbers)


def _in_order(config: FeatureConfig, names: list[str], n_features: int, where: str) -> tuple[str, ...]:
    if len(names) != n_features:
        background = len(names) == n_features + 1 and names[0].strip("?").lower() in _BACKGROUND
        raise UserError(
            f"{where}: {len(names)} names for the {n_features} features of '{config.name}'; "
            + (f"remove the first, '{names[0]}'" if background else "give one a line, or 'index name'")
        )
    return tuple(names)
