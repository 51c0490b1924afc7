"""Random numbers and permutations that are functions of a key and an index, compiled, without state.

Whatever is changed here changes the order of pairs (`loader.ORDER`) and the masks of dropout. That alone is
why compiled functions of other files may call these: numba's cache does not notice a change of this one.
"""

import numpy as np

from fmriscale.common.compiled import njit

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_A, _MIX_B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_U11, _U27, _U30, _U31, _U32 = (np.uint64(n) for n in (11, 27, 30, 31, 32))
_ROUNDS = 6


@njit(cache=True, error_model="numpy", forceinline=True)
def mix(x):
    """Scramble a uint64 (the finaliser of SplitMix64, Steele et al. 2014, OOPSLA)."""
    x = (x ^ (x >> _U30)) * _MIX_A
    x = (x ^ (x >> _U27)) * _MIX_B
    return x ^ (x >> _U31)


@njit(cache=True, error_model="numpy", forceinline=True)
def fold(key, part):
    """Fold an integer (seed, stream, epoch, ...) into a 64-bit key."""
    return mix(np.uint64(key) + GOLDEN + mix(np.uint64(part)))


@njit(cache=True, error_model="numpy", forceinline=True)
def uniform(key, index):
    """Return a number in [0, 1) for an index: the same index gives the same number, always."""
    bits = mix(mix(np.uint64(index) + GOLDEN) + np.uint64(key))
    return np.float64(bits >> _U11) * 2.0**-53


@njit(cache=True, error_model="numpy", forceinline=True)
def permute(index, n, key):
    """Tell where a permutation of 0..n-1 that `key` chooses sends an index, without building it.

    A Feistel network over the next square number, walked into the range (Black & Rogaway 2002).
    """
    side = np.int64(np.ceil(np.sqrt(n)))
    x = np.int64(index)
    while True:
        left, right, constant = x // side, x % side, np.uint64(key)
        for _ in range(_ROUNDS):
            constant += GOLDEN
            drawn = np.int64(((mix(np.uint64(right) + constant) >> _U32) * np.uint64(side)) >> _U32)
            left, right = right, left + drawn - (side if left + drawn >= side else 0)
        x = left * side + right
        if x < n:
            return x
