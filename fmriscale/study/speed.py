"""Does pre-training save time? Epochs and seconds until a cell reaches the fresh arm's best."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from fmriscale.study.statistics import compare, corrected_t


def speed(cells: list[dict[str, Any]], ratio: float | None) -> dict[str, Any]:
    """Compare how soon the arms reach the best AUC of the fresh arm's mean curve.

    A cell that never does counts as reaching it one epoch after its last, which is the least it can be: the
    difference of the arms is then a lower bound where the slower arm holds such cells, and they are counted.
    Cells are paired by fold and seed; folds, each the mean of its seeds, are the units of the test, since a
    learning curve belongs to a fold and not to one of its subjects.
    """
    fresh = [[epoch["auc"] for epoch in cell["epochs"]] for cell in cells if cell["arm"] == "fresh"]
    target = float(np.mean(fresh, axis=0).max())
    # A mean of equal curves may differ from them in the last digit.
    table = pd.DataFrame([time_to(target - 1e-9, cell) for cell in cells])
    arms = dict(tuple(table.groupby("arm", sort=False)))
    summary: dict[str, Any] = {
        "target_auc": target,
        "reached": {str(arm): medians(rows) for arm, rows in arms.items()},
        "epochs": None,
        "seconds": None,
    }
    if "pretrained" in arms:
        pretrained, fresh_times = (arms[arm].set_index(["fold", "seed"]) for arm in ("pretrained", "fresh"))
        for figure in ("epochs", "seconds"):
            difference = pretrained[figure] - fresh_times[figure].reindex(pretrained.index)
            by_fold = [float(values.to_numpy().mean()) for _, values in difference.groupby(level="fold")]
            t, p = corrected_t(difference.to_numpy(), ratio)
            tested = asdict(compare(by_fold, np.zeros(len(by_fold))))
            summary[figure] = {**tested, "corrected_t": t, "corrected_p": p}
    return summary


def time_to(target: float, cell: dict[str, Any]) -> dict[str, Any]:
    """Return when a cell first reached an AUC; if it never did, the epoch after its last, at its own pace."""
    epochs = cell["epochs"]
    row = {key: cell[key] for key in ("arm", "fold", "seed")}
    for number, epoch in enumerate(epochs, 1):
        if epoch["auc"] >= target:
            return {**row, "epochs": number, "seconds": epoch["seconds"], "never": False}
    after = len(epochs) + 1
    seconds = epochs[-1]["seconds"] * after / len(epochs)
    return {**row, "epochs": after, "seconds": seconds, "never": True}


def medians(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the median time of an arm's cells; None where half of them never arrive."""
    n_never = int(rows.never.sum())
    unknown = 2 * n_never >= len(rows)
    return {
        "median_epochs": None if unknown else float(rows.epochs.median()),
        "median_seconds": None if unknown else float(rows.seconds.median()),
        "n_never": n_never,
        "n": len(rows),
    }
