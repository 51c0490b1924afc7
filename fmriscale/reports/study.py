"""A study as one self-contained HTML page."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from fmriscale.common.errors import DamageError, UserError
from fmriscale.reports import study_charts as charts
from fmriscale.reports.page import write_html
from fmriscale.study import wording
from fmriscale.study.jobs import SUMMARY

SHORT = 24  # Characters of a value that shares its line of the provenance with others
MOST_FOLDS = 12  # Folds whose maps are drawn

Summary = dict[str, Any]


def write_page(folder: Path, path: Path) -> None:
    """Draw a study into an HTML file."""
    file, settings = folder / SUMMARY, folder / "config.yaml"
    try:
        summary = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file; finish the study first") from error
    except ValueError as error:
        raise DamageError(f"{file}: not JSON ({error}); run the study again") from error
    if not isinstance(summary, dict) or not {"verdict", "arms", "provenance"} <= summary.keys():
        raise DamageError(f"{file}: not as fmriscale finetune writes it; run the study again")
    first, _, more = summary["verdict"]["sentence"].partition("; ")
    several_sizes = len(summary["sizes"]) > 1
    n_trained = sum(content["kind"] != "baseline" for content in summary["arms"].values())
    arms = summary["arms"].values()
    accuracies = [by["accuracy"] for content in arms for by in content["by_condition"].values()]
    write_html(
        path,
        "study.html.jinja",
        "--out",
        name=folder.resolve().name,
        summary=summary,
        **_differences(summary),
        verdict=(f"{first}." if more else first, more),
        say=wording,
        tiles=_tiles(summary),
        scale=scale_of(accuracies, summary["chance"], sign=""),
        effects=scale_of(summary["comparisons"], 0.0),
        by_chance=scale_of(summary["against_chance"], 0.0),
        by_size=scale_of(summary["size_comparisons"], 0.0),
        strongest=_strongest(summary),
        inks=charts.LABELS,
        design=_design(summary) if "design" in summary else None,
        units=_units(summary) if {"fresh", "pretrained"} <= set(summary["arms"]) else None,
        curves=[
            charts.curve(summary, "auc", "AUC on left-out data"),
            charts.curve(summary, "accuracy", "accuracy on left-out data"),
            charts.curve(summary, "loss", "training loss"),
        ],
        sizes=[
            charts.sizes(summary, "accuracy", "accuracy, %"), charts.sizes(summary, "auc", "AUC")
        ] if several_sizes else [],
        n_cells=n_trained * summary["n_folds"] * len(summary["seeds"]) * len(summary["sizes"]),
        provenance=list(flattened(summary["provenance"])),
        config=settings.read_text(errors="replace") if settings.exists() else "",
    )  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """A horizontal axis of shares, drawn from 0 to 100 % of a cell's width."""

    low: float
    high: float
    ticks: tuple[tuple[float, bool, str], ...]
    """Value, whether it may go where there is little room, and its label."""

    def at(self, value: float) -> str:
        """Return where a value is, as an SVG length."""
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"


def scale_of(figures: list[dict[str, Any]], line: float, sign: str = "+", factor: float = 100) -> Scale:
    """Return an axis on which figures and a line have room, with round ticks of which the line is one.

    factor: from a value to its label (100: percent).
    """
    values = _ends(figures)
    low, high = min([line, *values]), max([line, *values])
    room = max(0.1 * (high - low), 0.005)
    low, high = low - room, high + room
    steps = np.array(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]).tick_values(low - line, high - line))
    ticks = []
    for step in steps.tolist():
        value = round(line + step, 6)
        if low + room / 2 <= value <= high - room / 2:  # a tick's number has to fit
            odd = round(step / (steps[1] - steps[0])) % 2 == 1
            ticks.append((value, odd, f"{factor * value:{sign if value else ''}g}"))
    return Scale(low, high, tuple(ticks))


def _ends(figures: list[dict[str, Any]]) -> list[float]:
    """Return all that an axis has to hold: figures and the ends of their intervals."""
    ends = [content.get(key) for content in figures for key in ("mean", "effect", "low", "high")]
    return [value for value in ends if value is not None]


def _tiles(summary: Summary) -> list[tuple[str, str, str]]:
    """Return (figure, what it is, interval): the arms, their difference, the units."""
    tiles = []
    for arm in ("pretrained", "fresh"):
        if arm in summary["arms"]:
            accuracy = summary["arms"][arm]["by_condition"]["all"]["accuracy"]
            interval = wording.bounds(accuracy, wording.percent)
            tiles.append((f"{wording.percent(accuracy['mean'])} %", summary["arms"][arm]["title"], interval))
    for row in summary["comparisons"]:
        if (row["condition"], row["first"], row["second"]) == ("all", "pretrained", "fresh"):
            interval = wording.bounds(row, wording.points)
            tiles.append((wording.points(row["effect"]), "difference, points", interval))
    return [*tiles, (f"{summary['n_units']}", wording.plural(summary["unit"]), "")]


