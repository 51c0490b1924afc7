"""Results of a study for people: two tables on disk, one printed, one figure."""

import io
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fmriscale.config import StudyConfig
from fmriscale.evaluation.baselines import Score
from fmriscale.evaluation.statistics import compare, epochs_to
from fmriscale.evaluation.wording import (
    area,
    caveats,
    clipped,
    conditions_of,
    corrected,
    effect,
    on_power,
    on_reversal,
    on_speed,
    p_value,
    percent,
    plural,
    setting,
    trained_on,
    within,
)
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
COLUMNS = 110
"""Width of the printed table."""
MOST_CONDITIONS, MOST_COMPARISONS = 4, 13
"""Columns and lines that the printed table and the figure have room for; the page has all."""


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


def printed(summary: dict[str, Any]) -> str:
    """Return the printed table: verdict, arms, controls and baselines by condition, comparisons, speed.

    Parameters
    ----------
    summary : dict
        summary.json of a study.

    Returns
    -------
    str
        Some 40 lines of at most `COLUMNS` columns.
    """
    head = f"{summary['question']}   {setting(summary)}"
    told = [*on_speed(summary), on_power(summary)]
    warned = [f"NOTE: {sentence}" for sentence in caveats(summary)]
    blocks = [
        [
            line
            for text in (head, summary["verdict"]["sentence"], *warned)
            for line in textwrap.wrap(text, COLUMNS)
        ],
        _accuracies(summary),
        _sizes(summary),
        _comparisons(summary),
        [line for sentence in told for line in textwrap.wrap(sentence, COLUMNS, subsequent_indent="  ")],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _accuracies(summary: dict[str, Any]) -> list[str]:
    """Return a line for every arm, control and baseline: accuracy by condition, and AUC."""
    conditions = conditions_of(summary)
    shown = conditions[:MOST_CONDITIONS]
    width = COLUMNS - 7 - 19 * len(shown) if len(shown) == MOST_CONDITIONS else 34
    lines = [
        f"{'accuracy, % [95 %]':<{width}}" + "".join(f"{clipped(c, 17):>19}" for c in shown) + f"{'AUC':>7}"
    ]
    for content in summary["arms"].values():
        by = content["by_condition"]
        name = clipped(content["title"], width - 1)
        cells = "".join(f"{within(by.get(condition)):>19}" for condition in shown)
        lines.append(f"{name:<{width}}{cells}{area(by['all']['auc']['mean']):>7}")
    lines += textwrap.wrap(on_reversal(summary), COLUMNS, subsequent_indent="  ")
    if len(conditions) > len(shown):
        lines.append(f"{len(conditions) - len(shown)} more conditions are in the HTML report")
    return lines


def _sizes(summary: dict[str, Any]) -> list[str]:
    """Return the accuracy of the arms by size of the training side; nothing where there is one size."""
    sizes = summary["sizes"]
    if len(sizes) < 2:
        return []
    found = {(row["arm"], row["size"]): row["accuracy"] for row in summary["by_size"]}
    head = "".join(f"{'all' if size is None else size:>8}" for size in sizes)
    return [f"{'accuracy, %, by training ' + plural(trained_on(summary)):<34}{head}"] + [
        f"{clipped(content['title'], 33):<34}"
        + "".join(f"{percent(found.get((arm, size))):>8}" for size in sizes)
        for arm, content in summary["arms"].items()
        if any(arm == name for name, _ in found)
    ]


def _comparisons(summary: dict[str, Any]) -> list[str]:
    """Return a line for every comparison: effect and interval before p."""
    main = ("pretrained", "fresh")
    rows = [
        row
        for row in summary["comparisons"]
        if row["condition"] == "all" or (row["first"], row["second"]) == main
    ]
    if not rows:
        return []
    titles = {name: content["title"] for name, content in summary["arms"].items()}
    several = len(conditions_of(summary)) > 1
    head = f"{'difference in accuracy, points':<51}{'effect [95 %]':>21}{'p':>8}{'p (Holm)':>9}"
    lines = [f"{head}{'corrected t (p)':>16}{'n':>5}"]
    for row in rows[:MOST_COMPARISONS]:
        arms = f"{titles[row['first']]} - {titles[row['second']]}"
        name = clipped(f"{arms}, {row['condition']}" if several else arms, 50)
        lines.append(
            f"{name:<51}{effect(row):>21}{p_value(row['p']):>8}{p_value(row['p_holm']):>9}"
            f"{corrected(row):>16}{row['n']:>5}"
        )
    hidden = len(summary["comparisons"]) - len(lines) + 1
    return [*lines, f"{hidden} more are in the HTML report"] if hidden else lines


def draw(path: Path, summary: dict[str, Any]) -> None:
    """Draw accuracy with intervals by condition, and the learning curves of the arms, into a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    conditions, arms = conditions_of(summary)[:MOST_CONDITIONS], list(summary["arms"].items())
    shares = [1.0] * len(conditions) + [1.6]
    canvas = Figure(figsize=(4.2 + 2.2 * len(conditions), 1.6 + 0.26 * len(arms)), layout="constrained")
    FigureCanvasAgg(canvas)
    *panels, last = canvas.subplots(1, len(shares), width_ratios=shares)
    canvas.suptitle(f"{summary['question']}  ({setting(summary)})", x=0.01, ha="left", fontsize=10)

    for axes, condition in zip(panels, conditions, strict=True):
        for place, (name, content) in enumerate(arms):
            if condition not in content["by_condition"]:
                continue
            found = content["by_condition"][condition]
            accuracy, colour = found["accuracy"], COLOURS.get(name, GREY)
            values = [100 * value for value in found["by_unit"].values()]
            jitter = 0.2 * np.sin(2.4 * np.arange(len(values)))  # neighbours lie apart
            axes.plot(values, place + jitter, "o", color=colour, alpha=0.25, ms=3, mew=0)
            if accuracy["low"] is not None:
                axes.plot([100 * accuracy["low"], 100 * accuracy["high"]], [place] * 2, color=colour, lw=2)
            axes.plot(100 * accuracy["mean"], place, "o", color=colour, ms=6)
        titles = [content["title"] if axes is panels[0] else "" for _, content in arms]
        axes.set_yticks(range(len(arms)), titles)
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.axvline(100 * summary["chance"], color=GREY, lw=0.8, ls=":")
        axes.set_title(condition if len(conditions) > 1 else "", fontsize=9, loc="left")
        axes.set_xlabel("accuracy, %", fontsize=8)
    limits = [axes.get_xlim() for axes in panels]
    for axes in panels:
        axes.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))
    for name, curve in summary["curves"].items():
        epoch, mean, low, high = (
            [line[key] for line in curve] for key in ("epoch", "auc", "auc_low", "auc_high")
        )
        if None not in low:
            last.fill_between(epoch, low, high, color=COLOURS.get(name, GREY), alpha=0.15, lw=0)
        last.plot(epoch, mean, color=COLOURS.get(name, GREY), lw=2, label=summary["arms"][name]["title"])
    last.axhline(summary["chance"], color=GREY, lw=0.8, ls=":")
    last.set_title("AUC on left-out data, by epoch", fontsize=9, loc="left")
    last.legend(fontsize=8, edgecolor="none")
    last.xaxis.get_major_locator().set_params(integer=True)
    for axes in (*panels, last):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    atomic_write(path, buffer.getvalue())
