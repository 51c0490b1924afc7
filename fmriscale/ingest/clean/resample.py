"""Resample a run to another repetition time without aliasing: scipy's polyphase resampler, Kaiser window.

Beyond the ends of the run the signal continues as its own point reflection, so that level and trend stay.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from fmriscale.ingest.clean.denoise import fill_censored

REACH = 20  # Half width of the filter, in volumes of the slower of the two rates

STOP_DB = 60.0  # Attenuation above the Nyquist frequency

MAX_TERM = 10_000
"""The ratio of the two rates is taken as a fraction of numbers up to this: 0.01 volumes in 1,000."""


@dataclass(frozen=True)
class Resampler:
    """The volumes of a run and those of the result; the first of both coincide."""

    n_volumes: int  # of the result, censored ones included: those between the run's first and last
    t_r: float  # repetition time of the result, s
    kept: np.ndarray  # volumes of the result that depend on no censored one, see `of`
    run_kept: np.ndarray
    run_n_volumes: int
    run_t_r: float

    @classmethod
    def of(cls, kept: np.ndarray, n_volumes: int, t_r: float, new_t_r: float | None) -> "Resampler":
        """Plan for a run of n_volumes, of which `kept` are not censored; new_t_r None = the same.

        A volume depends on those of the run within the longer of the two repetition times: the main lobe of
        the filter. (Interpolated values further off take part as in a Butterworth filter.)
        """
        if new_t_r is None or new_t_r == t_r:
            return cls(n_volumes, t_r, kept, kept, n_volumes, t_r)
        length = int((n_volumes - 1) * t_r / new_t_r + 1e-6) + 1
        censored, new = np.setdiff1d(np.arange(n_volumes), kept) * t_r, np.arange(length) * new_t_r
        reach = max(t_r, new_t_r) * (1 - 1e-6)
        spoilt = np.searchsorted(censored, new - reach) < np.searchsorted(censored, new + reach)
        return cls(length, new_t_r, np.flatnonzero(~spoilt), kept, n_volumes, t_r)

    def resample(self, series: np.ndarray) -> np.ndarray:
        """Resample the kept volumes [K, V] of the run to those of the result."""
        if self.t_r == self.run_t_r:
            return series
        last = self.run_kept[-1]
        filled = np.empty((self.run_n_volumes, series.shape[1]))
        filled[: last + 1] = fill_censored(series, self.run_kept)
        filled[last + 1 :] = series[-1]
        ratio = Fraction(self.run_t_r / self.t_r).limit_denominator(MAX_TERM)
        if ratio != 1:
            from scipy.signal import resample_poly

            up, down = ratio.numerator, ratio.denominator
            filled = resample_poly(
                filled, up, down, axis=0, window=_low_pass(max(up, down)), padtype="antireflect"
            )
        return filled[self.kept]


def _low_pass(longer: int) -> np.ndarray:
    """Return the filter at the common rate, of which the slower rate is one in `longer`."""
    from scipy.signal import firwin

    taps = 2 * REACH * longer + 1
    # Kaiser's formulas: the shape parameter, and the width of the transition band that follows from it.
    beta = 0.1102 * (STOP_DB - 8.7)
    width = (STOP_DB - 7.95) / (2.285 * np.pi * (taps - 1))
    window: Any = "kaiser", beta
    return np.asarray(firwin(taps, 1 / longer - width / 2, window=window))
