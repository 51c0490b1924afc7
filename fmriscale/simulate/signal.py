"""Simulated BOLD: evoked patterns with known strength under noise of the kinds that real scans have.

Shapes: T volumes, V voxels (of the brain, or of the ROI alone), E events. Units: everything is in standard
deviations of the voxel noise until `run` turns it into scanner units.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from scipy.signal import lfilter

from fmriscale.config import SimulateConfig
from fmriscale.simulate.anatomy import Texture

BASELINE, NOISE_SD = 8000.0, 80.0
"""Mean of a brain voxel and standard deviation of its noise, scanner units (1 %)."""
MAP_SMOOTHNESS = 28.0
"""Smoothness of the maps of drifts, physiology, motion and run offsets, mm (full width at half maximum)."""
PITCH_WIDTH = 5.0  # Width of a voxel's pitch tuning, semitones
TO_MM = np.array([1, 1, 1, 50, 50, 50])  # Turns motion parameters into mm on a sphere of 50 mm
STEP = 0.1  # Seconds between the points at which a response is computed


@dataclass(frozen=True)
class Patterns:
    """What a tone evokes in the ROI of one subject; unit-variance patterns [V of the ROI]."""

    sound: np.ndarray  # Common to all tones
    timbre: dict[str, np.ndarray]
    preferred_pitch: np.ndarray  # Pitch to which each voxel responds most


def patterns(config: SimulateConfig, subject: int) -> Patterns:
    """Draw a subject's patterns; `config.individual` of the variance is their own, the rest is shared."""
    shared = np.random.default_rng([config.seed, 2])
    own = np.random.default_rng([config.seed, 3, subject])
    n, ours, mine = config.n_roi_voxels, np.sqrt(1 - config.individual), np.sqrt(config.individual)
    drawn = (ours * shared.standard_normal(n) + mine * own.standard_normal(n) for _ in range(4))
    sound, trumpet, clarinet, tuning = drawn
    return Patterns(sound, {"trumpet": trumpet, "clarinet": clarinet}, 70.5 + 18 * np.tanh(tuning))


@cache
def response(duration: float) -> np.ndarray:
    """Return the response to an event, every 0.1 s for 40 s: Glover's; that to an event of 4 s peaks at 1."""
    from nilearn.glm.first_level import glover_hrf

    hrf = glover_hrf(STEP, oversampling=1)
    fine = np.arange(0, 40, STEP)
    of_4_s, this = (np.convolve(fine < seconds, hrf)[: len(fine)] for seconds in (4.0, duration))
    return this / of_4_s.max()


def evoked(config: SimulateConfig, events: pd.DataFrame, subject_patterns: Patterns) -> np.ndarray:
    """Return what the events of a run evoke in the ROI, [T, V of the ROI]."""
    p = subject_patterns
    frames_T = np.arange(config.n_volumes) * config.t_r
    responses_TE = np.zeros((config.n_volumes, len(events)))
    for response_T, onset, duration in zip(responses_TE.T, events["onset"], events["duration"], strict=True):
        curve = response(float(duration))
        response_T[:] = np.interp(frames_T - onset, np.arange(len(curve)) * STEP, curve, left=0.0, right=0.0)
    distance_EV = (events["pitch"].to_numpy(float)[:, None] - p.preferred_pitch) / PITCH_WIDTH
    tuning_EV = np.exp(-0.5 * distance_EV**2) - 0.5
    timbre_EV = np.stack([p.timbre[name] for name in events["timbre"]])
    strength_E1 = np.where(events["condition"] == "imagined", config.imagined, 1.0)[:, None]
    tone_EV = config.sound * (0.5 + p.sound) + config.timbre * timbre_EV + config.pitch * tuning_EV
    return responses_TE @ (strength_E1 * tone_EV)


def autoregressive(white_TV: np.ndarray, correlation: float) -> np.ndarray:
    """Turn noise that is white in time into stationary AR(1) noise of the same variance, float32 [T, V]."""
    white_TV[1:] *= np.sqrt(1 - correlation**2)
    return np.asarray(lfilter([1.0], [1.0, -correlation], white_TV, axis=0), np.float32)


