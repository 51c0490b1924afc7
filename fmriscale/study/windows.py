"""Labelled windows, cut out of the runs of a corpus: after events, or spread over runs that have a label.

N windows, L volumes, V features.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from fmriscale.common.errors import UserError
from fmriscale.common.suggest import did_you_mean
from fmriscale.config import TaskConfig
from fmriscale.corpus.manifest import parse_segments
from fmriscale.corpus.reader import Corpus
from fmriscale.study.folds import run_order
from fmriscale.study.subject_scale import subject_scales

Side = Literal["train", "test"]
"""Side of a fold."""


@dataclass(frozen=True)
class Windows:
    """Windows in the order of runs and onsets."""

    bold_NLV: np.ndarray
    """float16 [N, L, V], standardised as the task has it."""
    run_mean_NV: np.ndarray
    """float32 [N, V], mean of all uncensored volumes of the window's run, in the units of bold_NLV."""
    label_N: np.ndarray
    """Index into `labels`."""
    labels: tuple[str, ...]
    condition_N: np.ndarray
    """Index into `conditions`."""
    conditions: tuple[str, ...]
    run_N: np.ndarray
    """Row in `corpus.runs`."""
    order_N: np.ndarray
    """Position of the run in its person's sequence of runs, from 0."""
    person_N: np.ndarray
    """Person, text."""
    dataset_N: np.ndarray
    """Data set, text."""
    start_N: np.ndarray
    """First volume in the run."""
    t_r_N: np.ndarray
    """Repetition time, s."""
    n_lost: int
    """Windows that would have left their run or met a censored volume."""


class Start(NamedTuple):
    """Where a window starts, and what it means."""

    row: int
    """Row of `corpus.runs`."""
    volume: int
    label: str
    condition: str


def cut_windows(corpus: Corpus, task: TaskConfig, rows: Sequence[int]) -> Windows:
    """Cut a window after every event that takes part, or several out of every run that has a label.

    A window after an event starts with the first volume at or after onset + delay. Every window lies inside
    one uncensored stretch.
    """
    find_starts = starts_after_events if task.label_of == "event" else starts_in_runs
    starts, n_lost = find_starts(corpus, task, rows)
    labels = tuple(sorted({start.label for start in starts}))
    conditions = tuple(sorted({start.condition for start in starts}))
    if len(labels) < 2:
        raise UserError(
            f"{corpus}: column '{task.label}' gives {len(labels)} label(s) {list(labels)} "
            f"({n_lost} windows of {task.length} volumes did not fit); same-label pairs need two"
        )
    order = dict(zip(rows, run_order(corpus.runs.iloc[list(rows)]), strict=True))
    run_N = np.array([start.row for start in starts])
    table = corpus.runs.iloc[run_N]
    bold_NLV, run_mean_NV = copy_windows(corpus, task, rows, starts)
    return Windows(
        bold_NLV=bold_NLV,
        run_mean_NV=run_mean_NV,
        label_N=np.array([labels.index(start.label) for start in starts]),
        labels=labels,
        condition_N=np.array([conditions.index(start.condition) for start in starts]),
        conditions=conditions,
        run_N=run_N,
        order_N=np.array([order[row] for row in run_N]),
        person_N=table["person"].to_numpy(str),
        dataset_N=table["dataset"].to_numpy(str),
        start_N=np.array([start.volume for start in starts]),
        t_r_N=table["t_r"].to_numpy(np.float32),
        n_lost=n_lost,
    )


def copy_windows(
    corpus: Corpus, task: TaskConfig, rows: Sequence[int], starts: list[Start]
) -> tuple[np.ndarray, np.ndarray]:
    """Copy windows, float16 [N, L, V], and the means of their runs, float32 [N, V], both standardised."""
    scales = subject_scales(corpus, rows) if task.standardize == "subject" else {}
    windows, means = [], []
    for row, in_run in groupby(starts, lambda start: start.row):
        bold_TV = corpus.bold(row)
        if scales:
            bold_TV = scales[row].apply(bold_TV)
        kept = [bold_TV[a:b] for a, b in parse_segments(corpus.runs["segments"].iloc[row])]
        mean_V = np.concatenate(kept).mean(axis=0, dtype=np.float32)
        for start in in_run:
            windows.append(bold_TV[start.volume : start.volume + task.length])
            means.append(mean_V)
    return np.stack(windows), np.stack(means)


# ---------------------------------------------------------------- where windows start


