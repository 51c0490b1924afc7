"""Volumes that are not of the run, told by their level: noise, padding, dummy scans, half-written ones."""

import numpy as np

from fmriscale.common.quarantine import Rejected
from fmriscale.config import QualityConfig
from fmriscale.ingest.clean.quality import global_signal

MAX_FEATURES = 500
"""Features that tell whether a run has a level; they are taken evenly."""

MIN_LEVEL = 6.0, 3.0
"""A run has a level where the median over time of the mean over features, and of the features themselves, are
above so many robust standard deviations; signals that lost their mean lie at 0."""

MAX_SPREAD = 5.0
"""What lies within so many robust standard deviations of the mean over features is of the run."""

MAX_EMPTY = 0.1
"""Share of features that are 0 in a volume and not in the others, above which it is not written whole."""

MAX_CUT = 0.25
"""Largest share of volumes that are left out at the ends; of more, nobody can tell which are the run."""


def censor_off_level(
    signals: np.ndarray, kept: np.ndarray, quality: QualityConfig, course: np.ndarray | None = None
) -> tuple[np.ndarray, list[int]]:
    """Censor volumes far from the level of a run at its ends."""
    if quality.max_level_change is None or not len(kept):
        return kept, []
    far = off_level_volumes(signals, quality.max_level_change, course)
    if not far.any():
        return kept, []
    first, stop = np.flatnonzero(~far)[[0, -1]] + [0, 1]
    inside, n_cut = far[first:stop].any(), len(far) - (stop - first)
    if inside or n_cut > MAX_CUT * len(far):
        numbers = ", ".join(str(n) for n in kept[far][:8]) + (", ..." if far.sum() > 8 else "")
        why = "in the middle of it" if inside else "too many to tell which are the run"
        raise Rejected(
            "level",
            f"{far.sum()} of {len(far)} volumes ({numbers}, counted from 0) are empty or far from the level "
            f"of the run, {why}; mend or cut the file, censor them (denoise.strategy scrub), or raise "
            f"quality.max_level_change ({quality.max_level_change:g})",
        )
    return kept[first:stop], kept[far].tolist()


def off_level_volumes(signals: np.ndarray, max_change: float, course: np.ndarray | None = None) -> np.ndarray:
    """Tell which volumes lie far from the level of their run."""
    far = np.zeros(len(signals), bool)
    course = global_signal(signals) if course is None else course
    level, spread = _median_and_spread(course[:, None])
    if not abs(level[0]) > MIN_LEVEL[0] * spread[0]:
        return far
    some = signals[:, :: -(-signals.shape[1] // MAX_FEATURES)].astype(np.float64)
    levels, spreads = _median_and_spread(some)
    present = levels != 0
    has_level = np.abs(levels[present]) > MIN_LEVEL[1] * spreads[present]
    if 2 * has_level.sum() <= present.sum():
        return far
    deviation = np.abs(course - level[0])
    far = deviation > max(max_change * abs(level[0]), MAX_SPREAD * spread[0])
    empty = np.abs(some[:, present]) <= 1e-9 * np.abs(levels[present])
    return far | (empty.mean(axis=1) > MAX_EMPTY)


def _median_and_spread(series: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the median over time of series [T, V] and their robust standard deviation."""
    middle = np.median(series, axis=0)
    return middle, 1.4826 * np.median(np.abs(series - middle), axis=0)
