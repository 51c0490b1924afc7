"""Where sequences may lie: from the runs of a corpus and the settings of pairs to the table of windows.

A pair is `left`, then `gap` volumes, then `right`, all inside one stretch of uncensored volumes of one run.
Durations in seconds become volumes by the repetition time of each run.
"""

import numpy as np
import pandas as pd

from fmriscale.common.errors import DamageError
from fmriscale.config import KINDS, PairConfig, seconds_of
from fmriscale.sampling.kernels import distant_shifts
from fmriscale.sampling.memory import together
from fmriscale.sampling.tables import (
    ANYWHERE,
    OTHER_DATASET,
    PARTNER,
    POSITIVE,
    REVERSED,
    RUN,
    SAME_DATASET,
    SAME_RUN,
    SAME_SUBJECT,
    Table,
)


def volumes(value: int | str, t_r: np.ndarray, least: int = 0) -> np.ndarray:
    """Convert a duration to the nearest number of volumes, int64 like `t_r`."""
    seconds = seconds_of(value)
    if seconds is None:
        return np.full(np.shape(t_r), value, np.int64)
    return np.maximum(np.floor(seconds / np.asarray(t_r, np.float64) + 0.5).astype(np.int64), least)


def spans_of(segments: pd.Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the uncensored stretches of many runs (`segments` of runs.tsv) at once."""
    texts = segments.tolist()
    counts = np.fromiter((text.count(":") for text in texts), np.int64, len(texts))
    joined = ",".join(filter(None, texts)).replace(":", ",")
    bounds = np.array(joined.split(",") if joined else [], dtype="S").astype(np.int64).reshape(-1, 2)
    return np.repeat(np.arange(len(texts)), counts), bounds[:, 0], bounds[:, 1]


def find_windows(
    runs: pd.DataFrame, rows: np.ndarray, datasets: list[str], pairs: PairConfig, length: int
) -> tuple[Table, np.ndarray]:
    """List the windows of some runs."""
    rows, spans = _fitting(runs, np.asarray(rows), pairs, length, datasets)
    span_run, span_start, span_stop, n_span = spans
    t_r = runs.t_r.to_numpy()[rows]
    stride, gap = volumes(pairs.stride, t_r, 1), volumes(pairs.gap, t_r)
    # Windows of one stretch lie `stride` apart, neighbours across a censored volume a pair's length or more.
    step = np.minimum(stride, 2 * length + gap + 1)
    near = np.maximum(-(-volumes(pairs.min_distance, t_r) // step), 1)

    n = len(rows)
    n_windows = np.bincount(span_run, n_span, n).astype(np.int64)
    n_starts = np.bincount(span_run, span_stop - span_start - length + 1, n).astype(np.int64)
    column = {name: runs[name].to_numpy()[rows] for name in ("dataset", "subject", "person", "shard")}
    number = {name: i for i, name in enumerate(datasets)}
    dataset = np.fromiter((number[name] for name in column["dataset"]), np.int64, n)
    subject = pd.factorize(column["subject"])[0]
    subject = pd.factorize(dataset * (subject.max(initial=0) + 1) + subject)[0]
    person = pd.factorize(column["person"])[0]
    shard_run = np.flatnonzero(np.r_[True, column["shard"][1:] != column["shard"][:-1], True][: n + 1])
    dataset_first = np.searchsorted(dataset, np.arange(len(datasets) + 1))

    by_subject = np.lexsort((-n_windows, subject))
    by_length = np.argsort(-n_windows, kind="stable")
    partners = np.empty(3 * n, PARTNER)
    partners["run"] = np.concatenate((by_subject, np.lexsort((-n_windows, dataset)), by_length))
    partners["windows"] = n_windows[partners["run"]]
    allowed = distant_shifts_of(n_windows, stride, gap, near, length)
    blocked = 4 * length + int(np.max(gap, initial=0))
    reach = _reach(n_windows, n_starts, allowed, dataset, subject, person, blocked)
    table, int32 = np.zeros(n, RUN), np.int32
    for name, values in (("stride", stride), ("gap", gap), ("near", near), ("reach", reach)):
        table[name] = values
    run_span = np.searchsorted(span_run, np.arange(n + 1))
    table["start"] = np.where(np.diff(run_span) == 1, span_start[run_span[:-1]], -1)
    table["row"], table["t_r"] = rows, t_r
    for name, values in (("subject", subject), ("person", person), ("dataset", dataset)):
        table[name] = values
    arrays = dict(
        run_first=_before(n_windows),
        run_span=run_span.astype(int32),
        span_first=_before(n_span)[:-1],
        span_start=span_start.astype(int32),
        span_stop=span_stop.astype(int32),
        runs=table,
        subject_first=np.searchsorted(subject[by_subject], np.arange(subject.max(initial=-1) + 2)).astype(
            int32
        ),
        subject_starts=_before(n_starts[by_subject]),
        dataset_first=dataset_first.astype(int32),
        partners=partners,
        shard_run=shard_run.astype(int32),
        dataset_shard=np.searchsorted(shard_run, dataset_first).astype(int32),
    )
    return Table(length=length, **together(arrays)), rows.astype(int32)


def _fitting(
    runs: pd.DataFrame, rows: np.ndarray, pairs: PairConfig, length: int, datasets: list[str]
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Keep the runs in which a pair fits, in the order of data set and place on disk; and their spans."""
    names = pd.Index(datasets).get_indexer(runs.dataset.iloc[rows])
    shards = pd.factorize(runs.shard.iloc[rows], sort=True)[0]
    rows = rows[np.lexsort((runs.offset.to_numpy()[rows], shards, names))]
    t_r = runs.t_r.to_numpy()[rows]
    stride, gap, first = volumes(pairs.stride, t_r, 1), volumes(pairs.gap, t_r), volumes(pairs.first, t_r)
    run, start, stop = spans_of(runs.segments.iloc[rows])
    # What is compiled trusts these numbers: beyond the run lies the memory of others.
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
    n_span = np.maximum((stop - start - 2 * length - gap[run]) // stride[run] + 1, 0)
    fits = np.bincount(run, n_span, len(rows)) > 0
    kept = fits[run]
    return rows[fits], ((np.cumsum(fits) - 1)[run[kept]], start[kept], stop[kept], n_span[kept])


def _before(counts: np.ndarray) -> np.ndarray:
    """Return the sums of all earlier counts, and of all, int64 [N + 1]."""
    return np.r_[0, np.cumsum(counts)].astype(np.int64)


def distant_shifts_of(
    n_windows: np.ndarray, stride: np.ndarray, gap: np.ndarray, near: np.ndarray, length: int
) -> np.ndarray:
    """Count the same_run negatives of each window of each run, int64 [R]."""
    found = {}
    settings = list(zip(n_windows.tolist(), stride.tolist(), gap.tolist(), near.tolist(), strict=True))
    for one in set(settings):
        found[one] = distant_shifts(*one, length)[0]
    return np.fromiter((found[one] for one in settings), np.int64, len(settings))


def _reach(
    n_windows: np.ndarray,
    n_starts: np.ndarray,
    allowed: np.ndarray,
    dataset: np.ndarray,
    subject: np.ndarray,
    person: np.ndarray,
    blocked: int,
) -> np.ndarray:
    """Return how many windows of each run there are, and can have a negative of each kind [R, 1 + kinds].

    A negative from another run takes the window with the same number; there must be a run that has it.
    """
    reach = np.zeros((len(n_windows), 1 + len(KINDS)), np.int64)
    reach[:, POSITIVE] = n_windows
    reach[:, SAME_RUN] = np.where(allowed > 0, n_windows, 0)
    reach[:, REVERSED] = n_windows
    for kind, group, apart in (
        (SAME_SUBJECT, subject, np.arange(len(n_windows))),
        (SAME_DATASET, dataset, subject),
    ):
        best, second = _best_two(n_windows, group, apart)
        chosen = np.where(apart[best[group]] != apart, best[group], second[group])
        reach[:, kind] = np.where(chosen >= 0, np.minimum(n_windows[chosen], n_windows), 0)
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
    starts = np.bincount(subject, n_starts)[subject]
    reach[:, ANYWHERE] = np.where(starts > blocked, n_windows, 0)
    return reach


def _best_two(n_windows: np.ndarray, group: np.ndarray, apart: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return of each group the run with most windows, and that of all runs that differ from it in `apart`.

    -1 where there is none.
    """
    order = np.lexsort((-n_windows, group))
    n_groups = int(group.max(initial=-1)) + 1
    best = np.full(n_groups, -1)
    first = np.r_[True, np.diff(group[order]) != 0][: len(order)]
    best[group[order[first]]] = order[first]
    rest = order[apart[order] != apart[best[group[order]]]]
    second = np.full(n_groups, -1)
    first = np.r_[True, np.diff(group[rest]) != 0][: len(rest)]
    second[group[rest[first]]] = rest[first]
    return best, second
