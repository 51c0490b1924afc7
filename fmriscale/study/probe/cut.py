"""Where the windows of a probe lie, and their target: in runs, at events, or at moments of a stimulus."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fmriscale.common.errors import UserError
from fmriscale.config import WindowConfig, seconds_of
from fmriscale.corpus.manifest import parse_segments
from fmriscale.corpus.reader import Corpus
from fmriscale.study.probe.columns import as_text, runs_of, value_during


class Piece(NamedTuple):
    """A window, and what it means."""

    run: int
    """Row of `corpus.runs`."""
    start: int
    """First volume."""
    target: str
    """"" = unknown."""


def volumes(duration: int | str, t_r: float) -> int:
    """Return a duration, volumes or seconds, in volumes."""
    seconds = seconds_of(duration)
    return max(1, round(seconds / t_r)) if seconds is not None else int(duration)


def starts_in(segments: str, t_r: float, windows: WindowConfig) -> list[int]:
    """Return the first volumes of the windows of a run, within its uncensored stretches."""
    length = volumes(windows.length, t_r)
    stride = volumes(windows.length if windows.stride is None else windows.stride, t_r)
    return [start for a, b in parse_segments(segments) for start in range(a, b - length + 1, stride)]


def fits(start: int, length: int, segments: str) -> bool:
    """Tell whether a window lies in one uncensored stretch."""
    return any(a <= start and start + length <= b for a, b in parse_segments(segments))


def over_runs(table: pd.DataFrame, windows: WindowConfig, target: dict[int, str]) -> list[Piece]:
    """Return windows over every run, each with the target of its run."""
    return [
        Piece(row, start, target[row])
        for row, run in runs_of(table)
        for start in starts_in(run["segments"], run["t_r"], windows)
    ]


def at_events(
    corpus: Corpus, table: pd.DataFrame, windows: WindowConfig, column: str, *, numbers: bool
) -> tuple[list[Piece], int]:
    """Return windows after events, or over runs with the value of the events then; and how many are lost."""
    pieces, n_lost = [], 0
    for row, run in runs_of(table):
        events = [event for event in corpus.record(row)["events"] if as_text(event.get(column))]
        values, length = [as_text(event[column]) for event in events], volumes(windows.length, run["t_r"])
        onset = np.array([float(event["onset"]) for event in events])
        if windows.stride is None:
            first = np.ceil((onset + windows.delay) / run["t_r"] - 1e-6).astype(int)
            kept = [fits(start, length, run["segments"]) for start in first]
            pieces += [Piece(row, int(s), v) for s, v, k in zip(first, values, kept, strict=True) if k]
            n_lost += len(kept) - sum(kept)
            continue
        end = onset + np.array([float(event["duration"]) for event in events])
        for start in starts_in(run["segments"], run["t_r"], windows):
            began = start * run["t_r"] - windows.delay
            during = began, began + length * run["t_r"]
            pieces.append(Piece(row, start, value_during(onset, end, values, *during, numbers)))
    return pieces, n_lost


def at_moments(table: pd.DataFrame, windows: WindowConfig) -> list[Piece]:
    """Return the windows of every shared stimulus, each with its place on the stimulus' clock as its target.

    Windows start at delay, delay + stride, ... of the stimulus' time, at the nearest volume. Moments that
    fewer than two people have are left out.
    """
    if "stimulus" not in table or not any(table["stimulus"]):
        raise UserError(
            "target: moment needs runs with a stimulus: set `stimulus` in the corpus recipe, and shard"
        )
    shown = table.loc[table["stimulus"] != ""]
    stride = windows.length if windows.stride is None else windows.stride
    if seconds_of(stride) is None and shown["t_r"].nunique() > 1:
        raise UserError(
            f"windows.stride (or length) is {stride} volumes, but runs differ in t_r: give seconds ('10 s')"
        )
    pieces = [piece for row, run in runs_of(shown) for piece in moments_of(row, run, windows, stride)]
    person = dict(zip(shown.index.tolist(), shown["person"].tolist(), strict=True))
    people: dict[str, set[str]] = defaultdict(set)
    for piece in pieces:
        people[piece.target].add(person[piece.run])
    return [piece for piece in pieces if len(people[piece.target]) > 1]


def moments_of(row: int, run: dict[str, Any], windows: WindowConfig, stride: int | str) -> Iterator[Piece]:
    """Yield the windows of a run that lie at moments of its stimulus."""
    t_r, length, onset = run["t_r"], volumes(windows.length, run["t_r"]), float(run["stimulus_onset"])
    seconds = seconds_of(stride) or int(stride) * t_r
    last = (run["n_volumes"] * t_r - onset - windows.delay) / seconds
    for number in range(int(last) + 1):
        time = windows.delay + number * seconds
        start = round((time + onset) / t_r)
        if fits(start, length, run["segments"]):
            yield Piece(row, start, f"{run['stimulus']} {time:g} s")
