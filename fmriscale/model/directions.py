"""Directions of features, from sums over volumes: those of most variance, and those that people share.

Shapes: T volumes of a run, V features, G times of a stimulus, D directions.
"""

from collections.abc import Iterable

import numpy as np
from scipy.linalg import eigh

SHRINKAGE = 0.1
"""Share of a multiple of the identity in a covariance that is inverted."""
SHRINKAGE_SHARED = 0.3
"""The same for shared directions: in another film and other people more of it helps."""


class Sums:
    """Sums over the volumes of runs, for the covariance within runs and that between people.

    Runs come one after the other, those of one stimulus together: one pass, and memory for one stimulus.
    Sums of parts of the runs add up (`parts`).

    Parameters
    ----------
    n_features : int
        V.

    Examples
    --------
    >>> sums = Sums(n_features=200)  # doctest: +SKIP
    >>> sums.add([(run_TV, np.arange(len(run_TV))) for run_TV in runs_of_one_film])  # doctest: +SKIP
    >>> weight_VD = shared_directions(sums, 20)  # doctest: +SKIP
    """

    def __init__(self, n_features: int) -> None:
        self.parts = {
            "within_VV": np.zeros((n_features, n_features)),
            "n_volumes": np.zeros(1),
            "between_VV": np.zeros((n_features, n_features)),
            "n_pairs": np.zeros(1),
        }

    def add(self, runs: Iterable[tuple[np.ndarray, np.ndarray | None]]) -> None:
        """Add runs of different people who saw or heard the same.

        Parameters
        ----------
        runs : iterable of (ndarray [T, V], ndarray of int [T] or None)
            Volumes, and the time of each on a grid that all runs have in common, each time once a run; None
            = the run shares no time with others.
        """
        total_GV = np.zeros((0, len(self.parts["within_VV"])))
        n_G = np.zeros(0)
        for x_TV, time_T in runs:
            x_TV = x_TV.astype(np.float64)
            x_TV -= x_TV.mean(axis=0)
            own_VV = x_TV.T @ x_TV
            self.parts["within_VV"] += own_VV
            self.parts["n_volumes"] += len(x_TV)
            if time_T is None:
                continue
            beyond = int(time_T.max(initial=-1)) + 1 - len(n_G)
            if beyond > 0:
                total_GV, n_G = np.pad(total_GV, ((0, beyond), (0, 0))), np.pad(n_G, (0, beyond))
            total_GV[time_T] += x_TV
            n_G[time_T] += 1
            # Of all pairs of volumes of one time, those of a person with themselves do not count.
            self.parts["between_VV"] -= own_VV
        self.parts["between_VV"] += total_GV.T @ total_GV
        self.parts["n_pairs"] += (n_G * (n_G - 1)).sum()

    @property
    def within_VV(self) -> np.ndarray:
        """Covariance over the volumes of runs, each about its mean."""
        return self.parts["within_VV"] / max(1, self.parts["n_volumes"][0])

    @property
    def between_VV(self) -> np.ndarray:
        """Covariance between different people at the same time."""
        return self.parts["between_VV"] / max(1, self.parts["n_pairs"][0])


def whitening(sums: Sums, n_directions: int, shrinkage: float = SHRINKAGE) -> np.ndarray:
    """Return the leading principal directions, each scaled to unit variance, [V, D].

    Parameters
    ----------
    sums : Sums
        Of the training runs.
    n_directions : int
        D; fewer are returned where there are fewer features.
    shrinkage : float
        Share of equal variances in the covariance, 0 to 1.
    """
    value_V, vector_VV = eigh(shrunk(sums.within_VV, shrinkage))
    leading = np.argsort(value_V)[::-1][:n_directions]
    leading = leading[value_V[leading] > 0]
    return _signed(vector_VV[:, leading] / np.sqrt(value_V[leading]))


def shared_directions(sums: Sums, n_directions: int, shrinkage: float = SHRINKAGE_SHARED) -> np.ndarray:
    """Return the directions in which people are most alike at the same time, each of unit variance, [V, D].

    Correlated component analysis [1]_, [2]_: the ratio of the covariance between people to that within runs
    is greatest in the first, and in each next one among those that are uncorrelated with the ones before.

    Parameters
    ----------
    sums : Sums
        Of the training runs, with their times.
    n_directions : int
        D at most: directions in which people are not alike at all are left out.
    shrinkage : float
        Share of equal variances in the covariance within runs, 0 to 1.

    References
    ----------
    .. [1] Dmochowski, Sajda, Dias & Parra (2012), Frontiers in Human Neuroscience 6:112.
    .. [2] Parra, Haufe & Dmochowski (2018), arXiv:1801.08881.
    """
    value_V, vector_VV = eigh(sums.between_VV, shrunk(sums.within_VV, shrinkage))
    leading = np.argsort(value_V)[::-1][:n_directions]
    return _signed(vector_VV[:, leading[value_V[leading] > 0]])


def shrunk(covariance_VV: np.ndarray, shrinkage: float) -> np.ndarray:
    """Return a covariance of which a share is replaced by its mean variance on the diagonal."""
    mean = np.trace(covariance_VV) / len(covariance_VV)
    return (1 - shrinkage) * covariance_VV + shrinkage * mean * np.eye(len(covariance_VV))


def _signed(vectors_VD: np.ndarray) -> np.ndarray:
    """Return directions whose largest entry is positive: either sign would do."""
    largest_D = np.abs(vectors_VD).argmax(axis=0)
    return vectors_VD * np.sign(vectors_VD[largest_D, np.arange(vectors_VD.shape[1])])
