"""Pairs across people: the right sequence is from another person who shares the stimulus of the left one.

These pairs are drawn over those of `kernels`: where the kind in turn is other_person and somebody shares the
moment, the pair that is there already gives way; else it stays. So recipes without stimuli pay nothing. The
compiled functions call none of other files but `common.randomness`, whose changes numba's cache would miss.
Shapes: R runs, S stimuli, N people of all stimuli, D data sets.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from fmriscale.common.compiled import njit
from fmriscale.common.randomness import fold, uniform
from fmriscale.config import KIND_NAMES, KINDS, DataConfig
from fmriscale.sampling.kernels import KIND_BLOCK, POSITIVE, REVERSED, distant_shifts
from fmriscale.sampling.stimuli import turn_of
from fmriscale.sampling.window_index import WindowIndex, volumes

OTHER_PERSON, POSITIVE_OTHER_PERSON = (KIND_NAMES.index(f"{a}other_person") for a in ("", "positive_"))
_STREAM = 0x6163726F7373  # Keeps these random numbers apart from those of `kernels`
_TRIES = 64
_APART = 1 << 20  # Between the random numbers of a shift and of the people who are tried for it

CLOCK = np.dtype(
    [
        ("onset", np.float64),  # time zero of the stimulus, s from the first volume
        ("t_r", np.float64),  # s
        ("stimulus", np.int32),  # number of the stimulus; -1 = nothing that others share
        ("able", np.int32),  # windows that can have pairs with other people
        ("within", np.int32),  # 1: the run can have another declared kind
        ("low", np.int32),  # first volume of the first sequence
        ("starts", np.int32),  # volumes from there on at which a sequence fits, censored or not
        ("shift", np.int32),  # by how many of them the clock is turned
        ("shifts", np.int32),  # number of shifts that take a window to one that is far from it, ...
        ("resume", np.int32),  # ... the one from which on some are left out, and how many: `distant_shifts`
        ("left_out", np.int32),
    ]
)
"""Where a run lies in the time of its stimulus."""


class Sharers(NamedTuple):
    """Who shares a stimulus."""

    clocks: np.ndarray  # CLOCK [R]
    stimulus: np.ndarray  # int32 [S + 1]: bounds of each in `person`
    person: np.ndarray  # int32 [N + 1]: bounds of each in `runs`
    runs: np.ndarray  # int32: all runs with a stimulus, by stimulus and person


def sharers_of(index: WindowIndex, runs: pd.DataFrame, data: DataConfig, seed: int) -> Sharers:
    """Return where the runs of an index lie in stimulus time; `runs` is runs.tsv."""
    chosen, person = runs.iloc[index.runs["row"]], index.runs["person"]
    number = np.full(len(chosen), -1)
    if "stimulus" in chosen:
        is_shared = (chosen.stimulus != "") & (chosen.groupby("stimulus").person.transform("nunique") > 1)
        number = pd.factorize(chosen.stimulus.where(is_shared, None), sort=True)[0]
    order = np.lexsort((person, number))
    order = order[number[order] >= 0]
    is_new = (np.diff(number[order]) != 0) | (np.diff(person[order]) != 0)
    of_person = np.flatnonzero(np.r_[True, is_new, True][: len(order) + 1])
    of_stimulus = np.searchsorted(number[order[of_person[:-1]]], np.arange(number.max(initial=-1) + 2))

    clocks, t_r = np.zeros(len(chosen), CLOCK), chosen.t_r.to_numpy()
    clocks["t_r"], clocks["stimulus"], clocks["low"] = t_r, number, volumes(data.pairs.first, t_r)
    clocks["starts"] = chosen.n_volumes.to_numpy() - index.length + 1 - clocks["low"]
    for run in np.flatnonzero(number >= 0).tolist():
        own = index.runs[run]
        settings = [int(value) for value in (own["reach"][POSITIVE], own["stride"], own["gap"], own["near"])]
        far = distant_shifts(*settings, index.length)  # pyright: ignore[reportCallIssue]
        clocks["shifts"][run], clocks["resume"][run], clocks["left_out"][run] = far
        if data.stimulus_clock == "shifted":
            clocks["shift"][run] = turn_of(str(chosen.key.iloc[run]), int(clocks["starts"][run]), seed)
    within = [code for code, kind in enumerate(KINDS, 1) if data.pairs.negatives.get(kind, 0) > 0]
    within = [code for code in within if code != OTHER_PERSON]
    clocks["within"] = (index.runs["reach"][:, within] > 0).any(axis=1)
    sharers = Sharers(clocks, *(bounds.astype(np.int32) for bounds in (of_stimulus, of_person, order)))
    if "stimulus_onset" in chosen:
        clocks["onset"] = chosen.stimulus_onset
    for run in np.flatnonzero(clocks["shifts"] > 0).tolist():
        clocks["able"][run] = _count_able(index, sharers, run)
    return sharers


def without_other_person(kinds: np.ndarray) -> np.ndarray:
    """Return the kinds of negatives in turn, int8 [D, KIND_BLOCK], where nobody shares the moment."""
    kinds = kinds.copy()
    for of_dataset in kinds:
        others = of_dataset[of_dataset != OTHER_PERSON]
        is_across = of_dataset == OTHER_PERSON
        of_dataset[is_across] = np.resize(others, is_across.sum()) if len(others) else REVERSED
    return kinds


# ---------------------------------------------------------------- compiled


@njit(cache=True, error_model="numpy", forceinline=True)
def _start_of(index, run, k):
    """Return the first volume of the left sequence of window k of a run."""
    window, span = index.run_first[run] + k, index.run_span[run]
    while span + 1 < index.run_span[run + 1] and index.span_first[span + 1] <= window:
        span += 1
    return index.span_start[span] + (window - index.span_first[span]) * index.runs[run].stride


@njit(cache=True, error_model="numpy", forceinline=True)
def _window_at(index, run, start):
    """Return the number of the window of a run whose left sequence starts at a volume."""
    span = index.run_span[run]
    while span + 1 < index.run_span[run + 1] and index.span_start[span + 1] <= start:
        span += 1
    place = (start - index.span_start[span]) // index.runs[run].stride
    return index.span_first[span] + place - index.run_first[run]


@njit(cache=True, error_model="numpy", forceinline=True)
def _time_after(index, sharers, run, k):
    """Return the stimulus time, s, at which the right sequence that follows window k of a run begins."""
    own = sharers.clocks[run]
    start = _start_of(index, run, k) + index.length + index.runs[run].gap
    return (own.low + (start - own.low + own.shift) % own.starts) * own.t_r - own.onset


@njit(cache=True, error_model="numpy", forceinline=True)
def _start_at(index, sharers, run, time):
    """Return the first volume of the sequence of a run that is nearest to a stimulus time; -1 = none."""
    own = sharers.clocks[run]
    turned = np.int64(np.floor((time + own.onset) / own.t_r + 0.5 + 1e-6))  # halves up, whatever the decimals
    if turned < own.low or turned >= own.low + own.starts:
        return np.int64(-1)
    start = own.low + (turned - own.low - own.shift) % own.starts
    for span in range(index.run_span[run], index.run_span[run + 1]):
        if index.span_start[span] <= start and start + index.length <= index.span_stop[span]:
            return np.int64(start)
    return np.int64(-1)


@njit(cache=True, error_model="numpy")
def _other_person(index, sharers, run, k, key, turn):
    """Draw another person, one of their runs and its volume at what follows window k; -1, -1 = nobody."""
    time, stimulus = _time_after(index, sharers, run, k), sharers.clocks[run].stimulus
    first, last = sharers.stimulus[stimulus], sharers.stimulus[stimulus + 1]
    n_runs = sharers.person[last] - sharers.person[first]
    for again in range(_TRIES + n_runs):
        place = sharers.person[first] + again - _TRIES  # in turn, where hardly anybody is
        if again < _TRIES:
            one = first + int(uniform(key, turn + 2 * again) * (last - first))
            n = sharers.person[one + 1] - sharers.person[one]
            place = sharers.person[one] + int(uniform(key, turn + 2 * again + 1) * n)
        other = sharers.runs[place]
        if index.runs[other].person != index.runs[run].person:
            start = _start_at(index, sharers, other, time)
            if start >= 0:
                return np.int64(other), start
    return np.int64(-1), np.int64(-1)


@njit(cache=True, error_model="numpy")
def _far(index, sharers, run, k, u):
    """Return a window of the run that is far from window k; u is uniform in [0, 1)."""
    own = sharers.clocks[run]
    shift = index.runs[run].near + int(u * own.shifts)
    return (k + shift + (own.left_out if shift >= own.resume else 0)) % index.runs[run].reach[POSITIVE]


@njit(cache=True, error_model="numpy")
def _right(index, sharers, run, k, is_negative, key):
    """Return window k, and the run and first volume of its right sequence from another person; -1, -1 = none.

    Somebody must share what follows window k, for positives and negatives alike. A negative then follows
    another window of the run, far from k as a same_run negative is: so moments and people are as frequent on
    the right of negatives as of positives. Where the run can have no other kind, k moves on until it suits.
    """
    own, n_windows = sharers.clocks[run], index.runs[run].reach[POSITIVE]
    n_tried = 0 if own.able == 0 else 1 if own.within else n_windows
    for step in range(n_tried):
        window = np.int64((k + step) % n_windows)
        other, start = _other_person(index, sharers, run, window, key, _APART)
        if other >= 0 and not is_negative:
            return window, other, start
        for again in range(_TRIES + own.shifts if other >= 0 else 0):
            u = uniform(key, again) if again < _TRIES else (again - _TRIES + 0.5) / own.shifts
            far = _far(index, sharers, run, window, u)
            other, start = _other_person(index, sharers, run, far, key, (again + 2) * _APART)
            if other >= 0:
                return window, other, start
    return np.int64(k), np.int64(-1), np.int64(-1)


@njit(cache=True, error_model="numpy")
def _count_able(index, sharers, run):
    """Count the windows of a run that can have positives and negatives from another person."""
    n_windows, n = np.int64(index.runs[run].reach[POSITIVE]), sharers.clocks[run].shifts
    shared = np.zeros(n_windows, np.bool_)
    for k in range(n_windows):
        shared[k] = _other_person(index, sharers, run, k, np.uint64(0), 0)[0] >= 0
    able = 0
    for k in range(n_windows):
        for i in range(n if shared[k] else 0):
            if shared[_far(index, sharers, run, k, (i + 0.5) / n)]:
                able += 1
                break
    return able


@njit(cache=True, error_model="numpy", nogil=True)
def draw_across(first, index, sharers, turns, mixture, seed, out):
    """Exchange pairs of a `Batch`, at positions `first` and following, for pairs across people.

    `turns`, bool [D, KIND_BLOCK], says where the kind in turn is other_person: of negatives, and of the
    positives that come between them.
    """
    key, n_block = fold(fold(0, seed), _STREAM), len(mixture.which)
    for i in range(len(out.kind)):
        position = first + i
        place, run = position % n_block, np.int64(out.run_left[i])
        d = mixture.which[place]
        n_before = position // n_block * mixture.quotas[d] + mixture.occurrence[place]
        if not turns[d, (n_before // 2) % KIND_BLOCK]:
            continue
        is_negative, k = n_before % 2 == 1, _window_at(index, run, out.start_left[i])
        k, other, start = _right(index, sharers, run, k, is_negative, fold(key, position))
        if other >= 0:
            out.kind[i] = OTHER_PERSON if is_negative else POSITIVE_OTHER_PERSON
            out.start_left[i] = _start_of(index, run, k)
            out.run_right[i], out.start_right[i] = other, start
            out.row_right[i] = index.runs[other].row
