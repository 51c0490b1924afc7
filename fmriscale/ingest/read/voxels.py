"""Inner loops over the voxels of a volume, compiled; import this only where images are read.

Voxels are taken about in the order in which they lie in memory, so that a volume is read once, front to back,
while it is still in the cache of the decompression. Indices are unsigned: negative ones would be looked for.
"""

import numpy as np

from fmriscale.common.compiled import njit


@njit(cache=True, error_model="numpy")
def add_volumes(block, voxels, feature, empty, sums, broken):
    """Add the voxels of a block [t, X*Y*Z] to the sums [t, V]; one not finite is `empty`, and in `broken`."""
    for t in range(block.shape[0]):
        volume, total = block[t], sums[t]
        for i in range(voxels.size):
            value = volume[voxels[i]]
            if np.isfinite(value):
                total[feature[i]] += value
            else:
                total[feature[i]] += empty
                broken[i] += 1


@njit(cache=True, error_model="numpy")
def still_empty(block: np.ndarray, voxels: np.ndarray, empty: float, candidates: np.ndarray) -> int:
    """Move candidates that are `empty` or not finite in every volume to the front; return how many."""
    n = 0
    for candidate in candidates:
        for t in range(block.shape[0]):
            value = block[t, voxels[candidate]]
            if value != empty and np.isfinite(value):
                break
        else:
            candidates[n] = candidate
            n += 1
    return n


# Numba sets itself up on the first call: here, so that worker processes, which share this import, need not.
still_empty(np.zeros((0, 0), np.int16), np.zeros(0, np.int64), 0.0, np.zeros(0, np.int64))
