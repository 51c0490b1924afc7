"""Simulated BOLD: evoked patterns with known strength under noise of the kinds that real scans have.

Shapes: T volumes, V voxels inside the brain, X Y Z the grid. Units: everything is in standard deviations of
the voxel noise until `bold` turns it into scanner units.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from scipy.signal import lfilter

from fmriscale.config import SimulateConfig

BASELINE, NOISE_SD = 8000.0, 80.0
"""Mean of a brain voxel and standard deviation of its noise, scanner units (1 %)."""
IMAGINED = 0.7
"""Strength of an imagined tone's patterns relative to a heard one's."""
SMOOTHNESS = 0.8
"""Standard deviation of the spatial smoothing of the noise, voxels."""
AUTOREGRESSION = 0.4
"""Correlation of the noise between neighbouring volumes."""
PITCH_WIDTH = 5.0
"""Width of a voxel's pitch tuning, semitones."""


@dataclass(frozen=True)
class Anatomy:
    """Which voxels are what; boolean masks [X, Y, Z], and the affine to mm."""

    brain: np.ndarray
    roi: np.ndarray
    white_matter: np.ndarray
    csf: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True)
class Patterns:
    """What a tone evokes in the ROI of one subject; rows are unit-variance patterns [V_roi]."""

    sound: np.ndarray
    """Common to all tones."""
    timbre: dict[str, np.ndarray]
    preferred_pitch: np.ndarray
    """Pitch to which each voxel responds most."""


def anatomy(config: SimulateConfig) -> Anatomy:
    """Lay an ellipsoidal brain with ventricles, white matter and a left temporal ROI into the grid.

    Raises
    ------
    ValueError
        The brain has fewer grey voxels than the ROI needs.
    """
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


def patterns(config: SimulateConfig, subject: int) -> Patterns:
    """Draw a subject's patterns: a part that all subjects share and a part of their own.

    The share of the subject's own variance is `config.individual`; what is shared depends on the seed alone.
    """
    shared = np.random.default_rng([config.seed, 2])
    own = np.random.default_rng([config.seed, 3, subject])
    n = config.n_roi_voxels
    share, part = np.sqrt(1 - config.individual), np.sqrt(config.individual)

    def draw() -> np.ndarray:
        return share * shared.standard_normal(n) + part * own.standard_normal(n)

    sound, trumpet, clarinet, tuning = draw(), draw(), draw(), draw()
    preferred = 70.5 + 18 * np.tanh(tuning)
    return Patterns(sound, {"trumpet": trumpet, "clarinet": clarinet}, preferred)


def haemodynamic_responses(
    onsets: np.ndarray, durations: np.ndarray, n_volumes: int, t_r: float
) -> np.ndarray:
    """Return the response [T, E] to E events: boxcar convolved with Glover's form; 1 at most for 4 s."""
    from nilearn.glm.first_level import glover_hrf

    step = 0.1
    hrf = glover_hrf(step, oversampling=1)
    fine = np.arange(0, 40, step)

    def response(duration: float) -> np.ndarray:
        return np.convolve(fine < duration, hrf)[: len(fine)]

    peak = response(4.0).max()
    frames = np.arange(n_volumes) * t_r
    columns = [
        np.interp(frames - onset, fine, response(duration) / peak, left=0.0, right=0.0)
        for onset, duration in zip(onsets, durations, strict=True)
    ]
    return np.array(columns).T.reshape(n_volumes, len(onsets))


def evoked(config: SimulateConfig, events: pd.DataFrame, subject_patterns: Patterns) -> np.ndarray:
    """Return what the events of a run evoke in the ROI, [T, V_roi]."""
    p = subject_patterns
    responses_TE = haemodynamic_responses(
        events["onset"].to_numpy(), events["duration"].to_numpy(), config.n_volumes, config.t_r
    )
    distance_EV = (events["pitch"].to_numpy(float)[:, None] - p.preferred_pitch) / PITCH_WIDTH
    tuning_EV = np.exp(-0.5 * distance_EV**2) - 0.5
    timbre_EV = np.stack([p.timbre[name] for name in events["timbre"]])
    strength_E1 = np.where(events["condition"] == "imagined", IMAGINED, 1.0)[:, None]
    amplitudes_EV = strength_E1 * (
        config.sound * (0.5 + p.sound) + config.timbre * timbre_EV + config.pitch * tuning_EV
    )
    return responses_TE @ amplitudes_EV


def noise(rng: np.random.Generator, n_volumes: int, place: Anatomy) -> np.ndarray:
    """Return spatially smooth, autoregressive noise of unit variance, float32 [T, V]."""
    white_TXYZ = rng.standard_normal((n_volumes, *place.brain.shape), dtype=np.float32)
    smooth_TV = gaussian_filter(white_TXYZ, (0, *[SMOOTHNESS] * 3))[:, place.brain]
    smooth_TV /= smooth_TV.std(axis=0).mean()
    smooth_TV[1:] *= np.sqrt(1 - AUTOREGRESSION**2)
    return np.asarray(lfilter([1.0], [1.0, -AUTOREGRESSION], smooth_TV, axis=0), np.float32)


