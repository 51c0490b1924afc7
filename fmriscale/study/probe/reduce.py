"""Baselines that learn from training rows, without labels: PCA, whitening, shared directions, tangent.

N rows, L volumes, V features, D directions.
"""

import warnings

import numpy as np
from scipy import linalg
from sklearn.covariance import ShrunkCovariance
from sklearn.decomposition import PCA

from fmriscale.study.probe.features import measure

N_COMPONENTS = 50
"""Directions of PCA."""
N_SHARED = 20
"""Shared directions."""
SHRINKAGE = 0.1
"""Of covariances of volumes. Ledoit and Wolf's choice supposes independent volumes, and is too small: on
Pie Man (10 training people, 28 moments) whitening then gets 17 %, with this 22 %."""
MOST_VOLUMES = 2**16
"""Volumes that directions are learned from; of more, every n-th is taken."""
MOST_SERIES = 256
"""Rows from which the reference of the tangent space is estimated."""


Sides = tuple[np.ndarray, np.ndarray]
"""Features of the rows that a model is fitted to, and of those that it is applied to."""


def pca(x_learn: np.ndarray, sides: Sides, n_features: int | None) -> Sides:
    """Return the leading principal components: of volumes, n_features being V; or (None) of whole rows."""
    if n_features is None:
        fitted = PCA(min(N_COMPONENTS, *x_learn.shape), svd_solver="randomized", random_state=0)
        fitted.fit(x_learn.astype(np.float64))
        return fitted.transform(sides[0].astype(np.float64)), fitted.transform(sides[1].astype(np.float64))
    volumes = volumes_of(x_learn, n_features)
    fitted = PCA(min(N_COMPONENTS, *volumes.shape), svd_solver="covariance_eigh").fit(volumes)
    w_VD = np.asarray(fitted.components_).T
    return projected(sides[0], w_VD), projected(sides[1], w_VD)


def whitening(x_learn: np.ndarray, sides: Sides, n_features: int) -> Sides:
    """Return windows whose features are uncorrelated and of variance 1 (ZCA of a shrunk covariance)."""
    values_V, vectors_VV = np.linalg.eigh(
        ShrunkCovariance(shrinkage=SHRINKAGE).fit(volumes_of(x_learn, n_features)).covariance_
    )
    w_VV = vectors_VV / np.sqrt(np.maximum(values_V, 1e-6 * values_V[-1])) @ vectors_VV.T
    return projected(sides[0], w_VV), projected(sides[1], w_VV)


def shared(sides: Sides, n_features: int, moment_N: np.ndarray, person_N: np.ndarray) -> Sides:
    """Return the directions in which people agree at the same moment.

    Correlated component analysis (Dmochowski et al. 2012, Parra et al. 2018): the covariance of people at
    the same time, relative to that within people, shrunk. Training people alone.
    """
    windows_NLV = sides[0].reshape(len(sides[0]), -1, n_features).astype(np.float64)
    within_VV = ShrunkCovariance(shrinkage=SHRINKAGE).fit(windows_NLV.reshape(-1, n_features)).covariance_
    between_VV = np.zeros_like(within_VV)
    for moment in np.unique(moment_N):
        of_moment = moment_N == moment
        each = windows_NLV[of_moment]  # a window a person, so a sum over pairs is the square of the sum
        if len(set(person_N[of_moment].tolist())) > 1:
            total_LV = each.sum(axis=0)
            between_VV += total_LV.T @ total_LV - np.einsum("nlv,nlw->vw", each, each, optimize=True)
    n = min(N_SHARED, n_features)
    keep = [n_features - n, n_features - 1]
    _, directions_VD = linalg.eigh((between_VV + between_VV.T) / 2, within_VV, subset_by_index=keep)
    return projected(sides[0], directions_VD), projected(sides[1], directions_VD)


def tangent(train: list[np.ndarray], test: list[np.ndarray], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return connectivity in the space tangent to the mean of training covariances (Varoquaux et al. 2010).

    The reference comes from at most MOST_SERIES training series: more change it little and take long.
    """
    chosen = np.random.default_rng([seed, 9]).permutation(len(train))[:MOST_SERIES]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the mean is not exact to seven digits
        fitted = measure("tangent").fit([train[i] for i in np.sort(chosen)])
    return tuple(np.asarray(fitted.transform(series), np.float32) for series in (train, test))  # pyright: ignore


def volumes_of(x_NF: np.ndarray, n_features: int) -> np.ndarray:
    """Return volumes of windows, [., V], at most MOST_VOLUMES."""
    volumes = x_NF.reshape(-1, n_features)
    return volumes[:: -(-len(volumes) // MOST_VOLUMES)].astype(np.float64)


def projected(x_NF: np.ndarray, w_VD: np.ndarray) -> np.ndarray:
    """Return windows [N, L * V] with every volume projected, [N, L * D]."""
    windows_NLV = x_NF.reshape(len(x_NF), -1, len(w_VD)).astype(np.float32)
    return (windows_NLV @ w_VD.astype(np.float32)).reshape(len(x_NF), -1)
