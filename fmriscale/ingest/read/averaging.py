"""Average time series by feature, where a file holds one series after another (CIFTI, GIFTI)."""

from collections.abc import Iterable

import numpy as np

from fmriscale.common.quarantine import Rejected


def average_rows(
    blocks: Iterable[np.ndarray], feature: np.ndarray, n_features: int, n_volumes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Average the rows of blocks [r, T] by their `feature` [R], -1 = none; rows without data do not count.

    Return the means [T, V], and which rows [R] hold data: not zero or NaN throughout.
    """
    sums = np.zeros((n_features, n_volumes))
    has_data = np.zeros(feature.size, bool)
    n_broken = start = 0
    for block in blocks:
        features = feature[start : start + len(block)]
        rows = np.argsort(features, kind="stable")[np.count_nonzero(features < 0) :]
        values = block[rows]
        filled, broken = _inspect(values)
        n_broken += int(broken.sum())
        if not filled.all():
            rows, values = rows[filled], values[filled]
        has_data[start + rows] = True
        present, starts = np.unique(features[rows], return_index=True)
        if present.size:
            sums[present] += np.add.reduceat(values, starts, axis=0, dtype=np.float64)
        start += len(block)
    if n_broken:
        what = f"{n_broken} of the {(feature >= 0).sum()} vertices and voxels used are NaN or infinite"
        remedy = "find the step of preprocessing that made them"
        raise Rejected("not_finite", f"{what} in some volumes; {remedy}")
    counts = np.bincount(feature[has_data], minlength=n_features)
    sums /= np.maximum(counts, 1)[:, None]
    return sums.T, has_data


def _inspect(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows [r, T] hold data (not zero or NaN throughout), and which of them only in part."""
    low, high = values.min(axis=1, initial=0), values.max(axis=1, initial=0)  # NaN if there is one
    if np.isfinite(low).all() and np.isfinite(high).all():
        return (low != 0) | (high != 0), np.zeros(len(values), bool)
    finite = np.isfinite(values)
    filled = (finite & (values != 0)).any(axis=1)
    return filled, filled & ~finite.all(axis=1)


def share(flags: np.ndarray, feature: np.ndarray, n_features: int) -> np.ndarray:
    """Return the share of members of each feature [V] whose flag is set."""
    total = np.bincount(feature, minlength=n_features)
    return np.bincount(feature, flags, n_features) / np.maximum(total, 1)
