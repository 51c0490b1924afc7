"""Charts of a study as inline SVG: the design, units in pairs, learning curves, sizes of training."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fmriscale.reports.page import (
    ACCENT,
    CURVE_STYLE,
    GREEN,
    GREY,
    GRID,
    INK,
    MUTED,
    PANEL,
    STYLE,
    VIOLET,
    WARM,
    panels,
    svg,
    swatch,
)
from fmriscale.study.wording import clipped, condition_title, plural, trained_on

ARMS = {"pretrained": (ACCENT, "o", "-"), "fresh": (WARM, "s", "-")}
"""Ink, mark and line of the arms; every further one has one of `OTHERS`."""
OTHERS = ((GREY, "D", "--"), (VIOLET, "^", "-."), (GREEN, "v", ":"))
LABELS = ("#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#0072b2", "#d55e00", "#b09b00", "#7a7a7a")
"""Inks of labels that the colour-blind can tell apart (Okabe and Ito); with more labels they come again."""
FEW_UNITS = 40  # Up to so many units have a full line each

Summary = dict[str, Any]


@matplotlib.rc_context(STYLE)
def pairs(design: dict[str, Any], label: str) -> str:
    """Draw some runs of one person with their windows, and arcs between those that pairs join."""
    runs = design["runs"]
    figure = Figure(figsize=(5.2, 0.9 + 0.27 * len(runs)), layout="constrained")
    figure.get_layout_engine().set(wspace=0.0, w_pad=0.02)  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]
    bars, same, different = figure.subplots(1, 3, sharey=True, width_ratios=[2, 1, 1])
    _bars(bars, design)
    for axes, value, title in ((same, 1, "same"), (different, 0, "different")):
        _arcs(axes, [arc for arc in design["arcs"] if arc[2] == value], design)
        axes.set_title(f"{title}\n{clipped(label, 13)}")
    text = [f"run {run['place']} ({_holds(run, design) or 'several labels'}, {run['side']})" for run in runs]
    words = ("different", "same")
    arcs = [f"{a + 1} and {b + 1}: {n} {words[value]}" for a, b, value, n in design["arcs"]]
    return svg(figure, "pairs", f"Runs: {'; '.join(text)}. Pairs by row of runs: {'; '.join(arcs)}.")


def _holds(run: dict[str, Any], design: dict[str, Any]) -> str:
    """Name the condition of a run, and its label, where it has only one."""
    names = []
    for place, key in ((2, "conditions"), (1, "labels")):
        values = {design[key][window[place]] for window in run["windows"]} - {""}
        names += values if len(values) == 1 else []
    return " ".join(names)


def _bars(axes: Axes, design: dict[str, Any]) -> None:
    """Draw a bar a run, with its windows in the inks of their labels."""
    runs, names = design["runs"], []
    longest = max(run["n_volumes"] for run in runs)
    several_people = len({run["person"] for run in runs}) > 1
    for row, run in enumerate(runs):
        axes.barh(row, run["n_volumes"], height=0.62, color=GRID)
        for start, value, _ in run["windows"]:
            axes.barh(row, design["length"], left=start, height=0.62, color=LABELS[value % len(LABELS)])
        who = f"{run['person'].split('/')[-1]} " if several_people else ""
        holds = _holds(run, design)
        names.append(clipped(f"{who}{run['place']} {holds}" if holds else f"{who}run {run['place']}", 24))
        offset = {"xytext": (5, 0), "textcoords": "offset points"}
        axes.annotate(run["side"], (longest, row), va="center", color=MUTED, **offset)
    axes.set_yticks(range(len(runs)), names)
    axes.set_xticks([])
    axes.set(ylim=(len(runs) - 0.4, -0.6), xlim=(0, longest * 1.24), title="run, windows, side of fold 0")


def _arcs(axes: Axes, arcs: list[list[int]], design: dict[str, Any]) -> None:
    """Draw arcs between rows, thicker where pairs are more; a loop where both windows are of one run."""
    n_rows = len(design["runs"])
    most = max((n for *_, n in design["arcs"]), default=1)
    turn = np.linspace(0, np.pi, 40)
    for first, second, _, n in arcs:
        apart = second - first
        if apart:
            x = (0.1 + 0.85 * apart / max(n_rows - 1, 1)) * np.sin(turn)
            y = (first + second) / 2 - apart / 2 * np.cos(turn)
        else:
            x, y = 0.26 * np.sin(turn), first + 0.3 * np.sin(2 * turn)
        axes.plot(x, y, color=INK, lw=0.5 + 0.9 * n / most, alpha=0.8, solid_capstyle="round")
    ends = sorted({row for arc in arcs for row in arc[:2]})
    axes.plot([0] * len(ends), ends, "o", color=INK, ms=3)
    axes.set_xlim(-0.08, 1.02)
    axes.set_xticks([])
    axes.tick_params(labelleft=False)
    if not arcs:
        axes.annotate("none", (0.1, (n_rows - 1) / 2), color=MUTED, va="center")


@matplotlib.rc_context(CURVE_STYLE)
def units(summary: Summary, condition: str, limits: tuple[float, float]) -> str:
    """Draw fresh and pre-trained accuracy of every unit, joined by a line, beside means with intervals."""
    figure, (axes,) = panels(1, 2.62, 3.1)
    fresh, pretrained = (summary["arms"][arm]["by_condition"][condition] for arm in ("fresh", "pretrained"))
    others = pretrained["by_unit"]
    shared = {unit: (value, others[unit]) for unit, value in fresh["by_unit"].items() if unit in others}
    strong = min(1.0, FEW_UNITS / max(len(shared), 1))
    for before, after in shared.values():
        colour, style = (ACCENT, "-") if after > before else (WARM, "--")
        axes.plot([0, 1], [100 * before, 100 * after], style, color=colour, lw=0.9, alpha=0.65 * strong)
    for place, arm, content in ((0, "fresh", fresh), (1, "pretrained", pretrained)):
        colour, mark, _ = ARMS[arm]
        values = [100 * both[place] for both in shared.values()]
        axes.plot([place] * len(values), values, mark, color=colour, ms=3.6, mew=0, alpha=0.8 * strong)
        accuracy, beside = content["accuracy"], place + (-0.2, 0.2)[place]
        if accuracy["low"] is not None:
            axes.plot([beside] * 2, [100 * accuracy["low"], 100 * accuracy["high"]], color=colour, lw=2)
        axes.plot(beside, 100 * accuracy["mean"], mark, color=colour, ms=6.5)
    _chance(axes, 100 * summary["chance"])
    axes.set_xticks([0, 1], [summary["arms"][arm]["title"] for arm in ("fresh", "pretrained")])
    axes.set(xlim=(-0.5, 1.5), ylim=limits)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    title = condition_title(summary, condition)
    n_up = sum(after > before for before, after in shared.values())
    axes.set_title(f"{clipped(title, 30)}\n{n_up} of {len(shared)} better")
    who = f"{len(shared)} {plural(summary['unit'])} ({title})"
    return svg(figure, f"units-{condition}", f"Accuracy of {who}, {n_up} better with the pre-trained arm")


@matplotlib.rc_context(CURVE_STYLE)
def curve(summary: Summary, column: str, title: str) -> str:
    """Draw a figure of every arm by epoch; AUC with its interval and the target of the fresh arm."""
    figure, (axes,) = panels(1, *PANEL)
    last = []
    for arm, lines in summary["curves"].items():
        colour, _, style = _look(summary, arm)
        epoch, values = ([line[name] for line in lines] for name in ("epoch", column))
        low, high = ([line[side] for line in lines] for side in ("auc_low", "auc_high"))
        if column == "auc" and None not in low:
            band = np.clip(low, 0, 1), np.clip(high, 0, 1)
            axes.fill_between(epoch, *band, color=colour, alpha=0.16, lw=0)
        title_of_arm = summary["arms"][arm]["title"]
        axes.plot(epoch, values, color=colour, ls=style, lw=1.8)
        last.append(f"{title_of_arm} {values[-1]:.3f}")
    if column == "loss":
        axes.axhline(float(np.log(2)), color=MUTED, lw=0.9, ls=":")
    else:
        _chance(axes, summary["chance"])
    if column == "auc":
        axes.axhline(summary["speed"]["target_auc"], color=WARM, lw=0.8, ls=(0, (1, 3)))
    axes.set(title=title, xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    return svg(figure, f"curve-{column}", f"{title} by epoch; after the last: {', '.join(last)}")


@matplotlib.rc_context(CURVE_STYLE)
def sizes(summary: Summary, column: str, title: str) -> str:
    """Draw a figure of every arm by size of the training side; accuracy with its interval."""
    figure, (axes,) = panels(1, *PANEL)
    order, ends = summary["sizes"], []
    factor = 100 if column == "accuracy" else 1
    for shift, name in enumerate(summary["arms"]):
        rows = [row for row in summary["by_size"] if row["arm"] == name and row[column] is not None]
        if not rows:
            continue
        colour, mark, style = _look(summary, name)
        x = np.array([order.index(row["size"]) for row in rows]) + 0.06 * shift
        values = factor * np.array([row[column] for row in rows])
        if column == "accuracy" and rows[0]["low"] is not None:
            low, high = (factor * np.array([row[side] for row in rows]) for side in ("low", "high"))
            axes.vlines(x, low, high, color=colour, lw=1.6, alpha=0.7)
        arm = summary["arms"][name]["title"]
        axes.plot(x, values, color=colour, marker=mark, ls=style, lw=1.5, ms=5)
        ends.append(f"{arm} {values[0]:.3g} to {values[-1]:.3g}")
    _chance(axes, factor * summary["chance"])
    axes.set_xticks(range(len(order)), ["all" if size is None else f"{size}" for size in order])
    axes.set(title=title, xlabel=f"training {plural(trained_on(summary))}")
    return svg(figure, f"sizes-{column}", f"{title} by size of the training side: {'; '.join(ends)}")


def _look(summary: Summary, name: str) -> tuple[str, str, str]:
    """Return ink, mark and line of an arm or a control."""
    others = [arm for arm in summary["arms"] if arm not in ARMS]
    return ARMS[name] if name in ARMS else OTHERS[others.index(name) % len(OTHERS)]


def legend(summary: Summary) -> list[tuple[str, str]]:
    """Return key and name of every arm that has curves, for the page to write."""
    keys = []
    for name in summary["curves"]:
        colour, _, style = _look(summary, name)
        keys.append((swatch(colour, style), summary["arms"][name]["title"]))
    return keys


def _chance(axes: Axes, value: float) -> None:
    """Draw the line of chance and name it."""
    axes.axhline(value, color=INK, lw=0.9, ls=":")
    place = {"xycoords": ("axes fraction", "data"), "xytext": (0, 2), "textcoords": "offset points"}
    text = axes.annotate("guessing", (0.995, value), ha="right", color=MUTED, fontsize=8.5, **place)
    text.set_annotation_clip(True)  # where the line is out of sight, so is its name
