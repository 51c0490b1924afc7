"""Where things are in the simulated brain."""

from dataclasses import dataclass

import numpy as np

from fmriscale.config import SimulateConfig

ROI = "roi_mask.nii.gz"
"""File of the region of interest, at the root of a derivative."""


@dataclass(frozen=True)
class Anatomy:
    """Which voxels are what; boolean masks [X, Y, Z], and the affine to mm."""

    brain: np.ndarray
    roi: np.ndarray
    white_matter: np.ndarray
    csf: np.ndarray
    affine: np.ndarray


def anatomy(config: SimulateConfig) -> Anatomy:
    """Lay an ellipsoidal brain with ventricles, white matter and a left temporal ROI into the grid."""
    shape = np.array(config.shape)
    grid = np.moveaxis(np.indices(config.shape), 0, -1)
    unit = (grid - (shape - 1) / 2) / (shape / 2)
    radius = np.linalg.norm(unit, axis=-1)
    brain = radius < 0.97
    csf = radius < 0.22
    white_matter = (radius >= 0.3) & (radius < 0.45)
    grey = brain & (radius >= 0.5)
    if grey.sum() < config.n_roi_voxels:
        raise ValueError(f"n_roi_voxels {config.n_roi_voxels} but only {grey.sum()} grey voxels")
    distance = np.where(grey, np.linalg.norm(unit - [-0.75, -0.15, -0.1], axis=-1), np.inf)
    roi = np.zeros(config.shape, bool)
    roi.flat[np.argsort(distance, axis=None, kind="stable")[: config.n_roi_voxels]] = True
    affine = np.diag([config.voxel_mm] * 3 + [1.0])
    affine[:3, 3] = -config.voxel_mm * (shape - 1) / 2
    return Anatomy(brain=brain, roi=roi, white_matter=white_matter, csf=csf, affine=affine)
