"""Results of a study for people: a printed table and a figure, from its summary."""

import io
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from fmriscale.common.files import atomic_write
from fmriscale.study.shuffled_order import is_lacking
from fmriscale.study.wording import (
    SHUFFLED_ORDER,
    area,
    clipped,
    conditions_of,
    corrected,
    effect,
    on_lacking,
    on_power,
    on_reversal,
    on_speed,
    p_value,
    part,
    percent,
    plural,
    setting,
    trained_on,
    within,
)

COLOURS = {"pretrained": "#0072b2", "fresh": "#d55e00"}
GREY = "#777777"
COLUMNS = 110
"""Width of the printed table."""
MOST_CONDITIONS, MOST_COMPARISONS = 4, 13
"""Columns and lines that the printed table and the figure have room for; the page has all."""


def printed(summary: dict[str, Any]) -> str:
    """Return the printed table: verdict, arms, controls and baselines by condition, comparisons, speed."""
    head = f"{summary['question']}   {setting(summary)}"
    told = [*on_speed(summary), on_power(summary)]
    blocks = [
        [line for text in (head, summary["verdict"]["sentence"]) for line in textwrap.wrap(text, COLUMNS)],
        _accuracies(summary),
        _sizes(summary),
        _comparisons(summary),
        [line for sentence in told for line in textwrap.wrap(sentence, COLUMNS, subsequent_indent="  ")],
        on_lacking(summary),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _accuracies(summary: dict[str, Any]) -> list[str]:
    """Return a line for every arm, control and baseline: accuracy by condition, and AUC."""
    conditions = conditions_of(summary)
    shown = conditions[:MOST_CONDITIONS]
    width = COLUMNS - 7 - 19 * len(shown) if len(shown) == MOST_CONDITIONS else 34
    lines = [
        f"{'accuracy, % [95 %]':<{width}}"
        + "".join(f"{clipped(part(summary, c), 17):>19}" for c in shown)
        + f"{'AUC':>7}"
    ]
    lacking = is_lacking(summary)
    for content in summary["arms"].values():
        if lacking and content["kind"] == "baseline":
            lines.append(f"{SHUFFLED_ORDER:<{width}}{'not run':>19}")
            lacking = False
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
        axes.set_title(part(summary, condition), fontsize=9, loc="left")
        axes.set_xlabel("accuracy, %", fontsize=8)
    limits = [axes.get_xlim() for axes in panels]
    for axes in panels:
        axes.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))
    for name, curve in summary["curves"].items():
        epoch, mean, low, high = (
            [line[key] for line in curve] for key in ("epoch", "auc", "auc_low", "auc_high")
        )
        if None not in low:
            band = np.clip(low, 0, 1), np.clip(high, 0, 1)
            last.fill_between(epoch, *band, color=COLOURS.get(name, GREY), alpha=0.15, lw=0)
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
