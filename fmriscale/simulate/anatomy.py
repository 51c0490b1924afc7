"""The simulated brain: where its tissues lie, and random maps that are smooth over it, of variance 1.

Smoothness: a Gaussian's full width at half maximum, mm. Shapes: n maps, V voxels of brain or ROI; grid X Y Z.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from fmriscale.config import SimulateConfig

ROI = "roi_mask.nii.gz"  # File of the region of interest, at the root of a derivative
FWHM = np.sqrt(8 * np.log(2))  # Full width at half maximum of a Gaussian, in its standard deviations


@dataclass(frozen=True)
class Anatomy:
    """Which voxels are what; boolean masks [X, Y, Z], and the affine to mm."""

    brain: np.ndarray
    roi: np.ndarray
    white_matter: np.ndarray
    csf: np.ndarray
    affine: np.ndarray


def make_anatomy(config: SimulateConfig) -> Anatomy:
    """Lay an ellipsoidal brain with ventricles, white matter and a left temporal ROI into the grid."""
    shape = np.array(config.shape)
    grid = np.moveaxis(np.indices(config.shape), 0, -1)
    unit = (grid - (shape - 1) / 2) / (shape / 2)
    radius = np.linalg.norm(unit, axis=-1)
    brain = radius < 0.97
    grey = brain & (radius >= 0.5)
    if grey.sum() < config.n_roi_voxels:
        raise ValueError(f"n_roi_voxels {config.n_roi_voxels} but only {grey.sum()} grey voxels")
    distance = np.where(grey, np.linalg.norm(unit - [-0.75, -0.15, -0.1], axis=-1), np.inf)
    roi = np.zeros(config.shape, bool)
    roi.flat[np.argsort(distance, axis=None, kind="stable")[: config.n_roi_voxels]] = True
    affine = np.diag([config.voxel_mm] * 3 + [1.0])
    affine[:3, 3] = -config.voxel_mm * (shape - 1) / 2
    return Anatomy(brain, roi, (radius >= 0.3) & (radius < 0.45), radius < 0.22, affine)


class BrainTexture:
    """Smooth maps over all voxels of the brain, in the order of `anatomy.brain`; roi_V marks the ROI."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.roi_V = anatomy.roi[anatomy.brain]

    def draw(self, rng: np.random.Generator, n: int, smoothness: float) -> np.ndarray:
        """Return maps, float32 [n, V]: white noise on the grid, filtered along each axis."""
        x, y, z = axis_filters(self.anatomy, smoothness)
        maps_nXYZ = rng.standard_normal((n, *self.anatomy.brain.shape), dtype=np.float32)
        maps_nXYZ = np.einsum("nxyz,cz->nxyc", maps_nXYZ, z, optimize=True)
        maps_nXYZ = np.einsum("nxyc,by->nxbc", maps_nXYZ, y, optimize=True)
        return np.einsum("nxbc,ax->nabc", maps_nXYZ, x, optimize=True)[:, self.anatomy.brain]


class RegionTexture:
    """Smooth maps over the voxels of the ROI alone."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.roi_V = np.ones(int(anatomy.roi.sum()), bool)
        self._root = cache(self._root_of_correlation)

    def draw(self, rng: np.random.Generator, n: int, smoothness: float) -> np.ndarray:
        """Return maps, float32 [n, V]: white noise times a root of the voxels' correlation."""
        root_VV = self._root(smoothness)
        return rng.standard_normal((n, len(root_VV)), dtype=np.float32) @ root_VV

    def _root_of_correlation(self, smoothness: float) -> np.ndarray:
        """Return R with R'R = the correlation of the ROI's voxels, which factors into the three axes."""
        voxels = np.argwhere(self.anatomy.roi).T
        correlation_VV = np.ones((voxels.shape[1],) * 2)
        for filter_, position in zip(axis_filters(self.anatomy, smoothness), voxels, strict=True):
            rows = filter_[position].astype(float)
            correlation_VV *= rows @ rows.T
        values, vectors = np.linalg.eigh(correlation_VV)
        return (np.sqrt(values.clip(0))[:, None] * vectors.T).astype(np.float32)


Texture = BrainTexture | RegionTexture


def axis_filters(anatomy: Anatomy, smoothness: float) -> list[np.ndarray]:
    """Return the filter along each axis, float32 [n, n], scaled so that variance stays 1 at the edges too."""
    from scipy.ndimage import gaussian_filter

    voxel_mm = np.linalg.norm(anatomy.affine[:3, :3], axis=0)
    filters = []
    for n, size in zip(anatomy.brain.shape, voxel_mm, strict=True):
        kernel = gaussian_filter(np.eye(n), (smoothness / FWHM / size, 0))
        filters.append((kernel / np.linalg.norm(kernel, axis=1, keepdims=True)).astype(np.float32))
    return filters
