"""The results of a study as a printed text, from its summary."""

import textwrap
from typing import Any

import pandas as pd

from fmriscale.study import wording as say
from fmriscale.study.controls import missing_control
from fmriscale.study.plain import Answer, answer

COLUMNS = 110
"""Width of the text."""
MOST_CONDITIONS, MOST_COMPARISONS = 4, 13
"""Columns and lines that the text has room for; the page has all."""
NAME = 50
"""Most characters of the name of a line; half of them beside several conditions."""


def report_text(summary: dict[str, Any]) -> str:
    """Return the answer, the verdict, arms, controls and baselines by condition, comparisons, and speed."""
    return joined(
        summary,
        answer(summary),
        say.setting(summary),
        accuracy_lines(summary),
        size_lines(summary) if len(summary["sizes"]) > 1 else [],
        comparison_lines(summary) if summary["comparisons"] else [],
        [line for told in (*say.on_speed(summary), say.on_power(summary)) for line in wrapped(told, "  ")],
        say.on_missing_control(summary),
    )


def joined(summary: dict[str, Any], said: Answer, how: str, *blocks: list[str]) -> str:
    """Return the answer in plain words, the verdict, and the further blocks that have lines."""
    plain = wrapped(f"{said.question} {said.word}. {said.why}")
    verdict = wrapped(f"{summary['question']}   {how}") + wrapped(summary["verdict"]["sentence"])
    return "\n\n".join("\n".join(block) for block in (plain, verdict, *blocks) if block)


def wrapped(text: str, indent: str = "") -> list[str]:
    """Break a text into lines."""
    return textwrap.wrap(text, COLUMNS, subsequent_indent=indent)


def table(title: str, rows: list[tuple[str, list[str]]], columns: list[str]) -> list[str]:
    """Return the lines of a table, its title above the names of the rows."""
    names, cells = zip(*rows, strict=True)
    frame = pd.DataFrame(list(cells), index=list(names), columns=pd.Index(columns, name=title))
    return [line.rstrip() for line in frame.to_string().splitlines()]


def accuracy_lines(summary: dict[str, Any]) -> list[str]:
    """Return a line for every arm, control and baseline: accuracy by condition, and AUC."""
    conditions, rows, missing = say.conditions_of(summary), [], missing_control(summary)
    shown = conditions[:MOST_CONDITIONS]
    most = NAME if len(shown) == 1 else 27
    for content in summary["arms"].values():
        if missing and content["kind"] == "baseline":
            rows.append((missing.title, ["not run", *[""] * len(shown)]))
            missing = None
        by = content["by_condition"]
        accuracies = [say.within(by.get(condition)) for condition in shown]
        rows.append((say.clipped(content["title"], most), [*accuracies, say.area(by["all"]["auc"]["mean"])]))
    titles = [say.clipped(say.condition_title(summary, condition), 17) for condition in shown]
    lines = table("accuracy, % [95 %]", rows, [*titles, "AUC"]) + wrapped(say.on_reversal(summary), "  ")
    if len(conditions) > len(shown):
        lines.append(f"{len(conditions) - len(shown)} more conditions are in the HTML report")
    return lines


def size_lines(summary: dict[str, Any]) -> list[str]:
    """Return the accuracy of the arms by size of the training side."""
    found = {(row["arm"], row["size"]): say.percent(row["accuracy"]) for row in summary["by_size"]}
    title = f"accuracy, %, by training {say.plural(say.trained_on(summary))}"
    return size_table(title, summary["arms"], found, summary["sizes"])


def size_table(
    title: str, methods: dict[str, Any], found: dict[tuple[str, int | None], str], sizes: list[int | None]
) -> list[str]:
    """Return a line for every arm or method that has a figure, by size of the training side."""
    known = {name for name, _ in found}
    rows = [
        (say.clipped(content["title"], NAME), [found.get((name, size), "-") for size in sizes])
        for name, content in methods.items()
        if name in known
    ]
    return table(title, rows, ["all" if size is None else str(size) for size in sizes])


def comparison_lines(summary: dict[str, Any]) -> list[str]:
    """Return a line for every comparison: say.effect and interval before p."""
    titles = {name: content["title"] for name, content in summary["arms"].items()}
    several, rows = len(say.conditions_of(summary)) > 1, []
    for row in summary["comparisons"]:
        if row["condition"] == "all" or (row["first"], row["second"]) == ("pretrained", "fresh"):
            name = f"{titles[row['first']]} - {titles[row['second']]}"
            name = say.clipped(f"{name}, {row['condition']}" if several else name, NAME)
            p = [say.p_value(row["p"]), say.p_value(row["p_holm"])]
            tests = [say.effect(row), *p, say.corrected(row), str(row["n"])]
            rows.append((name, tests))
    columns = ["effect [95 %]", "p", "p (Holm)", "corrected t (p)", "n"]
    lines = table("difference in accuracy, points", rows[:MOST_COMPARISONS], columns)
    hidden = len(summary["comparisons"]) - len(rows[:MOST_COMPARISONS])
    return [*lines, f"{hidden} more are in the HTML report"] if hidden else lines
