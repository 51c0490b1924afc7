"""Bring a run to another repetition time without aliasing.

Method: a linear-phase low-pass filter (Kaiser-windowed sinc) that ends at the lower of the two Nyquist
frequencies, applied by scipy's polyphase resampler; beyond the ends of the run the signal goes on as its
own point reflection, so that level and trend reach the ends unbent.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from fmriscale.ingest.clean.denoise import fill_censored

REACH = 20
"""Half width of the filter, in volumes of the slower of the two rates."""

STOP_DB = 60.0
"""What lies above the Nyquist frequency is weaker by this much."""

MAX_TERM = 10_000
"""The ratio of the two rates is taken as a fraction of numbers up to this: 0.01 volumes in 1,000."""


@dataclass(frozen=True)
class Resampler:
    """The volumes of a run and those it is resampled to; the first of both coincide.

    Attributes
    ----------
    n_volumes : int
        Volumes of the result, censored ones included: those between the run's first and last.
    t_r : float
        Repetition time of the result, s.
    kept : ndarray of int
        Volumes of the result that rest on no censored one. A volume rests on those of the run that lie
        less than the longer of the two repetition times from it: the main lobe of the filter. (Filled-in
        values further off take part as they do in a Butterworth filter.)
    """

    n_volumes: int
    t_r: float
    kept: np.ndarray
    _run: tuple[np.ndarray, int, float]

    @classmethod
    def of(cls, kept: np.ndarray, n_volumes: int, t_r: float, new_t_r: float | None) -> "Resampler":
        """Plan for a run of n_volumes, of which `kept` are not censored; new_t_r None = stay."""
        run = kept, n_volumes, t_r
        if new_t_r is None or new_t_r == t_r:
            return cls(n_volumes, t_r, kept, run)
        length = int((n_volumes - 1) * t_r / new_t_r + 1e-6) + 1
        censored, new = np.setdiff1d(np.arange(n_volumes), kept) * t_r, np.arange(length) * new_t_r
        reach = max(t_r, new_t_r) * (1 - 1e-6)
        spoilt = np.searchsorted(censored, new - reach) < np.searchsorted(censored, new + reach)
        return cls(length, new_t_r, np.flatnonzero(~spoilt), run)

    def resample(self, series: np.ndarray) -> np.ndarray:
        """Bring the kept volumes [K, V] of the run to those of the result."""
        kept, n_volumes, t_r = self._run
        if self.t_r == t_r:
            return series
        filled = np.empty((n_volumes, series.shape[1]))
        filled[: kept[-1] + 1] = fill_censored(series, kept)
        filled[kept[-1] + 1 :] = series[-1]
        ratio = Fraction(t_r / self.t_r).limit_denominator(MAX_TERM)
        up, down = ratio.numerator, ratio.denominator
        if up != down:
            window = _low_pass(up, down)
            from scipy.signal import resample_poly

            filled = resample_poly(filled, up, down, axis=0, window=window, padtype="antireflect")
        return filled[self.kept]


def _low_pass(up: int, down: int) -> np.ndarray:
    """Return the filter at `up` times the old rate: its stop band starts at the Nyquist frequency."""
    from scipy.signal import firwin

    longer = max(up, down)
    taps = 2 * REACH * longer + 1
    # Kaiser's formulas: the shape parameter, and the width of the transition band that follows from it.
    beta = 0.1102 * (STOP_DB - 8.7)
    width = (STOP_DB - 7.95) / (2.285 * np.pi * (taps - 1))
    window: Any = "kaiser", beta
    return np.asarray(firwin(taps, 1 / longer - width / 2, window=window))
