"""Cross-validation folds: subjects, runs or halves of the runs are left out; nothing crosses the border."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fmriscale.common.errors import UserError
from fmriscale.corpus.manifest import hashed_key


@dataclass(frozen=True)
class Fold:
    """One split of the runs that take part; rows of `corpus.runs`."""

    number: int
    """From 0."""
    train: np.ndarray
    test: np.ndarray
    left_out: tuple[str, ...]
    """For people to read: persons (or groups of kin), positions of runs (from 1), or the half."""


def run_order(runs: pd.DataFrame) -> np.ndarray:
    """Return each run's position in its person's sequence: by session, run number, task and key."""
    number = [int(run) if run.isdecimal() else np.inf for run in runs["run"]]
    columns = (runs["person"], runs["session"], number, runs["run"], runs["task"], runs["key"])
    keys = list(zip(*columns, strict=True))
    order = np.zeros(len(runs), np.int64)
    seen: Counter[str] = Counter()
    for row in sorted(range(len(runs)), key=keys.__getitem__):
        person = keys[row][0]
        order[row] = seen[person]
        seen[person] += 1
    return order


def make_folds(
    runs: pd.DataFrame, by: str, n_folds: int | None, strata: Mapping[str, Any] | None = None
) -> list[Fold]:
    """Share out subjects, runs, or the values of a column over folds.

    Persons (and values of a column) are put in the order of a hash of their name, so that folds do not follow
    the order of acquisition; then every n-th is left out. People who are kin (column `group` of the runs) are
    one, under the name of their group. With runs, fold f leaves out runs f+1, f+1+n, ... of every person's
    sequence of runs. With halves, fold 0 leaves out the second half of every person's sequence (the first is
    the larger of an odd number), fold 1 the first. n_folds: None = one for each. strata: a value by unit,
    which folds share alike.
    """
    rows = runs.index.to_numpy()
    if by == "half":
        return half_folds(runs, n_folds)
    unit = units_of(runs, by)
    units = sorted(set(unit.tolist()), key=_order_of(by, strata or {}))
    n_folds = len(units) if n_folds is None else n_folds
    if not 2 <= n_folds <= len(units):
        one, many = (by, f"{by}s") if by in ("subject", "run") else (f"value of {by}", f"values of {by}")
        if by == "subject" and "group" in runs:
            one, many = "group of kin", "groups of kin"
        remedy = f"give from 2 to {len(units)} folds"
        if len(units) == 1:
            remedy = f"one {one} cannot be shared out" + (": take folds_by: run" if by == "subject" else "")
        counted = f"{len(units)} {one if len(units) == 1 else many}"
        raise UserError(f"n_folds is {n_folds}, but {counted} take part; {remedy}")
    folds = []
    for number in range(n_folds):
        left_out = units[number::n_folds]
        test = np.isin(unit, left_out)
        folds.append(Fold(number, rows[~test], rows[test], tuple(str(u) for u in left_out)))
    return folds


def units_of(runs: pd.DataFrame, by: str) -> np.ndarray:
    """Return what folds may not part, of each run: its kin or person, its place in a sequence, or a value."""
    if by == "run":
        return run_order(runs) + 1
    if by == "subject":
        by = "group" if "group" in runs else "person"
    return runs[by].to_numpy(str)


def _order_of(by: str, strata: Mapping[str, Any]) -> Callable[[Any], tuple]:
    """Return the key by which units are put in order, before they are dealt to folds."""
    if by == "run":
        return lambda place: (place,)
    return lambda name: (strata.get(name, 0), hashlib.sha256(name.encode()).hexdigest())


def half_folds(runs: pd.DataFrame, n_folds: int | None) -> list[Fold]:
    """Return the fold that tests the second half of each person's runs and, of two, the reverse."""
    if n_folds not in (1, 2):
        raise UserError(
            f"n_folds is {n_folds}, but with folds_by: half there is 1 fold (the second half of everybody's "
            "runs is tested), or there are 2 (then the first)"
        )
    n_runs = runs.groupby("person")["key"].transform("size").to_numpy()
    if n_runs.max() < 2:
        raise UserError(
            "folds_by: half needs people with two runs or more, but everybody has one; use folds_by: subject"
        )
    rows, second = runs.index.to_numpy(), run_order(runs) >= (n_runs + 1) // 2
    return [
        Fold(number, rows[~test], rows[test], (f"the {name} half of the runs",))
        for number, (test, name) in enumerate([(second, "second"), (~second, "first")][:n_folds])
    ]


def smaller(fold: Fold, runs: pd.DataFrame, by: str, size: int, seed: int) -> np.ndarray:
    """Return the rows that are left of a fold's training side when it is made smaller."""
    rows = runs.index.to_numpy()
    unit = run_order(runs) + 1 if by == "run" else runs["person"].to_numpy(str)
    train = np.isin(rows, fold.train)
    units = np.unique(unit[train])
    if not 1 <= size <= len(units):
        raise UserError(
            f"train_sizes has {size}, but the training side of fold {fold.number} has {len(units)} "
            f"{'run places' if by == 'run' else 'subjects'}; give from 1 to {len(units)}"
        )
    kept = np.random.default_rng([seed, fold.number]).permutation(units)[:size]
    return rows[train & np.isin(unit, kept)]


def refuse_seen_runs(fold: Fold, runs: pd.DataFrame, seen: Iterable[str], encoder: str) -> None:
    """Refuse an encoder pre-trained on runs that this fold tests, or on runs of relatives of their people.

    What it saw are keys of runs, or their hashes, which published encoders have instead.
    """
    known = set(seen)
    saw = np.array([key in known or hashed_key(key) in known for key in runs["key"]], bool)
    tested = np.isin(runs.index, fold.test)
    remedy = (
        "so the test would not be of unseen data; pre-train without them (data.holdout_runs, and {fold} in "
        "`pretrained`), test other splits, or set allow_seen_runs: true"
    )
    if (leaked := saw & tested).any():
        raise UserError(
            f"{encoder}: its pre-training saw {leaked.sum()} of the {len(fold.test)} runs that fold "
            f"{fold.number} tests ({some_keys(runs, leaked)}), {remedy}"
        )
    if "group" not in runs:
        return
    person, group = (runs[name].to_numpy(str) for name in ("person", "group"))
    related = saw & ~np.isin(person, person[tested]) & np.isin(group, group[tested])
    if related.any():
        raise UserError(
            f"{encoder}: its pre-training saw {related.sum()} runs of kin of the people that fold "
            f"{fold.number} tests ({some_keys(runs, related)}), {remedy}"
        )


def some_keys(runs: pd.DataFrame, chosen: np.ndarray) -> str:
    """Name the first of the chosen runs."""
    keys = sorted(runs["key"][chosen])
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
