"""The global order as pure functions of position: permutations, quotas, counter-based random numbers.

Nothing here holds state or a whole permutation: any position of any epoch is computed directly, so
resuming costs nothing and every rank sees the same order.
"""

from collections.abc import Sequence

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUND_KEYS = np.arange(1, 7, dtype=np.uint64) * _GOLDEN
"""One constant for each round of the Feistel network."""


def mix(x: np.ndarray) -> np.ndarray:
    """Scramble an array of uint64 values (the finaliser of SplitMix64, Steele et al. 2014, OOPSLA)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def key_of(*parts: int | np.ndarray) -> np.ndarray:
    """Fold integers or arrays of them (seed, stream, epoch, ...) into 64-bit keys, uint64 [B]."""
    key = np.zeros(1, np.uint64)  # arrays wrap round silently where numpy scalars would warn
    for part in parts:
        key = mix(key + _GOLDEN + mix(np.atleast_1d(part).astype(np.uint64)))
    return key


def uniform(key: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return one number in [0, 1) for each index: the same index gives the same number, always."""
    bits = mix(mix(index.astype(np.uint64) + _GOLDEN) + key)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(index: np.ndarray, n: np.ndarray | int, key: np.ndarray) -> np.ndarray:
    """Apply a pseudo-random permutation of 0..n-1 to some indices, without building it.

    A Feistel network over the next even power of two, walked until it falls inside the range
    (Black & Rogaway 2002, "Ciphers with arbitrary finite domains").

    Parameters
    ----------
    index : int array [B]
        Indices in 0..n-1.
    n : int or int array [B]
        Size of the permuted set.
    key : uint64 array [B] or [1]
        Chooses the permutation.

    Returns
    -------
    int64 array [B]
        Where each index is sent.
    """
    index, n, key = np.broadcast_arrays(np.asarray(index, np.uint64), np.asarray(n, np.uint64), key)
    bits = np.ceil(np.log2(np.maximum(n.astype(np.float64), 2.0)))
    half = np.maximum(np.ceil(bits / 2), 1).astype(np.uint64)
    mask = (np.uint64(1) << half) - np.uint64(1)
    out, todo = index.copy(), np.arange(index.size)
    while todo.size:
        x, h, m, k = out[todo], half[todo], mask[todo], key[todo]
        left, right = x >> h, x & m
        for turn in range(len(_ROUND_KEYS)):
            left, right = right, left ^ (mix(right + k + _ROUND_KEYS[turn]) & m)
        out[todo] = (left << h) | right
        todo = todo[out[todo] >= n[todo]]
    return out.astype(np.int64)


def largest_remainder(shares: Sequence[float] | np.ndarray, total: int) -> np.ndarray:
    """Split `total` into integer quotas in proportion to `shares` (Hamilton's method), int64 [N]."""
    exact = np.asarray(shares, np.float64) / np.sum(shares) * total
    quotas = np.floor(exact).astype(np.int64)
    rest = int(total - quotas.sum())
    quotas[np.argsort(quotas - exact, kind="stable")[:rest]] += 1
    return quotas


def interleave(quotas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spread quotas evenly over a block.

    Parameters
    ----------
    quotas : int array [N]
        How often each of N things occurs in a block.

    Returns
    -------
    which : int64 array [sum of quotas]
        The thing at each place of the block.
    occurrence : int64 array [sum of quotas]
        How often it occurred before in the block.
    """
    which = np.repeat(np.arange(len(quotas)), quotas)
    occurrence = np.concatenate([np.arange(q) for q in quotas]) if len(quotas) else which
    place = (occurrence + 0.5) / quotas[which]
    order = np.lexsort((which, place))
    return which[order], occurrence[order]


def block_size(shares: np.ndarray) -> int:
    """Return a block length in which even the smallest share keeps its proportion within an eighth."""
    smallest = np.min(shares[shares > 0]) / np.sum(shares)
    return int(np.clip(np.ceil(8 / smallest), 1024, 2**20))
