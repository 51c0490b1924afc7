"""Volumes off the level of their run, so not of it: noise, padding, dummy scans, partial volumes."""

import numpy as np

from fmriscale.common.quarantine import Rejected
from fmriscale.config import QualityConfig
from fmriscale.ingest.clean.quality import median_and_spread

MAX_FEATURES = 500  # Features by which it is judged whether a run has a level; they are taken evenly

MIN_LEVEL = 6.0, 3.0
"""A run has a level if the median over time of the global signal, and of the features themselves, is above
this many robust standard deviations; signals that lost their mean lie at 0."""

MAX_SPREAD = 5.0  # Volumes within this many robust standard deviations of the global signal are of the run

MAX_EMPTY = 0.1  # Share of features that are 0 in this volume alone, above which it is partial

MAX_CUT = 0.25
"""Largest share of volumes that are censored at the ends; of more, nobody can tell which are the run."""


def censor_off_level(
    signals: np.ndarray, kept: np.ndarray, quality: QualityConfig, global_signal: np.ndarray
) -> tuple[np.ndarray, list[int]]:
    """Censor volumes at the ends of signals [K, V] that are off their level; reject the run for others.

    `kept` [K] are the numbers of the volumes. Return those that stay, and those that are censored.
    """
    if quality.max_level_change is None or not len(kept):
        return kept, []
    off = off_level_volumes(signals, quality.max_level_change, global_signal)
    if not off.any():
        return kept, []
    first, stop = np.flatnonzero(~off)[[0, -1]] + [0, 1]
    inside, n_cut = off[first:stop].any(), len(off) - (stop - first)
    if inside or n_cut > MAX_CUT * len(off):
        numbers = ", ".join(str(n) for n in kept[off][:8]) + (", ..." if off.sum() > 8 else "")
        what = f"{off.sum()} of {len(off)} volumes ({numbers}, counted from 0)"
        why = "in the middle of it" if inside else "too many to tell which are the run"
        remedy = "correct or cut the file, censor them (denoise.strategy scrub), or raise"
        limit = f"quality.max_level_change ({quality.max_level_change:g})"
        what += f" are empty or far from the level of the run, {why}"
        raise Rejected("level", f"{what}; {remedy} {limit}")
    return kept[first:stop], kept[off].tolist()


def off_level_volumes(signals: np.ndarray, max_change: float, global_signal: np.ndarray) -> np.ndarray:
    """Return which volumes [K] of signals [K, V] differ by this share from their level, or are partial."""
    level, spread = median_and_spread(global_signal)
    if not abs(level) > MIN_LEVEL[0] * spread:
        return np.zeros(len(signals), bool)
    some = signals[:, :: -(-signals.shape[1] // MAX_FEATURES)].astype(np.float64)
    levels, spreads = median_and_spread(some)
    present = levels != 0
    has_level = np.abs(levels[present]) > MIN_LEVEL[1] * spreads[present]
    if 2 * has_level.sum() <= present.sum():
        return np.zeros(len(signals), bool)
    is_far = np.abs(global_signal - level) > max(max_change * abs(level), MAX_SPREAD * spread)
    empty = np.abs(some[:, present]) <= 1e-9 * np.abs(levels[present])
    return is_far | (empty.mean(axis=1) > MAX_EMPTY)
