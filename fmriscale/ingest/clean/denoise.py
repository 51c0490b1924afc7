"""Clean the signals of a run: fill what is censored, detrend, filter, regress, standardise.

The steps and their order are those of nilearn.signal.clean, and tests hold the results to it. They are
spelled out here for two reasons. nilearn (0.14.1) fills only those censored volumes whose mirror image in
time is kept (`volumes[~sample_mask]` with indices in `sample_mask`), so artefacts leak through its filter.
And it filters feature by feature, which takes 40 times as long as filtering all of them at once.
"""

from typing import Any

import numpy as np

from fmriscale.common.quarantine import Rejected
from fmriscale.config import DenoiseConfig
from fmriscale.ingest.clean.confounds import Confounds


class Denoiser:
    """What is done to every feature of one run.

    Parameters
    ----------
    confounds : Confounds
        Regressors and censoring of the run.
    denoise : DenoiseConfig
        Detrending and filters.
    t_r : float
        Repetition time, s.
    large : bool
        Whether the signals are for compiled loops.

    Raises
    ------
    Rejected
        A filter that the sampling rate or the length of the run does not allow; regressors that leave
        nothing of any signal.
    """

    def __init__(self, confounds: Confounds, denoise: DenoiseConfig, t_r: float, large: bool = False) -> None:
        for cutoff in (denoise.high_pass, denoise.low_pass):
            if cutoff is not None and cutoff >= 0.5 / t_r:
                raise Rejected(
                    "filter",
                    f"a cut-off of {cutoff:g} Hz needs a t_r below {0.5 / cutoff:g} s, this run has "
                    f"{t_r:g} s; change denoise.high_pass or low_pass",
                )
        self.kept, self.denoise, self.t_r = confounds.sample_mask, denoise, t_r
        self._detrend = _detrend_large if large else detrend
        self._basis: np.ndarray | None = None
        if confounds.regressors is not None:
            regressors = confounds.regressors.to_numpy(np.float64)
            filtered = self._filter(regressors.copy())
            self._basis = _basis(filtered, np.abs(regressors).max(axis=0))
            # The mean takes one degree of freedom, a trend another.
            if self._basis.shape[1] >= len(filtered) - 1 - denoise.detrend:
                raise Rejected(
                    "confounds",
                    f"{regressors.shape[1]} regressors explain all that {len(filtered)} uncensored volumes "
                    "can hold; choose fewer (denoise.motion: basic, smaller n_compcor) or leave the run out",
                )

    def __call__(self, signals: np.ndarray) -> np.ndarray:
        """Clean features; each comes out the same alone or among others."""
        cleaned = self._filter(np.array(signals, np.float64))
        if self._basis is not None:
            cleaned -= self._basis @ (self._basis.T @ cleaned)
        return cleaned

    def _filter(self, series: np.ndarray) -> np.ndarray:
        """Detrend and filter series [T, V], regressors like signals, and keep what is not censored."""
        filters, kept = self.denoise.high_pass or self.denoise.low_pass, self.kept
        if kept is not None:
            series = series[kept]
            kept = kept - kept[0]
            if filters:
                series = fill_censored(series, kept)
        if self.denoise.detrend:
            series = self._detrend(series)
        if not filters:
            return series
        from nilearn.signal import butterworth

        try:
            series = butterworth(
                series, 1 / self.t_r, self.denoise.low_pass, self.denoise.high_pass, copy=True
            )
        except ValueError as error:
            raise Rejected(
                "filter", f"{len(series)} volumes are too few to filter ({error}); raise quality.min_volumes"
            ) from error
        return series if kept is None else series[kept]


def detrend(series: np.ndarray) -> np.ndarray:
    """Take mean and linear trend out of series [K, V], as least squares do."""
    ramp = np.arange(len(series)) - (len(series) - 1) / 2
    series = series - series.mean(axis=0)
    slope = ramp @ series / max(0.5, ramp @ ramp)
    series -= np.outer(ramp, slope)
    return series


def _detrend_large(series: np.ndarray) -> np.ndarray:
    """Do the same by compiled loops, in place."""
    from fmriscale.ingest.clean import columns

    series = np.ascontiguousarray(series)
    columns.detrend(series)
    return series


def fill_censored(series: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Lay a cubic spline through the kept volumes over those between them, as nilearn means to."""
    filled = np.empty((int(kept[-1]) + 1, series.shape[1]))
    filled[: kept[0]] = series[0]
    filled[kept] = series
    gaps = np.setdiff1d(np.arange(kept[0], kept[-1]), kept)
    if gaps.size:
        from scipy.interpolate import CubicSpline

        filled[gaps] = CubicSpline(kept, series)(gaps)
    return filled


def _basis(regressors: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return orthonormal columns that span standardised regressors [K, C]; dependent ones add none.

    `size` [C] is what they measured before they were filtered: what is left of a constant is rounding.
    """
    regressors = regressors - regressors.mean(axis=0)
    spread = regressors.std(axis=0, ddof=1)
    alive = spread > 1e-10 * size
    from scipy.linalg import qr

    result: Any = qr(regressors[:, alive] / spread[alive], mode="economic", pivoting=True)
    q, r, _ = result
    weight = np.abs(np.diag(r))
    return q[:, weight > max(regressors.shape) * np.finfo(np.float64).eps * weight.max(initial=0.0)]


def standardize(
    cleaned: np.ndarray, raw_std: np.ndarray, missing: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Z-score every feature over its kept volumes."""
    cleaned -= cleaned.mean(axis=0)
    std = cleaned.std(axis=0, ddof=1)
    # What is left of a feature that the confounds explain wholly is rounding, not signal.
    std[missing | (std <= 1e-6 * raw_std)] = 0.0
    cleaned /= np.where(std > 0, std, 1.0)
    cleaned[:, std == 0] = 0.0
    return cleaned, std


def store_half(
    cleaned: np.ndarray,
    raw_std: np.ndarray,
    missing: np.ndarray,
    bold: np.ndarray,
    rows: np.ndarray,
    columns: slice,
) -> np.ndarray:
    """Standardise as `denoise.standardize`, write z to these rows and columns of `bold`, and return std."""
    bold[rows, columns], std = standardize(cleaned, raw_std, missing)
    return std


def store_large(
    cleaned: np.ndarray,
    raw_std: np.ndarray,
    missing: np.ndarray,
    bold: np.ndarray,
    rows: np.ndarray,
    columns: slice,
) -> np.ndarray:
    """Do the same by compiled loops."""
    from fmriscale.ingest.clean.columns import standardize_to_half

    std = np.empty(len(raw_std))
    cleaned, bits = np.ascontiguousarray(cleaned), bold.view(np.uint16)
    standardize_to_half(cleaned, raw_std, missing, std, bits, rows, columns.start)
    return std
