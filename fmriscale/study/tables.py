"""Results of a study as tables, for whoever wants to compute further: by cell, by unit and by epoch."""

from typing import Any

import pandas as pd

PLACE = ("arm", "size", "fold", "seed")


def tables(cells: list[dict[str, Any]], baselines: list[dict[str, Any]]) -> dict[str, pd.DataFrame]:
    """Return the tables by the name of their file."""
    results, units, curves = [], [], []
    for cell in cells:
        place = {name: cell[name] for name in PLACE}
        reported = cell["epochs"][cell["reported"] - 1]
        results.append(place | _counts(cell) | {k: reported[k] for k in ("auc", "accuracy", "seconds")})
        units += [place | row for row in cell["scores"]]
        curves += [place | epoch for epoch in cell["epochs"]]
    for fold in baselines:
        for name, score in fold["scores"].items():
            place = {"arm": name, "size": None, "fold": fold["fold"], "seed": None}
            results.append(place | _counts(fold) | {k: score[k] for k in ("auc", "accuracy")})
            units += [place | row for row in score["rows"]]
    found = {"results.tsv": results, "units.tsv": units, "curves.tsv": curves}
    whole = {"size": "Int64", "seed": "Int64"}
    return {name: pd.DataFrame(rows).astype(whole) for name, rows in found.items()}


def _counts(result: dict[str, Any]) -> dict[str, Any]:
    """Return what a result was fitted on and tested with."""
    return {
        "left_out": " ".join(result["left_out"]),
        "n_train": result["n_train"],
        "n_test": result["n_test"],
    }
