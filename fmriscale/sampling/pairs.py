"""Which two sequences make a pair: left windows, the sequence that follows, and negatives by kind.

All functions work on arrays of B pairs at once and are pure: the same windows and the same random
numbers give the same pairs. Sequences never cross a run border, a censored volume or a split.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fmriscale.config import KINDS, PairConfig
from fmriscale.corpus.manifest import parse_segments

SAME_RUN, SAME_SUBJECT, SAME_DATASET, OTHER_DATASET, REVERSED = range(1, 6)
"""Codes of the kinds of negatives (their place in `config.KINDS` plus one); 0 is a positive."""


@dataclass(frozen=True)
class Windows:
    """Where sequences may lie in a set of runs.

    Runs are numbered 0..R-1, those of a data set and within it those of a subject side by side. A span
    is a stretch of uncensored volumes of one run.

    Attributes
    ----------
    row : int32 [R]
        Row of the run in the corpus.
    dataset, subject_first, subject_count, dataset_first, dataset_count : int64 [R]
        Number of the data set; first run and number of runs of the subject and of the data set.
    n_starts, n_windows : int64 [R]
        Possible starts of a sequence, and left windows, of each run.
    span_run, span_start, span_starts : int64 [S]
        Run and first volume of each span, and possible starts of a sequence in it.
    starts_before, windows_before : int64 [S]
        Starts and left windows in all earlier spans.
    run_starts_before : int64 [R]
        Starts in all earlier runs.
    """

    row: np.ndarray
    dataset: np.ndarray
    subject_first: np.ndarray
    subject_count: np.ndarray
    dataset_first: np.ndarray
    dataset_count: np.ndarray
    n_starts: np.ndarray
    n_windows: np.ndarray
    span_run: np.ndarray
    span_start: np.ndarray
    span_starts: np.ndarray
    starts_before: np.ndarray
    windows_before: np.ndarray
    run_starts_before: np.ndarray


def find_windows(runs: pd.DataFrame, rows: np.ndarray, datasets: list[str], pairs: PairConfig) -> Windows:
    """List the sequences of some runs.

    Parameters
    ----------
    runs : DataFrame
        The corpus's runs.
    rows : int array
        Rows that take part; runs in which no pair fits are left out.
    datasets : list of str
        Names in the order of their numbers.
    pairs : PairConfig
        Length, stride and gap of a pair.

    Returns
    -------
    Windows
        The table.
    """
    need = 2 * pairs.length + pairs.gap
    segments = [
        [(a, b) for a, b in parse_segments(text) if b - a >= pairs.length]
        for text in runs.segments.iloc[rows]
    ]
    fits = np.array([any(b - a >= need for a, b in found) for found in segments], bool)
    rows = np.asarray(rows)[fits]
    segments = [found for found, fit in zip(segments, fits, strict=True) if fit]
    table = runs.iloc[rows]

    span_run = np.repeat(np.arange(len(rows)), [len(found) for found in segments])
    bounds = np.array([ab for found in segments for ab in found], np.int64).reshape(-1, 2)
    length = bounds[:, 1] - bounds[:, 0]
    starts = length - pairs.length + 1
    windows = np.maximum((length - need) // pairs.stride + 1, 0)
    n_starts = np.bincount(span_run, starts, len(rows)).astype(np.int64)

    number = {name: i for i, name in enumerate(datasets)}
    dataset = table.dataset.map(number).to_numpy(np.int64)
    dataset_first, dataset_count = _groups(dataset)
    subject_first, subject_count = _groups(pd.factorize(table.dataset + "\t" + table.subject)[0])
    return Windows(
        row=rows.astype(np.int32),
        dataset=dataset,
        subject_first=subject_first,
        subject_count=subject_count,
        dataset_first=dataset_first,
        dataset_count=dataset_count,
        n_starts=n_starts,
        n_windows=np.bincount(span_run, windows, len(rows)).astype(np.int64),
        span_run=span_run,
        span_start=bounds[:, 0],
        span_starts=starts,
        starts_before=np.cumsum(starts) - starts,
        windows_before=np.cumsum(windows) - windows,
        run_starts_before=np.cumsum(n_starts) - n_starts,
    )


def _groups(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return first member and size of each element's group; members lie side by side."""
    _, first, inverse, count = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
    return first[inverse], count[inverse]


