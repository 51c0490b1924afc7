"""Scores of pairs, and figures of units and comparisons of arms that are made from them.

A row of scores is one a (arm, size, fold, seed, condition, unit) with n pairs, accuracy and auc. The figure
of a unit is that of all its pairs, the mean over seeds; units are what is averaged, tested and resampled.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from fmriscale.study.statistics import compare, corrected_t, holm, mean_within, paired

Row = dict[str, Any]
CHANCE = 0.5


@dataclass(frozen=True)
class Score:
    """How well scores tell same-label from different-label pairs."""

    auc: float
    """Area under the ROC curve; 0.5 = chance; nan where the pairs are all of one class."""
    accuracy: float
    rows: list[Row]
    """One a (condition, unit): condition, unit, n (pairs), accuracy, auc (None with one class only)."""


def score(
    value_P: np.ndarray, threshold: float, same_P: np.ndarray, unit_P: np.ndarray, condition_P: np.ndarray
) -> Score:
    """Score pairs by a value that is high for "same"."""
    value_P, same_P = np.asarray(value_P), np.asarray(same_P)
    right_P = (value_P > threshold) == (same_P == 1)
    rows = []
    for condition, unit in sorted(set(zip(condition_P.tolist(), unit_P.tolist(), strict=True))):
        chosen = (condition_P == condition) & (unit_P == unit)
        area = auc(value_P[chosen], same_P[chosen])
        row = {"condition": str(condition), "unit": str(unit), "n": int(chosen.sum())}
        row |= {"accuracy": float(right_P[chosen].mean()), "auc": None if np.isnan(area) else area}
        rows.append(row)
    return Score(auc(value_P, same_P), float(right_P.mean()), rows)


def auc(value_P: np.ndarray, same_P: np.ndarray) -> float:
    """Return the area under the ROC curve from ranks (Mann-Whitney); nan where one class is missing."""
    n_same = int(np.sum(same_P == 1))
    n_different = len(same_P) - n_same
    if not n_same or not n_different:
        return float("nan")
    rank_sum = rankdata(value_P)[same_P == 1].sum()
    return float((rank_sum - n_same * (n_same + 1) / 2) / (n_same * n_different))


def mean_score(scores: list[Score]) -> Score:
    """Return the mean of several scores of the same pairs."""
    rows = []
    for alike in zip(*(each.rows for each in scores), strict=True):
        areas = [row["auc"] for row in alike]
        accuracy = float(np.mean([row["accuracy"] for row in alike]))
        area = None if None in areas else float(np.mean(areas))
        rows.append(alike[0] | {"accuracy": accuracy, "auc": area})
    areas, accuracies = [each.auc for each in scores], [each.accuracy for each in scores]
    return Score(float(np.mean(areas)), float(np.mean(accuracies)), rows)


# ---------------------------------------------------------------- rows of a whole study


def all_rows(cells: list[Row], baselines: list[dict[str, Score]], full: int | None) -> list[Row]:
    """Return all rows of a study; baselines, which have no seed, are of the full size and of seed None."""
    rows = [
        {**{key: cell[key] for key in ("arm", "size", "fold", "seed")}, **row}
        for cell in cells
        for row in cell["scores"]
    ]
    return rows + [
        {"arm": name, "size": full, "fold": fold, "seed": None, **row}
        for fold, scores in enumerate(baselines)
        for name, baseline in scores.items()
        for row in baseline.rows
    ]


def select(rows: list[Row], arm: str, condition: str, size: int | None) -> list[Row]:
    """Return the rows of an arm at a size, of "all" pairs or of one condition."""
    return [
        row
        for row in rows
        if row["arm"] == arm and row["size"] == size and condition in ("all", row["condition"])
    ]


def weighted_mean(rows: list[Row], figure: str, by: Sequence[str]) -> dict[tuple[Any, ...], float]:
    """Return a figure by groups in their order, each row weighted with its number of pairs.

    Rows without the figure (an AUC of one class) do not count; a group of such rows alone is left out.
    """
    groups: dict[tuple[Any, ...], list[tuple[float, int]]] = defaultdict(list)
    for row in rows:
        if row[figure] is not None:
            groups[tuple(row[column] for column in by)].append((row[figure], row["n"]))
    return {
        key: sum(value * n for value, n in groups[key]) / sum(n for _, n in groups[key])
        for key in sorted(groups, key=str)
    }


def by_unit(rows: list[Row], figure: str) -> dict[str, float]:
    """Return a figure by unit: over all its pairs of a seed, then the mean over seeds."""
    seeds: dict[str, list[float]] = defaultdict(list)
    for (unit, _), value in weighted_mean(rows, figure, ["unit", "seed"]).items():
        seeds[unit].append(value)
    return {unit: float(np.mean(values)) for unit, values in seeds.items()}


def comparison(
    rows: list[Row], first: str, second: str, condition: str, size: int | None, ratio: float | None
) -> dict[str, Any]:
    """Compare the accuracy of two arms or baselines, or of one and "chance"."""
    left, right = select(rows, first, condition, size), select(rows, second, condition, size)
    units, cells = by_unit(left, "accuracy"), weighted_mean(left, "accuracy", ["fold", "seed"])
    if second == "chance":
        other_units, other_cells = dict.fromkeys(units, CHANCE), dict.fromkeys(cells, CHANCE)
    else:
        other_units = by_unit(right, "accuracy")
        other_cells = weighted_mean(right, "accuracy", ["fold", "seed"])
    tested = asdict(compare(list(units.values()), [other_units[unit] for unit in units]))
    differences = paired(cells, other_cells)
    t, p = corrected_t([difference for _, difference in differences], ratio)
    seeds: dict[Any, list[float]] = defaultdict(list)
    for seed, difference in differences:
        seeds[seed].append(difference)
    return {
        **{"condition": condition, "first": first, "second": second},
        **tested,
        **{"p_holm": tested["p"], "corrected_t": t, "corrected_p": p, "corrected_p_holm": p},
        "by_seed": [float(np.mean(of_seed)) for of_seed in seeds.values()],
    }


def holm_adjusted(rows: list[Row], family: str) -> list[Row]:
    """Adjust both p over the rows that differ in condition or size; "all" pairs are a test of their own."""
    rows = [dict(row) for row in rows]
    for test in ("p", "corrected_p"):
        members = [row for row in rows if row[family] != "all" and row[test] is not None]
        for row, p in zip(members, holm([row[test] for row in members]), strict=True):
            row[f"{test}_holm"] = p
    return rows


def figures(rows: list[Row]) -> dict[str, Any]:
    """Return mean AUC and accuracy over units, the latter's interval, and accuracy by unit."""
    units = by_unit(rows, "accuracy")
    areas = list(by_unit(rows, "auc").values())
    return {
        "auc": {
            "mean": float(np.mean(areas)) if areas else None,
            "sd": float(np.std(areas, ddof=1)) if len(areas) > 1 else None,
        },
        "accuracy": mean_within(list(units.values())),
        "by_unit": units,
    }
