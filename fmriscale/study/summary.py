"""A study in numbers: one dictionary from its cells and baselines, for its text, page and verdict."""

from dataclasses import asdict
from typing import Any

import numpy as np

from fmriscale.common.errors import UserError
from fmriscale.config import StudyConfig
from fmriscale.study import shuffled_order
from fmriscale.study.baselines import Score
from fmriscale.study.cells import Cell, arms, cells, sizes
from fmriscale.study.pooling import CHANCE, Row, adjusted, comparison, figures, of, tested
from fmriscale.study.speed import speed
from fmriscale.study.statistics import compare, interval
from fmriscale.study.verdict import verdict
from fmriscale.study.wording import SHUFFLED_ORDER

TITLES = {
    "pretrained": "pre-trained",
    "fresh": "fresh",
    shuffled_order.ARM: SHUFFLED_ORDER,
    "category": "window classifier (SVM)",
    "pair_logistic": "pair logistic",
    "correlation": "correlation",
    "run_means": "run means",
    "persistence": "persistence",
    "same_run": "same-run oracle",
    "shuffled": "shuffled labels",
}
"""What the tables call arms and baselines; other controls of the config go by their own names."""
NO_RIVALS = ("same_run", "shuffled")
"""Baselines that tell about the design, not about what can be learned; arms are not compared with them."""


