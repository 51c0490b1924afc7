"""Labelled windows and same-label pairs: were two windows recorded under the same label?

N windows, L volumes, V features, P pairs. In a design whose runs hold one label each, "same label" and "same
run" are one thing; `cross_run` pairs therefore take both partners of positives AND negatives from different
runs. What else could tell the two apart is matched: every positive has a negative with the same left window,
whose right window comes

- from the same data set, where data sets hold several labels (where each holds one, it is the label);
- from a run as far away as the positive's, or the nearest to that which the design has;
- from the same place among the windows of its run, or the nearest.

Windows of one label are not rarer on one side: each is left in as many positives as negatives.
"""

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from fmriscale.common.errors import UserError
from fmriscale.config import TaskConfig

MOST_OTHERS = 4096
"""Windows among which the partners of one are looked for; of more, so many are drawn: time stays linear."""


@dataclass(frozen=True)
class Windows:
    """Windows cut out of the runs of a corpus, in the order of runs and onsets."""

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
    """Place of the run in its person's sequence of runs, from 0."""
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


@dataclass(frozen=True)
class Pairs:
    """Pairs of windows: indices into `Windows`, and 1 where both have the same label."""

    left_P: np.ndarray
    right_P: np.ndarray
    same_P: np.ndarray


def run_order(runs: pd.DataFrame) -> np.ndarray:
    """Return each run's place in its person's sequence: by session, run number, task and key."""
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


def side_conditions(task: TaskConfig, side: Literal["train", "test"]) -> list[str] | None:
    """Return the values of the condition column that a side of every fold takes; None = all."""
    own = task.train_conditions if side == "train" else task.test_conditions
    return task.conditions if own is None else own


def takes_part(value: str, wanted: list[str] | None) -> bool:
    """Say whether a value is among the wanted ones (None = every value)."""
    return wanted is None or value in [str(w) for w in wanted]


def members_of(
    windows: Windows, task: TaskConfig, rows: np.ndarray, side: Literal["train", "test"]
) -> np.ndarray:
    """Return the windows that a side of a fold may pair: of its runs, and of its conditions."""
    wanted = side_conditions(task, side)
    chosen = [takes_part(name, wanted) for name in windows.conditions]
    return np.flatnonzero(np.isin(windows.run_N, rows) & np.array(chosen)[windows.condition_N])


def draw_pairs(windows: Windows, members: np.ndarray, task: TaskConfig, seed: Sequence[int]) -> Pairs:
    """Draw balanced same-label and different-label pairs among some of the windows.

    Both partners are of one condition, and of one person or of two. Of every left window as many positives as
    negatives are drawn, without repetition. The pairs of a person (and condition) depend on nobody else.
    """
    place_N = place_in_run(windows)
    columns = {"condition": np.array(windows.conditions)[windows.condition_N[members]]}
    if task.partners == "same_person":
        columns["person"] = windows.person_N[members]
    chosen: list[tuple[Any, Any, int]] = []
    for key, places in pd.DataFrame(columns).groupby(list(columns), sort=True).indices.items():
        rng = np.random.default_rng([*seed, zlib.crc32(repr(key).encode())])
        chosen += pairs_of(windows, place_N, np.sort(members[places]), task, rng)
    if not chosen:
        raise UserError(no_pairs(windows, members, task))
    left_P, right_P, same_P = np.array(chosen).T
    return Pairs(left_P, right_P, same_P)


def place_in_run(windows: Windows) -> np.ndarray:
    """Return the place of each window among those of its run, counted from 0."""
    table = pd.DataFrame({"run": windows.run_N, "start": windows.start_N})
    return table.groupby("run")["start"].rank(method="first").to_numpy(np.int64) - 1


def pairs_of(
    windows: Windows, place_N: np.ndarray, group: np.ndarray, task: TaskConfig, rng: np.random.Generator
) -> Iterator[tuple[Any, Any, int]]:
    """Yield the pairs (left, right, same label) of windows that may be partners by person and condition."""
    label, order, place = windows.label_N[group], windows.order_N[group], place_N[group]
    run, start = windows.run_N[group], windows.start_N[group]
    person, dataset = (
        np.unique(of[group], return_inverse=True)[1] for of in (windows.person_N, windows.dataset_N)
    )
    # A data set that holds one label alone says which; it can be matched only among those that hold several.
    mixed = pd.Series(label).groupby(dataset).transform("nunique").to_numpy() > 1
    matched = dataset if mixed.any() else np.zeros_like(dataset)

    def may_be_partners(i: int, others: np.ndarray) -> np.ndarray:
        if task.partners == "other_person":
            may = person[others] != person[i]
            # Everybody's first runs may have had the same stimuli at the same times: not those, then.
            stimuli = task.protocol == "cross_run" and task.label_of == "event"
            return may & (order[others] != order[i]) if stimuli else may
        if task.protocol == "cross_run":
            return order[others] != order[i]
        # Windows of one run may not share volumes; nor may a window meet itself.
        return (run[others] != run[i]) | (np.abs(start[others] - start[i]) >= task.length)

    everyone, n_places = np.arange(len(group)), place.max() + 1.0
    for i, left in enumerate(group):
        others = everyone
        if len(group) > MOST_OTHERS:
            others = np.unique(rng.integers(len(group), size=MOST_OTHERS))
        others = others[may_be_partners(i, others)]
        is_same = label[others] == label[i]
        negatives, positives = others[~is_same], others[is_same]
        positives = positives[np.isin(matched[positives], matched[negatives])]
        count = min(task.pairs_per_window // 2, len(positives), len(negatives))
        partners = rng.choice(positives, count, replace=False)
        if task.protocol == "paper":
            unmatched = rng.choice(negatives, count, replace=False)
            yield from ((left, group[p], 1) for p in partners)
            yield from ((left, group[n], 0) for n in unmatched)
            continue
        for p in partners:
            fitting = negatives[matched[negatives] == matched[p]]
            if not len(fitting):
                continue
            # A whole run counts more than all places in it, and a place more than the draw.
            distance = np.abs(order[fitting] - order[i])
            cost = np.abs(distance - np.abs(order[p] - order[i])) * n_places
            cost += np.abs(place[fitting] - place[p]) + rng.random(len(fitting)) / 2
            nearest = fitting[np.argmin(cost)]
            yield left, group[p], 1
            yield left, group[nearest], 0
            negatives = negatives[negatives != nearest]


def no_pairs(windows: Windows, members: np.ndarray, task: TaskConfig) -> str:
    """Explain why a set of windows has no pairs."""
    n_runs, n_people = (len(np.unique(of[members])) for of in (windows.run_N, windows.person_N))
    text = f"no {task.protocol} pairs among {len(members)} windows of {n_runs} runs: "
    if task.partners == "other_person":
        return text + (
            f"within a condition{', and a data set with several labels,' * (task.label_of == 'run')} a label "
            f"needs two people and another label a third; there are {n_people} people; use fewer folds"
            + (", or (when every person has one run) task.protocol: any" if task.label_of == "event" else "")
        )
    text += "within a condition a person "
    if task.protocol != "cross_run":
        return text + "needs two labels and one of them twice"
    return text + (
        "needs one label in two runs and another label in a run besides the first; "
        "use fewer folds, folds_by: subject, or (when run and label may be confused) task.protocol: any"
    )
