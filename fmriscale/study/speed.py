"""Does pre-training save time? Epochs and seconds until a cell reaches the fresh arm's best."""

from dataclasses import asdict
from typing import Any

import numpy as np

from fmriscale.study.statistics import compare, corrected_t, epochs_to


def speed(records: list[dict[str, Any]], ratio: float | None) -> dict[str, Any]:
    """Compare how soon the arms reach the best AUC of the fresh arm's mean curve.

    A cell that never does counts as reaching it one epoch after its last, which is the least it can be: the
    difference of the arms is then a lower bound where the slower arm holds such cells, and they are counted.
    Cells are paired by fold and seed; folds, each the mean of its seeds, are the units of the test, since a
    learning curve belongs to a fold and not to one of its subjects.
    """
    fresh = [[epoch["auc"] for epoch in r["epochs"]] for r in records if r["arm"] == "fresh"]
    target = float(np.mean(fresh, axis=0).max())
    # A mean of equal curves may differ from them in the last digit.
    cells = [reached(record, target - 1e-9) for record in records]
    told = {}
    for arm in dict.fromkeys(cell["arm"] for cell in cells):
        here = [cell for cell in cells if cell["arm"] == arm]
        never = sum(cell["never"] for cell in here)
        medians = {
            f"median_{figure}": None
            if 2 * never >= len(here)
            else float(np.median([c[figure] for c in here]))
            for figure in ("epochs", "seconds")
        }
        told[arm] = {**medians, "n_never": never, "n": len(here)}
    found: dict[str, Any] = {"target_auc": target, "reached": told, "epochs": None, "seconds": None}
    if "pretrained" not in told:
        return found
    for figure in ("epochs", "seconds"):
        of_arm = {
            arm: {(c["fold"], c["seed"]): c[figure] for c in cells if c["arm"] == arm}
            for arm in ("pretrained", "fresh")
        }
        difference = {place: value - of_arm["fresh"][place] for place, value in of_arm["pretrained"].items()}
        numbers = sorted({fold for fold, _ in difference})
        of_folds = [float(np.mean([d for (f, _), d in difference.items() if f == fold])) for fold in numbers]
        t, p = (None, None) if ratio is None else corrected_t(list(difference.values()), ratio)
        found[figure] = {
            **asdict(compare(of_folds, [0.0] * len(of_folds))),
            **{"corrected_t": t, "corrected_p": p},
        }
    return found


def reached(record: dict[str, Any], target: float) -> dict[str, Any]:
    """Return when a cell first reached an AUC; if it never did, the epoch after its last, at its own pace."""
    epochs = record["epochs"]
    number = epochs_to(target, [epoch["auc"] for epoch in epochs])
    place = {key: record[key] for key in ("arm", "fold", "seed")}
    if number is not None:
        return {**place, "epochs": number, "seconds": epochs[number - 1]["seconds"], "never": False}
    after = len(epochs) + 1
    seconds = epochs[-1]["seconds"] * after / len(epochs)
    return {**place, "epochs": after, "seconds": seconds, "never": True}
