"""A study as one self-contained HTML page: `fmriscale report STUDY`."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from fmriscale.common.errors import DamageError, UserError
from fmriscale.common.files import atomic_write
from fmriscale.reports import study_charts as charts
from fmriscale.reports.page import environment
from fmriscale.study import wording
from fmriscale.study.cells import SUMMARY

SHORT = 24
"""Characters of a value that shares its line of the provenance with others."""
MOST_FOLDS = 12
"""Folds whose maps are drawn."""


def write_page(folder: Path, path: Path | None = None) -> Path:
    """Draw a study into an HTML file."""
    path = path or folder / "report.html"
    try:
        summary = json.loads((folder / SUMMARY).read_text())
    except FileNotFoundError as error:
        raise UserError(f"{folder / SUMMARY}: no such file; finish the study first") from error
    except ValueError as error:
        raise DamageError(f"{folder / SUMMARY}: not JSON ({error}); run the study again") from error
    if not isinstance(summary, dict) or not {"verdict", "arms", "provenance"} <= summary.keys():
        raise DamageError(f"{folder / SUMMARY}: not as fmriscale finetune writes it; run the study again")
    settings = folder / "config.yaml"
    config = settings.read_text(errors="replace") if settings.exists() else ""
    try:
        atomic_write(path, page(summary, folder.resolve().name, config))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; choose another place for --out") from error
    return path


def page(summary: dict[str, Any], name: str, config: str = "") -> str:
    """Return the page of a study."""
    template_environment = environment()
    template_environment.filters |= {
        "minus": lambda text: re.sub(r"(?<!\w)-(?=\d)", "\N{MINUS SIGN}", str(text)),
        "begin": lambda text: text[:1].upper() + text[1:],
    }
    conditions = wording.conditions_of(summary)
    arms = summary["arms"]
    return template_environment.get_template("study.html.jinja").render(
        name=name,
        summary=summary,
        arms=arms,
        **_differences(summary),
        conditions=conditions,
        verdict=_split(summary["verdict"]["sentence"]),
        setting=wording.setting(summary),
        say=wording,
        tiles=_tiles(summary),
        scale=_scale(_ends(_accuracies(summary)), summary["chance"]),
        effects=_scale(_ends(summary["comparisons"]), 0.0),
        by_chance=_scale(_ends(summary["against_chance"]), 0.0),
        by_size=_scale(_ends(summary["size_comparisons"]), 0.0),
        strongest=_strongest(summary),
        reversal=wording.on_reversal(summary),
        lacking=wording.on_lacking(summary),
        inks=charts.LABELS,
        speed=wording.on_speed(summary),
        power=wording.on_power(summary),
        seeds=wording.on_seeds(summary),
        caveats=wording.caveats(summary),
        design=_design(summary),
        units=_units(summary),
        curves=[
            charts.curve(summary, key, title)
            for key, title in (
                ("auc", "AUC on left-out data"),
                ("accuracy", "accuracy on left-out data"),
                ("loss", "training loss"),
            )
        ],
        sizes=[
            charts.sizes(summary, key, title) for key, title in (("accuracy", "accuracy, %"), ("auc", "AUC"))
        ]
        if len(summary["sizes"]) > 1
        else [],
        n_cells=_n_cells(summary),
        provenance=list(flattened(summary["provenance"])),
        config=config,
    )


@dataclass(frozen=True)
class Scale:
    """A horizontal axis of shares, drawn from 0 to 100 % of a cell's width."""

    low: float
    high: float
    ticks: tuple[tuple[float, bool], ...]
    """Value, and whether it may go where there is little room."""

    def at(self, value: float) -> str:
        """Return where a value lies, as an SVG length."""
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"


def _scale(values: list[float], line: float) -> Scale:
    """Return an axis on which values and a line have room, with round ticks of which the line is one."""
    low, high = min([line, *values]), max([line, *values])
    room = max(0.1 * (high - low), 0.005)
    low, high = low - room, high + room
    away = np.array(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]).tick_values(low - line, high - line))
    edge = room / 2  # a tick's number has to fit
    ticks = [(round(line + step, 6), round(step / (away[1] - away[0])) % 2 == 1) for step in away.tolist()]
    return Scale(low, high, tuple(tick for tick in ticks if low + edge <= tick[0] <= high - edge))


def _accuracies(summary: dict[str, Any]) -> list[dict[str, Any]]:
    return [by["accuracy"] for content in summary["arms"].values() for by in content["by_condition"].values()]


def _ends(figures: list[dict[str, Any]]) -> list[float]:
    """Return all that an axis has to hold: figures and the ends of their intervals."""
    found = [content.get(key) for content in figures for key in ("mean", "effect", "low", "high")]
    return [value for value in found if value is not None]


def _split(sentence: str) -> tuple[str, str]:
    """Return the verdict proper, its first clause, and what is said to it."""
    first, _, more = sentence.partition("; ")
    return (f"{first}." if more else first), more


