"""Index the windows of runs: where sequences may lie, and which negatives each window can have.

A pair is `left`, then `gap` volumes, then `right`, all inside one stretch of uncensored volumes of one run.
Durations in seconds become volumes by the repetition time of each run.
R runs lie in S spans (stretches of uncensored volumes), P subjects, D data sets and H shards.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from fmriscale.common.errors import DamageError
from fmriscale.config import PairConfig, seconds_of
from fmriscale.corpus.manifest import stretches_of
from fmriscale.sampling.kernels import (
    ANYWHERE,
    OTHER_DATASET,
    POSITIVE,
    REVERSED,
    SAME_DATASET,
    SAME_RUN,
    SAME_SUBJECT,
    distant_shifts,
)

RUN = np.dtype(
    [
        ("stride", np.int32),  # volumes between neighbouring windows
        ("gap", np.int32),  # volumes between left and right
        ("near", np.int32),  # windows that a same_run negative keeps away, at least 1
        ("subject", np.int32),  # number of the subject, of one data set
        ("person", np.int32),  # number of the person, who may be in several data sets
        ("dataset", np.int32),
        ("start", np.int32),  # first volume of window 0; -1: several spans
        ("row", np.int32),  # of the corpus
        ("t_r", np.float32),  # repetition time, s
        ("reach", np.int32, 7),  # windows (reach[POSITIVE]); how many, from the first, can have each kind
    ]
)
"""What is known of a run: 64 bytes, so that none lies in two lines of the cache."""
PARTNER = np.dtype([("run", np.int32), ("windows", np.int32)])
"""A run that negatives are drawn from, and its number of windows."""


class WindowIndex(NamedTuple):
    """The windows of R runs, numbered in the order of data set, shard and place in the shard."""

    length: int  # Volumes of a sequence
    run_first: np.ndarray  # int64 [R + 1]: windows in all earlier runs
    run_span: np.ndarray  # int32 [R + 1]: first span of each run
    span_first: np.ndarray  # int64 [S]: windows in all earlier spans
    span_start: np.ndarray  # int32 [S]: first volume
    span_stop: np.ndarray  # int32 [S]: volume after the last one
    runs: np.ndarray  # RUN [R]
    subject_first: np.ndarray  # int32 [P + 1]: bounds of each subject in `partners`
    subject_starts: np.ndarray  # int64 [R + 1]: starts of a sequence in all runs before, as in `partners`
    dataset_first: np.ndarray  # int32 [D + 1]: first run of each, and bounds in `partners` from R on
    partners: np.ndarray  # PARTNER [3 R]: all runs by subject, by data set, in one list; longest first
    shard_run: np.ndarray  # int32 [H + 1]: first run of each shard
    dataset_shard: np.ndarray  # int32 [D + 1]: first shard of each data set


class Spans(NamedTuple):
    """The spans in which a sequence fits."""

    run: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    n_windows: np.ndarray


def volumes(value: int | str, t_r: np.ndarray, least: int = 0) -> np.ndarray:
    """Convert a duration to the nearest number of volumes, int64 like `t_r`."""
    seconds = seconds_of(value)
    if seconds is None:
        return np.full(np.shape(t_r), value, np.int64)
    return np.maximum(np.floor(seconds / np.asarray(t_r, np.float64) + 0.5).astype(np.int64), least)


def index_windows(
    runs: pd.DataFrame, rows: np.ndarray, datasets: list[str], pairs: PairConfig, length: int
) -> WindowIndex:
    """List the windows of some rows of runs.tsv; runs in which no pair fits are left out."""
    rows, spans = _fitting(runs, np.asarray(rows), pairs, length, datasets)
    chosen, n = runs.iloc[rows], len(rows)
    t_r = chosen.t_r.to_numpy()
    n_windows = np.bincount(spans.run, spans.n_windows, n).astype(np.int64)
    n_starts = np.bincount(spans.run, spans.stop - spans.start - length + 1, n).astype(np.int64)
    dataset = pd.Index(datasets).get_indexer(chosen.dataset)
    subject = pd.factorize(chosen.subject)[0]
    subject = pd.factorize(dataset * (subject.max(initial=0) + 1) + subject)[0]
    shard = chosen.shard.to_numpy()
    shard_run = np.flatnonzero(np.r_[True, shard[1:] != shard[:-1], True][: n + 1])
    dataset_first = np.searchsorted(dataset, np.arange(len(datasets) + 1))
    run_span = np.searchsorted(spans.run, np.arange(n + 1))

    by_subject = np.lexsort((-n_windows, subject))
    by_length = np.argsort(-n_windows, kind="stable")
    partners = np.empty(3 * n, PARTNER)
    partners["run"] = np.concatenate((by_subject, np.lexsort((-n_windows, dataset)), by_length))
    partners["windows"] = n_windows[partners["run"]]

    table = np.zeros(n, RUN)
    table["row"], table["t_r"] = rows, t_r
    table["dataset"], table["subject"], table["person"] = dataset, subject, pd.factorize(chosen.person)[0]
    table["stride"], table["gap"] = volumes(pairs.stride, t_r, 1), volumes(pairs.gap, t_r)
    # Windows of one stretch lie `stride` apart, neighbours across a censored volume a pair's length or more.
    step = np.minimum(table["stride"], 2 * length + table["gap"] + 1)
    table["near"] = np.maximum(-(-volumes(pairs.min_distance, t_r) // step), 1)
    table["start"] = np.where(np.diff(run_span) == 1, spans.start[run_span[:-1]], -1)
    table["reach"] = _reach(table, n_windows, n_starts, length)
    int32 = np.int32
    return WindowIndex(
        length=length,
        run_first=_before(n_windows),
        run_span=run_span.astype(int32),
        span_first=_before(spans.n_windows)[:-1],
        span_start=spans.start.astype(int32),
        span_stop=spans.stop.astype(int32),
        runs=table,
        subject_first=np.searchsorted(subject[by_subject], range(subject.max(initial=-1) + 2)).astype(int32),
        subject_starts=_before(n_starts[by_subject]),
        dataset_first=dataset_first.astype(int32),
        partners=partners,
        shard_run=shard_run.astype(int32),
        dataset_shard=np.searchsorted(shard_run, dataset_first).astype(int32),
    )


def _fitting(
    runs: pd.DataFrame, rows: np.ndarray, pairs: PairConfig, length: int, datasets: list[str]
) -> tuple[np.ndarray, Spans]:
    """Keep the runs in which a pair fits, in the order of data set and place on disk; and their spans."""
    numbers = pd.Index(datasets).get_indexer(runs.dataset.iloc[rows])
    shards = pd.factorize(runs.shard.iloc[rows], sort=True)[0]
    rows = rows[np.lexsort((runs.offset.to_numpy()[rows], shards, numbers))]
    t_r = runs.t_r.to_numpy()[rows]
    stride, gap, first = volumes(pairs.stride, t_r, 1), volumes(pairs.gap, t_r), volumes(pairs.first, t_r)
    run, start, stop = stretches_of(runs.segments.iloc[rows])
    # The compiled code trusts these numbers: beyond the run lies the memory of others.
    outside = (start < 0) | (start > stop) | (stop > runs.n_volumes.to_numpy()[rows][run])
    if outside.any():
        wrong = runs.iloc[rows[run[np.argmax(outside)]]]
        raise DamageError(
            f"runs.tsv: run {wrong.key} of {wrong.n_volumes} volumes has segments {wrong.segments}; "
            "rebuild the corpus"
        )
    start = np.maximum(start, first[run])
    long_enough = stop - start >= length
    run, start, stop = run[long_enough], start[long_enough], stop[long_enough]
    n_windows = np.maximum((stop - start - 2 * length - gap[run]) // stride[run] + 1, 0)
    fits = np.bincount(run, n_windows, len(rows)) > 0
    kept = fits[run]
    return rows[fits], Spans((np.cumsum(fits) - 1)[run[kept]], start[kept], stop[kept], n_windows[kept])


def _before(counts: np.ndarray) -> np.ndarray:
    """Return the sums of all earlier counts, and of all, int64 [N + 1]."""
    return np.r_[0, np.cumsum(counts)].astype(np.int64)


def _reach(runs: np.ndarray, n_windows: np.ndarray, n_starts: np.ndarray, length: int) -> np.ndarray:
    """Return how many windows of each run there are, and can have a negative of each kind, int64 [R, 7].

    A negative from another run takes the window with the same number; there must be a run that has it.
    """
    dataset, subject, person = runs["dataset"], runs["subject"], runs["person"]
    reach = np.zeros((len(runs), ANYWHERE + 1), np.int64)
    reach[:, [POSITIVE, REVERSED]] = n_windows[:, None]
    reach[:, SAME_RUN] = np.where(_has_distant_shifts(runs, n_windows, length), n_windows, 0)
    for kind, group, apart in (
        (SAME_SUBJECT, subject, np.arange(len(runs))),
        (SAME_DATASET, dataset, subject),
    ):
        best, second = _best_two(n_windows, group, apart)
        longest = np.where(apart[best[group]] != apart, best[group], second[group])
        reach[:, kind] = np.where(longest >= 0, np.minimum(n_windows[longest], n_windows), 0)
    # The longest run of another data set and another person is among the best two people of each data set.
    best, second = _best_two(n_windows, dataset, person)
    candidates = np.r_[best, second]
    candidates = candidates[candidates >= 0]
    for d in range(len(best)):
        others = candidates[dataset[candidates] != d]
        own = np.flatnonzero(dataset == d)
        if len(others):
            first = others[np.argmax(n_windows[others])]
            apart = others[person[others] != person[first]]
            rest = n_windows[apart].max(initial=0)
            longest = np.where(person[own] != person[first], n_windows[first], rest)
            reach[own, OTHER_DATASET] = np.minimum(longest, n_windows[own])
    blocked = 4 * length + int(np.max(runs["gap"], initial=0))
    reach[:, ANYWHERE] = np.where(np.bincount(subject, n_starts)[subject] > blocked, n_windows, 0)
    return reach


def _has_distant_shifts(runs: np.ndarray, n_windows: np.ndarray, length: int) -> np.ndarray:
    """Tell which runs have same_run negatives, bool [R]."""
    columns = (n_windows, runs["stride"], runs["gap"], runs["near"])
    settings = list(zip(*(column.tolist() for column in columns), strict=True))
    known = {each: distant_shifts(*each, length)[0] > 0 for each in set(settings)}  # pyright: ignore
    return np.fromiter((known[each] for each in settings), bool, len(settings))


def _best_two(n_windows: np.ndarray, group: np.ndarray, apart: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return of each group the run with most windows, and that of all runs that differ from it in `apart`.

    -1 where there is none.
    """
    order = np.lexsort((-n_windows, group))
    best, second = np.full((2, int(group.max(initial=-1)) + 1), -1)
    first = np.r_[True, np.diff(group[order]) != 0][: len(order)]
    best[group[order[first]]] = order[first]
    rest = order[apart[order] != apart[best[group[order]]]]
    first = np.r_[True, np.diff(group[rest]) != 0][: len(rest)]
    second[group[rest[first]]] = rest[first]
    return best, second
