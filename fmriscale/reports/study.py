"""A study as one self-contained HTML page."""

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from fmriscale.reports import study_charts as charts
from fmriscale.reports.decoding import (
    Summary,
    compared_rows,
    flattened,
    look_of,
    read_summary,
)
from fmriscale.reports.first_screen import (
    Difference,
    Picture,
    Row,
    count_tiles,
    ends,
    picture,
    scale_of,
    screen,
)
from fmriscale.reports.page import about_folder, write_html
from fmriscale.study import plain, wording
from fmriscale.study.controls import missing_control

MOST_FOLDS = 12  # Folds whose maps are drawn


def write_page(folder: Path, path: Path) -> None:
    """Draw a study into an HTML file."""
    summary = read_summary(folder, "study", "finetune", "arms")
    several_sizes = len(summary["sizes"]) > 1
    n_trained = sum(content["kind"] != "baseline" for content in summary["arms"].values())
    arms = summary["arms"].values()
    accuracies = [by["accuracy"] for content in arms for by in content["by_condition"].values()]
    write_html(
        path,
        "study.html.jinja",
        "--out",
        **about_folder(folder),
        summary=summary,
        first=screen(*plain.answer(summary)),
        picture=_picture(summary),
        forests=_forests(summary),
        **_differences(summary),
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
        legend=charts.legend(summary),
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
    )  # fmt: skip


def _picture(summary: Summary) -> Picture:
    """Lay out the arms and the best simple method against guessing."""
    figures = {name: arm["by_condition"]["all"]["accuracy"] for name, arm in summary["arms"].items()}
    rows = compared_rows(plain.compared(summary), figures, wording.percent, " %")
    units = wording.counted(summary["n_units"], summary["unit"])
    caption = "All were tested on the same data, none of which they had learned from."
    if any(row.interval for row in rows):
        caption = f"Lines: where the true value lies, with 95 % confidence, over {units}. {caption}"
    chance = summary["chance"]
    return picture("How often each is right, %", rows, chance, f"guessing {100 * chance:g} %", caption)


def _forests(summary: Summary) -> list[tuple[str, list[Row]]]:
    """Return a table of all arms and baselines for every condition."""
    found, control = [], missing_control(summary) if summary.get("to_run") else None
    for condition in wording.conditions_of(summary):
        rows, missing = [], control
        for arm, content in summary["arms"].items():
            if condition not in content["by_condition"]:
                continue
            if missing and content["kind"] == "baseline":
                rows.append(Row(missing.title, "control", None, "not run", kind="control"))
                missing = None
            by = content["by_condition"][condition]
            figure = by["accuracy"]
            value, interval = wording.percent(figure["mean"]), wording.bounds(figure, wording.percent)
            more, look = wording.area(by["auc"]["mean"]), look_of(arm, content)
            rows.append(Row(content["title"], look, figure, value, interval, "", content["kind"], more))
        named = summary["conditions"] != [""]
        found.append((wording.condition_title(summary, condition) if named else "", rows))
    return found


def _tiles(summary: Summary) -> list[tuple[str, str, str]]:
    """Return (figure, what it is, interval): the difference of the arms, and how much was done."""
    tiles = []
    for row in summary["comparisons"]:
        if (row["condition"], row["first"], row["second"]) == ("all", "pretrained", "fresh"):
            interval = wording.bounds(row, wording.points)
            tiles.append((wording.points(row["effect"]), "points by pre-training", interval))
    n_pairs = sum(fold["n_test"] for fold in summary["folds"])
    counts = [(summary["n_units"], summary["unit"])] if summary["unit"] != "fold" else []
    counts += [(n_pairs, "test pair"), (summary["n_folds"], "fold"), (len(summary["seeds"]), "seed")]
    return tiles + count_tiles(counts)


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
    values = ends([arm[condition]["accuracy"] for arm in both for condition in conditions])
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

    def line(row: dict[str, Any], title: str = "") -> Difference:
        title = title or f"{titles[row['first']]} \N{MINUS SIGN} {titles[row['second']]}"
        tests = [wording.p_value(row["p"]), wording.p_value(row["p_holm"]), wording.corrected(row)]
        cells = [wording.effect(row), *tests, wording.p_value(row.get("corrected_p_holm")), str(row["n"])]
        main = (row["first"], row["second"]) == ("pretrained", "fresh")
        look = look_of(row["first"], summary["arms"][row["first"]])
        return Difference(title, look, row, cells, main)

    rows, conditions = summary["comparisons"], wording.conditions_of(summary)
    groups = [(wording.lone_condition(summary), [line(row) for row in rows])]
    if len(conditions) > 1:
        of = {c: [line(row) for row in rows if row["condition"] == c] for c in conditions}
        groups = [(wording.condition_title(summary, c), own) for c, own in of.items()]
    unit, by_size = wording.trained_on(summary), summary["size_comparisons"]
    sizes = [line(r, "all" if r["size"] is None else wording.counted(r["size"], unit)) for r in by_size]
    by_chance = [("", [line(row) for row in summary["against_chance"]])]
    return {"comparisons": groups, "against_chance": by_chance, "size_comparisons": [("", sizes)]}