def _tiles(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return number, what it is, and its interval: the arms, their difference, the units."""
    tiles = []
    for arm in ("pretrained", "fresh"):
        if arm in summary["arms"]:
            accuracy = summary["arms"][arm]["by_condition"]["all"]["accuracy"]
            between = wording.bounds(accuracy, wording.percent)
            tiles.append((f"{wording.percent(accuracy['mean'])} %", summary["arms"][arm]["title"], between))
    for row in summary["comparisons"]:
        if (row["condition"], row["first"], row["second"]) == ("all", "pretrained", "fresh"):
            between = wording.bounds(row, wording.points)
            tiles.append((wording.points(row["effect"]), "difference, points", between))
    tiles.append((f"{summary['n_units']}", wording.plural(summary["unit"]), ""))
    return tiles


def _strongest(summary: dict[str, Any]) -> dict[str, Any] | None:
    """Return the baseline with the highest accuracy; None where there is no baseline."""
    baselines = [content for content in summary["arms"].values() if content["kind"] == "baseline"]
    best = max(
        baselines, key=lambda content: content["by_condition"]["all"]["accuracy"]["mean"], default=None
    )
    return best and {"title": best["title"], **best["by_condition"]["all"]}


def _design(summary: dict[str, Any]) -> dict[str, Any] | None:
    """Return what the page says and draws of the design."""
    design = summary.get("design")
    if design is None:
        return None
    same, different = design["relation"]["same"], design["relation"]["different"]
    by_run = (same["one_run"] + different["n"] - different["one_run"]) / (same["n"] + different["n"])
    return {
        **design,
        "chart": charts.pairs(design, summary["label"]),
        "sentence": _on_runs(summary, same["one_run"] / same["n"], different["one_run"] / different["n"]),
        "by_run": by_run,
        "has_neither": any("x" in row for rows in design["places"] for row in rows),
        "maps": [_map(rows) for rows in design["places"][:MOST_FOLDS]],
    }


def _on_runs(summary: dict[str, Any], same: float, different: float) -> str:
    """Say how far the label of a pair can be told from whether both windows are of one run."""
    label = summary["label"]
    if same == 1 and different == 0:
        return (
            f"Both windows of every same-{label} pair are of one run, those of every different-{label} pair "
            f"of two: here same {label} means same run. A detector of runs is always right without any trace "
            f"of {label}, so a high accuracy is no evidence of it."
        )
    if same == 0 and different == 0:
        return (
            f"The two windows of every pair are of different runs, whether the {label} is the same or not: "
            "what only tells runs apart does not help."
        )
    return (
        f"Both windows are of one run in {wording.percent(same)} % of same-{label} pairs and in "
        f"{wording.percent(different)} % of different-{label} pairs: the more these differ, the more a "
        "detector of runs is right without any trace of the label."
    )


def _map(rows: list[str]) -> dict[str, Any]:
    """Return rectangles (x, y, width, side) of one fold: a row a person, a column a run."""
    rectangles = []
    for y, row in enumerate(rows):
        x = 0
        while x < len(row):
            end = x + 1
            while end < len(row) and row[end] == row[x]:
                end += 1
            side = {"-": "train", "#": "test", "x": "neither"}.get(row[x])
            if side:
                rectangles.append((x, y, end - x, side))
            x = end
    return {"rectangles": rectangles, "width": len(rows[0]), "height": len(rows)}


def _units(summary: dict[str, Any]) -> dict[str, Any] | None:
    """Return charts and table of every unit, fresh beside pre-trained; None where there is one arm."""
    arms = summary["arms"]
    if not {"fresh", "pretrained"} <= set(arms):
        return None
    conditions = wording.conditions_of(summary)
    found = {
        condition: [arms[arm]["by_condition"][condition]["by_unit"] for arm in ("fresh", "pretrained")]
        for condition in conditions
    }
    accuracies = [
        arms[arm]["by_condition"][c]["accuracy"] for arm in ("fresh", "pretrained") for c in conditions
    ]
    values = _ends(accuracies) + [value for both in found.values() for by in both for value in by.values()]
    room = 0.05 * (max(values) - min(values)) + 0.005
    limits = 100 * (min(values) - room), 100 * (max(values) + room)
    names = list(dict.fromkeys(unit for both in found.values() for unit in both[0]))
    table = [
        (unit, [(fresh.get(unit), pretrained.get(unit)) for fresh, pretrained in found.values()])
        for unit in names
    ]
    gain = {unit: values[0][1] - values[0][0] for unit, values in table if None not in values[0]}
    return {
        "charts": [charts.units(summary, condition, limits) for condition in conditions],
        "table": sorted(table, key=lambda row: -gain.get(row[0], -np.inf)),
    }


def _n_cells(summary: dict[str, Any]) -> int:
    """Return how many trainings the numbers stand on."""
    n_arms = sum(content["kind"] != "baseline" for content in summary["arms"].values())
    return n_arms * summary["n_folds"] * len(summary["seeds"]) * len(summary["sizes"])


def _differences(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the rows of every table of differences, with their names, under their headings."""
    titles = {arm: content["title"] for arm, content in summary["arms"].items()} | {"chance": "chance"}

    def named(rows: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
        return [(f"{titles[row['first']]} \N{MINUS SIGN} {titles[row['second']]}", row) for row in rows]

    rows, conditions = summary["comparisons"], wording.conditions_of(summary)
    groups = [
        (wording.part(summary, c), named([row for row in rows if row["condition"] == c])) for c in conditions
    ]
    sizes = [
        ("all" if row["size"] is None else wording.counted(row["size"], wording.trained_on(summary)), row)
        for row in summary["size_comparisons"]
    ]
    return {
        "comparisons": groups if len(conditions) > 1 else [(wording.lone_condition(summary), named(rows))],
        "against_chance": [("", named(summary["against_chance"]))],
        "size_comparisons": [("", sizes)],
    }


def flattened(content: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and value of everything in nested dictionaries; short values of one dictionary together."""
    for name, value in content.items():
        title = " \N{MIDDLE DOT} ".join(filter(None, (above, name.replace("_", " "))))
        if isinstance(value, dict):
            if all(
                isinstance(what, str | int | float) and len(str(what)) <= SHORT for what in value.values()
            ):
                yield title, ", ".join(f"{key} {what}" for key, what in value.items())
            else:
                yield from flattened(value, title)
        elif value is not None:
            yield title, ", ".join(str(part) for part in value) if isinstance(value, list) else str(value)
