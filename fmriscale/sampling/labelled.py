"""Labelled windows and same-label pairs: were two windows recorded under the same label?

N windows, L volumes, V features, P pairs. In a design whose runs hold one label each, "same label" and "same
run" are one thing; `cross_run` pairs therefore take both partners of positives AND negatives from different
runs, and match them in how far apart the runs were.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fmriscale.config import TaskConfig
from fmriscale.corpus.manifest import parse_segments
from fmriscale.corpus.reader import Corpus
from fmriscale.errors import UserError


@dataclass(frozen=True)
class Windows:
    """Windows cut out of the runs of a corpus, in the order of runs and onsets."""

    bold_NLV: np.ndarray
    """float16 [N, L, V], standardised as the corpus has it."""
    label_N: np.ndarray
    """Index into `labels`."""
    labels: tuple[str, ...]
    condition_N: np.ndarray
    """Index into `conditions`."""
    conditions: tuple[str, ...]
    run_N: np.ndarray
    """Row in `corpus.runs`."""
    order_N: np.ndarray
    """Place of the run in its person's sequence of runs, from 0."""
    person_N: np.ndarray
    """Person, text."""
    start_N: np.ndarray
    """First volume in the run."""
    t_r_N: np.ndarray
    """Repetition time, s."""
    n_lost: int
    """Events whose window left the run or met a censored volume."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of windows: indices into `Windows`, and 1 where both have the same label."""

    left_P: np.ndarray
    right_P: np.ndarray
    same_P: np.ndarray


def run_order(runs: pd.DataFrame) -> np.ndarray:
    """Return each run's place in its person's sequence: by session, run number, task and key.

    Parameters
    ----------
    runs : DataFrame
        Rows of `corpus.runs`.

    Returns
    -------
    numpy.ndarray
        int64, one a row, from 0 for every person.
    """
    number = [int(run) if run.isdecimal() else np.inf for run in runs["run"]]
    keys = zip(runs["person"], runs["session"], number, runs["run"], runs["task"], runs["key"], strict=True)
    by_time = sorted(range(len(runs)), key=list(keys).__getitem__)
    order = np.zeros(len(runs), np.int64)
    seen: Counter[str] = Counter()
    for place in by_time:
        person = runs["person"].iloc[place]
        order[place] = seen[person]
        seen[person] += 1
    return order


def cut_windows(corpus: Corpus, task: TaskConfig, rows: Sequence[int]) -> Windows:
    """Cut one window for every event that takes part.

    A window starts with the first volume at or after onset + delay and lies inside one uncensored stretch.

    Parameters
    ----------
    corpus : Corpus
        Where the runs are.
    task : TaskConfig
        Label and condition columns, their values, length and delay.
    rows : sequence of int
        Rows of `corpus.runs` that take part; all of one feature space.

    Returns
    -------
    Windows

    Raises
    ------
    UserError
        No events, no such column, no such value, fewer than two labels, or no window that fits.
    """
    order = dict(zip(rows, run_order(corpus.runs.iloc[list(rows)]), strict=True))
    events = {row: corpus.record(row)["events"] for row in rows}
    check_columns(corpus, task, events)
    found = []
    n_lost = 0
    for row in rows:
        run = corpus.runs.iloc[row]
        stretches = parse_segments(run["segments"])
        for event in events[row]:
            label, condition = value_of(event, task.label), value_of(event, task.condition)
            if not label or (task.condition and not condition):
                continue
            if not takes_part(label, task.labels) or not takes_part(condition, task.conditions):
                continue
            start = int(np.ceil((float(event["onset"]) + task.delay) / run["t_r"] - 1e-6))
            if any(a <= start and start + task.length <= b for a, b in stretches):
                found.append((row, start, label, condition))
            else:
                n_lost += 1
    labels = tuple(sorted({f[2] for f in found}))
    conditions = tuple(sorted({f[3] for f in found}))
    if len(labels) < 2:
        raise UserError(
            f"{corpus}: column '{task.label}' gives {len(labels)} label(s) {list(labels)} "
            f"({n_lost} windows of {task.length} volumes did not fit); same-label pairs need two"
        )
    runs = np.array([f[0] for f in found])
    bold = {row: corpus.bold(row) for row in set(runs.tolist())}
    return Windows(
        bold_NLV=np.stack([bold[row][start : start + task.length] for row, start, _, _ in found]),
        label_N=np.array([labels.index(f[2]) for f in found]),
        labels=labels,
        condition_N=np.array([conditions.index(f[3]) for f in found]),
        conditions=conditions,
        run_N=runs,
        order_N=np.array([order[f[0]] for f in found]),
        person_N=corpus.runs["person"].to_numpy(str)[runs],
        start_N=np.array([f[1] for f in found]),
        t_r_N=corpus.runs["t_r"].to_numpy(np.float32)[runs],
        n_lost=n_lost,
    )


