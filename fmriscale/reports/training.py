"""The curves of a pre-training run, from its metrics.jsonl, as one HTML page."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from fmriscale.common.errors import UserError
from fmriscale.reports.first_screen import Picture, Row, picture, screen
from fmriscale.reports.metrics import Lines, read_metrics
from fmriscale.reports.page import (
    ACCENT,
    CURVE_STYLE,
    INK,
    MUTED,
    PANEL,
    SERIES,
    WARM,
    about_folder,
    panels,
    svg,
    swatch,
    write_html,
)

POINTS = 400  # Most points of a curve: each is the mean of as many steps as it takes
MOST_DATASETS = 12  # Data sets that have a curve of their own, those with most pairs
TERMS = ("ntp_loss", "masked_loss", "contrastive_loss", "connectivity_loss")
STYLES = ("-", "--", ":")
"""Lines of curves beyond as many as there are inks."""


def write_page(folder: Path, path: Path) -> None:
    """Draw a run into an HTML file."""
    steps, evals = read_metrics(folder / "metrics.jsonl")
    if not steps:
        raise UserError(f"{folder / 'metrics.jsonl'}: no step yet; come back when the run has made some")
    write_html(
        path,
        "training.html.jinja",
        "--out",
        **about_folder(folder),
        tiles=_tiles(steps, evals),
        first=_first(steps, evals),
        picture=_picture(steps, evals),
        sections=_sections(steps, evals),
        provenance=_provenance(folder),
        bad=[line["step"] for line in steps if not line["finite"]],
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
            tiles.append((_percent(reached[-1]), f"{name} (best {_percent(max(reached))})", ""))
    for key, name in (("pairs_per_s", "pairs/s"), ("windows_per_s", "windows/s")):
        if rate := np.median([line.get(key, 0) for line in steps]):
            tiles.append((f"{rate:,.0f}", f"{name} (median)", ""))
    return tiles


def _first(steps: Lines, evals: Lines) -> dict[str, Any]:
    """Say what the run has learned: its figure, and what that means."""
    n_steps, question = f"{steps[-1]['step']:,} steps", "What has this pre-training learned so far?"
    held_out = _last(evals, "acc")
    if held_out is not None:
        beside = _last(evals, "persistence", "acc")
        rule = "who only looks whether one goes on where the other ends"
        alone = f", and {rule} is right in {_percent(beside)}" if beside else ""
        return screen(
            question,
            _percent(held_out),
            f"So often, after {n_steps}, the network says rightly whether one stretch of brain activity "
            f"follows another, in recordings that it never learned from. Guessing is right in 50 %{alone}.",
            "No labels are needed for it: an encoder that can do this has learned how brain activity goes "
            "on. Whether that helps to decode is for a study to tell.",
        )
    found = _last(evals, "contrastive_acc")
    if found is not None:
        return screen(
            question,
            _percent(found),
            f"So often, after {n_steps}, the network finds the same moment of the film or story in another "
            "person's brain activity, in recordings that it never learned from.",
            "No labels are needed for it: an encoder that can do this has learned what people share. Whether "
            "that helps to decode is for a study to tell.",
        )
    return screen(
        question,
        n_steps,
        "Nothing was held out to tell what the network knows of recordings that it never learned from; the "
        "curves below show the training itself.",
    )


def _picture(steps: Lines, evals: Lines) -> Picture | None:
    """Lay out held-out and training accuracy beside what needs no network."""
    answers = next((k for k in ("acc", "contrastive_acc") if _last(evals, k) is not None), None)
    if answers is None:
        return None
    training = curve(steps, answers)[1]
    found = [
        ("Held-out recordings", "never learned from", "pretrained", _last(evals, answers)),
        ("Training recordings", "learned from", "fresh", float(training[-1]) if len(training) else None),
        ("Simple rule: continuity in time", "no network", "baseline", _last(evals, "persistence", "acc")),
    ]
    rows = [
        Row(title, look, {"mean": value, "low": None, "high": None}, _percent(value), "", what)
        for title, what, look, value in found
        if value is not None
    ]
    chance = 0.5 if answers == "acc" else None
    return picture("How often it is right, %", rows, chance, "guessing 50 %", "At the last evaluation.")


def _last(lines: Lines, *keys: str) -> float | None:
    """Return the last known value of a (nested) number."""
    values = curve(lines, *keys)[1]
    return float(values[-1]) if len(values) else None


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _provenance(folder: Path) -> list[tuple[str, str]]:
    """Return what the encoder beside a run says of its making."""
    try:
        meta = json.loads((folder / "encoder" / "config.json").read_text())["meta"]
    except (OSError, ValueError, KeyError, TypeError):
        return [("folder", folder.resolve().name)]
    names = {"fmriscale": "made with fmriscale", "corpus_fingerprint": "corpus", "config_hash": "recipe"}
    known = [(what, str(meta[key])) for key, what in names.items() if key in meta]
    return [("folder", folder.resolve().name), *known]


def _sections(steps: Lines, evals: Lines) -> list[dict[str, Any]]:
    """Return title, sentence, keys and charts of each section."""
    datasets, seen = _names(steps, "acc_by_dataset"), steps[-1]["seen"]
    shown = sorted(datasets, key=lambda name: -seen.get(name, 0))[:MOST_DATASETS]
    more = f" The {MOST_DATASETS} with most pairs." if len(datasets) > MOST_DATASETS else ""
    rate = ("pairs_per_s", "pairs/s") if any(seen.values()) else ("windows_per_s", "windows/s")
    is_ntp = any("acc" in line for line in steps)
    terms = [key for key in TERMS if any(key in line for line in steps)]
    sections = [
        _section(
            "Loss and accuracy",
            "Lines are training pairs, dots held-out ones; dotted: guessing, and what autocorrelation alone "
            "reaches (persistence)."
            if is_ntp
            else "Lines are training, dots held-out runs. The accuracy is how often the right window of "
            "another person comes first.",
            _loss_and_accuracy(steps, evals, "acc" if is_ntp else "contrastive_acc"),
            [
                (swatch(ACCENT), "training"),
                *([(swatch(WARM), "held out")] if evals else []),
            ],
        ),
        _section(
            "Terms of the loss",
            "Without their weights: training first, then held-out runs.",
            [_many(lines, [(term,) for term in terms], title) for lines, title in _sides(steps, evals)],
            _keys([key.removesuffix("_loss").replace("ntp", "NTP") for key in terms]),
        ),
        _section(
            "Accuracy by kind of pair",
            "A positive is right where it is said to follow, a negative where it is said not to.",
            *_groups(steps, evals, "acc_by_kind", _names(steps, "acc_by_kind")),
        ),
        _section(
            "Accuracy by data set",
            f"Over all kinds of pairs.{more}",
            *_groups(steps, evals, "acc_by_dataset", shown),
        ),
        _section(
            "Learning rate and gradient",
            "The norm is that before clipping; steps that were not finite have none.",
            [_many(steps, [("lr",)], "learning rate"), _many(steps, [("grad_norm",)], "gradient norm")],
        ),
        _section(
            "Speed",
            "Share of a step in which the first rank waited for data.",
            [
                _many(steps, [rate[:1]], rate[1]),
                _many(steps, [("data_wait_share",)], "waiting, %", factor=100),
            ],
        ),
    ]
    absent = {"Accuracy by data set"} if len(datasets) < 2 else set()
    absent |= {"Terms of the loss"} if not terms else set()
    absent |= {"Accuracy by kind of pair"} if not is_ntp else set()
    return [section for section in sections if section["title"] not in absent]


def _section(
    title: str, sentence: str, charts: list[str], keys: list[tuple[str, str]] | None = None
) -> dict[str, Any]:
    name = title.lower().replace(" ", "-")
    return {"id": name, "title": title, "sentence": sentence, "charts": charts, "legend": keys or []}


def _names(lines: Lines, key: str) -> list[str]:
    return list(dict.fromkeys(name for line in lines for name in line.get(key, {})))


def _look(number: int) -> tuple[str, str]:
    """Return ink and line of one of many curves."""
    return SERIES[number % len(SERIES)], STYLES[number // len(SERIES) % len(STYLES)]


def _keys(labels: list[str]) -> list[tuple[str, str]]:
    """Return key and label of each curve."""
    return [(swatch(*_look(number)), label) for number, label in enumerate(labels)]


def _sides(steps: Lines, evals: Lines) -> list[tuple[Lines, str]]:
    """Return training lines and, where there are any, held-out ones."""
    return [(steps, "training"), *([(evals, "held out")] if evals else [])]


@matplotlib.rc_context(CURVE_STYLE)
def _loss_and_accuracy(steps: Lines, evals: Lines, answers: str) -> list[str]:
    charts = []
    for key, title in (("loss", "loss"), (answers, "accuracy")):
        figure, (axes,) = panels(1, *PANEL)
        axes.plot(*curve(steps, key), color=ACCENT, lw=1.4)
        if evals:
            axes.plot(*curve(evals, key), "o-", color=WARM, ms=3.5, lw=0.8)
        axes.set(title=title, xlabel="step")
        if key == "acc":
            axes.axhline(0.5, color=MUTED, lw=0.8, ls=":")
            if evals and evals[-1].get("persistence"):
                axes.axhline(evals[-1]["persistence"]["acc"], color=INK, lw=0.8, ls=":")
        elif answers == "acc" and not any(term in steps[-1] for term in TERMS):
            axes.axhline(np.log(2), color=MUTED, lw=0.8, ls=":")
        charts.append(svg(figure, title, f"{title} by step"))
    return charts


def _groups(
    steps: Lines, evals: Lines, key: str, names: list[str]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Draw the accuracy of groups: training, then held out."""
    paths, sides, limits = [(key, name) for name in names], _sides(steps, evals), (-0.03, 1.03)
    return [_many(lines, paths, f"{title}, accuracy", limits=limits) for lines, title in sides], _keys(names)


@matplotlib.rc_context(CURVE_STYLE)
def _many(
    lines: Lines,
    paths: list[tuple[str, ...]],
    title: str,
    limits: tuple[float, float] | None = None,
    factor: float = 1,
) -> str:
    """Draw several numbers by step; their names stand beside the charts."""
    figure, (axes,) = panels(1, *PANEL)
    mark = "o" if title.startswith("held out") else ""
    for number, path in enumerate(paths):
        colour, style = _look(number)
        step, value = curve(lines, *path)
        axes.plot(step, factor * value, marker=mark, ls=style, color=colour, ms=3.5, lw=1.3)
    if limits:
        axes.axhline(0.5, color=MUTED, lw=0.8, ls=":")
        axes.set_ylim(*limits)
    else:
        axes.set_ylim(bottom=0)
    axes.set(title=title, xlabel="step")
    return svg(figure, f"{title}-{paths[0][0] if paths else ''}", f"{title} by step")
