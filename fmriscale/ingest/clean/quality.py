"""Statistics of a run before cleaning, the limits that it must meet, and volumes that are not of the run."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fmriscale.common.quarantine import Rejected
from fmriscale.config import QualityConfig
from fmriscale.ingest.read.arrays import is_large

BLOCK_BYTES = 2**20  # Size of a block of features that is processed at a time: it stays in cache

MAX_VALUE = 1e9
"""No scanner and no preprocessing gives more; beyond it lie wrong scale factors and overwritten memory."""

MAX_FEATURES = 500  # Features by which it is judged whether a run has a level; they are taken evenly

MIN_LEVEL = 6.0, 3.0
"""A run has a level if the median over time of the global signal, and of the features themselves, is above
this many robust standard deviations; signals that lost their mean lie at 0."""

MAX_SPREAD = 5.0  # Volumes within this many robust standard deviations of the global signal are of the run

MAX_EMPTY = 0.1  # Share of features that are 0 in this volume alone, above which it is partial

MAX_CUT = 0.25
"""Largest share of volumes that are censored at the ends; of more, nobody can tell which are the run."""


@dataclass(frozen=True)
class SignalStats:
    """Statistics over the kept volumes of a run, before cleaning."""

    mean: np.ndarray  # [V], over time
    std: np.ndarray  # [V], over time
    varies: np.ndarray  # [V], whether a feature changes by more than rounding
    tsnr: float | None  # median over present features of mean / std; None if none is present
    spike: float | None  # largest robust z-score of the global signal; None if its spread is 0
    n_repeated: int  # volumes that equal the one before in every varying feature


def signal_stats(
    signals: np.ndarray, covered: np.ndarray, min_coverage: float, global_signal: np.ndarray
) -> SignalStats:
    """Return the statistics of signals [K, V] with coverage [V] and global signal [K]."""
    low, high, mean, std = _by_feature(signals)
    varies = high - low > 1e-9 * np.maximum(np.maximum(abs(low), abs(high)), np.finfo(float).tiny)
    present = varies & (covered >= min_coverage)
    tsnr = float(np.median(mean[present] / std[present])) if present.any() else None
    # The global signal distinguishes nearly all volumes, so that few are compared in full.
    alike = 1 + np.flatnonzero(global_signal[1:] == global_signal[:-1])
    n_repeated = sum(np.array_equal(signals[t], signals[t - 1]) for t in alike)
    middle, spread = median_and_spread(global_signal)
    spike = float(np.abs(global_signal - middle).max() / spread) if spread > 0 else None
    return SignalStats(mean, std, varies, tsnr, spike, n_repeated)


def _by_feature(signals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the lowest and the highest value, mean and standard deviation of each feature [V]."""
    if is_large(signals):
        from fmriscale.ingest.clean import columns

        low, high, mean, std = np.empty((4, signals.shape[1]))
        columns.column_stats(signals, low, high, mean, std)
        return low, high, mean, std
    spreads = [signals[:, columns].std(axis=0) for columns in blocks(*signals.shape)]
    return signals.min(axis=0), signals.max(axis=0), signals.mean(axis=0), np.concatenate(spreads)


