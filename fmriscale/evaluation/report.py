"""Results of a study for people: two tables on disk, one printed, one figure."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fmriscale.config import StudyConfig
from fmriscale.evaluation.baselines import Score
from fmriscale.evaluation.statistics import compare, epochs_to
from fmriscale.files import atomic_write

NAMES = {
    "pretrained": "pre-trained",
    "fresh": "fresh",
    "category": "window classifier",
    "pair_logistic": "pair logistic",
    "correlation": "correlation",
    "same_run": "same-run oracle",
    "shuffled": "shuffled labels",
}
"""Arms, baselines and controls, in the order of every table and figure."""
COLOURS = {"pretrained": "#0072b2", "fresh": "#d55e00"}
GREY = "#777777"


def tables(
    cells: list[dict[str, Any]], baselines: list[dict[str, Score]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return results (one row an arm or baseline, fold and seed) and learning curves.

    Parameters
    ----------
    cells : list of dict
        Results of `study.run_cell`.
    baselines : list of dict
        Of each fold, the scores by name.
    """
    rows = [
        {
            **{k: c[k] for k in ("arm", "fold", "seed", "n_train", "n_test")},
            **{k: c["epochs"][-1][k] for k in ("auc", "accuracy", "seconds")},
            "left_out": " ".join(c["left_out"]),
        }
        for c in cells
    ]
    sizes = {c["fold"]: (c["n_train"], c["n_test"], " ".join(c["left_out"])) for c in cells}
    for fold, scores in enumerate(baselines):
        n_train, n_test, left_out = sizes[fold]
        rows += [
            {
                **{"arm": name, "fold": fold, "n_train": n_train, "n_test": n_test},
                **{"auc": s.auc, "accuracy": s.accuracy, "left_out": left_out},
            }
            for name, s in scores.items()
        ]
    rows.sort(key=lambda row: (list(NAMES).index(row["arm"]), row["fold"], row.get("seed", -1)))
    results = pd.DataFrame(rows).astype({"seed": "Int64"})
    curves = pd.DataFrame(
        [{**{k: c[k] for k in ("arm", "fold", "seed")}, **epoch} for c in cells for epoch in c["epochs"]]
    )
    return results, curves


def fold_means(results: pd.DataFrame, figure: str) -> dict[str, np.ndarray]:
    """Return a figure's mean over seeds: for every arm or baseline that there is, one number a fold."""
    groups = {str(name): group for name, group in results.groupby("arm")}
    return {
        name: np.array([fold[figure].to_numpy(float).mean() for _, fold in groups[name].groupby("fold")])
        for name in NAMES
        if name in groups
    }


def mean_curve(curves: pd.DataFrame, arm: str, figure: str) -> np.ndarray:
    """Return a figure's mean over the cells of an arm, one number an epoch."""
    return np.array([cells.mean() for cells in by_epoch(curves, arm, figure)])


def by_epoch(curves: pd.DataFrame, arm: str, figure: str) -> list[np.ndarray]:
    """Return a figure of all cells of an arm, epoch by epoch."""
    epochs = curves.loc[curves["arm"] == arm].groupby("epoch")
    return [cells[figure].to_numpy(float) for _, cells in epochs]


def text(
    config: StudyConfig,
    description: str,
    cells: list[dict[str, Any]],
    baselines: list[dict[str, Score]],
    results: pd.DataFrame,
    curves: pd.DataFrame,
) -> str:
    """Return the printed table: arms, baselines and controls, then the comparisons."""
    auc, accuracy = fold_means(results, "auc"), fold_means(results, "accuracy")
    best = mean_curve(curves, "fresh", "auc").max()
    lines = [description, "", f"{'':<20}{'AUC':>16}{'accuracy':>16}   epochs to the fresh arm's best AUC"]
    for name in auc:
        line = f"{NAMES[name]:<20}{spread(auc[name]):>16}{spread(accuracy[name]):>16}"
        if name in COLOURS:
            epoch = epochs_to(best, mean_curve(curves, name, "auc"))
            line += f"   {epoch or f'not within {config.train.epochs}'}"
        lines.append(line)
    lines.append(
        f"mean +- s.d. of {config.n_folds} folds, each the mean of its {len(config.seeds)} seed(s); "
        f"after the last of {config.train.epochs} epochs"
    )
    units = unit_accuracies(cells, baselines)
    kind = "subjects" if config.folds_by == "subject" else "folds"
    lines += ["", f"difference in accuracy over {kind}: mean [95 % interval], sign-flip test"]
    for first, second in (("pretrained", "fresh"), ("pretrained", "category"), ("fresh", "category")):
        if first in units:
            left, right = ([units[arm][unit] for unit in sorted(units[first])] for arm in (first, second))
            lines.append(f"{NAMES[first] + ' - ' + NAMES[second]:<34}{compare(left, right)}")
    return "\n".join(lines)


def unit_accuracies(
    cells: list[dict[str, Any]], baselines: list[dict[str, Score]]
) -> dict[str, dict[str, float]]:
    """Return for each arm or baseline the accuracy of each unit, averaged over seeds."""
    rows = [(cell["arm"], row) for cell in cells for row in cell["scores"]]
    rows += [(name, row) for scores in baselines for name, s in scores.items() for row in s.rows]
    found: dict[str, dict[str, list[float]]] = {}
    for arm, row in rows:
        found.setdefault(arm, {}).setdefault(row["unit"], []).append(row["accuracy"])
    return {
        arm: {unit: sum(values) / len(values) for unit, values in units.items()}
        for arm, units in found.items()
    }


def spread(values: np.ndarray) -> str:
    """Return mean +- standard deviation."""
    return f"{values.mean():.3f} +- {values.std(ddof=1):.3f}"


def figure(path: Path, title: str, results: pd.DataFrame, curves: pd.DataFrame) -> None:
    """Draw AUC of every arm and baseline by fold, and the learning curves of the arms."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(canvas)
    left, right = canvas.subplots(1, 2, width_ratios=[1.15, 1])
    canvas.suptitle(title, x=0.01, ha="left", fontsize=11)

    auc = fold_means(results, "auc")
    for place, (name, values) in enumerate(auc.items()):
        colour = COLOURS.get(name, GREY)
        jitter = np.linspace(-0.16, 0.16, len(values))
        left.plot(values, place + jitter, "o", color=colour, alpha=0.55, ms=5, mew=0)
        left.plot([values.mean()] * 2, [place - 0.32, place + 0.32], color=colour, lw=2.5)
    left.set_yticks(range(len(auc)), [NAMES[name] for name in auc])
    left.invert_yaxis()
    left.axvline(0.5, color=GREY, lw=0.8, ls=":")
    left.set_xlabel("AUC on left-out data (dots: folds, bar: mean)")

    for name in (n for n in COLOURS if n in auc):
        epochs = by_epoch(curves, name, "auc")
        mean, sd = (np.array([f(values) for values in epochs]) for f in (np.mean, np.std))
        epoch, colour = np.arange(1, len(epochs) + 1), COLOURS[name]
        right.fill_between(epoch, mean - sd, mean + sd, color=colour, alpha=0.15, lw=0)
        right.plot(epoch, mean, color=colour, lw=2)
        right.annotate(
            NAMES[name],
            (epoch[-1], mean[-1]),
            xytext=(5, 0),
            textcoords="offset points",
            color=colour,
            va="center",
        )
    right.axhline(0.5, color=GREY, lw=0.8, ls=":")
    right.set_xlabel("epoch")
    right.set_ylabel("AUC on left-out data (mean, s.d. of cells)")
    right.margins(x=0.02)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    atomic_write(path, buffer.getvalue())