def summarise(
    config: StudyConfig,
    records: list[dict[str, Any]],
    baselines: list[dict[str, Score]],
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """Return all numbers of a finished study."""
    check(config, records, baselines)
    full = sizes(config)[-1]
    rows = tested(records, baselines, full)
    whole = [record for record in records if record["size"] == full]
    ratio = test_over_train(config)
    conditions = sorted({row["condition"] for row in rows})
    parts = ["all", *(conditions if len(conditions) > 1 else [])]
    trained = ["pretrained", "fresh"] if config.pretrained is not None else ["fresh"]
    controls = [arm for arm in arms(config) if arm not in trained]
    order = [*trained, *controls, *(name for name in TITLES if name in baselines[0])]

    opponents = [(trained[0], name) for name in order if name not in (trained[0], *NO_RIVALS)]
    comparisons = []
    for first, second in opponents:
        of_parts = parts if second in ("fresh", "category", *controls) else ["all"]
        found = [comparison(rows, first, second, part, full, ratio) for part in of_parts]
        comparisons += adjusted(found, "condition")
    summary: dict[str, Any] = {
        "question": f"Were two windows of brain activity recorded under the same {config.task.label}?",
        "protocol": config.task.protocol,
        "label": config.task.label,
        "unit": "fold" if config.folds_by == "run" else "subject",
        "n_units": len({row["unit"] for row in rows}),
        "folds_by": config.folds_by,
        "n_folds": config.n_folds,
        "seeds": list(config.seeds),
        "epochs": config.train.epochs,
        "reported": config.train.report,
        "standardize": config.task.standardize,
        "allow_seen_runs": config.allow_seen_runs,
        "chance": CHANCE,
        "conditions": conditions,
        "sizes": sizes(config),
        "arms": {
            name: {
                "title": TITLES.get(name, name.replace("_", " ")),
                "kind": "arm" if name in trained else "control" if name in controls else "baseline",
                "by_condition": {part: figures(of(rows, name, part, full)) for part in parts},
                "reversed": backwards([r for r in whole if r["arm"] == name]),
            }
            for name in order
        },
        **by_size(config, rows, ratio),
        "comparisons": comparisons,
        "against_chance": [comparison(rows, name, "chance", "all", full, ratio) for name in order],
        "speed": speed(whole, ratio),
        "curves": {arm: curve([r for r in whole if r["arm"] == arm]) for arm in arms(config)},
        "folds": folds(whole, baselines),
        "provenance": provenance,
    }
    return summary | {"verdict": verdict(summary)}


def check(config: StudyConfig, records: list[dict[str, Any]], baselines: list[dict[str, Score]]) -> None:
    """Refuse to summarise what is not the whole of one study."""
    found = [Cell(r["arm"], r["fold"], r["seed"], r["size"]).name for r in records]
    planned = [cell.name for cell in cells(config)]
    lost = sorted(set(planned) - set(found))
    if lost:
        raise UserError(
            f"{config.out}: {len(lost)} of {len(planned)} cells have no result ({', '.join(lost[:3])}"
            f"{', ...' if len(lost) > 3 else ''}); run the study again: finished cells are kept"
        )
    if len(found) > len(planned):
        foreign = sorted(set(found) - set(planned)) or sorted({n for n in found if found.count(n) > 1})
        raise UserError(f"{config.out}: {', '.join(foreign[:3])}: not (or twice) among the study's cells")
    if len(baselines) != config.n_folds:
        raise UserError(f"{config.out}: baselines of {len(baselines)} folds, but there are {config.n_folds}")
    of_fold = {(fold, pairs(s.rows)) for fold, scores in enumerate(baselines) for s in scores.values()}
    of_fold |= {(record["fold"], pairs(record["scores"])) for record in records}
    if len(of_fold) > config.n_folds:
        raise UserError(
            f"{config.out}: cells or baselines of one fold tested different pairs; delete its cells/ and "
            "baselines/ and run the study again"
        )


def test_over_train(config: StudyConfig) -> float | None:
    """Return n_test / n_train as the folds cut them; None with one fold: nothing is resampled.

    Also where a training side is made smaller: what is corrected for is the data that splits have in common,
    and test sides do not share more because less of the rest is used.
    """
    return 1 / (config.n_folds - 1) if config.n_folds > 1 else None


def pairs(rows: list[dict[str, Any]]) -> tuple[tuple[str, str, int], ...]:
    """Return which pairs scores are of: condition, unit and number."""
    return tuple(sorted((row["condition"], row["unit"], row["n"]) for row in rows))


def by_size(config: StudyConfig, rows: list[Row], ratio: float | None) -> dict[str, list[dict[str, Any]]]:
    """Return the arms at every size of the training side, and their difference at each."""
    found, differences = [], []
    for size in sizes(config):
        for arm in arms(config):
            content = figures(of(rows, arm, "all", size))
            accuracy = content["accuracy"]
            found.append(
                {
                    **{"arm": arm, "size": size, "accuracy": accuracy["mean"]},
                    **{"low": accuracy["low"], "high": accuracy["high"], "auc": content["auc"]["mean"]},
                }
            )
        if config.pretrained is not None and config.train_sizes is not None:
            differences.append({"size": size, **comparison(rows, "pretrained", "fresh", "all", size, ratio)})
    return {"by_size": found, "size_comparisons": adjusted(differences, "size")}


def backwards(records: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return what an arm scores on windows that run backwards, and over folds what it loses by it (drop).

    None for baselines. The four figures are means over cells, of all pairs of a cell.
    """
    if not records:
        return None
    told: dict[str, Any] = {}
    for figure in ("auc", "accuracy"):
        told[figure] = float(np.mean([record["reversed"][figure] for record in records]))
        told[f"forward_{figure}"] = float(np.mean([at_end(record)[figure] for record in records]))
    lost = by_fold(records, [at_end(r)["accuracy"] - r["reversed"]["accuracy"] for r in records])
    return told | {"drop": asdict(compare(lost, [0.0] * len(lost)))}


def curve(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean learning curve of an arm.

    Its interval is over folds, each the mean of its seeds; with one fold over seeds (None with one seed).
    """
    points = []
    for place, first in enumerate(records[0]["epochs"]):
        now = [record["epochs"][place] for record in records]
        auc = [epoch["auc"] for epoch in now]
        of_folds = by_fold(records, auc)
        low, high = interval(of_folds if len(of_folds) > 1 else auc)
        means = {
            k: float(np.mean([epoch[k] for epoch in now])) for k in ("auc", "accuracy", "loss", "seconds")
        }
        points.append({"epoch": first["epoch"], **means, "auc_low": low, "auc_high": high})
    return points


def folds(records: list[dict[str, Any]], baselines: list[dict[str, Score]]) -> list[dict[str, Any]]:
    """Return for each fold what it left out, and AUC and accuracy of all its pairs, means over seeds."""
    found = []
    for fold, scores in enumerate(baselines):
        here = [record for record in records if record["fold"] == fold]
        content: dict[str, Any] = {"fold": fold, **{k: here[0][k] for k in ("left_out", "n_train", "n_test")}}
        for figure in ("accuracy", "auc"):
            names = dict.fromkeys(record["arm"] for record in here)
            values = {n: [at_end(r)[figure] for r in here if r["arm"] == n] for n in names}
            values |= {name: [getattr(of_baseline, figure)] for name, of_baseline in scores.items()}
            content[figure] = {name: finite(float(np.mean(value))) for name, value in values.items()}
        found.append(content)
    return found


def at_end(record: dict[str, Any]) -> dict[str, Any]:
    """Return the line of the reported epoch of a cell."""
    return record["epochs"][record["reported"] - 1]


def by_fold(records: list[dict[str, Any]], values: list[float]) -> list[float]:
    """Return the mean over the cells of each fold of one value a cell."""
    numbers = sorted({record["fold"] for record in records})
    return [
        float(np.mean([v for r, v in zip(records, values, strict=True) if r["fold"] == number]))
        for number in numbers
    ]


def finite(value: float) -> float | None:
    """Return a figure, or None in place of nan, which JSON has not."""
    return value if np.isfinite(value) else None
