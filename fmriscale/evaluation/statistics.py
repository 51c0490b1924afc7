"""Is one arm better? Effect and interval first, then a paired permutation test; units are paired."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

N_RESAMPLES = 9999


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of two arms over units (subjects, or folds of runs)."""

    effect: float
    """Mean difference, first minus second."""
    low: float
    high: float
    """95 % bootstrap interval of the effect over units."""
    p: float
    """Two-sided sign-flip permutation test; exact where there are few units."""
    n: int
    """Number of units; p can never be below 2 / 2**n."""

    def __str__(self) -> str:
        text = f"{self.effect:+.3f} [{self.low:+.3f}, {self.high:+.3f}], p = {self.p:.2g} (n = {self.n})"
        floor = 2 / 2**self.n
        return text + (f"; {self.n} units cannot give p below {floor:.2g}" if floor > 0.05 else "")


def compare(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Comparison:
    """Compare two arms on the same units.

    Parameters
    ----------
    first, second : sequence of float
        One figure a unit, in the same order; average over seeds before.
    seed : int
        Of the resampling.

    Returns
    -------
    Comparison
        With one unit the interval is its difference and p is 1.
    """
    difference = np.asarray(first, float) - np.asarray(second, float)
    n, effect = len(difference), float(difference.mean())
    if n < 2 or np.ptp(difference) == 0:
        p = 1.0 if n < 2 or effect == 0 else 2 / 2**n
        return Comparison(effect, effect, effect, p, n)
    test = stats.permutation_test(
        (difference,),
        np.mean,
        permutation_type="samples",
        n_resamples=N_RESAMPLES,
        rng=np.random.default_rng(seed),
    )
    interval = stats.bootstrap(
        (difference,),
        np.mean,
        method="percentile",
        n_resamples=N_RESAMPLES,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Comparison(effect, float(interval.low), float(interval.high), float(test.pvalue), n)


def epochs_to(target: float, curve: np.ndarray | Sequence[float]) -> int | None:
    """Return the first epoch (from 1) at which a curve reaches a target; None if it never does."""
    reached = np.flatnonzero(np.asarray(curve) >= target)
    return int(reached[0]) + 1 if len(reached) else None
