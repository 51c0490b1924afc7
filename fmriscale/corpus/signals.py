"""Signals and facts that come from code: checked and brought into the form that a corpus keeps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fmriscale.common.errors import UserError

ROUNDING = 1e-7  # A spread below this share of a feature's size is rounding, not signal


@dataclass(frozen=True)
class Signals:
    """A run as the corpus keeps it."""

    bold: np.ndarray  # float16 [T, V], standardised
    mean: np.ndarray  # [V]
    std: np.ndarray  # [V]
    sample_mask: list[int] | None
    missing: list[int]


def standardize_run(
    key: str,
    bold: Any,
    sample_mask: Sequence[int] | np.ndarray | None = None,
    missing_features: Sequence[int] | np.ndarray = (),
    mean: Any = None,
    std: Any = None,
) -> Signals:
    """Check the signals of a run [T, V] and standardise them, unless mean and std [V] are given."""
    values = np.asarray(bold)
    if values.ndim != 2 or values.dtype.kind not in "fiu" or not values.size:
        what = f"bold is {values.dtype} of shape {list(values.shape)}"
        raise UserError(f"{key}: {what}; give real numbers [volumes, features]")
    n_volumes, n_features = values.shape
    missing = _numbers(key, "missing_features", missing_features, n_features)
    mask = None if sample_mask is None else _numbers(key, "sample_mask", sample_mask, n_volumes)
    if mask is not None and len(mask) == n_volumes:
        mask = None
    kept = slice(None) if mask is None else mask
    kept_TV = values[kept].astype(np.float64)
    kept_TV[:, missing] = 0
    _check_values(key, kept_TV, np.arange(n_volumes)[kept], missing)
    if (mean is None) != (std is None):
        raise UserError(f"{key}: mean and std come together; give both or neither")
    if mean is None:
        mean_V, std_V = kept_TV.mean(axis=0), kept_TV.std(axis=0, ddof=1)
        kept_TV = (kept_TV - mean_V) / np.where(std_V > 0, std_V, 1)
    else:
        mean_V = _one_a_feature(key, "mean", mean, n_features)
        std_V = _one_a_feature(key, "std", std, n_features)
    z_TV = np.zeros(values.shape, np.float16)
    with np.errstate(over="ignore"):
        z_TV[kept] = kept_TV
    if not np.isfinite(z_TV).all():
        what = f"values up to {np.abs(kept_TV).max():.3g} do not fit float16"
        raise UserError(f"{key}: {what}: they are not standardised; leave out mean and std")
    return Signals(z_TV, mean_V, std_V, mask, missing)


def _check_values(key: str, kept_TV: np.ndarray, kept: np.ndarray, missing: list[int]) -> None:
    """Refuse the kept volumes of a run where a value is not finite or a feature constant."""
    if len(kept_TV) < 2:
        raise UserError(f"{key}: {len(kept_TV)} kept volumes; a run has two or more")
    if not np.isfinite(kept_TV).all():
        volume, feature = np.argwhere(~np.isfinite(kept_TV))[0]
        what = f"bold is not finite, first at volume {kept[volume]}, feature {feature}"
        raise UserError(f"{key}: {what}; leave it out of sample_mask, or name it in missing_features")
    is_constant = np.ptp(kept_TV, axis=0) <= ROUNDING * np.abs(kept_TV).max(axis=0)
    constant = np.setdiff1d(np.flatnonzero(is_constant), missing)
    if len(constant):
        what = f"{len(constant)} of {kept_TV.shape[1]} features are constant, e.g. {constant[0]}"
        raise UserError(f"{key}: {what}; name those without signal in missing_features")


def _one_a_feature(key: str, name: str, given: Any, n_features: int) -> np.ndarray:
    """Return mean or std [V], float64."""
    values_V = np.array(given, np.float64)
    negative = name == "std" and (values_V < 0).any()
    if values_V.shape != (n_features,) or not np.isfinite(values_V).all() or negative:
        what = f"{name} of shape {list(values_V.shape)} is not {n_features} finite numbers"
        raise UserError(f"{key}: {what}" + (", 0 or more" if name == "std" else ""))
    return values_V


def _numbers(key: str, name: str, given: Sequence[int] | np.ndarray, count: int) -> list[int]:
    """Return numbers from 0 to below count, ascending; truth values, one each, are numbers too."""
    numbers = np.asarray(given)
    if numbers.dtype == bool and numbers.shape == (count,):
        numbers = np.flatnonzero(numbers)
    whole = numbers.ndim == 1 and (numbers.size == 0 or numbers.dtype.kind in "iu")
    if not whole or (np.diff(numbers) <= 0).any() or not set(numbers.tolist()) <= set(range(count)):
        what = f"must be ascending numbers from 0 to {count - 1}, or {count} truth values"
        raise UserError(f"{key}: {name} {what}")
    return [int(number) for number in numbers]


def json_values(key: str, what: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping as JSON keeps it: NumPy's numbers as Python's, NaN as null."""
    return {str(name): _json_value(key, f"{what}: {name}", value) for name, value in given.items()}


def _json_value(key: str, where: str, value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return json_values(key, where, value)
    if isinstance(value, list | tuple):
        return [_json_value(key, where, item) for item in value]
    if isinstance(value, float):
        if math.isinf(value):
            raise UserError(f"{key}: {where} is infinite; give a number")
        return None if math.isnan(value) else value
    if value is None or isinstance(value, str | bool | int):
        return value
    raise UserError(f"{key}: {where} is a {type(value).__name__}; give text, a number or a truth value")
