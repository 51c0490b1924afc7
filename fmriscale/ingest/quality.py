"""When a run is fit for a corpus, and how one that is not is named."""

from dataclasses import dataclass

import numpy as np

from fmriscale.config import QualityConfig


class Rejected(Exception):
    """A run that goes to quarantine.

    Parameters
    ----------
    reason : str
        Short slug: no_t_r, unreadable, not_finite, ...
    detail : str
        A sentence with the remedy.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = " ".join(detail.split())


@dataclass(frozen=True)
class Rejection:
    """A line of quarantine.tsv."""

    dataset: str
    source: str
    reason: str
    detail: str


def check_length(n_volumes: int, quality: QualityConfig, what: str = "volumes") -> None:
    """Reject a run with too few volumes."""
    if n_volumes < quality.min_volumes:
        raise Rejected(
            "too_short",
            f"{n_volumes} {what}, quality.min_volumes asks for {quality.min_volumes}",
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
    """Return which features a run lacks, or reject it where they are too many.

    Parameters
    ----------
    covered : ndarray [V]
        Share of each feature's voxels that hold data.
    varies : ndarray [V] of bool
        Whether the feature changes over time.

    Returns
    -------
    ndarray of int
        Indices of missing features: too little covered, or constant.
    """
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
    return np.flatnonzero(missing)


def varying(signals: np.ndarray) -> np.ndarray:
    """Tell which columns of signals [T, V] change by more than rounding."""
    scale = np.abs(signals).max(axis=0)
    return np.ptp(signals, axis=0) > 1e-9 * np.where(scale > 0, scale, 1.0)


def temporal_snr(signals: np.ndarray) -> float | None:
    """Return the median over features of mean over standard deviation in time; None if undefined."""
    std = signals.std(axis=0)
    ratio = signals.mean(axis=0)[std > 0] / std[std > 0]
    return float(np.median(ratio)) if ratio.size else None
