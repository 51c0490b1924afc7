"""Cross-validation folds: subjects, runs or halves of the runs are left out; nothing crosses the border."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fmriscale.common.errors import UserError
from fmriscale.study.pairs import run_order


@dataclass(frozen=True)
class Fold:
    """One split of the runs that take part; rows of `corpus.runs`."""

    number: int
    """From 0."""
    train: np.ndarray
    test: np.ndarray
    left_out: tuple[str, ...]
    """Persons (or groups of kin), or places of runs in their person's sequence (from 1), or the half; for
    people to read."""


def make_folds(runs: pd.DataFrame, by: str, n_folds: int) -> list[Fold]:
    """Share out subjects or runs over folds.

    Persons are put in the order of a hash of their name, so that folds do not follow the order of
    acquisition; then every n-th is left out. People who are kin (column `group` of the runs) are one, under
    the name of their group. With runs, fold f leaves out runs f+1, f+1+n, ... of every person's sequence of
    runs. With halves, fold 0 leaves out the second half of every person's sequence (the first is the larger
    of an odd number), fold 1 the first.
    """
    rows = runs.index.to_numpy()
    if by == "half":
        return halves(runs, n_folds)
    if by == "subject":
        unit = kin(runs)
        units = sorted(set(unit), key=lambda person: hashlib.sha256(person.encode()).hexdigest())
    else:
        unit = run_order(runs) + 1
        units = sorted(set(unit.tolist()))
    if n_folds < 2 or n_folds > len(units):
        remedy = f"give from 2 to {len(units)} folds"
        together = by == "subject" and "group" in runs
        what, many = ("group of kin", "groups of kin") if together else (by, f"{by}s")
        if len(units) == 1:
            remedy = f"one {what} cannot be shared out" + (": take folds_by: run" if by == "subject" else "")
        counted = f"{len(units)} {what if len(units) == 1 else many}"
        raise UserError(f"n_folds is {n_folds}, but {counted} take part; {remedy}")
    folds = []
    for number in range(n_folds):
        left_out = units[number::n_folds]
        test = np.isin(unit, left_out)
        folds.append(Fold(number, rows[~test], rows[test], tuple(str(u) for u in left_out)))
    return folds


def kin(runs: pd.DataFrame) -> np.ndarray:
    """Return whom each run's person must not be parted from: the group of kin, or the person alone."""
    return runs["group" if "group" in runs else "person"].to_numpy(str)


def halves(runs: pd.DataFrame, n_folds: int) -> list[Fold]:
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
    """Refuse an encoder pre-trained on runs that this fold tests, or on runs of relatives of their people."""
    saw, tested = np.isin(runs["key"].to_numpy(str), list(seen)), np.isin(runs.index, fold.test)
    remedy = (
        "so the test would not be of unseen data; pre-train without them (data.holdout_runs, and {fold} in "
        "`pretrained`), test other splits, or set allow_seen_runs: true"
    )
    leaked = sorted(runs["key"][saw & tested])
    if leaked:
        raise UserError(
            f"{encoder}: its pre-training saw {len(leaked)} of the {len(fold.test)} runs that fold "
            f"{fold.number} tests ({_some(leaked)}), {remedy}"
        )
    if "group" not in runs:
        return
    person, group = (runs[name].to_numpy(str) for name in ("person", "group"))
    related = saw & ~np.isin(person, person[tested]) & np.isin(group, group[tested])
    if related.any():
        raise UserError(
            f"{encoder}: its pre-training saw {related.sum()} runs of kin of the people that fold "
            f"{fold.number} tests ({_some(sorted(runs['key'][related]))}), {remedy}"
        )


def _some(keys: list[str]) -> str:
    """Name the first of many."""
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