def blocks(n_volumes: int, n_features: int) -> list[slice]:
    """Cut features into blocks, so that what is done to each costs the memory of a block."""
    width = max(1, BLOCK_BYTES // (8 * n_volumes * 64)) * 64
    return [slice(start, start + width) for start in range(0, n_features, width)]


def global_signal_of(signals: np.ndarray) -> np.ndarray:
    """Return the mean over features of each volume [T], float64."""
    if signals.dtype == np.float64:
        return signals.mean(axis=1)
    step = max(1, BLOCK_BYTES // (8 * max(1, signals.shape[1])))
    parts = [signals[first : first + step] for first in range(0, len(signals), step)]
    return np.concatenate([part.astype(np.float64).mean(axis=1) for part in parts])


def median_and_spread(series: np.ndarray) -> tuple[Any, Any]:
    """Return the median over time of series [T] or [T, V] and their robust standard deviation."""
    middle = np.median(series, axis=0)
    return middle, 1.4826 * np.median(np.abs(series - middle), axis=0)


def drop_empty(signals: np.ndarray, covered: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Set features without a finite value and their coverage to 0; return also the global signal [T]."""
    with np.errstate(all="ignore"):
        global_signal = global_signal_of(signals)
    if np.isfinite(global_signal).all():
        return signals, covered, global_signal
    finite = np.isfinite(signals)
    empty = ~finite.any(axis=0)
    bad = int((~finite[:, ~empty]).any(axis=1).sum())
    if bad:
        what = f"{bad} of {len(signals)} volumes hold NaN or infinite values"
        raise Rejected("not_finite", f"{what}; correct or drop the run")
    signals = np.where(empty, signals.dtype.type(0), signals) if empty.any() else signals
    return signals, np.where(empty, 0.0, covered), global_signal_of(signals)


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


def check_length(n_volumes: int, quality: QualityConfig, what: str = "volumes") -> None:
    """Reject a run with too few volumes."""
    if n_volumes < quality.min_volumes:
        limit = f"quality.min_volumes asks for {quality.min_volumes}"
        raise Rejected("too_short", f"{max(n_volumes, 0)} {what}, {limit}")


def check_motion(mean_fd: float | None, quality: QualityConfig) -> None:
    """Reject a run whose head moved too much, or of which the motion is unknown."""
    if quality.max_mean_fd is None:
        return
    if mean_fd is None:
        what = "no framewise displacement beside the run, but quality.max_mean_fd asks for it"
        raise Rejected("no_confounds", f"{what}; add the confounds file or drop the limit")
    if mean_fd > quality.max_mean_fd:
        limit = f"quality.max_mean_fd allows {quality.max_mean_fd} mm"
        raise Rejected("motion", f"mean framewise displacement {mean_fd:.3f} mm, {limit}")


def check_features(covered: np.ndarray, varies: np.ndarray, quality: QualityConfig) -> np.ndarray:
    """Return which features [V] a run lacks; reject it if they are too many."""
    absent = covered < quality.min_coverage
    missing = absent | ~varies
    if not varies.any():
        raise Rejected("constant", "no feature changes over time; check the file and the feature space")
    if missing.mean() > quality.max_missing:
        why = f"{absent.sum()} with coverage below {quality.min_coverage:g}"
        why += f", {(missing & ~absent).sum()} constant"
        what = f"{missing.sum()} of {missing.size} features are missing ({why})"
        raise Rejected("low_coverage", f"{what}; quality.max_missing allows {quality.max_missing:.0%}")
    return missing


def check_censored(n_kept: int, n_volumes: int, quality: QualityConfig) -> None:
    """Reject a run of which too many volumes are censored."""
    if 1 - n_kept / n_volumes > quality.max_censored:
        what = f"{n_volumes - n_kept} of {n_volumes} volumes are censored"
        limit = f"quality.max_censored allows {quality.max_censored:.0%}"
        raise Rejected("censored", f"{what}, {limit}; leave the run out or loosen denoise.fd_threshold")


def check_stats(stats: SignalStats, n_volumes: int, quality: QualityConfig, is_image: bool) -> None:
    """Reject a run whose values no brain gives."""
    largest = float(np.abs(stats.mean).max() + stats.std.max())
    if largest > MAX_VALUE:
        remedy = "correct the scale factors (scl_slope) or the units"
        raise Rejected("implausible", f"values of about {largest:.3g}; {remedy}")
    if stats.n_repeated > quality.max_repeated * n_volumes:
        what = f"{stats.n_repeated} of {n_volumes} volumes repeat the one before (a frozen scan, or padding)"
        remedy = f"cut them off, or raise quality.max_repeated ({quality.max_repeated:g})"
        raise Rejected("repeated", f"{what}; {remedy}")
    if quality.max_spike is not None and stats.spike is not None and stats.spike > quality.max_spike:
        what = f"the global signal jumps by {stats.spike:.3g} robust standard deviations"
        remedy = "censor or drop the volume (denoise.strategy scrub, dummy_volumes)"
        raise Rejected("spike", f"{what}; {remedy}, or raise quality.max_spike ({quality.max_spike:g})")
    tsnr = stats.tsnr or 0.0
    if is_image and quality.min_tsnr is not None and tsnr < quality.min_tsnr:
        limit = f"quality.min_tsnr asks for {quality.min_tsnr:g}"
        remedy = "leave the run out or lower the limit"
        raise Rejected("low_tsnr", f"temporal signal-to-noise ratio {tsnr:.3g}, {limit}; {remedy}")
