"""A probe as one self-contained HTML page."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from fmriscale.common.errors import DamageError, UserError
from fmriscale.reports.page import ACCENT, CURVE_STYLE, INK, WARM, panels, svg, write_html
from fmriscale.reports.study import flattened, scale_of
from fmriscale.reports.study_charts import LABELS
from fmriscale.study import wording as words
from fmriscale.study.probe import wording

Summary = dict[str, Any]


def write_page(folder: Path, path: Path) -> None:
    """Draw a probe into an HTML file."""
    file, settings = folder / "summary.json", folder / "config.yaml"
    try:
        summary = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file; finish the probe first") from error
    except ValueError as error:
        raise DamageError(f"{file}: not JSON ({error}); run the probe again") from error
    if not isinstance(summary, dict) or not {"verdict", "methods", "provenance"} <= summary.keys():
        raise DamageError(f"{file}: not as fmriscale probe writes it; run the probe again")
    first, _, more = summary["verdict"]["sentence"].partition("; ")
    figure = summary["figures"][0]
    comparisons = [row for row in summary["comparisons"] if row["figure"] == figure]

    def scale(figures: list[Summary], line: float, name: str, sign: str = "+") -> Any:
        return scale_of(figures, line, sign, 100 if name == "balanced_accuracy" else 1)

    write_html(
        path,
        "probe.html.jinja",
        "--out",
        name=folder.resolve().name,
        summary=summary,
        verdict=(f"{first}." if more else first, more),
        say=wording,
        words=words,
        tiles=_tiles(summary),
        scales={
            name: scale([m[name] for m in summary["methods"].values()], summary["chance"][name], name, "")
            for name in summary["figures"]
        },
        comparisons=comparisons,
        effects=scale(comparisons, 0.0, figure),
        by_chance=scale(summary["against_chance"], 0.0, figure),
        by_size=scale(summary["size_comparisons"], 0.0, figure),
        chart=_sizes(summary, figure) if summary["by_size"] else None,
        provenance=list(flattened(summary["provenance"])),
        config=settings.read_text(errors="replace") if settings.exists() else "",
    )


def _tiles(summary: Summary) -> list[tuple[str, str, str]]:
    """Return (figure, what it is, interval): the arms, the best baseline, people."""
    figure, tiles = summary["figures"][0], []
    for name in (summary["main"], "fresh", summary["best_baseline"]):
        if name in summary["methods"]:
            content = summary["methods"][name]
            text = wording.number(figure)(content[figure]["mean"])
            interval = words.bounds(content[figure], wording.number(figure))
            tiles.append((text, f"{content['title']}, {wording.HEADINGS[figure]}", interval))
    return [*tiles, (f"{summary['n_people']:,}", "people", "")]


@matplotlib.rc_context(CURVE_STYLE)
def _sizes(summary: Summary, figure: str) -> str:
    """Draw a figure of every method by the number of training people."""
    drawing, (axes,) = panels(1, 7.2, 3.4)
    order, ends, others = summary["sizes"], [], 0
    factor = 100 if figure == "balanced_accuracy" else 1
    for name, content in summary["methods"].items():
        rows = [row for row in summary["by_size"] if row["method"] == name]
        if not rows:
            continue
        own = {summary["main"]: (ACCENT, "o", "-", 2.2), "fresh": (WARM, "s", "-", 2.0)}
        colour, mark, style, width = own.get(name, (LABELS[others % len(LABELS)], "", "--", 1.3))
        others += name not in own
        x = [order.index(row["size"]) for row in rows]
        values = factor * np.array([row[figure]["mean"] for row in rows])
        axes.plot(x, values, color=colour, marker=mark, ls=style, lw=width, ms=5, label=content["title"])
        ends.append(f"{content['title']} {values[0]:.3g} to {values[-1]:.3g}")
    axes.axhline(factor * summary["chance"][figure], color=INK, lw=0.9, ls=":")
    axes.set_xticks(range(len(order)), ["all" if size is None else f"{size}" for size in order])
    axes.set(title=wording.HEADINGS[figure], xlabel="training people")
    drawing.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return svg(drawing, f"probe-sizes-{figure}", f"{figure} by training people: {'; '.join(ends)}")
