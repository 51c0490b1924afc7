"""Random maps that are smooth in space, over a whole brain or over the voxels of the ROI alone.

Both kinds draw from one distribution: Gaussian, of variance 1 in every voxel, with the correlation that a
Gaussian kernel gives. n maps, V voxels; X Y Z the grid.
"""

from typing import Protocol

import numpy as np
from scipy.ndimage import gaussian_filter

from fmriscale.simulate.anatomy import Anatomy

FWHM = np.sqrt(8 * np.log(2))
"""Full width at half maximum of a Gaussian, in its standard deviations."""


class Texture(Protocol):
    """Draws smooth maps over some voxels."""

    roi_V: np.ndarray
    """Which of its voxels are of the ROI."""

    def draw(self, rng: np.random.Generator, n: int, smoothness: float) -> np.ndarray:
        """Return n independent maps, float32 [n, V]; smoothness is the full width at half maximum, mm."""
        ...


class BrainTexture:
    """Maps over all voxels of the brain, in the order of `place.brain`."""

    def __init__(self, place: Anatomy) -> None:
        self.place = place
        self.roi_V = place.roi[place.brain]

    def draw(self, rng: np.random.Generator, n: int, smoothness: float) -> np.ndarray:
        """Filter white noise on the grid along each axis."""
        x, y, z = axis_filters(self.place, smoothness)
        maps_nXYZ = rng.standard_normal((n, *self.place.brain.shape), dtype=np.float32)
        maps_nXYZ = np.einsum("nxyz,cz->nxyc", maps_nXYZ, z, optimize=True)
        maps_nXYZ = np.einsum("nxyc,by->nxbc", maps_nXYZ, y, optimize=True)
        return np.einsum("nxbc,ax->nabc", maps_nXYZ, x, optimize=True)[:, self.place.brain]


class RegionTexture:
    """Maps over the voxels of the ROI alone: white noise times a root of the voxels' correlation."""

    def __init__(self, place: Anatomy) -> None:
        self.place = place
        self.roi_V = np.ones(int(place.roi.sum()), bool)
        self._roots: dict[float, np.ndarray] = {}

    def draw(self, rng: np.random.Generator, n: int, smoothness: float) -> np.ndarray:
        """Multiply white noise by the root, which is computed once for each smoothness."""
        if smoothness not in self._roots:
            self._roots[smoothness] = self._root(smoothness)
        root_VV = self._roots[smoothness]
        return rng.standard_normal((n, len(root_VV)), dtype=np.float32) @ root_VV

    def _root(self, smoothness: float) -> np.ndarray:
        """Return R with R'R = the correlation of the ROI's voxels, which factors into the three axes."""
        voxels = np.argwhere(self.place.roi).T
        correlation_VV = np.ones((voxels.shape[1],) * 2)
        for filter_, place in zip(axis_filters(self.place, smoothness), voxels, strict=True):
            rows = filter_[place].astype(float)
            correlation_VV *= rows @ rows.T
        values, vectors = np.linalg.eigh(correlation_VV)
        return (np.sqrt(values.clip(0))[:, None] * vectors.T).astype(np.float32)


def axis_filters(place: Anatomy, smoothness: float) -> list[np.ndarray]:
    """Return the filter along each axis, float32 [n, n], scaled so that variance stays 1 at the edges too."""
    voxel_mm = np.linalg.norm(place.affine[:3, :3], axis=0)
    filters = []
    for n, size in zip(place.brain.shape, voxel_mm, strict=True):
        kernel = gaussian_filter(np.eye(n), (smoothness / FWHM / size, 0))
        filters.append((kernel / np.linalg.norm(kernel, axis=1, keepdims=True)).astype(np.float32))
    return filters
