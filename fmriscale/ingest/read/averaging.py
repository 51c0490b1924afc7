"""Average time series by feature, where a file holds one series after another (CIFTI, GIFTI)."""

from collections.abc import Iterable

import numpy as np

from fmriscale.common.quarantine import Rejected


def average_rows(
    blocks: Iterable[np.ndarray], feature: np.ndarray, n_features: int, n_volumes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Average rows of equal feature; a row that is zero or not a number throughout holds no data."""
    sums = np.zeros((n_features, n_volumes))
    holds_data = np.zeros(feature.size, bool)
    broken = done = 0
    for block in blocks:
        here = feature[done : done + len(block)]
        rows = np.argsort(here, kind="stable")[np.count_nonzero(here < 0) :]
        values = block[rows]
        filled, partly = _look(values)
        broken += int(partly.sum())
        if not filled.all():
            rows, values = rows[filled], values[filled]
        holds_data[done + rows] = True
        present, starts = np.unique(here[rows], return_index=True)
        if present.size:
            sums[present] += np.add.reduceat(values, starts, axis=0, dtype=np.float64)
        done += len(block)
    if broken:
        raise Rejected(
            "not_finite",
            f"{broken} of the {(feature >= 0).sum()} vertices and voxels used are NaN or infinite in some "
            "volumes; find the step of preprocessing that made them",
        )
    counts = np.bincount(feature[holds_data], minlength=n_features)
    sums /= np.maximum(counts, 1)[:, None]
    return sums.T, holds_data


def _look(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tell which rows [r, T] hold data (not zero or NaN throughout), and which of them only in part."""
    low, high = values.min(axis=1, initial=0), values.max(axis=1, initial=0)  # NaN if there is one
    if np.isfinite(low).all() and np.isfinite(high).all():
        return (low != 0) | (high != 0), np.zeros(len(values), bool)
    finite = np.isfinite(values)
    filled = (finite & (values != 0)).any(axis=1)
    return filled, filled & ~finite.all(axis=1)


def share(flags: np.ndarray, feature: np.ndarray, n_features: int) -> np.ndarray:
    """Return, per feature, the share of its members that are flagged."""
    total = np.bincount(feature, minlength=n_features)
    return np.bincount(feature, flags, n_features) / np.maximum(total, 1)