def starts_after_events(corpus: Corpus, task: TaskConfig, rows: Sequence[int]) -> tuple[list[Start], int]:
    """Return the windows that follow the events that take part, and how many events have none."""
    events = {row: corpus.record(row)["events"] for row in rows}
    if not any(events.values()):
        raise UserError(f"{corpus}: none of {len(events)} runs has events; see events in its recipe")
    check_values(corpus, task, [event for run in events.values() for event in run], "the events have")
    starts, n_lost = [], 0
    for row in rows:
        t_r, stretches = corpus.runs["t_r"].iloc[row], parse_segments(corpus.runs["segments"].iloc[row])
        for event in events[row]:
            if (meaning := meaning_of(event, task)) is None:
                continue
            first = int(np.ceil((float(event["onset"]) + task.delay) / t_r - 1e-6))
            if any(a <= first and first + task.length <= b for a, b in stretches):
                starts.append(Start(row, first, *meaning))
            else:
                n_lost += 1
    return starts, n_lost


def starts_in_runs(corpus: Corpus, task: TaskConfig, rows: Sequence[int]) -> tuple[list[Start], int]:
    """Return windows spread over the runs that have a label, and how many did not fit."""
    table: pd.DataFrame = corpus.runs.iloc[list(rows)]
    facts = [
        {**corpus.record(row).get("participant", {}), **run}
        for row, run in zip(rows, table.to_dict("records"), strict=True)
    ]
    check_values(corpus, task, facts, "the runs have")
    starts, n_lost = [], 0
    for row, run in zip(rows, facts, strict=True):
        if (meaning := meaning_of(run, task)) is not None:
            chosen = spread(parse_segments(run["segments"]), task.length, task.windows_per_run)
            starts += [Start(row, first, *meaning) for first in chosen]
            n_lost += task.windows_per_run - len(chosen)
    return starts, n_lost


def spread(stretches: list[tuple[int, int]], length: int, n: int) -> list[int]:
    """Return the starts of up to n windows that share no volume, evenly spread over stretches of volumes."""
    possible = [start for a, b in stretches for start in range(a, b - length + 1)]
    for count in range(min(n, len(possible)), 0, -1):
        last = len(possible) - 1
        places = [last / 2] if count == 1 else np.linspace(0, last, count)
        chosen = np.array(possible)[np.round(places).astype(int)]
        if (np.diff(chosen) >= length).all():
            return chosen.tolist()
    return []


# ---------------------------------------------------------------- what they mean


def side_conditions(task: TaskConfig, side: Side) -> list[str] | None:
    """Return the values of the condition column that a side of every fold takes; None = all."""
    own = task.train_conditions if side == "train" else task.test_conditions
    return task.conditions if own is None else own


def is_wanted(value: str, wanted: list[str] | None) -> bool:
    """Say whether a value is among the wanted ones (None = every value)."""
    return wanted is None or value in [str(w) for w in wanted]


def windows_of_side(windows: Windows, task: TaskConfig, rows: np.ndarray, side: Side) -> np.ndarray:
    """Return the windows that a side of a fold may pair: of its runs, and of its conditions."""
    wanted = side_conditions(task, side)
    chosen = np.array([is_wanted(name, wanted) for name in windows.conditions])
    return np.flatnonzero(np.isin(windows.run_N, rows) & chosen[windows.condition_N])


def meaning_of(facts: dict[str, Any], task: TaskConfig) -> tuple[str, str] | None:
    """Return label and condition of an event (or run); None where it takes no part."""
    label, condition = value_of(facts, task.label), value_of(facts, task.condition)
    if not label or not is_wanted(label, task.labels) or (task.condition and not condition):
        return None
    sides: tuple[Side, ...] = ("train", "test")
    in_a_side = any(is_wanted(condition, side_conditions(task, side)) for side in sides)
    return (label, condition) if in_a_side else None


def value_of(facts: dict[str, Any], column: str | None) -> str:
    """Return the value of a column as text; "" where there is none (or no column is asked for)."""
    value = None if column is None else facts.get(column)
    return "" if value is None or str(value) in ("n/a", "nan") else str(value)


def check_values(corpus: Corpus, task: TaskConfig, entries: Iterable[dict[str, Any]], who_has: str) -> None:
    """Refuse columns and values that the events (or runs) do not have, naming those that there are."""
    entries = list(entries)
    columns = sorted({name for entry in entries for name in entry})
    settings = {
        "label": ("labels",),
        "condition": ("conditions", "train_conditions", "test_conditions"),
    }
    for setting, choices in settings.items():
        column = getattr(task, setting)
        if column is None:
            continue
        if column not in columns:
            there = f"there are {', '.join(columns)}{did_you_mean(column, columns)}"
            raise UserError(f"{corpus}: {who_has} no column '{column}' (task.{setting}); {there}")
        values = {value_of(entry, column) for entry in entries} - {""}
        for choice in choices:
            if absent := sorted({str(w) for w in getattr(task, choice) or []} - values):
                raise UserError(
                    f"{corpus}: task.{choice} {absent} never occur in column '{column}'; "
                    f"there are {', '.join(sorted(values)[:20])}{did_you_mean(absent[0], values)}"
                )
