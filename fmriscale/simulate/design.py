"""The heard-and-imagined timbre experiment: who hears which note when, from a table or generated likewise.

Every run holds ONE condition and ONE timbre, so a study has to compare windows of different runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand
from fmriscale.config import SimulateConfig

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["onset", "duration", "trial_type", "condition", "timbre", "pitch", "key"]
"""Columns of a run's events; onset and duration in seconds."""

CYCLE_S = 22.0  # Seconds from one target to the next
FIRST_TARGET_S = 16.0
TARGET_S = 4.0
PROBE_DELAY_S = 6.0  # The probe tone starts this long after its target
PROBE_S = 2.0
KEYS = {"E": 52, "F": 53}
"""Tonic of the lowest octave of each key, in the experiment's MIDI-like code (52 = E3)."""
DEGREES = (2, 4, 5, 7, 9, 11, 12)
"""Semitones from the tonic to the seven targets of an octave (the second up to the octave)."""
CELLS = (("heard", "trumpet"), ("heard", "clarinet"), ("imagined", "trumpet"), ("imagined", "clarinet"))
"""Condition and timbre of runs 1 to 4; runs 5 to 8 repeat them."""


def key_of(subject: int) -> str:
    """Return the key (E or F) in which a subject does the whole experiment."""
    return "EF"[subject // 2 % 2]


def cell_of(subject: int, run: int) -> tuple[str, str]:
    """Return condition and timbre of a run; odd subjects begin with clarinet."""
    return CELLS[(run % 4) ^ (subject % 2)]


def label(subject: int) -> str:
    """Return the BIDS label of a subject."""
    return f"sub-{subject + 1:02d}"


def n_cycles(n_volumes: int, t_r: float) -> int:
    """Return how many whole cycles (target and probe) fit into a run of n_volumes * t_r seconds."""
    last_start = n_volumes * t_r - PROBE_DELAY_S - PROBE_S
    return max(0, int((last_start - FIRST_TARGET_S) // CYCLE_S) + 1)


def generated(subject: int, run: int, n_volumes: int, t_r: float, seed: int) -> pd.DataFrame:
    """Return events like those of a run of the experiment: a target and a probe a cycle."""
    import pandas as pd

    rng = np.random.default_rng([seed, 1, subject, run])
    (condition, timbre), key = cell_of(subject, run), key_of(subject)
    targets = [KEYS[key] + 12 * octave + degree for octave in range(3) for degree in DEGREES]
    cycles = n_cycles(n_volumes, t_r)
    order = np.concatenate([rng.permutation(targets) for _ in range(-(-cycles // len(targets)))])
    rows = []
    for cycle in range(cycles):
        onset, probe = FIRST_TARGET_S + CYCLE_S * cycle, KEYS[key] + int(rng.integers(36))
        rows.append((onset, TARGET_S, f"{condition}_{timbre}", condition, timbre, order[cycle], key))
        rows.append((onset + PROBE_DELAY_S, PROBE_S, "probe", "probe", timbre, probe, key))
    return pd.DataFrame(rows, columns=COLUMNS)


class Design:
    """The events of every run of a simulation; refuses a table of events that does not suit its size."""

    def __init__(self, config: SimulateConfig) -> None:
        self._config = config
        self._given: dict[tuple[str, str], pd.DataFrame] = {}
        self.subjects = range(config.first_subject - 1, config.first_subject - 1 + config.n_subjects)
        if config.events is not None:
            path = expand(config.events)
            self._given = read_events(path)
            for subject in self.subjects:
                self._check(subject, path)
        elif n_cycles(config.n_volumes, config.t_r) < 1:
            length = f"n_volumes {config.n_volumes} x t_r {config.t_r} s"
            raise UserError(f"simulate: {length} is too short; one cycle needs 24 s")

    def events(self, subject: int, run: int) -> pd.DataFrame:
        """Return the events of a run as its BIDS events file has them (`COLUMNS`)."""
        config = self._config
        if self._given:
            return self._given[label(subject), f"run-{run + 1:02d}"]
        return generated(subject, run, config.n_volumes, config.t_r, config.seed)

    def key(self, subject: int) -> str:
        """Return the musical key of a subject."""
        return str(self.events(subject, 0)["key"].iloc[0])

    def _check(self, subject: int, path: Path) -> None:
        """Refuse a subject whose runs are not all there, or longer than the simulated ones."""
        n_volumes, t_r = self._config.n_volumes, self._config.t_r
        for run in range(self._config.n_runs):
            name = (label(subject), f"run-{run + 1:02d}")
            if (events := self._given.get(name)) is None:
                what = f"has no {' '.join(name)} (it has {len({sub for sub, _ in self._given})} subjects)"
                raise UserError(f"{path}: {what}; lower n_subjects, first_subject or n_runs")
            if (last := max(events["onset"] + events["duration"])) > n_volumes * t_r:
                length = f"n_volumes {n_volumes} x t_r {t_r} s is {n_volumes * t_r:g} s"
                raise UserError(f"{path}: {' '.join(name)} lasts {last:g} s, but {length}; raise n_volumes")


def read_events(path: Path) -> dict[tuple[str, str], pd.DataFrame]:
    """Read the events of a whole experiment, by labels of subject and run."""
    import pandas as pd

    try:
        table = pd.read_csv(path, sep="\t", dtype={"subject": str, "run": str})
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; give a tab-separated table in events") from error
    if missing := sorted({"subject", "run", *COLUMNS} - set(table.columns)):
        raise UserError(f"{path}: no column {', '.join(missing)}; a table of events needs them")
    numbers = ("onset", "duration", "pitch")
    if table.isna().to_numpy().any() or not all(pd.api.types.is_numeric_dtype(table[c]) for c in numbers):
        raise UserError(f"{path}: every event needs onset, duration and pitch as numbers, and all labels")
    if unknown := sorted(set(table["timbre"]) - {"trumpet", "clarinet"}):
        raise UserError(f"{path}: timbre {unknown[0]} is not known; trumpet and clarinet are")
    table[["onset", "duration"]] = table[["onset", "duration"]].astype(float)
    groups = table.groupby(["subject", "run"], sort=False)
    return {(str(s), str(r)): rows[COLUMNS].reset_index(drop=True) for (s, r), rows in groups}  # pyright: ignore