def _strongest(summary: Summary) -> dict[str, Any] | None:
    """Return the baseline with the highest accuracy; None where there is no baseline."""
    baselines = (content for content in summary["arms"].values() if content["kind"] == "baseline")
    baselines = [{"title": content["title"], **content["by_condition"]["all"]} for content in baselines]
    return max(baselines, key=lambda content: content["accuracy"]["mean"], default=None)


def _design(summary: Summary) -> dict[str, Any]:
    """Return what the page says and draws of the design."""
    design, label = summary["design"], summary["label"]
    same, different = design["relation"]["same"], design["relation"]["different"]
    by_run = (same["one_run"] + different["n"] - different["one_run"]) / (same["n"] + different["n"])
    sentence = _on_runs(label, same["one_run"] / same["n"], different["one_run"] / different["n"])
    return {
        **design,
        "chart": charts.pairs(design, label),
        "sentence": sentence,
        "by_run": by_run,
        "has_neither": any("x" in row for rows in design["places"] for row in rows),
        "maps": [_map(rows) for rows in design["places"][:MOST_FOLDS]],
    }


def _on_runs(label: str, same: float, different: float) -> str:
    """Say how far the label of a pair can be told from whether both windows are of one run."""
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
    sides, rectangles = {"-": "train", "#": "test", "x": "neither"}, []
    for y, row in enumerate(rows):
        x = 0
        for mark, alike in groupby(row):
            width = len(list(alike))
            if mark in sides:
                rectangles.append((x, y, width, sides[mark]))
            x += width
    return {"rectangles": rectangles, "width": len(rows[0]), "height": len(rows)}


def _units(summary: Summary) -> dict[str, Any]:
    """Return charts and table of every unit, fresh beside pre-trained."""
    conditions = wording.conditions_of(summary)
    both = [summary["arms"][arm]["by_condition"] for arm in ("fresh", "pretrained")]
    by_unit = [[arm[condition]["by_unit"] for arm in both] for condition in conditions]
    values = _ends([arm[condition]["accuracy"] for arm in both for condition in conditions])
    values += [value for arms in by_unit for units in arms for value in units.values()]
    room = 0.05 * (max(values) - min(values)) + 0.005
    limits = 100 * (min(values) - room), 100 * (max(values) + room)
    names = dict.fromkeys(unit for fresh, _ in by_unit for unit in fresh)
    table = [(name, [(fresh.get(name), tuned.get(name)) for fresh, tuned in by_unit]) for name in names]

    def gain(row: tuple[str, list[tuple[float | None, float | None]]]) -> float:
        fresh, pretrained = row[1][0]
        return -np.inf if fresh is None or pretrained is None else pretrained - fresh

    drawn = [charts.units(summary, condition, limits) for condition in conditions]
    return {"charts": drawn, "table": sorted(table, key=gain, reverse=True)}


def _differences(summary: Summary) -> dict[str, Any]:
    """Return the rows of every table of differences, with their names, under their headings."""
    titles = {arm: content["title"] for arm, content in summary["arms"].items()} | {"chance": "chance"}

    def named(rows: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
        return [(f"{titles[row['first']]} \N{MINUS SIGN} {titles[row['second']]}", row) for row in rows]

    rows, conditions = summary["comparisons"], wording.conditions_of(summary)
    groups = [(wording.lone_condition(summary), named(rows))]
    if len(conditions) > 1:
        of = {c: [row for row in rows if row["condition"] == c] for c in conditions}
        groups = [(wording.condition_title(summary, c), named(own)) for c, own in of.items()]
    unit, by_size = wording.trained_on(summary), summary["size_comparisons"]
    sizes = [("all" if r["size"] is None else wording.counted(r["size"], unit), r) for r in by_size]
    by_chance = [("", named(summary["against_chance"]))]
    return {"comparisons": groups, "against_chance": by_chance, "size_comparisons": [("", sizes)]}


def flattened(content: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and value of everything in nested dictionaries; short values of one dictionary together."""
    for name, value in content.items():
        title = " \N{MIDDLE DOT} ".join(filter(None, (above, name.replace("_", " "))))
        if not isinstance(value, dict):
            if value is not None:
                yield title, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        elif all(isinstance(v, str | int | float) and len(str(v)) <= SHORT for v in value.values()):
            yield title, ", ".join(f"{key} {v}" for key, v in value.items())
        else:
            yield from flattened(value, title)
