"""Functional connectivity of single windows: what labs decode from recordings without events.

N windows, L volumes, V features, F = V (V - 1) / 2 pairs of features.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.covariance import ledoit_wolf

FEWEST_VOLUMES = 10
"""Of fewer volumes a window has no connectivity: nearly all of the estimate would be shrinkage."""
MOST_FEATURES = 1000
"""Of more features (voxels) connectivity is left out: half a million values a window is the limit."""


@dataclass(frozen=True)
class Connectivity:
    """The connectivity of windows, computed as it is indexed: all of it may not fit into memory."""

    bold_NLV: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Return (N, F)."""
        n, _, n_features = self.bold_NLV.shape
        return n, n_features * (n_features - 1) // 2

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Return the connectivity of some windows, float32 [n, F]."""
        return np.stack([connectivity(self.bold_NLV[i]) for i in index])


def has_connectivity(bold_NLV: np.ndarray) -> bool:
    """Tell whether windows have enough volumes, and neither too few features nor too many."""
    _, length, n_features = bold_NLV.shape
    return length >= FEWEST_VOLUMES and 3 <= n_features <= MOST_FEATURES


def connectivity(bold_LV: np.ndarray) -> np.ndarray:
    """Return Fisher's z of the correlations of a window's features, float32 [F]: the upper triangle.

    Signals are standardised in the window; their covariance is shrunk (Ledoit and Wolf 2004, J. Multivar.
    Anal. 88, 365-411). A flat feature is correlated with nothing.
    """
    x_LV = bold_LV.astype(np.float64)
    x_LV -= x_LV.mean(axis=0)
    deviation_V = x_LV.std(axis=0)
    x_LV /= np.where(deviation_V > 1e-6, deviation_V, np.inf)
    covariance_VV = ledoit_wolf(x_LV, assume_centered=True)[0]
    scale_V = np.sqrt(np.maximum(np.diag(covariance_VV), 1e-12))
    rows, columns = np.triu_indices(len(scale_V), 1)
    r_F = covariance_VV[rows, columns] / (scale_V[rows] * scale_V[columns])
    return np.arctanh(np.clip(r_F, -0.999999, 0.999999)).astype(np.float32)
