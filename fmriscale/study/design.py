"""The design of a study, for its report: which windows are pairs, and what a fold leaves out."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from fmriscale.study.data import Study
from fmriscale.study.folds import Fold
from fmriscale.study.pairs import Pairs
from fmriscale.study.windows import Windows

MOST_RUNS = 16
"""Runs that are drawn with their pairs: those of one person, or of a person and the others of the pairs."""
MOST_PEOPLE = 40
"""People whose place in the folds is drawn."""


def describe(study: Study, pairs: Sequence[tuple[Pairs, Pairs]]) -> dict[str, Any]:
    """Describe what is compared with what, for JSON; pairs: training and test, by fold."""
    windows = study.windows
    shown, arcs = example_runs(windows, pairs[0])
    people, places = map_of_folds(windows, study.folds)
    return {
        "n_windows": len(windows.label_N),
        "n_lost": int(windows.n_lost),
        "n_people": len(set(windows.person_N.tolist())),
        "n_runs": len(set(windows.run_N.tolist())),
        "labels": list(windows.labels),
        "conditions": list(windows.conditions),
        "t_r": sorted({round(float(t_r), 4) for t_r in windows.t_r_N}),
        "length": int(windows.bold_NLV.shape[1]),
        "delay": float(study.config.task.delay),
        "space": study.space.name,
        "n_features": int(study.space.n_features),
        "relation": relation_to_runs(windows, [test for _, test in pairs]),
        "runs": [describe_run(study, row) for row in shown],
        "arcs": arcs,
        "people": people,
        "places": places,
    }


def relation_to_runs(windows: Windows, tests: Sequence[Pairs]) -> dict[str, dict[str, float]]:
    """Count in how many pairs of either class both windows are of one run, and how far apart the runs are."""
    left_P, right_P, same_P = (
        np.concatenate([getattr(test, name) for test in tests]) for name in ("left_P", "right_P", "same_P")
    )
    one_run_P = windows.run_N[left_P] == windows.run_N[right_P]
    distance_P = np.abs(windows.order_N[left_P] - windows.order_N[right_P])
    return {
        name: {
            "n": int((same_P == value).sum()),
            "one_run": int(one_run_P[same_P == value].sum()),
            "distance": round(float(distance_P[same_P == value].mean()), 6),
        }
        for name, value in (("same", 1), ("different", 0))
    }


def example_runs(windows: Windows, pairs: tuple[Pairs, Pairs]) -> tuple[list[int], list[list[int]]]:
    """Return the runs of the first person that is tested, with their partners, and the pairs between them."""
    person = windows.person_N[pairs[1].left_P[0]]
    n_pairs: Counter[tuple[int, int, int]] = Counter()
    for side in pairs:
        own = windows.person_N[side.left_P] == person
        columns = windows.run_N[side.left_P[own]], windows.run_N[side.right_P[own]], side.same_P[own]
        n_pairs.update(zip(*(column.tolist() for column in columns), strict=True))
    order = dict(zip(windows.run_N.tolist(), windows.order_N.tolist(), strict=True))
    own_runs = dict.fromkeys(windows.run_N[windows.person_N == person].tolist())
    partners: Counter[int] = Counter()
    for (_, right, _), n in n_pairs.items():
        partners[right] += n
    others = [row for row, _ in partners.most_common() if row not in own_runs]
    shown = [*sorted(own_runs, key=order.__getitem__), *others][:MOST_RUNS]
    arcs: Counter[tuple[int, int, int]] = Counter()
    for (left, right, same), n in n_pairs.items():
        if left in shown and right in shown:
            first, second = sorted((shown.index(left), shown.index(right)))
            arcs[first, second, same] += n
    return shown, [[*arc, n] for arc, n in sorted(arcs.items())]


def describe_run(study: Study, row: int) -> dict[str, Any]:
    """Describe a run: whose, which side of the first fold, and its windows (volume, label, condition)."""
    windows = study.windows
    own = np.flatnonzero(windows.run_N == row)
    columns = (windows.start_N, windows.label_N, windows.condition_N)
    return {
        "person": str(windows.person_N[own[0]]),
        "place": int(windows.order_N[own[0]]) + 1,
        "side": side_of(study.folds[0], row),
        "n_volumes": int(study.runs["n_volumes"].loc[row]),
        "windows": [list(each) for each in zip(*(c[own].tolist() for c in columns), strict=True)],
    }


def side_of(fold: Fold, row: int) -> str:
    """Name the side of a fold on which a run is."""
    return "test" if row in fold.test else "train" if row in fold.train else "neither"


def map_of_folds(windows: Windows, folds: Sequence[Fold]) -> tuple[list[str], list[list[str]]]:
    """Return people, and for every fold a text a person with a character a run."""
    people = list(dict.fromkeys(windows.person_N.tolist()))[:MOST_PEOPLE]
    places = zip(windows.person_N.tolist(), windows.order_N.tolist(), strict=True)
    row_of = dict(zip(places, windows.run_N.tolist(), strict=True))
    n_runs = max(order for person, order in row_of if person in people) + 1
    marks = {"train": "-", "test": "#", "neither": "x"}

    def mark(fold: Fold, person: str, order: int) -> str:
        row = row_of.get((person, order))
        return "." if row is None else marks[side_of(fold, row)]

    return people, [
        ["".join(mark(fold, person, order) for order in range(n_runs)) for person in people] for fold in folds
    ]
