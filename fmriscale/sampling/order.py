"""Shares as whole numbers: quotas of a block, and how they are spread over it."""

from collections.abc import Sequence

import numpy as np


def largest_remainder(shares: Sequence[float] | np.ndarray, total: int) -> np.ndarray:
    """Split `total` into integer quotas in proportion to `shares` (Hamilton's method), int64 [N]."""
    exact = np.asarray(shares, np.float64) / np.sum(shares) * total
    quotas = np.floor(exact).astype(np.int64)
    rest = int(total - quotas.sum())
    quotas[np.argsort(quotas - exact, kind="stable")[:rest]] += 1
    return quotas


def interleave(quotas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spread quotas evenly over a block."""
    which = np.repeat(np.arange(len(quotas)), quotas)
    occurrence = np.concatenate([np.arange(q) for q in quotas]) if len(quotas) else which
    place = (occurrence + 0.5) / quotas[which]
    order = np.lexsort((which, place))
    return which[order], occurrence[order]


def block_size(shares: np.ndarray) -> int:
    """Return a block length in which even the smallest share keeps its proportion within an eighth."""
    smallest = np.min(shares[shares > 0]) / np.sum(shares)
    return int(np.clip(np.ceil(8 / smallest), 1024, 2**20))