def left_window(w: Windows, index: np.ndarray, pairs: PairConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return run and start of left windows by their number in the whole set, int64 [B] each."""
    span = np.searchsorted(w.windows_before, index, side="right") - 1
    return w.span_run[span], w.span_start[span] + (index - w.windows_before[span]) * pairs.stride


def nth_start(w: Windows, run: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return the n-th possible start of a sequence in each run, int64 [B]."""
    index = w.run_starts_before[run] + n
    span = np.searchsorted(w.starts_before, index, side="right") - 1
    return w.span_start[span] + index - w.starts_before[span]


def starts_below(w: Windows, run: np.ndarray, volume: np.ndarray) -> np.ndarray:
    """Return how many possible starts of each run lie before a volume, int64 [B]."""
    far = np.int64(2**40)
    span = np.searchsorted(w.span_run * far + w.span_start, run * far + volume, side="right") - 1
    inside = (span >= 0) & (w.span_run[span] == run)
    in_span = np.minimum(volume - w.span_start[span], w.span_starts[span])
    return np.where(inside, w.starts_before[span] + in_span - w.run_starts_before[run], 0)


def can_supply(w: Windows, pairs: PairConfig) -> np.ndarray:
    """Tell which kinds each run can supply for every one of its windows, bool [R, 1 + kinds]."""
    blocked = 2 * max(pairs.min_distance, 1) - 1 + 2 * pairs.length - 1 + pairs.length + pairs.gap
    able = np.zeros((len(w.row), 1 + len(KINDS)), bool)
    able[:, SAME_RUN] = w.n_starts > blocked
    able[:, SAME_SUBJECT] = w.subject_count > 1
    able[:, SAME_DATASET] = w.dataset_count > w.subject_count
    able[:, OTHER_DATASET] = w.dataset_count < len(w.row)
    able[:, REVERSED] = True
    return able


def supplied_kind(able: np.ndarray, kind: np.ndarray, declared: list[int]) -> np.ndarray:
    """Replace kinds that a run cannot supply by the first declared one that it can.

    Parameters
    ----------
    able : bool [B, 1 + kinds]
        Rows of `can_supply` of the left windows.
    kind : int [B]
        Kinds as drawn.
    declared : list of int
        Kinds with a quota, largest first.

    Returns
    -------
    int [B]
        Kinds as they will be supplied; -1 where no declared kind is possible.
    """
    fallback = np.full(len(kind), -1)
    for candidate in reversed(declared):
        fallback[able[:, candidate]] = candidate
    return np.where(able[np.arange(len(kind)), kind], kind, fallback)


def right_window(
    w: Windows, run: np.ndarray, start: np.ndarray, kind: np.ndarray, u: np.ndarray, pairs: PairConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the right sequence of each pair.

    Parameters
    ----------
    w : Windows
        The runs.
    run, start : int [B]
        Left windows.
    kind : int [B]
        0 for a positive, else the kind of negative.
    u : float [B]
        Random numbers in [0, 1).
    pairs : PairConfig
        Length, gap and minimum distance.

    Returns
    -------
    run, start : int64 [B]
        Right windows. A `reversed` pair has the positive's window; its volumes are read backwards.
    """
    follows = start + pairs.length + pairs.gap
    right_run, right_start = run.copy(), follows.copy()

    near = kind == SAME_RUN
    if near.any():
        right_start[near] = _distant_start(w, run[near], start[near], follows[near], u[near], pairs)

    first, count = w.subject_first[run], w.subject_count[run]
    among = w.dataset_first[run]
    for code, begin, size, skip, n_skip in (
        (SAME_SUBJECT, first, count, run, np.ones_like(run)),
        (SAME_DATASET, among, w.dataset_count[run], first, count),
        (OTHER_DATASET, np.zeros_like(run), np.full_like(run, len(w.row)), among, w.dataset_count[run]),
    ):
        m = kind == code
        if m.any():
            right_run[m] = _skipping(begin[m], size[m], skip[m], n_skip[m], u[m])

    # The same place in the other run as the positive has in its own, so that no kind is known by place.
    other = (kind == SAME_SUBJECT) | (kind == SAME_DATASET) | (kind == OTHER_DATASET)
    if other.any():
        place = starts_below(w, right_run[other], follows[other])
        last = w.n_starts[right_run[other]] - 1
        right_start[other] = nth_start(w, right_run[other], np.minimum(place, last))
    return right_run, right_start


def _skipping(
    begin: np.ndarray, size: np.ndarray, skip: np.ndarray, n_skip: np.ndarray, u: np.ndarray
) -> np.ndarray:
    """Draw from begin..begin+size-1 without skip..skip+n_skip-1."""
    drawn = begin + (u * (size - n_skip)).astype(np.int64)
    return np.where(drawn >= skip, drawn + n_skip, drawn)


def _distant_start(
    w: Windows, run: np.ndarray, start: np.ndarray, follows: np.ndarray, u: np.ndarray, pairs: PairConfig
) -> np.ndarray:
    """Draw a start in the same run that neither overlaps left nor is near where the positive starts.

    The first length + gap starts are left out, since no positive starts there: else an early right
    sequence would be known for a negative by its place.
    """
    distance = max(pairs.min_distance, 1)
    a0, a1 = start - pairs.length + 1, start + pairs.length
    b0, b1 = follows - distance + 1, follows + distance
    joined = b0 <= a1  # b0 may even lie before a0
    a0, a1 = np.where(joined, np.minimum(a0, b0), a0), np.where(joined, np.maximum(a1, b1), a1)
    b0 = np.where(joined, a1, b0)
    b1 = np.where(joined, a1, b1)
    early = pairs.length + pairs.gap
    ranks = [np.maximum(starts_below(w, run, x), early) for x in (a0, a1, b0, b1)]
    blocked_a, blocked_b = ranks[1] - ranks[0], ranks[3] - ranks[2]
    drawn = early + (u * (w.n_starts[run] - early - blocked_a - blocked_b)).astype(np.int64)
    drawn = np.where(drawn >= ranks[0], drawn + blocked_a, drawn)
    drawn = np.where(drawn >= ranks[2], drawn + blocked_b, drawn)
    return nth_start(w, run, drawn)
