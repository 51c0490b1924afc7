"""Folds of a probe: by people, runs, data sets, films or any column; nobody's target crosses the border."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from fmriscale.common.errors import UserError
from fmriscale.config import ProbeConfig
from fmriscale.study.folds import Fold, make_folds, units_of
from fmriscale.study.probe.columns import column_of
from fmriscale.study.probe.rows import Rows

SEQUENCES = ("subject", "run")
"""What folds may leave out beside the values of a column."""


def probe_folds(config: ProbeConfig, table: pd.DataFrame, facts: pd.DataFrame, rows: Rows) -> list[Fold]:
    """Return the folds of a probe, of runs; refuse folds that have nothing to learn or to test.

    Where the target is a property of people, nobody who is tested (and no kin) is trained on, whatever a fold
    leaves out. Subjects are dealt so that folds share every class (or part of a number's range) and data set
    alike.
    """
    names = left_out_by(config)
    if len(names) > 1 and config.n_folds is None:
        raise UserError(
            f"n_folds is null, but folds_by leaves out several things at once ({names}); give a number"
        )
    runs = with_columns(table, facts, names)
    for name in names:
        if name not in SEQUENCES and (n_empty := runs[name].tolist().count("")):
            raise UserError(
                f"folds_by: {n_empty} of {len(runs)} runs have no '{name}'; leave them out, or take another"
            )
    strata = strata_of(table, rows)
    each = [make_folds(runs, name, config.n_folds, strata if name == "subject" else None) for name in names]
    kin = (table["group"] if "group" in table else table["person"]).to_numpy(str)
    folds = []
    for parts in zip(*each, strict=True):
        fold = crossed(parts)
        if rows.of_people:
            tested = kin[np.isin(table.index, fold.test)]
            train = fold.train[~np.isin(kin[np.searchsorted(table.index, fold.train)], tested)]
            fold = Fold(fold.number, train, fold.test, fold.left_out)
        check(fold, config, rows)
        folds.append(fold)
    return folds


def inner_groups(
    config: ProbeConfig, table: pd.DataFrame, facts: pd.DataFrame, rows: Rows
) -> list[np.ndarray]:
    """Return what inner folds keep together: what the folds themselves leave out, [N] each.

    A penalty that is chosen on other people of the same film is too weak for another film: vectors that know
    the moment tell its music. Kin stay together where the target is a property of people.
    """
    names = left_out_by(config)
    if (rows.of_people or config.rows == "person") and "subject" not in names:
        names = [name for name in names if name != "run"] + ["subject"]
    runs, first = with_columns(table, facts, names), np.r_[0, np.flatnonzero(np.diff(rows.row_M)) + 1]
    place_N = np.searchsorted(table.index, rows.run_M[first])
    return [units_of(runs, name)[place_N] for name in names]


def coarsest(groups: list[np.ndarray]) -> list[np.ndarray]:
    """Return the groupings whose units do not lie whole within those of another (as people do in sites).

    To keep the larger units together keeps the smaller ones together too.
    """
    return [
        own
        for i, own in enumerate(groups)
        if not any(within(own, other) for j, other in enumerate(groups) if j != i)
    ]


def within(unit_N: np.ndarray, other_N: np.ndarray) -> bool:
    """Tell whether every unit is part of one of several units of another grouping."""
    pairs = pd.DataFrame({"unit": unit_N, "other": other_N}).drop_duplicates()
    n_units, n_others = len(set(pairs["unit"])), len(set(pairs["other"]))
    return 1 < n_others < n_units == len(pairs)


def left_out_by(config: ProbeConfig) -> list[str]:
    """Return what a fold leaves out; kin and subject are one."""
    return ["subject" if name == "group" else name for name in as_list(config.folds_by)]


def with_columns(table: pd.DataFrame, facts: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return the runs with the columns that folds leave out."""
    return table.assign(**{n: column_of(facts, n, "folds_by") for n in names if n not in SEQUENCES})


def as_list(by: str | list[str]) -> list[str]:
    """Return what a fold leaves out, one or several."""
    return [by] if isinstance(by, str) else list(by)


def crossed(parts: tuple[Fold, ...]) -> Fold:
    """Return the fold that tests what all parts test, and trains on what all train on."""
    train, test = parts[0].train, parts[0].test
    for part in parts[1:]:
        train, test = np.intersect1d(train, part.train), np.intersect1d(test, part.test)
    return Fold(parts[0].number, train, test, tuple(name for part in parts for name in part.left_out))


def strata_of(table: pd.DataFrame, rows: Rows) -> Mapping[str, Any]:
    """Return by group of kin its most frequent target (of a number: its third) and data set, as text."""
    target_N = rows.target_N
    if not rows.classes:
        target_N = np.searchsorted(np.quantile(target_N, [1 / 3, 2 / 3]), target_N)
    dataset_M = table["dataset"].to_numpy(str)[np.searchsorted(table.index, rows.run_M)]
    dataset_N = dataset_M[np.r_[0, np.flatnonzero(np.diff(rows.row_M)) + 1]]
    most: dict[str, Counter[str]] = {}
    for kin, target, dataset in zip(rows.kin_N, target_N, dataset_N, strict=True):
        most.setdefault(str(kin), Counter())[f"{target} {dataset}"] += 1
    return {kin: max(sorted(counts), key=counts.__getitem__) for kin, counts in most.items()}


def sides(fold: Fold, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows all of whose runs are on the training side, and those all of whose runs are tested."""
    return tuple(
        np.flatnonzero(np.bincount(rows.row_M, ~np.isin(rows.run_M, side), minlength=len(rows)) == 0)
        for side in (fold.train, fold.test)
    )  # pyright: ignore[reportReturnType]


def check(fold: Fold, config: ProbeConfig, rows: Rows) -> None:
    """Refuse a fold that trains on nothing or tests nothing, or tests classes that it cannot learn."""
    train_N, test_N = sides(fold, rows)
    where = f"fold {fold.number} of folds_by {config.folds_by} (without {', '.join(fold.left_out[:4])})"
    if not len(train_N) or not len(test_N):
        side = "tests" if len(train_N) else "trains on"
        why = ""
        if rows.of_people and not len(train_N):
            why = f": everybody is tested, and '{config.target}' is a property of people"
        elif config.rows == "person":
            why = ": a person is a row only where all runs are on one side"
        raise UserError(f"{where} {side} no row{why}; take folds_by: subject, or other n_folds")
    learned, tested = (set(rows.target_N[side].tolist()) for side in (train_N, test_N))
    if rows.classes and (unknown := sorted(tested - learned)):
        names = ", ".join(rows.classes[i] for i in unknown[:4])
        raise UserError(
            f"{where} tests {config.target} {names}, which its training side does not have; fewer folds, "
            "another folds_by, or name `values`"
        )
    if len(learned) < 2:
        raise UserError(f"{where} trains on one value of {config.target}; fewer folds, or another folds_by")


def smaller(fold: Fold, rows: Rows, train_N: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Return the training rows of `size` people; smaller draws are part of larger ones.

    Classes that are a property of people take turns, so that few people have as many as can be.
    """
    person_N, target_N = rows.person_N[train_N], rows.target_N[train_N]
    people, first = np.unique(person_N, return_index=True)
    if size > len(people):
        raise UserError(
            f"train_sizes has {size}, but the training side of fold {fold.number} has {len(people)} people; "
            f"give from 1 to {len(people)}"
        )
    order = np.random.default_rng([seed, fold.number]).permutation(len(people))
    if rows.classes and rows.of_people:
        seen: Counter[int] = Counter()
        turn = {}
        for number in order.tolist():
            label = int(target_N[first[number]])
            turn[number] = seen[label]
            seen[label] += 1
        order = np.array(sorted(order.tolist(), key=turn.__getitem__))
    kept = train_N[np.isin(person_N, people[order[:size]])]
    if len(set(rows.target_N[kept].tolist())) < 2:
        raise UserError(
            f"train_sizes has {size}: {size} people have one value of the target; give larger sizes"
        )
    return kept
