"""What the features of a recipe are called."""

from collections.abc import Sequence

import numpy as np

from fmriscale.config import FeatureConfig
from fmriscale.errors import UserError
from fmriscale.files import expand


def whole_labels(values: np.ndarray) -> np.ndarray:
    """Return the labels of an atlas as integers; NaN is background, as 0 is.

    Raises
    ------
    ValueError
        Infinite values, or fractions.
    """
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), 0, values)
        if np.isinf(values).any():
            raise ValueError("holds infinite values; mend it")
        if not np.array_equal(values, np.round(values)):
            raise ValueError("must hold whole numbers; is it a probability map or a mask?")
    return values.astype(np.int64)


def feature_labels(config: FeatureConfig, numbers: Sequence[int]) -> tuple[str, ...] | None:
    """Return the names that a recipe gives: a list in order, or a text file.

    Parameters
    ----------
    config : FeatureConfig
        `labels` is a list of names, or a file with 'index name ...' a line or one name a line in order.
    numbers : sequence of int
        The label of every feature in the atlas.

    Raises
    ------
    UserError
        The file is missing, or names are too few or too many.
    """
    if config.labels is None:
        return None
    if isinstance(config.labels, list):
        return _in_order(config, config.labels, len(numbers), "labels")
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
    return _in_order(config, [words[0] for words in lines], len(numbers), str(path))


def _in_order(config: FeatureConfig, names: list[str], n_features: int, where: str) -> tuple[str, ...]:
    if len(names) != n_features:
        raise UserError(
            f"{where}: {len(names)} names for the {n_features} features of '{config.name}'; "
            "give one name a line in order, or 'index name'"
        )
    return tuple(names)
