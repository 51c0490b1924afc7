"""The curves of a pre-training run, from its metrics.jsonl, as one HTML page."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from fmriscale.common.errors import UserError
from fmriscale.reports.metrics import Lines, read_metrics
from fmriscale.reports.page import ACCENT, CURVE_STYLE, GREY, INK, MUTED, WARM, WIDTH, panels, svg, write_html

POINTS = 400  # Most points of a curve: each is the mean of as many steps as it takes
MOST_DATASETS = 12  # Data sets that have a curve of their own, those with most pairs
TERMS = ("ntp_loss", "masked_loss", "contrastive_loss", "connectivity_loss")
COLOURS = (ACCENT, WARM, "#7a9a3a", "#a05195", GREY, "#c94f4f")


def write_page(folder: Path, path: Path) -> None:
    """Draw a run into an HTML file."""
    steps, evals = read_metrics(folder / "metrics.jsonl")
    if not steps:
        raise UserError(f"{folder / 'metrics.jsonl'}: no step yet; come back when the run has made some")
    settings = folder / "config.yaml"
    write_html(
        path,
        "training.html.jinja",
        "--out",
        name=folder.resolve().name,
        tiles=_tiles(steps, evals),
        charts=_charts(steps, evals),
        bad=[line["step"] for line in steps if not line["finite"]],
        config=settings.read_text(errors="replace") if settings.exists() else "",
    )


def curve(lines: Lines, *keys: str) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and known values of a (nested) number, averaged over neighbours to `POINTS` at most."""
    points = []
    for line in lines:
        value: Any = line
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            points.append((line["step"], value))
    if not points:
        return np.empty(0), np.empty(0)
    blocks = np.array_split(np.array(points, float), min(POINTS, len(points)))
    step, value = np.array([block.mean(axis=0) for block in blocks]).T
    return step, value


def _tiles(steps: Lines, evals: Lines) -> list[tuple[str, str, str]]:
    """Return (figure, what it is, note)."""
    last, loss = steps[-1], curve(steps, "loss")[1]
    n_pairs = sum(last["seen"].values())
    tiles = [(f"{last['step']:,}", "steps", "")]
    tiles += [(f"{n_pairs:,}", "pairs seen", "")] if n_pairs else []
    tiles += [(f"{loss[-1]:.4f}" if len(loss) else "none", "training loss", "")]
    for key, name in (("acc", "held-out accuracy"), ("contrastive_acc", "right window first, held out")):
        if reached := [line[key] for line in evals if key in line]:
            tiles.append((f"{reached[-1]:.1%}", f"{name} (best {max(reached):.1%})", ""))
    for key, name in (("pairs_per_s", "pairs/s"), ("windows_per_s", "windows/s")):
        if rate := np.median([line.get(key, 0) for line in steps]):
            tiles.append((f"{rate:,.0f}", f"{name} (median)", ""))
    return tiles


def _charts(steps: Lines, evals: Lines) -> list[tuple[str, str, str]]:
    """Return title, sentence and picture of each chart."""
    datasets, seen = _names(steps, "acc_by_dataset"), steps[-1]["seen"]
    shown = sorted(datasets, key=lambda name: -seen.get(name, 0))[:MOST_DATASETS]
    more = f" The {MOST_DATASETS} with most pairs." if len(datasets) > MOST_DATASETS else ""
    rate = ("pairs_per_s", "pairs/s", 1) if any(seen.values()) else ("windows_per_s", "windows/s", 1)
    is_ntp = any("acc" in line for line in steps)
    terms = [key for key in TERMS if any(key in line for line in steps)]
    charts = [
        (
            "Loss and accuracy",
            "Lines are training pairs, dots held-out ones; dotted: chance, and what autocorrelation alone "
            "reaches (persistence)."
            if is_ntp
            else "Lines are training, dots held-out runs. The accuracy is how often the right window of "
            "another person comes first.",
            _loss_and_accuracy(steps, evals, "acc" if is_ntp else "contrastive_acc"),
        ),
        (
            "Terms of the loss",
            "Without their weights: training on the left, held-out runs on the right.",
            _terms(steps, evals, terms),
        ),
        (
            "Accuracy by kind of pair",
            "A positive is right where it is said to follow, a negative where it is said not to.",
            _groups(steps, evals, "acc_by_kind", _names(steps, "acc_by_kind"), "kinds"),
        ),
        (
            "Accuracy by data set",
            f"Over all kinds of pairs.{more}",
            _groups(steps, evals, "acc_by_dataset", shown, "datasets"),
        ),
        (
            "Learning rate and gradient",
            "The norm is that before clipping; steps that were not finite have none.",
            _two(steps, ("lr", "learning rate", 1), ("grad_norm", "gradient norm", 1), "rate"),
        ),
        (
            "Speed",
            "Share of a step in which the first rank waited for data.",
            _two(steps, rate, ("data_wait_share", "waiting, %", 100), "speed"),
        ),
    ]
    absent = {"Accuracy by data set"} if len(datasets) < 2 else set()
    absent |= {"Terms of the loss"} if not terms else set()
    absent |= {"Accuracy by kind of pair"} if not is_ntp else set()
    return [chart for chart in charts if chart[0] not in absent]


