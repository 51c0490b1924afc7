"""When a run is fit for a corpus, and how one that is not is named."""

from dataclasses import dataclass

import numpy as np

from fmriscale.common.quarantine import Rejected
from fmriscale.config import QualityConfig
from fmriscale.ingest.read.arrays import is_large

BLOCK_BYTES = 2**20
"""Size of a block of features that is worked on at a time: it stays in cache."""


MAX_VALUE = 1e9
"""No scanner and no preprocessing gives more; beyond it lie wrong scale factors and overwritten memory."""


def check_length(n_volumes: int, quality: QualityConfig, what: str = "volumes") -> None:
    """Reject a run with too few volumes."""
    if n_volumes < quality.min_volumes:
        raise Rejected(
            "too_short",
            f"{max(n_volumes, 0)} {what}, quality.min_volumes asks for {quality.min_volumes}",
        )


def check_motion(mean_fd: float | None, quality: QualityConfig) -> None:
    """Reject a run whose head moved too much, or is not known to have kept still."""
    if quality.max_mean_fd is None:
        return
    if mean_fd is None:
        raise Rejected(
            "no_confounds",
            "no framewise displacement beside the run, but quality.max_mean_fd asks for it; "
            "add the confounds file or drop the limit",
        )
    if mean_fd > quality.max_mean_fd:
        raise Rejected(
            "motion",
            f"mean framewise displacement {mean_fd:.3f} mm, "
            f"quality.max_mean_fd allows {quality.max_mean_fd} mm",
        )


def check_features(covered: np.ndarray, varies: np.ndarray, quality: QualityConfig) -> np.ndarray:
    """Return which features a run lacks, or reject it where they are too many."""
    absent = covered < quality.min_coverage
    missing = absent | ~varies
    if not varies.any():
        raise Rejected("constant", "no feature changes over time; check the file and the feature space")
    share = missing.mean()
    if share > quality.max_missing:
        raise Rejected(
            "low_coverage",
            f"{missing.sum()} of {missing.size} features are missing ({absent.sum()} with coverage below "
            f"{quality.min_coverage:g}, {(missing & ~absent).sum()} constant); quality.max_missing "
            f"allows {quality.max_missing:.0%}",
        )
    return missing


def check_censored(n_kept: int, n_volumes: int, quality: QualityConfig) -> None:
    """Reject a run of which too much is censored."""
    share = 1 - n_kept / n_volumes
    if share > quality.max_censored:
        raise Rejected(
            "censored",
            f"{n_volumes - n_kept} of {n_volumes} volumes are censored, quality.max_censored allows "
            f"{quality.max_censored:.0%}; leave the run out or loosen denoise.fd_threshold",
        )


@dataclass(frozen=True)
class SignalStats:
    """What the kept volumes of a run look like before cleaning.

    Attributes
    ----------
    mean, std : ndarray [V]
        Over time.
    varies : ndarray [V] of bool
        Whether a feature changes by more than rounding.
    tsnr : float or None
        Median over present features of mean over standard deviation; None if none is.
    spike : float or None
        Largest deviation of the global signal (mean over features) from its median in robust standard
        deviations (1.4826 times the median absolute deviation); None where that is 0.
    n_repeated : int
        Volumes that are equal to the one before in every varying feature.
    """

    mean: np.ndarray
    std: np.ndarray
    varies: np.ndarray
    tsnr: float | None
    spike: float | None
    n_repeated: int


def signal_stats(
    signals: np.ndarray, covered: np.ndarray, min_coverage: float, course: np.ndarray | None = None
) -> SignalStats:
    """Return the figures of signals [K, V], `covered` [V] to at least `min_coverage` where present.

    `course` [K] is the mean over features, where it is known.
    """
    low, high, mean, std = _by_feature(signals)
    varies = high - low > 1e-9 * np.maximum(np.maximum(abs(low), abs(high)), np.finfo(float).tiny)
    present = varies & (covered >= min_coverage)
    tsnr = float(np.median(mean[present] / std[present])) if present.any() else None
    course = global_signal(signals) if course is None else course
    # The mean over features tells nearly all volumes apart, so that few are compared in full.
    alike = 1 + np.flatnonzero(course[1:] == course[:-1])
    n_repeated = sum(np.array_equal(signals[t], signals[t - 1]) for t in alike)
    return SignalStats(mean, std, varies, tsnr, _spike(course), n_repeated)


