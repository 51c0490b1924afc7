"""The curves of a pre-training run, from its metrics.jsonl, as one HTML page."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fmriscale.common.errors import DamageError, UserError
from fmriscale.common.files import atomic_write
from fmriscale.reports.page import ACCENT, GREY, INK, MUTED, STYLE, WARM, WIDTH, environment, svg

STEP = {"step", "loss", "finite", "seen", "pairs_per_s"}
"""What the line of a step has at least."""
POINTS = 400
"""Most points of a curve: each is the mean of as many steps as it takes."""
MOST_DATASETS = 12
"""Data sets that have a curve of their own, those with most pairs."""
COLOURS = (ACCENT, WARM, "#7a9a3a", "#a05195", GREY, "#c94f4f")
BELOW = {**STYLE, "axes.grid.axis": "y", "ytick.color": MUTED}


def write_report(folder: Path, path: Path) -> None:
    """Draw a run into an HTML file."""
    steps, evals = read_metrics(folder / "metrics.jsonl")
    if not steps:
        raise UserError(f"{folder / 'metrics.jsonl'}: no step yet; come back when the run has made some")
    settings = folder / "config.yaml"
    page = (
        environment()
        .get_template("training.html.jinja")
        .render(
            name=folder.resolve().name,
            tiles=_tiles(steps, evals),
            charts=_charts(steps, evals),
            bad=[line["step"] for line in steps if not line["finite"]],
            config=settings.read_text(errors="replace") if settings.exists() else "",
        )
    )
    try:
        atomic_write(path, page)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; choose another place for --out") from error


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the lines of steps and those of evaluations, in the order of steps."""
    lines = path.read_text().splitlines()
    found = []
    for number, line in enumerate(lines, 1):
        try:
            content = json.loads(line)
        except ValueError as error:
            if number < len(lines):
                raise DamageError(f"{path}: line {number} is not JSON ({error}); remove it") from error
            continue
        if not isinstance(content, dict) or not ("event" in content or content.keys() >= STEP):
            raise DamageError(f"{path}: line {number} is no step that train.py wrote; remove it")
        found.append(content)
    steps = [line for line in found if "event" not in line]
    return steps, [line for line in found if line.get("event") == "eval"]


def curve(lines: list[dict[str, Any]], *keys: str) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and values of a (nested) number, averaged over neighbours to `POINTS` at most.

    Values that are missing or not finite (null) are left out.
    """
    steps, values = [], []
    for line in lines:
        value: Any = line
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            steps.append(line["step"])
            values.append(value)
    blocks = min(POINTS, len(steps))
    if blocks == 0:
        return np.empty(0), np.empty(0)
    step, value = (
        [part.mean() for part in np.array_split(np.array(x, float), blocks)] for x in (steps, values)
    )
    return np.array(step), np.array(value)


def _tiles(steps: list[dict[str, Any]], evals: list[dict[str, Any]]) -> list[tuple[str, str]]:
    last = steps[-1]
    rate = np.median([line["pairs_per_s"] for line in steps])
    tiles = [
        (f"{last['step']:,}", "steps"),
        (f"{sum(last['seen'].values()):,}", "pairs seen"),
        (f"{loss[-1]:.4f}" if len(loss := curve(steps, "loss")[1]) else "none", "training loss"),
    ]
    if evals:
        best = max(evals, key=lambda line: line["acc"])
        tiles.append((f"{evals[-1]['acc']:.1%}", f"held-out accuracy (best {best['acc']:.1%})"))
    return [*tiles, (f"{rate:,.0f}", "pairs/s (median)")]


def _charts(steps: list[dict[str, Any]], evals: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return title, sentence and picture of each chart."""
    kinds = _names(steps, "acc_by_kind")
    datasets = _names(steps, "acc_by_dataset")
    seen = steps[-1]["seen"]
    shown = sorted(datasets, key=lambda name: -seen.get(name, 0))[:MOST_DATASETS]
    charts = [
        {
            "title": "Loss and accuracy",
            "text": "Lines are training pairs, dots held-out ones; dotted: chance, and what autocorrelation "
            "alone reaches (persistence).",
            "chart": _pair(steps, evals, "loss", "acc"),
        },
        {
            "title": "Accuracy by kind of pair",
            "text": "A positive is right where it is said to follow, a negative where it is said not to.",
            "chart": _groups(steps, evals, "acc_by_kind", kinds, "kinds"),
        },
    ]
    if len(datasets) > 1:
        more = f" The {MOST_DATASETS} with most pairs." if len(datasets) > MOST_DATASETS else ""
        charts.append(
            {
                "title": "Accuracy by data set",
                "text": f"Over all kinds of pairs.{more}",
                "chart": _groups(steps, evals, "acc_by_dataset", shown, "datasets"),
            }
        )
    charts.append(
        {
            "title": "Learning rate and gradient",
            "text": "The norm is that before clipping; steps that were not finite have none.",
            "chart": _two(steps, ("lr", "learning rate", 1), ("grad_norm", "gradient norm", 1), "rate"),
        }
    )
    charts.append(
        {
            "title": "Speed",
            "text": "Share of a step in which the first rank waited for data.",
            "chart": _two(
                steps, ("pairs_per_s", "pairs/s", 1), ("data_wait_share", "waiting, %", 100), "speed"
            ),
        }
    )
    return charts