def value_of(event: dict, column: str | None) -> str:
    """Return an event's value as text; "" where it has none (or no column is asked for)."""
    value = "" if column is None else event.get(column)
    return "" if value is None or str(value) in ("n/a", "nan") else str(value)


def takes_part(value: str, wanted: list[str] | None) -> bool:
    """Say whether a value is among the wanted ones (None = every value)."""
    return wanted is None or value in [str(w) for w in wanted]


def check_columns(corpus: Corpus, task: TaskConfig, events: dict[int, list[dict]]) -> None:
    """Refuse columns and values that the events do not have, naming those that there are."""
    columns = sorted({name for run in events.values() for event in run for name in event})
    if not columns:
        raise UserError(f"{corpus}: none of {len(events)} runs has events; see events in its recipe")
    for field, column, wanted in (
        ("label", task.label, task.labels),
        ("condition", task.condition, task.conditions),
    ):
        if column is None:
            continue
        if column not in columns:
            raise UserError(
                f"{corpus}: the events have no column '{column}' (task.{field}); "
                f"there are {', '.join(columns)}"
            )
        values = {value_of(event, column) for run in events.values() for event in run} - {""}
        absent = sorted({str(w) for w in wanted or []} - values)
        if absent:
            raise UserError(
                f"{corpus}: task.{field}s {absent} never occur in column '{column}'; "
                f"there are {', '.join(sorted(values)[:20])}"
            )


def draw_pairs(windows: Windows, members: np.ndarray, task: TaskConfig, seed: Sequence[int]) -> Pairs:
    """Draw balanced same-label and different-label pairs among some of the windows.

    Both partners are of one person and one condition. Of every left window as many positives as negatives are
    drawn, without repetition; each positive has its negative, whose run is as far away as the positive's, or
    the nearest to that which the design has.

    Parameters
    ----------
    windows : Windows
        All windows.
    members : numpy.ndarray
        Indices of those that may take part (one side of a fold); no partner comes from elsewhere.
    task : TaskConfig
        `pairs` and `pairs_per_window`.
    seed : sequence of int
        The pairs are a function of it.

    Returns
    -------
    Pairs

    Raises
    ------
    UserError
        The design has no such pairs.
    """
    rng = np.random.default_rng(list(seed))
    chosen = []
    groups = pd.DataFrame({"person": windows.person_N[members], "condition": windows.condition_N[members]})
    for places in groups.groupby(["person", "condition"], sort=True).indices.values():
        group = members[places]
        label, order, start = windows.label_N[group], windows.order_N[group], windows.start_N[group]
        for i, left in enumerate(group):
            distance = np.abs(order - order[i])
            # Windows of one run may not share volumes; nor may a window meet itself.
            may = distance > 0
            if task.protocol == "any":
                may |= np.abs(start - start[i]) >= task.length
            positives = np.flatnonzero(may & (label == label[i]))
            negatives = np.flatnonzero(may & (label != label[i]))
            count = min(task.pairs_per_window // 2, len(positives), len(negatives))
            for p in rng.choice(positives, count, replace=False):
                cost = np.abs(distance[negatives] - distance[p]) + rng.random(len(negatives)) / 2
                nearest = int(np.argmin(cost))
                chosen.append((left, group[p], 1))
                chosen.append((left, group[negatives[nearest]], 0))
                negatives = np.delete(negatives, nearest)
    if not chosen:
        raise UserError(no_pairs(windows, members, task))
    left_P, right_P, same_P = np.array(chosen).T
    return Pairs(left_P, right_P, same_P)


def no_pairs(windows: Windows, members: np.ndarray, task: TaskConfig) -> str:
    """Explain why a set of windows has no pairs."""
    n_runs = len(np.unique(windows.run_N[members]))
    text = (
        f"no {task.protocol} pairs among {len(members)} windows of {n_runs} runs: "
        "within a condition a person "
    )
    if task.protocol == "any":
        return text + "needs two labels and one of them twice"
    return text + (
        "needs one label in two runs and another label in a run besides the first; "
        "use fewer folds, folds_by: subject, or (when run and label may be confused) task.protocol: any"
    )
