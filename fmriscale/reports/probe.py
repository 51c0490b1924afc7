"""A probe as one self-contained HTML page."""

from pathlib import Path

import matplotlib
import numpy as np

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
    Scale,
    count_tiles,
    picture,
    scale_of,
    screen,
)
from fmriscale.reports.page import (
    ACCENT,
    CURVE_STYLE,
    INK,
    PANEL,
    WARM,
    about_folder,
    panels,
    svg,
    swatch,
    write_html,
)
from fmriscale.reports.study_charts import LABELS
from fmriscale.study import wording as words
from fmriscale.study.probe import plain, wording


def write_page(folder: Path, path: Path) -> None:
    """Draw a probe into an HTML file."""
    summary = read_summary(folder, "probe", "probe", "methods")
    figure = summary["figures"][0]
    comparisons = [row for row in summary["comparisons"] if row["figure"] == figure]

    def scale(figures: list[Summary], line: float, name: str, sign: str = "+") -> Scale:
        return scale_of(figures, line, sign, _factor(name))

    def lines(rows: list[Summary]) -> list[tuple[str, list[Difference]]]:
        return [("", [_difference(summary, row) for row in rows])]

    write_html(
        path,
        "probe.html.jinja",
        "--out",
        **about_folder(folder),
        summary=summary,
        first=screen(*plain.answer(summary)),
        picture=_picture(summary),
        forests=[(name, _rows(summary, name)) for name in summary["figures"]],
        say=wording,
        tiles=_tiles(summary),
        scales={
            name: scale([m[name] for m in summary["methods"].values()], summary["chance"][name], name, "")
            for name in summary["figures"]
        },
        comparisons=lines(comparisons),
        against_chance=lines(summary["against_chance"]),
        size_comparisons=lines(summary["size_comparisons"]),
        effects=scale(comparisons, 0.0, figure),
        by_chance=scale(summary["against_chance"], 0.0, figure),
        by_size=scale(summary["size_comparisons"], 0.0, figure),
        charts=[_sizes(summary, name) for name in summary["figures"]] if summary["by_size"] else [],
        legend=[
            (swatch(ink, style), wording.title(summary, m))
            for m, (ink, _, style, _) in _lines(summary).items()
        ],
        provenance=list(flattened(summary["provenance"])),
    )


def _factor(figure: str) -> float:
    """Return what a value of a figure is multiplied by for its axis."""
    return 100 if figure == "balanced_accuracy" else 1


def _picture(summary: Summary) -> Picture:
    """Lay out the encoders and the best simple method against guessing."""
    figure = summary["figures"][0]
    number, unit = wording.number(figure), " %" if figure == "balanced_accuracy" else ""
    figures = {name: content[figure] for name, content in summary["methods"].items()}
    rows = compared_rows(plain.compared(summary), figures, number, unit)
    people = words.counted(summary["n_people"], "person")
    caption = f"Lines: where the true value lies, with 95 % confidence, over {people}. All were tested on "
    chance = summary["chance"][figure]
    return picture(
        f"How well each does ({wording.NAMES[figure]})",
        rows,
        chance,
        f"guessing {float(number(chance)):g}{unit}",
        f"{caption}the same data, none of which they had learned from.",
        _factor(figure),
    )


def _rows(summary: Summary, figure: str) -> list[Row]:
    """Return a line a method with one of its figures."""
    number, rows = wording.number(figure), []
    for name, content in summary["methods"].items():
        best = " (best baseline)" if name == summary["best_baseline"] else ""
        value, interval = number(content[figure]["mean"]), words.bounds(content[figure], number)
        title, look = f"{content['title']}{best}", look_of(name, content, summary["main"])
        rows.append(Row(title, look, content[figure], value, interval, kind=content["kind"]))
    return rows


def _difference(summary: Summary, row: Summary) -> Difference:
    """Return a line of a table of differences."""
    other = "chance" if row["second"] == "chance" else wording.title(summary, row["second"])
    size = "" if row["size"] is None else f", {words.counted(row['size'], 'person')}"
    title = f"{wording.title(summary, row['first'])} \N{MINUS SIGN} {other}{size}"
    cells = [wording.effect(row), words.p_value(row["p"]), words.corrected(row), str(row["n"])]
    asked = row["size"] is not None or row["second"] in ("fresh", summary["best_baseline"])
    main = row["first"] == summary["main"] and asked
    look = look_of(row["first"], summary["methods"][row["first"]], summary["main"])
    return Difference(title, look, row, cells, main)


def _tiles(summary: Summary) -> list[tuple[str, str, str]]:
    """Return (figure, what it is, interval): the gains of the encoder, and how much was done."""
    figure, tiles = summary["figures"][0], []
    for row in summary["comparisons"]:
        if row["figure"] == figure and row["second"] in ("fresh", summary["best_baseline"]):
            over = wording.title(summary, row["second"])
            signed = wording.signed(figure)
            what = f"{wording.NAMES[figure]} above {over}"
            tiles.append((signed(row["effect"]), what, words.bounds(row, signed)))
    counts = ((summary["n_people"], "person"), (summary["n_rows"], "row"), (summary["n_folds"], "fold"))
    return tiles + count_tiles(counts)


def _lines(summary: Summary) -> dict[str, tuple[str, str, str, float]]:
    """Return ink, mark, style and width of the line of every method that was trained on fewer people."""
    own = {summary["main"]: (ACCENT, "o", "-", 2.2), "fresh": (WARM, "s", "-", 2.0)}
    drawn = [m for m in summary["methods"] if any(row["method"] == m for row in summary["by_size"])]
    others = [name for name in drawn if name not in own]
    return {n: own.get(n) or (LABELS[others.index(n) % len(LABELS)], "", "--", 1.3) for n in drawn}


@matplotlib.rc_context(CURVE_STYLE)
def _sizes(summary: Summary, figure: str) -> str:
    """Draw a figure of every method by the number of training people."""
    drawing, (axes,) = panels(1, PANEL[0], 3.2)
    order, ends, factor = summary["sizes"], [], _factor(figure)
    for name, (colour, mark, style, width) in _lines(summary).items():
        rows = [row for row in summary["by_size"] if row["method"] == name]
        x = [order.index(row["size"]) for row in rows]
        values = factor * np.array([row[figure]["mean"] for row in rows])
        axes.plot(x, values, color=colour, marker=mark, ls=style, lw=width, ms=5)
        ends.append(f"{wording.title(summary, name)} {values[0]:.3g} to {values[-1]:.3g}")
    axes.axhline(factor * summary["chance"][figure], color=INK, lw=0.9, ls=":")
    axes.set_xticks(range(len(order)), ["all" if size is None else f"{size}" for size in order])
    axes.set(title=wording.HEADINGS[figure], xlabel="training people")
    return svg(drawing, f"probe-sizes-{figure}", f"{figure} by training people: {'; '.join(ends)}")