def motion(rng: np.random.Generator, n_volumes: int, step: float) -> np.ndarray:
    """Return six motion parameters [T, 6] (mm, radians): slow wandering, small jitter, a few jerks."""
    steps_T6 = rng.normal(0, 1, (n_volumes, 6))
    jerks = rng.random(n_volumes) < 0.008
    steps_T6[jerks] += rng.normal(0, 20, (int(jerks.sum()), 6))
    wander_T6 = np.asarray(lfilter([1.0], [1.0, -0.98], step * steps_T6, axis=0))
    return wander_T6 * np.array([1, 1, 1, 0.01, 0.01, 0.01])


def run(
    config: SimulateConfig, texture: Texture, subject: int, run_number: int, events: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray]:
    """Simulate one run: its BOLD, float32 [T, V], and motion parameters [T, 6]."""
    rng = np.random.default_rng([config.seed, 4, subject, run_number])
    n = config.n_volumes
    signal_TV = autoregressive(texture.draw(rng, n, config.smoothness), config.autoregression)
    motion_T6 = motion(rng, n, config.motion)
    moved_T6 = (motion_T6 - motion_T6[0]) * TO_MM
    jolts_T = np.linalg.norm(np.diff(moved_T6, axis=0, prepend=0), axis=1)
    time_T = np.linspace(-1, 1, n)
    slow = [
        config.drift * time_T,
        config.drift * 2 / 3 * np.cos(np.pi * time_T + rng.uniform(0, 2 * np.pi)),
        config.physiology * np.asarray(lfilter([0.5], [1.0, -0.8], rng.standard_normal(n))),
        0.4 * moved_T6.sum(axis=1),
        1.5 * jolts_T,
    ]
    maps_KV = texture.draw(rng, 6, MAP_SMOOTHNESS)
    # Drift, physiology and motion: each with a map of its own; physiology and jolts move the whole brain.
    weights_KV = maps_KV[:5]
    weights_KV[2] = 1 + weights_KV[2] / 2
    weights_KV[4] += 1
    signal_TV += (np.column_stack(slow) @ weights_KV).astype(np.float32)
    signal_TV += (config.run_offset * maps_KV[5]).astype(np.float32)
    signal_TV[:, texture.roi_V] += evoked(config, events, patterns(config, subject))
    level_V = np.random.default_rng([config.seed, 5, subject]).normal(1, 0.05, signal_TV.shape[1])
    return (BASELINE * level_V + NOISE_SD * signal_TV).astype(np.float32), motion_T6


def confounds(tissues: dict[str, np.ndarray], motion_T6: np.ndarray, t_r: float) -> pd.DataFrame:
    """Return a confounds table [T rows] with fMRIPrep's columns; `tissues` are the mean signals of some."""
    n = len(motion_T6)
    names = ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]
    table = tissues | dict(zip(names, motion_T6.T, strict=True))
    for name in list(table):
        change = np.diff(table[name], prepend=np.nan)
        table[f"{name}_derivative1"] = change
        table[f"{name}_power2"] = table[name] ** 2
        table[f"{name}_derivative1_power2"] = change**2
    steps_T6 = np.abs(np.diff(motion_T6, axis=0)) * TO_MM
    table["framewise_displacement"] = np.r_[np.nan, steps_T6.sum(axis=1)]
    for order in range(1, int(2 * n * t_r / 128) + 1):
        wave = np.cos(np.pi * order * (np.arange(n) + 0.5) / n)
        table[f"cosine{order - 1:02d}"] = wave * np.sqrt(2 / n)
    return pd.DataFrame(table)


def dvars(bold_TV: np.ndarray) -> dict[str, np.ndarray]:
    """Return how much each volume differs from the one before [T], as it is and over its median."""
    change = np.sqrt(np.mean(np.diff(bold_TV, axis=0) ** 2, axis=1, dtype=float))
    return {"dvars": np.r_[np.nan, change], "std_dvars": np.r_[np.nan, change / np.median(change)]}
