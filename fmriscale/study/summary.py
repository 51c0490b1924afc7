"""A study in numbers: one dictionary, for its text, page and verdict; and tables."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from fmriscale.common.errors import UserError
from fmriscale.config import StudyConfig
from fmriscale.study.controls import CONTROLS
from fmriscale.study.jobs import arms, sizes
from fmriscale.study.scores import CHANCE, Row, Score, all_rows, comparison, figures, holm_adjusted, select
from fmriscale.study.statistics import compare, corrected_t, interval
from fmriscale.study.verdict import verdict

TITLES = {
    "pretrained": "pre-trained",
    "fresh": "fresh",
    **{arm: control.title for arm, control in CONTROLS.items()},
    "category": "window classifier (SVM)",
    "pair_logistic": "pair logistic",
    "correlation": "correlation",
    "connectivity": "connectivity classifier (SVM)",
    "connectivity_correlation": "connectivity correlation",
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
    results: list[dict[str, Any]],
    baselines: list[dict[str, Score]],
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """Return all numbers of a finished study; results: of its cells, baselines: by fold."""
    check_same_pairs(config, results, baselines)
    full = sizes(config)[-1]
    # n_test / n_train as the folds are cut, None with one fold. Also where a training side is made smaller:
    # what is corrected for is the data that splits share, and test sides do not share more by it.
    ratio = 1 / (config.n_folds - 1) if config.n_folds > 1 else None
    rows = all_rows(results, baselines, full)
    at_full = [result for result in results if result["size"] == full]
    conditions = sorted({row["condition"] for row in rows})
    all_and_each = ["all", *(conditions if len(conditions) > 1 else [])]
    main_arms = ["fresh"] if config.pretrained is None else ["pretrained", "fresh"]
    controls = [arm for arm in arms(config) if arm not in main_arms]
    order = [*main_arms, *controls, *(name for name in TITLES if name in baselines[0])]
    comparisons = []
    for name in order[1:]:
        if name not in NO_RIVALS:
            of = all_and_each if name in ("fresh", "category", *controls) else ["all"]
            compared = [comparison(rows, main_arms[0], name, condition, full, ratio) for condition in of]
            comparisons += holm_adjusted(compared, "condition")
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
                "kind": "arm" if name in main_arms else "control" if name in controls else "baseline",
                "by_condition": {c: figures(select(rows, name, c, full)) for c in all_and_each},
                "reversed": backwards(of_arm(at_full, name)),
            }
            for name in order
        },
        **by_size(config, rows, ratio),
        "comparisons": comparisons,
        "against_chance": [comparison(rows, name, "chance", "all", full, ratio) for name in order],
        "speed": speed(at_full, ratio),
        "curves": {arm: mean_curve(of_arm(at_full, arm)) for arm in arms(config)},
        "folds": by_fold(at_full, baselines),
        "provenance": provenance,
    }
    return summary | {"verdict": verdict(summary)}


def check_same_pairs(
    config: StudyConfig, results: list[dict[str, Any]], baselines: list[dict[str, Score]]
) -> None:
    """Refuse results of one fold that tested different pairs: their differences would not be paired."""

    def pairs(rows: list[Row]) -> tuple:
        return tuple(sorted((row["condition"], row["unit"], row["n"]) for row in rows))

    tested = {(fold, pairs(s.rows)) for fold, scores in enumerate(baselines) for s in scores.values()}
    tested |= {(result["fold"], pairs(result["scores"])) for result in results}
    if len(tested) > config.n_folds:
        raise UserError(
            f"{config.out}: cells or baselines of one fold tested different pairs; delete its cells/ and "
            "baselines/ and run the study again"
        )


def of_arm(results: list[Row], arm: str) -> list[Row]:
    """Return the results of one arm."""
    return [result for result in results if result["arm"] == arm]


def by_size(config: StudyConfig, rows: list[Row], ratio: float | None) -> dict[str, list[Row]]:
    """Return the arms at every size of the training side, and their difference at each."""
    accuracies, differences = [], []
    for size in sizes(config):
        for arm in arms(config):
            content = figures(select(rows, arm, "all", size))
            accuracy = content["accuracy"]
            row = {"arm": arm, "size": size, "accuracy": accuracy["mean"]}
            row |= {"low": accuracy["low"], "high": accuracy["high"], "auc": content["auc"]["mean"]}
            accuracies.append(row)
        if config.pretrained is not None and config.train_sizes is not None:
            differences.append({"size": size, **comparison(rows, "pretrained", "fresh", "all", size, ratio)})
    return {"by_size": accuracies, "size_comparisons": holm_adjusted(differences, "size")}


def backwards(results: list[Row]) -> dict[str, Any] | None:
    """Return what an arm scores on windows that run backwards, and over folds what it loses by it (drop).

    None for baselines. The four figures are means over cells, of all pairs of a cell.
    """
    if not results:
        return None
    content: dict[str, Any] = {}
    for figure in ("auc", "accuracy"):
        content[figure] = float(np.mean([result["reversed"][figure] for result in results]))
        content[f"forward_{figure}"] = float(np.mean([reported_epoch(r)[figure] for r in results]))
    loss = [reported_epoch(r)["accuracy"] - r["reversed"]["accuracy"] for r in results]
    loss_by_fold = fold_means(results, loss)
    return content | {"drop": asdict(compare(loss_by_fold, np.zeros(len(loss_by_fold))))}


def mean_curve(results: list[Row]) -> list[dict[str, Any]]:
    """Return the mean learning curve of an arm.

    Its interval is over folds, each the mean of its seeds; with one fold over seeds (None with one seed).
    """
    points = []
    for epochs in zip(*(result["epochs"] for result in results), strict=True):
        auc = [epoch["auc"] for epoch in epochs]
        of_folds = fold_means(results, auc)
        low, high = interval(of_folds if len(of_folds) > 1 else auc)
        names = ("auc", "accuracy", "loss", "seconds")
        means = {name: float(np.mean([epoch[name] for epoch in epochs])) for name in names}
        points.append({"epoch": epochs[0]["epoch"], **means, "auc_low": low, "auc_high": high})
    return points


def by_fold(results: list[Row], baselines: list[dict[str, Score]]) -> list[dict[str, Any]]:
    """Return for each fold what it left out, and AUC and accuracy of all its pairs, means over seeds."""
    folds = []
    for fold, scores in enumerate(baselines):
        own = [result for result in results if result["fold"] == fold]
        content: dict[str, Any] = {"fold": fold, **{k: own[0][k] for k in ("left_out", "n_train", "n_test")}}
        for figure in ("accuracy", "auc"):
            names = dict.fromkeys(result["arm"] for result in own)
            means = {n: np.mean([reported_epoch(r)[figure] for r in of_arm(own, n)]) for n in names}
            means |= {name: getattr(score, figure) for name, score in scores.items()}
            # JSON has no nan.
            content[figure] = {n: float(v) if np.isfinite(v) else None for n, v in means.items()}
        folds.append(content)
    return folds


def reported_epoch(result: Row) -> dict[str, Any]:
    """Return the line of the reported epoch of a cell."""
    return result["epochs"][result["reported"] - 1]


def fold_means(results: list[Row], values: list[float]) -> list[float]:
    """Return the mean over the cells of each fold of one value a cell."""
    numbers = [result["fold"] for result in results]
    return [
        float(np.mean([v for v, n in zip(values, numbers, strict=True) if n == number]))
        for number in sorted(set(numbers))
    ]


# ---------------------------------------------------------------- does pre-training save time?


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


# ---------------------------------------------------------------- tables


def tables(results: list[Row], baselines: list[Row]) -> dict[str, pd.DataFrame]:
    """Return tables to compute further with: results, units and curves, by the name of their file."""
    whole, units, curves = [], [], []
    for result in results:
        cell = {name: result[name] for name in ("arm", "size", "fold", "seed")}
        reported = reported_epoch(result)
        figures = {name: reported[name] for name in ("auc", "accuracy", "seconds")}
        whole.append(cell | counts(result) | figures)
        units += [cell | row for row in result["scores"]]
        curves += [cell | epoch for epoch in result["epochs"]]
    for fold in baselines:
        for name, score in fold["scores"].items():
            cell = {"arm": name, "size": None, "fold": fold["fold"], "seed": None}
            whole.append(cell | counts(fold) | {"auc": score["auc"], "accuracy": score["accuracy"]})
            units += [cell | row for row in score["rows"]]
    content = {"results.tsv": whole, "units.tsv": units, "curves.tsv": curves}
    integers = {"size": "Int64", "seed": "Int64"}
    return {name: pd.DataFrame(rows).astype(integers) for name, rows in content.items()}


def counts(result: Row) -> Row:
    """Return what a result was fitted on and tested with."""
    counted = {name: result[name] for name in ("n_train", "n_test")}
    return {"left_out": " ".join(result["left_out"]), **counted}
