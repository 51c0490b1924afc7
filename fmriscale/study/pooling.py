"""From the rows of scores to figures of units, and to paired comparisons of arms.

A row is one a (arm, size, fold, seed, condition, unit) with n pairs, accuracy and auc. The figure of a unit
is that of all its pairs, the mean over seeds; units are what is averaged, tested and resampled.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from fmriscale.study.baselines import Score
from fmriscale.study.statistics import compare, corrected_t, holm, interval

Row = dict[str, Any]
CHANCE = 0.5


def tested(records: list[Row], baselines: list[dict[str, Score]], full: int | None) -> list[Row]:
    """Return all rows of a study; baselines, which have no seed, are of the full size and of seed None."""
    rows = [
        {**{key: record[key] for key in ("arm", "size", "fold", "seed")}, **row}
        for record in records
        for row in record["scores"]
    ]
    return rows + [
        {"arm": name, "size": full, "fold": fold, "seed": None, **row}
        for fold, scores in enumerate(baselines)
        for name, of_baseline in scores.items()
        for row in of_baseline.rows
    ]


def of(rows: list[Row], arm: str, part: str, size: int | None) -> list[Row]:
    """Return the rows of an arm at a size, of "all" pairs or of one condition."""
    return [
        row for row in rows if row["arm"] == arm and row["size"] == size and part in ("all", row["condition"])
    ]


def pooled(rows: list[Row], figure: str, by: Sequence[str]) -> dict[tuple[Any, ...], float]:
    """Return a figure by groups in their order, each row weighted with its number of pairs.

    Rows without the figure (an AUC of one class) do not count; a group of such rows alone is left out.
    """
    groups: dict[tuple[Any, ...], list[tuple[float, int]]] = defaultdict(list)
    for row in rows:
        if row[figure] is not None:
            groups[tuple(row[column] for column in by)].append((row[figure], row["n"]))
    return {
        place: sum(value * n for value, n in groups[place]) / sum(n for _, n in groups[place])
        for place in sorted(groups, key=str)
    }


def by_unit(rows: list[Row], figure: str) -> dict[str, float]:
    """Return a figure by unit: over all its pairs of a seed, then the mean over seeds."""
    seeds: dict[str, list[float]] = defaultdict(list)
    for (unit, _), value in pooled(rows, figure, ["unit", "seed"]).items():
        seeds[unit].append(value)
    return {unit: float(np.mean(values)) for unit, values in seeds.items()}


def comparison(
    rows: list[Row], first: str, second: str, part: str, size: int | None, ratio: float | None
) -> dict[str, Any]:
    """Compare the accuracy of two arms or baselines, or of one and "chance"."""
    left, right = of(rows, first, part, size), of(rows, second, part, size)
    units = by_unit(left, "accuracy")
    cells = pooled(left, "accuracy", ["fold", "seed"])
    if second == "chance":
        other_units, other_cells = dict.fromkeys(units, CHANCE), dict.fromkeys(cells, CHANCE)
    else:
        other_units, other_cells = by_unit(right, "accuracy"), pooled(right, "accuracy", ["fold", "seed"])
    tested = asdict(compare(list(units.values()), [other_units[unit] for unit in units]))
    # A baseline has one figure a fold, which meets every seed of the arm.
    differences = {
        (fold, seed): value - other_cells.get((fold, seed), other_cells.get((fold, None), np.nan))
        for (fold, seed), value in cells.items()
    }
    t, p = (None, None) if ratio is None else corrected_t(list(differences.values()), ratio)
    seeds: dict[Any, list[float]] = defaultdict(list)
    for (_, seed), difference in differences.items():
        seeds[seed].append(difference)
    return {
        **{"condition": part, "first": first, "second": second},
        **tested,
        **{"p_holm": tested["p"], "corrected_t": t, "corrected_p": p, "corrected_p_holm": p},
        "by_seed": [float(np.mean(of_seed)) for of_seed in seeds.values()],
    }


def adjusted(rows: list[dict[str, Any]], family: str) -> list[dict[str, Any]]:
    """Adjust both p over the rows that differ in condition or size; "all" pairs are a test of their own."""
    told = list(rows)
    for test in ("p", "corrected_p"):
        members = [place for place, row in enumerate(rows) if row[family] != "all" and row[test] is not None]
        for place, p in zip(members, holm([rows[place][test] for place in members]), strict=True):
            told[place] = told[place] | {f"{test}_holm": p}
    return told


def figures(rows: list[Row]) -> dict[str, Any]:
    """Return mean AUC and accuracy over units, the latter's interval, and accuracy by unit."""
    units = by_unit(rows, "accuracy")
    values, auc = list(units.values()), list(by_unit(rows, "auc").values())
    # Student's interval of few units knows nothing of the ends of the scale.
    low, high = (end if end is None else min(max(end, 0.0), 1.0) for end in interval(values))
    return {
        "auc": {
            "mean": float(np.mean(auc)) if auc else None,
            "sd": float(np.std(auc, ddof=1)) if len(auc) > 1 else None,
        },
        "accuracy": {"mean": float(np.mean(values)), "low": low, "high": high, "n": len(values)},
        "by_unit": units,
    }
