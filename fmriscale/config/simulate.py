"""Settings of `fmriscale simulate`."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """`fmriscale simulate`: a timbre experiment with known truth, written as an fMRIPrep derivative."""

    out: str
    """Folder of the derivative."""
    n_subjects: int = 12
    """Number of subjects."""
    n_runs: int = 8
    """Runs a subject; runs alternate timbre and condition as in the experiment."""
    n_volumes: int = 233
    """Volumes a run."""
    t_r: float = 2.0
    """Repetition time, s."""
    shape: list[int] = field(default_factory=lambda: [16, 18, 14])
    """Voxels in x, y and z."""
    voxel_mm: float = 6.0
    """Edge of a voxel, mm."""
    n_roi_voxels: int = 96
    """Voxels of the ROI that carries the patterns."""
    sound: float = 1.0
    """Strength of the pattern that every tone evokes, in standard deviations of the noise."""
    timbre: float = 0.5
    """Strength of the timbre pattern, likewise; 0 = no timbre in the data."""
    pitch: float = 0.5
    """Strength of the pitch pattern, likewise."""
    run_offset: float = 0.5
    """Strength of an offset constant over a run, likewise."""
    individual: float = 0.5
    """Share of each pattern's variance that is the subject's own, 0 to 1."""
    seed: int = 0
    """Seed of everything random."""
