"""Voxel indices and positions in mm: the one place where a half-way voxel is decided."""

import numpy as np

Positions = tuple[tuple[float, float, float], ...]  # mm


def world(voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the positions of voxel indices [n, 3] in mm."""
    return voxels @ affine[:3, :3].T + affine[:3, 3]


def nearest(positions: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the voxel indices [n, 3] nearest to positions in mm; half-way, the further along the world."""
    import nibabel as nib

    # Rounded to 1e-4 voxels, half-way is half-way whichever way the image is stored.
    inverse = np.linalg.inv(affine)
    exact = np.round(positions @ inverse[:3, :3].T + inverse[:3, 3], 4).clip(-(2**31), 2**31)
    forward = nib.io_orientation(affine)[:, 1] > 0
    return np.where(forward, np.floor(exact + 0.5), np.ceil(exact - 0.5)).astype(np.int64)


def flat(voxels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return flat indices [n], first axis fastest, of voxel indices [n, 3]; -1 outside the grid."""
    inside = np.all((voxels >= 0) & (voxels < np.asarray(shape)), axis=1)
    index = voxels[:, 0] + shape[0] * (voxels[:, 1] + shape[1] * voxels[:, 2])
    return np.where(inside, index, -1).astype(np.int32 if np.prod(shape) < 2**31 else np.int64)


def centroids(voxels: np.ndarray, affine: np.ndarray, feature: np.ndarray) -> Positions:
    """Return the centres in mm of the features 0, 1, ... of voxels [n, 3]; `feature` [n] is that of each."""
    positions = world(voxels, affine)
    sums = [np.bincount(feature, positions[:, axis]) for axis in range(3)]
    return millimetres(np.stack(sums, 1) / np.bincount(feature)[:, None])


def millimetres(positions: np.ndarray) -> Positions:
    """Round positions to micrometres, so that they read well and hash alike everywhere."""
    return tuple((float(x), float(y), float(z)) for x, y, z in np.round(positions, 3) + 0.0)