def _names(lines: Lines, key: str) -> list[str]:
    return list(dict.fromkeys(name for line in lines for name in line.get(key, {})))


@matplotlib.rc_context(CURVE_STYLE)
def _loss_and_accuracy(steps: Lines, evals: Lines, answers: str) -> str:
    figure, (loss, accuracy) = panels(2, WIDTH, 2.9)
    for axes, key, title in ((loss, "loss", "loss"), (accuracy, answers, "accuracy")):
        axes.plot(*curve(steps, key), color=ACCENT, lw=1.4, label="training")
        if evals:
            axes.plot(*curve(evals, key), "o-", color=WARM, ms=3.5, lw=0.8, label="held out")
        axes.set(title=title, xlabel="step")
    if answers == "acc":
        accuracy.axhline(0.5, color=MUTED, lw=0.8, ls=":")
        if not any(key in steps[-1] for key in TERMS):
            loss.axhline(np.log(2), color=MUTED, lw=0.8, ls=":")
    if evals and evals[-1].get("persistence"):
        accuracy.axhline(evals[-1]["persistence"]["acc"], color=INK, lw=0.8, ls=":")
    loss.legend(frameon=False)
    return svg(figure, "loss", "Loss and accuracy by step")


@matplotlib.rc_context(CURVE_STYLE)
def _terms(steps: Lines, evals: Lines, terms: list[str]) -> str:
    """Draw the terms of the loss: training on the left, held out on the right."""
    figure, both = panels(2, WIDTH, 2.9)
    for axes, lines, title, marker in zip(
        both, (steps, evals), ("training", "held out"), ("", "o"), strict=True
    ):
        for colour, key in zip(COLOURS, terms, strict=False):
            label = key.removesuffix("_loss").replace("ntp", "NTP")
            axes.plot(*curve(lines, key), marker=marker, color=colour, ms=3.5, lw=1.3, label=label)
        axes.set(title=title, xlabel="step")
        axes.set_ylim(bottom=0)
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", frameon=False, ncols=6)
    return svg(figure, "terms", "Terms of the loss by step")


@matplotlib.rc_context(CURVE_STYLE)
def _groups(steps: Lines, evals: Lines, key: str, names: list[str], name: str) -> str:
    """Draw the accuracy of groups: training on the left, held out on the right."""
    figure, (training, held_out) = panels(2, WIDTH, 2.9)
    sides = ((training, steps, "training", ""), (held_out, evals, "held out", "o"))
    for axes, lines, title, marker in sides:
        for number, group in enumerate(names):
            colour, style = COLOURS[number % len(COLOURS)], "--" if number >= len(COLOURS) else "-"
            step, value = curve(lines, key, group)
            axes.plot(step, value, marker=marker, ls=style, color=colour, ms=3.5, lw=1.3, label=group)
        axes.axhline(0.5, color=MUTED, lw=0.8, ls=":")
        axes.set(title=title, xlabel="step", ylim=(-0.03, 1.03))
    figure.legend(*training.get_legend_handles_labels(), loc="outside lower center", frameon=False, ncols=6)
    return svg(figure, name, f"Accuracy by group ({name}) and step")


@matplotlib.rc_context(CURVE_STYLE)
def _two(steps: Lines, left: tuple[str, str, int], right: tuple[str, str, int], name: str) -> str:
    """Draw two numbers side by side: (key, title, factor)."""
    figure, both = panels(2, WIDTH, 2.9)
    for axes, (key, title, factor) in zip(both, (left, right), strict=True):
        step, value = curve(steps, key)
        axes.plot(step, factor * value, color=ACCENT, lw=1.4)
        axes.set(title=title, xlabel="step")
        axes.set_ylim(bottom=0)
    return svg(figure, name, f"{left[1]} and {right[1]} by step")
