"""Denoise the signals of a run: interpolate censored volumes, detrend, filter, regress, standardize.

The steps and their order are those of nilearn.signal.clean, and tests compare the results. They are written
out here for two reasons. nilearn (0.14.1) interpolates only those censored volumes whose mirror image in time
is kept (`volumes[~sample_mask]` with indices in `sample_mask`), so artefacts leak through its filter. And it
filters feature by feature, which takes 40 times as long as filtering all of them at once.
"""

from typing import Any

import numpy as np

from fmriscale.common.quarantine import Rejected
from fmriscale.config import DenoiseConfig
from fmriscale.ingest.clean.confounds import Confounds


class Denoiser:
    """Detrend, filter and regress the features of one run; each comes out the same alone or among others."""

    def __init__(self, confounds: Confounds, denoise: DenoiseConfig, t_r: float, large: bool = False) -> None:
        for cutoff in (denoise.high_pass, denoise.low_pass):
            if cutoff is not None and cutoff >= 0.5 / t_r:
                what = f"a cut-off of {cutoff:g} Hz needs a t_r below {0.5 / cutoff:g} s"
                remedy = "change denoise.high_pass or low_pass"
                raise Rejected("filter", f"{what}, this run has {t_r:g} s; {remedy}")
        self.kept, self.denoise, self.t_r, self.large = confounds.sample_mask, denoise, t_r, large
        self._basis: np.ndarray | None = None
        if confounds.regressors is not None:
            regressors = confounds.regressors.to_numpy(np.float64)
            filtered = self._filter(regressors.copy())
            self._basis = _basis(filtered, np.abs(regressors).max(axis=0))
            # The mean takes one degree of freedom, a trend another.
            if self._basis.shape[1] >= len(filtered) - 1 - denoise.detrend:
                what = f"{regressors.shape[1]} regressors explain all that {len(filtered)} uncensored volumes"
                remedy = "choose fewer (denoise.motion: basic, smaller n_compcor) or leave the run out"
                raise Rejected("confounds", f"{what} can hold; {remedy}")

    def __call__(self, signals: np.ndarray) -> np.ndarray:
        """Return the denoised kept volumes [K, V] of signals [T, V]."""
        cleaned = self._filter(np.array(signals, np.float64))
        if self._basis is not None:
            cleaned -= self._basis @ (self._basis.T @ cleaned)
        return cleaned

    def _filter(self, series: np.ndarray) -> np.ndarray:
        """Detrend and filter series [T, V], signals or regressors, and drop censored volumes."""
        low_pass, high_pass, kept = self.denoise.low_pass, self.denoise.high_pass, self.kept
        if kept is not None:
            series = series[kept]
            kept = kept - kept[0]
            if low_pass or high_pass:
                series = fill_censored(series, kept)
        if self.denoise.detrend:
            series = detrend(series, self.large)
        if not low_pass and not high_pass:
            return series
        from nilearn.signal import butterworth

        try:
            series = butterworth(series, 1 / self.t_r, low_pass, high_pass, copy=True)
        except ValueError as error:
            what = f"{len(series)} volumes are too few to filter ({error})"
            raise Rejected("filter", f"{what}; raise quality.min_volumes") from error
        return series if kept is None else series[kept]


def detrend(series: np.ndarray, large: bool = False) -> np.ndarray:
    """Remove mean and linear trend from series [K, V] by least squares; from large ones in place."""
    if large:
        from fmriscale.ingest.clean import columns

        series = np.ascontiguousarray(series)
        columns.detrend(series)
        return series
    ramp = np.arange(len(series)) - (len(series) - 1) / 2
    series = series - series.mean(axis=0)
    slope = ramp @ series / max(0.5, ramp @ ramp)
    series -= np.outer(ramp, slope)
    return series


def fill_censored(series: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Interpolate the volumes between the kept ones [K, V] by a cubic spline; return [last kept + 1, V]."""
    filled = np.empty((int(kept[-1]) + 1, series.shape[1]))
    filled[: kept[0]] = series[0]
    filled[kept] = series
    gaps = np.setdiff1d(np.arange(kept[0], kept[-1]), kept)
    if gaps.size:
        from scipy.interpolate import CubicSpline

        filled[gaps] = CubicSpline(kept, series)(gaps)
    return filled


def _basis(regressors: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return orthonormal columns that span standardized regressors [K, C]; dependent ones add none.

    `size` [C] is their largest value before they were filtered: what is left of a constant is rounding.
    """
    from scipy.linalg import qr

    regressors = regressors - regressors.mean(axis=0)
    spread = regressors.std(axis=0, ddof=1)
    varies = spread > 1e-10 * size
    result: Any = qr(regressors[:, varies] / spread[varies], mode="economic", pivoting=True)
    q, r, _ = result
    weight = np.abs(np.diag(r))
    return q[:, weight > max(regressors.shape) * np.finfo(np.float64).eps * weight.max(initial=0.0)]


def standardize(
    cleaned: np.ndarray, raw_std: np.ndarray, missing: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return z-scored signals [K, V] and their standard deviation [V], 0 for missing features; in place.

    `raw_std` [V] is that before cleaning: what is left of a feature that the confounds explain is rounding.
    """
    cleaned -= cleaned.mean(axis=0)
    std = cleaned.std(axis=0, ddof=1)
    std[missing | (std <= 1e-6 * raw_std)] = 0.0
    cleaned /= np.where(std > 0, std, 1.0)
    cleaned[:, std == 0] = 0.0
    return cleaned, std


def standardize_into(
    bold: np.ndarray,
    rows: np.ndarray,
    columns: slice,
    cleaned: np.ndarray,
    raw_std: np.ndarray,
    missing: np.ndarray,
    large: bool,
) -> np.ndarray:
    """Write standardized signals to these rows and columns of `bold`, float16 [N, V]; return their std."""
    if not large:
        bold[rows, columns], std = standardize(cleaned, raw_std, missing)
        return std
    from fmriscale.ingest.clean.columns import standardize_to_half

    std = np.empty(len(raw_std))
    cleaned, bits = np.ascontiguousarray(cleaned), bold.view(np.uint16)
    standardize_to_half(cleaned, raw_std, missing, std, bits, rows, columns.start)
    return std
