"""The heard-and-imagined timbre experiment: who hears which note when.

As in the real one, every run holds ONE condition and ONE timbre, so within one half of the runs "same timbre"
is the same thing as "same run". Any study of it has to compare windows of different runs.
"""

import numpy as np
import pandas as pd

CYCLE_S = 22.0
"""Seconds from one target to the next."""
FIRST_TARGET_S = 16.0
TARGET_S = 4.0
PROBE_DELAY_S = 6.0
"""The probe tone starts this long after its target."""
PROBE_S = 2.0
KEYS = {"E": 52, "F": 53}
"""Tonic of the lowest octave of each key, in the experiment's MIDI-like code (52 = E3)."""
DEGREES = (2, 4, 5, 7, 9, 11, 12)
"""Semitones from the tonic to the seven targets of an octave (the second up to the octave)."""
CELLS = (
    ("heard", "trumpet"),
    ("heard", "clarinet"),
    ("imagined", "trumpet"),
    ("imagined", "clarinet"),
)
"""Condition and timbre of runs 1 to 4; runs 5 to 8 repeat them."""


def key_of(subject: int) -> str:
    """Return the key (E or F) in which a subject, counted from 0, does the whole experiment."""
    return "EF"[subject // 2 % 2]


def cell_of(subject: int, run: int) -> tuple[str, str]:
    """Return condition and timbre of a run, both counted from 0; odd subjects begin with clarinet."""
    return CELLS[(run % 4) ^ (subject % 2)]


def n_cycles(n_volumes: int, t_r: float) -> int:
    """Return how many whole cycles (target and probe) fit into a run of n_volumes * t_r seconds."""
    last_start = n_volumes * t_r - PROBE_DELAY_S - PROBE_S
    return max(0, int((last_start - FIRST_TARGET_S) // CYCLE_S) + 1)


def events(subject: int, run: int, n_volumes: int, t_r: float, seed: int) -> pd.DataFrame:
    """Return the events of a run, as its BIDS events file has them.

    Parameters
    ----------
    subject, run : int
        Counted from 0.
    n_volumes : int
        Volumes of the run.
    t_r : float
        Repetition time, s.
    seed : int
        The order of the pitches is a function of (seed, subject, run).

    Returns
    -------
    pandas.DataFrame
        Columns onset, duration (s), trial_type, condition, timbre, pitch, key; a target and a probe a cycle.
    """
    rng = np.random.default_rng([seed, 1, subject, run])
    condition, timbre = cell_of(subject, run)
    key = key_of(subject)
    targets = [KEYS[key] + 12 * octave + degree for octave in range(3) for degree in DEGREES]
    rows = []
    cycles = n_cycles(n_volumes, t_r)
    order = np.concatenate([rng.permutation(targets) for _ in range(-(-cycles // len(targets)))])
    for cycle in range(cycles):
        onset = FIRST_TARGET_S + CYCLE_S * cycle
        probe = KEYS[key] + int(rng.integers(36))
        rows.append((onset, TARGET_S, f"{condition}_{timbre}", condition, timbre, order[cycle], key))
        rows.append((onset + PROBE_DELAY_S, PROBE_S, "probe", "probe", timbre, probe, key))
    columns = ["onset", "duration", "trial_type", "condition", "timbre", "pitch", "key"]
    return pd.DataFrame(rows, columns=columns)
