"""Which volumes of a pair are masked: a pure function of (seed, position), like the pair itself.

Shapes: B pairs, S = 2 L volumes of a pair (left, then right), M masked places at most.
"""

import numpy as np

from fmriscale.common.randomness import GOLDEN, mix
from fmriscale.sampling.batch import Masks

HIDDEN, REPLACED = 0.8, 0.1
"""Share of masked volumes that give way to the mask token, and to another volume; others stay as they are."""


def draw_masks(seed: int, first: int, count: int, n_volumes: int, share: float) -> Masks:
    """Choose the masked volumes of the pairs at positions `first` to `first + count - 1`.

    A pair has `share * n_volumes` of them, rounded up or down at random so that the mean is that, but at
    least one: with 0.15 of 2 x 5 volumes 1 or 2, as published. Another volume is one of the same pair.
    """
    expected = share * n_volumes
    most = max(1, int(np.ceil(expected)))
    # Per pair: one number for how many, one a volume for which, and two a masked place for what.
    random = uniform(seed, first, count, 1 + n_volumes + 2 * most)
    place_BM = np.argsort(random[:, 1 : 1 + n_volumes], axis=1, kind="stable")[:, :most]
    n_masked_B = np.maximum(1, np.floor(expected + random[:, 0]))
    counts_BM = np.arange(most) < n_masked_B[:, None]
    what_BM, which_BM = random[:, 1 + n_volumes :].reshape(count, 2, most).transpose(1, 0, 2)
    source_BM = np.where(what_BM < HIDDEN + REPLACED, (which_BM * n_volumes).astype(np.int64), place_BM)
    source_BM[what_BM < HIDDEN] = -1
    return Masks(place_BM, np.where(counts_BM, source_BM, place_BM), counts_BM)


def uniform(seed: int, first: int, count: int, width: int) -> np.ndarray:
    """Return `width` numbers in [0, 1) of each of `count` positions from `first` on.

    Counters through the output function of SplitMix64 (Steele, Lea & Flood 2014), keyed by the seed.
    """
    counter = np.arange(first * width, (first + count) * width, dtype=np.uint64)
    key = mix(np.array([seed % 2**64, width], np.uint64) + GOLDEN)
    bits = mix(mix((counter ^ key[0]) + GOLDEN) + key[1] + GOLDEN)
    return (bits >> np.uint64(11)).reshape(count, width) * 2.0**-53