def motion(rng: np.random.Generator, n_volumes: int) -> np.ndarray:
    """Return six motion parameters [T, 6] (mm, radians): slow wandering, small jitter, a few jerks."""
    steps_T6 = rng.normal(0, 0.012, (n_volumes, 6))
    jerks = rng.random(n_volumes) < 0.008
    steps_T6[jerks] += rng.normal(0, 0.25, (int(jerks.sum()), 6))
    wander_T6 = np.asarray(lfilter([1.0], [1.0, -0.98], steps_T6, axis=0))
    return wander_T6 * np.array([1, 1, 1, 0.01, 0.01, 0.01])


def smooth_maps(rng: np.random.Generator, n: int, place: Anatomy) -> np.ndarray:
    """Return n smooth random maps of unit variance over the brain, [n, V]."""
    maps_nXYZ = gaussian_filter(rng.standard_normal((n, *place.brain.shape)), (0, 2.0, 2.0, 2.0), mode="wrap")
    maps_nV = maps_nXYZ[:, place.brain]
    return maps_nV / maps_nV.std(axis=1, keepdims=True)


def run(
    config: SimulateConfig, place: Anatomy, subject: int, run_number: int, events: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray]:
    """Simulate one run.

    Parameters
    ----------
    config : SimulateConfig
        Sizes and strengths.
    place : Anatomy
        From `anatomy`.
    subject, run_number : int
        Counted from 0; with `config.seed` they determine every random number.
    events : pandas.DataFrame
        From `design.events`.

    Returns
    -------
    bold_TV : numpy.ndarray
        Float32 [T, V] in scanner units, voxels in the order of `place.brain`.
    motion_T6 : numpy.ndarray
        Motion parameters [T, 6], mm and radians.
    """
    rng = np.random.default_rng([config.seed, 4, subject, run_number])
    n = config.n_volumes
    signal_TV = noise(rng, n, place)
    motion_T6 = motion(rng, n)
    moved_T6 = motion_T6 - motion_T6[0]
    jolts_T = np.linalg.norm(np.diff(moved_T6, axis=0, prepend=0) * [1, 1, 1, 50, 50, 50], axis=1)
    time_T = np.linspace(-1, 1, n)
    slow_TK = np.column_stack(
        [
            time_T,
            np.cos(np.pi * time_T + rng.uniform(0, 2 * np.pi)),
            lfilter([0.5], [1.0, -0.8], rng.standard_normal(n)),
            moved_T6 @ [1, 1, 1, 50, 50, 50],
            jolts_T * 3,
        ]
    )
    maps_KV = smooth_maps(rng, 6, place)
    # Drift, physiology and motion: each with a map of its own; physiology and jolts move the whole brain.
    weights_KV = maps_KV[:5] * np.array([0.6, 0.4, 0.2, 0.4, 0.5])[:, None]
    weights_KV[[2, 4]] += np.array([0.4, 0.5])[:, None]
    signal_TV += (slow_TK @ weights_KV).astype(np.float32)
    signal_TV += (config.run_offset * maps_KV[5]).astype(np.float32)
    roi_V = place.roi[place.brain]
    signal_TV[:, roi_V] += evoked(config, events, patterns(config, subject))
    anatomy_V = np.random.default_rng([config.seed, 5, subject]).normal(1, 0.05, signal_TV.shape[1])
    return (BASELINE * anatomy_V + NOISE_SD * signal_TV).astype(np.float32), motion_T6


def confounds(bold_TV: np.ndarray, motion_T6: np.ndarray, place: Anatomy, t_r: float) -> pd.DataFrame:
    """Return a confounds table [T rows] with fMRIPrep's columns, measured on the simulated run."""
    n = len(bold_TV)
    names = ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]
    table = {
        "global_signal": bold_TV.mean(axis=1, dtype=float),
        "csf": bold_TV[:, place.csf[place.brain]].mean(axis=1, dtype=float),
        "white_matter": bold_TV[:, place.white_matter[place.brain]].mean(axis=1, dtype=float),
    } | dict(zip(names, motion_T6.T, strict=True))
    for name in list(table):
        change = np.diff(table[name], prepend=np.nan)
        table[f"{name}_derivative1"] = change
        table[f"{name}_power2"] = table[name] ** 2
        table[f"{name}_derivative1_power2"] = change**2
    steps_T6 = np.abs(np.diff(motion_T6, axis=0)) * [1, 1, 1, 50, 50, 50]
    table["framewise_displacement"] = np.r_[np.nan, steps_T6.sum(axis=1)]
    dvars = np.sqrt(np.mean(np.diff(bold_TV, axis=0) ** 2, axis=1, dtype=float))
    table["dvars"] = np.r_[np.nan, dvars]
    table["std_dvars"] = np.r_[np.nan, dvars / np.median(dvars)]
    for order in range(1, int(2 * n * t_r / 128) + 1):
        wave = np.cos(np.pi * order * (np.arange(n) + 0.5) / n)
        table[f"cosine{order - 1:02d}"] = wave * np.sqrt(2 / n)
    return pd.DataFrame(table)