def _names(lines: list[dict[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(name for line in lines for name in line.get(key, {})))


@matplotlib.rc_context(BELOW)
def _pair(steps: list[dict[str, Any]], evals: list[dict[str, Any]], *keys: str) -> str:
    """Draw loss and accuracy side by side."""
    figure, panels = _figure(2)
    for axes, key, title in zip(panels, keys, ("loss", "accuracy"), strict=True):
        axes.plot(*curve(steps, key), color=ACCENT, lw=1.4, label="training")
        if evals:
            axes.plot(*curve(evals, key), "o-", color=WARM, ms=3.5, lw=0.8, label="held out")
        axes.set_title(title)
    panels[0].axhline(np.log(2), color=MUTED, lw=0.8, ls=":")
    panels[1].axhline(0.5, color=MUTED, lw=0.8, ls=":")
    if evals and evals[-1].get("persistence"):
        panels[1].axhline(evals[-1]["persistence"]["acc"], color=INK, lw=0.8, ls=":")
    panels[0].legend(frameon=False)
    return svg(figure, "loss", "Loss and accuracy by step")


@matplotlib.rc_context(BELOW)
def _groups(
    steps: list[dict[str, Any]], evals: list[dict[str, Any]], key: str, names: list[str], name: str
) -> str:
    """Draw the accuracy of groups: training on the left, held out on the right."""
    figure, panels = _figure(2)
    for axes, lines, title, marker in zip(
        panels, (steps, evals), ("training", "held out"), ("", "o"), strict=True
    ):
        for number, group in enumerate(names):
            style = "--" if number >= len(COLOURS) else "-"
            colour = COLOURS[number % len(COLOURS)]
            data = curve(lines, key, group)
            axes.plot(*data, marker=marker, ls=style, color=colour, ms=3.5, lw=1.3, label=group)
        axes.axhline(0.5, color=MUTED, lw=0.8, ls=":")
        axes.set_title(title)
        axes.set_ylim(-0.03, 1.03)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", frameon=False, ncols=6)
    return svg(figure, name, f"Accuracy by group ({name}) and step")


@matplotlib.rc_context(BELOW)
def _two(
    steps: list[dict[str, Any]], left: tuple[str, str, int], right: tuple[str, str, int], name: str
) -> str:
    """Draw two numbers side by side: (key, title, factor)."""
    figure, panels = _figure(2)
    for axes, (key, title, factor) in zip(panels, (left, right), strict=True):
        step, value = curve(steps, key)
        axes.plot(step, factor * value, color=ACCENT, lw=1.4)
        axes.set_title(title)
        axes.set_ylim(bottom=0)
    return svg(figure, name, f"{left[1]} and {right[1]} by step")


def _figure(n_panels: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    panels = list(figure.subplots(1, n_panels))
    for axes in panels:
        axes.grid(visible=True, axis="y")
        axes.set_xlabel("step")
    return figure, panels
