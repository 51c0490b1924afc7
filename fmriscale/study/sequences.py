"""Cut labelled windows out of the runs of a corpus: after events, or spread over runs that have a label.

N windows, L volumes, V features.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fmriscale.common.errors import UserError
from fmriscale.config import TaskConfig
from fmriscale.corpus.manifest import parse_segments
from fmriscale.corpus.reader import Corpus
from fmriscale.study.concatenated import standards_of
from fmriscale.study.pairs import Windows, run_order, side_conditions, takes_part


class Place(NamedTuple):
    """A window before it is cut."""

    row: int
    """Row of `corpus.runs`."""
    start: int
    """First volume."""
    label: str
    condition: str


def cut_windows(corpus: Corpus, task: TaskConfig, rows: Sequence[int]) -> Windows:
    """Cut a window after every event that takes part, or several out of every run that has a label.

    A window after an event starts with the first volume at or after onset + delay. Every window lies inside
    one uncensored stretch.
    """
    found, n_lost = (after_events if task.label_of == "event" else over_runs)(corpus, task, rows)
    labels = tuple(sorted({place.label for place in found}))
    conditions = tuple(sorted({place.condition for place in found}))
    if len(labels) < 2:
        raise UserError(
            f"{corpus}: column '{task.label}' gives {len(labels)} label(s) {list(labels)} "
            f"({n_lost} windows of {task.length} volumes did not fit); same-label pairs need two"
        )
    order = dict(zip(rows, run_order(corpus.runs.iloc[list(rows)]), strict=True))
    runs = np.array([place.row for place in found])
    table = corpus.runs.iloc[runs]
    bold_NLV, run_mean_NV = copy_windows(corpus, task, rows, found)
    return Windows(
        bold_NLV=bold_NLV,
        run_mean_NV=run_mean_NV,
        label_N=np.array([labels.index(place.label) for place in found]),
        labels=labels,
        condition_N=np.array([conditions.index(place.condition) for place in found]),
        conditions=conditions,
        run_N=runs,
        order_N=np.array([order[place.row] for place in found]),
        person_N=table["person"].to_numpy(str),
        dataset_N=table["dataset"].to_numpy(str),
        start_N=np.array([place.start for place in found]),
        t_r_N=table["t_r"].to_numpy(np.float32),
        n_lost=n_lost,
    )


def copy_windows(
    corpus: Corpus, task: TaskConfig, rows: Sequence[int], found: list[Place]
) -> tuple[np.ndarray, np.ndarray]:
    """Copy windows out of their runs, float16 [N, L, V], and the means of those runs, float32 [N, V].

    Both are standardised as the task has it.
    """
    standards = standards_of(corpus, rows) if task.standardize == "subject" else {}
    windows, means = [], []
    for row, places in groupby(found, attrgetter("row")):
        bold = corpus.bold(row)
        if standards:
            bold = standards[row].apply(bold, 0)
        kept = [bold[a:b] for a, b in parse_segments(corpus.runs["segments"].iloc[row])]
        mean_V = np.concatenate(kept).mean(axis=0, dtype=np.float32)
        for place in places:
            windows.append(bold[place.start : place.start + task.length])
            means.append(mean_V)
    return np.stack(windows), np.stack(means)


# ---------------------------------------------------------------- where windows start


def after_events(corpus: Corpus, task: TaskConfig, rows: Sequence[int]) -> tuple[list[Place], int]:
    """Return the windows that follow the events that take part, and how many events have none."""
    events = {row: corpus.record(row)["events"] for row in rows}
    if not any(events.values()):
        raise UserError(f"{corpus}: none of {len(events)} runs has events; see events in its recipe")
    check_values(corpus, task, [event for run in events.values() for event in run], "the events have")
    found, n_lost = [], 0
    for row in rows:
        t_r, stretches = corpus.runs["t_r"].iloc[row], parse_segments(corpus.runs["segments"].iloc[row])
        for event in events[row]:
            if (meaning := meaning_of(event, task)) is None:
                continue
            start = int(np.ceil((float(event["onset"]) + task.delay) / t_r - 1e-6))
            if any(a <= start and start + task.length <= b for a, b in stretches):
                found.append(Place(row, start, *meaning))
            else:
                n_lost += 1
    return found, n_lost


def over_runs(corpus: Corpus, task: TaskConfig, rows: Sequence[int]) -> tuple[list[Place], int]:
    """Return windows spread over the runs that have a label, and how many did not fit."""
    table: pd.DataFrame = corpus.runs.iloc[list(rows)]
    about = [
        {**corpus.record(row).get("participant", {}), **run}
        for row, run in zip(rows, table.to_dict("records"), strict=True)
    ]
    check_values(corpus, task, about, "the runs have")
    found, n_lost = [], 0
    for row, run in zip(rows, about, strict=True):
        if (meaning := meaning_of(run, task)) is None:
            continue
        starts = spread(parse_segments(run["segments"]), task.length, task.windows_per_run)
        found += [Place(row, start, *meaning) for start in starts]
        n_lost += task.windows_per_run - len(starts)
    return found, n_lost


def spread(stretches: list[tuple[int, int]], length: int, n: int) -> list[int]:
    """Return the starts of up to n windows that share no volume, evenly spread over stretches of volumes."""
    starts = np.concatenate(
        [np.arange(a, max(a, b - length + 1)) for a, b in stretches] or [np.array([], int)]
    )
    for count in range(min(n, len(starts)), 0, -1):
        middle_if_alone = [(len(starts) - 1) / 2] if count == 1 else np.linspace(0, len(starts) - 1, count)
        chosen = starts[np.round(middle_if_alone).astype(int)]
        if (np.diff(chosen) >= length).all():
            return chosen.tolist()
    return []


# ---------------------------------------------------------------- what they mean


def meaning_of(about: dict[str, Any], task: TaskConfig) -> tuple[str, str] | None:
    """Return label and condition of an event (or run); None where it takes no part."""
    label, condition = value_of(about, task.label), value_of(about, task.condition)
    if not label or not takes_part(label, task.labels) or (task.condition and not condition):
        return None
    wanted = side_conditions(task, "train"), side_conditions(task, "test")
    return (label, condition) if any(takes_part(condition, side) for side in wanted) else None


def value_of(about: dict[str, Any], column: str | None) -> str:
    """Return the value of a column as text; "" where there is none (or no column is asked for)."""
    value = "" if column is None else about.get(column)
    return "" if value is None or str(value) in ("n/a", "nan") else str(value)


def check_values(corpus: Corpus, task: TaskConfig, entries: Iterable[dict[str, Any]], who_has: str) -> None:
    """Refuse columns and values that the events (or runs) do not have, naming those that there are."""
    entries = list(entries)
    columns = sorted({name for entry in entries for name in entry})
    for column, fields in (
        (task.label, ("label", "labels")),
        (task.condition, ("condition", "conditions", "train_conditions", "test_conditions")),
    ):
        if column is None:
            continue
        if column not in columns:
            raise UserError(
                f"{corpus}: {who_has} no column '{column}' (task.{fields[0]}); there are {', '.join(columns)}"
            )
        values = {value_of(entry, column) for entry in entries} - {""}
        for field in fields[1:]:
            if absent := sorted({str(w) for w in getattr(task, field) or []} - values):
                raise UserError(
                    f"{corpus}: task.{field} {absent} never occur in column '{column}'; "
                    f"there are {', '.join(sorted(values)[:20])}"
                )