def blocks(n_volumes: int, n_features: int) -> list[slice]:
    """Cut features into blocks, so that what is done to each costs the memory of a block."""
    width = max(1, BLOCK_BYTES // (8 * n_volumes * 64)) * 64
    return [slice(start, start + width) for start in range(0, n_features, width)]


def global_signal(signals: np.ndarray) -> np.ndarray:
    """Return the mean over features of each volume, float64."""
    if signals.dtype == np.float64:
        return signals.mean(axis=1)
    step = max(1, BLOCK_BYTES // (8 * max(1, signals.shape[1])))
    parts = [signals[first : first + step] for first in range(0, len(signals), step)]
    return np.concatenate([part.astype(np.float64).mean(axis=1) for part in parts])


def _by_feature(signals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the lowest and the highest value, mean and standard deviation of each feature."""
    n_volumes, n_features = signals.shape
    if is_large(signals):
        from fmriscale.ingest.clean import columns

        low, high, mean, std = np.empty((4, n_features))
        columns.figures(signals, low, high, mean, std)
        return low, high, mean, std
    spreads = [signals[:, its].std(axis=0) for its in blocks(n_volumes, n_features)]
    return signals.min(axis=0), signals.max(axis=0), signals.mean(axis=0), np.concatenate(spreads)


def _spike(course: np.ndarray) -> float | None:
    """Return the largest deviation of a time course [K] from its median in robust standard deviations."""
    deviation = np.abs(course - np.median(course))
    spread = 1.4826 * np.median(deviation)
    return float(deviation.max() / spread) if spread > 0 else None


def check_stats(figures: SignalStats, n_volumes: int, quality: QualityConfig, is_image: bool) -> None:
    """Reject a run whose values no brain gives."""
    largest = float(np.abs(figures.mean).max() + figures.std.max())
    if largest > MAX_VALUE:
        raise Rejected(
            "implausible", f"values of about {largest:.3g}; mend the scale factors (scl_slope) or the units"
        )
    if figures.n_repeated > quality.max_repeated * n_volumes:
        raise Rejected(
            "repeated",
            f"{figures.n_repeated} of {n_volumes} volumes repeat the one before (a frozen scan, or padding); "
            f"cut them off, or raise quality.max_repeated ({quality.max_repeated:g})",
        )
    if quality.max_spike is not None and figures.spike is not None and figures.spike > quality.max_spike:
        raise Rejected(
            "spike",
            f"the global signal jumps by {figures.spike:.3g} robust standard deviations; censor or drop the "
            f"volume (denoise.strategy scrub, dummy_volumes), or raise quality.max_spike "
            f"({quality.max_spike:g})",
        )
    if is_image and quality.min_tsnr is not None and (figures.tsnr or 0.0) < quality.min_tsnr:
        raise Rejected(
            "low_tsnr",
            f"temporal signal-to-noise ratio {figures.tsnr or 0.0:.3g}, quality.min_tsnr asks for "
            f"{quality.min_tsnr:g}; leave the run out or lower the limit",
        )


def drop_empty(signals: np.ndarray, covered: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn features that are not a number in any volume into uncovered ones."""
    with np.errstate(all="ignore"):
        course = global_signal(signals)
    if np.isfinite(course).all():
        return signals, covered, course
    finite = np.isfinite(signals)
    empty = ~finite.any(axis=0)
    bad = int((~finite[:, ~empty]).any(axis=1).sum())
    if bad:
        raise Rejected(
            "not_finite", f"{bad} of {len(signals)} volumes hold NaN or infinite values; mend or drop the run"
        )
    signals = np.where(empty, signals.dtype.type(0), signals) if empty.any() else signals
    return signals, np.where(empty, 0.0, covered), global_signal(signals)
