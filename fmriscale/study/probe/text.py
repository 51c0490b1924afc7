"""The results of a probe as a printed text, from its summary."""

from typing import Any

from fmriscale.study.probe.plain import answer
from fmriscale.study.probe.wording import HEADINGS, cell, effect, left_out, number, setting, values
from fmriscale.study.text import NAME, joined, size_table, table, wrapped
from fmriscale.study.wording import clipped, corrected, p_value


def report_text(summary: dict[str, Any]) -> str:
    """Return the answer, the verdict, what was probed, and figures by method, comparison and size."""
    return joined(
        summary,
        answer(summary),
        setting(summary),
        wrapped(f"{summary['target']}: {values(summary)}. Left out: {left_out(summary)}.", "  "),
        method_lines(summary),
        size_lines(summary) if summary["by_size"] else [],
        comparison_lines(summary) if summary["comparisons"] else [],
    )


def method_lines(summary: dict[str, Any]) -> list[str]:
    """Return a line a method: both figures with their intervals."""
    figures = summary["figures"]
    rows = [
        (clipped(content["title"], NAME), [cell(content, figure) for figure in figures])
        for content in summary["methods"].values()
    ]
    chance = ("chance", [number(figure)(summary["chance"][figure]) for figure in figures])
    return table("[95 %]", [*rows, chance], [HEADINGS[figure] for figure in figures])


def size_lines(summary: dict[str, Any]) -> list[str]:
    """Return the judged figure of every method by size of the training side."""
    figure = summary["figures"][0]
    found = {(row["method"], row["size"]): number(figure)(row[figure]["mean"]) for row in summary["by_size"]}
    title = f"{HEADINGS[figure]}, by training people"
    return size_table(title, summary["methods"], found, summary["sizes"])


def comparison_lines(summary: dict[str, Any]) -> list[str]:
    """Return a line a comparison of the judged figure: effect and interval before p."""
    figure, methods = summary["figures"][0], summary["methods"]
    rows = [
        (
            clipped(f"{methods[row['first']]['title']} - {methods[row['second']]['title']}", NAME),
            [effect(row), p_value(row["p"]), corrected(row), str(row["n"])],
        )
        for row in summary["comparisons"]
        if row["figure"] == figure
    ]
    return table(f"difference in {HEADINGS[figure]}", rows, ["effect [95 %]", "p", "corrected t (p)", "n"])
