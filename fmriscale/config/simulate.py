"""Settings of `fmriscale simulate`."""

from dataclasses import dataclass, field
from typing import Literal

from fmriscale.config.corpus import SharesConfig
from fmriscale.config.settings import PathText, Settings


@dataclass(frozen=True, kw_only=True)
class SimulateConfig(Settings):
    """`fmriscale simulate`: a timbre experiment with known truth, as an fMRIPrep derivative or a corpus.

    Strengths are in standard deviations of a voxel's noise.
    """

    out: PathText
    """Folder of the derivative, or of the corpus."""
    form: Literal["fmriprep", "corpus"] = "fmriprep"
    """fmriprep: images and confounds, to be sharded; corpus: the ROI alone, without images, in a fraction of
    the time."""
    clean: bool = True
    """Regress motion and slow drifts out of a corpus; false: as measured, but standardised."""
    split: SharesConfig = field(default_factory=SharesConfig)
    """Splits of a corpus."""
    events: PathText | None = None
    """Table with the events of a real experiment (subject, run, onset, duration, condition, timbre, pitch,
    key): order, onsets and pitches are its own; None = generated likewise."""
    n_subjects: int = 12
    """Number of subjects."""
    first_subject: int = 1
    """Number of the first subject: simulations with one seed and other subjects share the patterns that all
    people share, and no person."""
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
    """Strength of the pattern that every tone evokes."""
    timbre: float = 0.5
    """Strength of the timbre pattern; 0 = no timbre in the data."""
    pitch: float = 0.5
    """Strength of the pitch pattern."""
    imagined: float = 0.7
    """Strength of an imagined tone's patterns, relative to a heard one's."""
    individual: float = 0.5
    """Share of each pattern's variance that is the subject's own, 0 to 1."""
    run_offset: float = 0.5
    """Strength of an offset constant over a run, drawn anew for every run."""
    autoregression: float = 0.4
    """Correlation of a voxel's noise between neighbouring volumes, 0 to below 1."""
    smoothness: float = 11.0
    """Smoothness of the noise in space, mm (full width at half maximum)."""
    drift: float = 0.6
    """Strength of drifts over the run: linear, and two thirds of it as a wave of the run's length."""
    physiology: float = 0.4
    """Strength of slow waves that all of the brain shares."""
    motion: float = 0.012
    """Head movement from volume to volume, mm (standard deviation along each axis; now and then 20 times
    that), with what it does to the signal; 0 = the head keeps still."""
    seed: int = 0
    """Seed of everything random."""
