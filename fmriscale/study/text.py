"""The results of a study as a printed text, from its summary."""

import textwrap
from typing import Any

import pandas as pd

from fmriscale.study.controls import missing_control
from fmriscale.study.plain import Answer, answer
from fmriscale.study.wording import (
    area,
    clipped,
    condition_title,
    conditions_of,
    corrected,
    effect,
    on_missing_control,
    on_power,
    on_reversal,
    on_speed,
    p_value,
    percent,
    plural,
    setting,
    trained_on,
    within,
)

COLUMNS = 110
"""Width of the text."""
MOST_CONDITIONS, MOST_COMPARISONS = 4, 13
"""Columns and lines that the text has room for; the page has all."""
NAME = 50
"""Most characters of the name of a line; half of them beside several conditions."""


def report_text(summary: dict[str, Any]) -> str:
    """Return the answer, the verdict, arms, controls and baselines by condition, comparisons, and speed."""
    blocks = [
        plain_lines(answer(summary)),
        wrapped(f"{summary['question']}   {setting(summary)}") + wrapped(summary["verdict"]["sentence"]),
        accuracy_lines(summary),
        size_lines(summary) if len(summary["sizes"]) > 1 else [],
        comparison_lines(summary) if summary["comparisons"] else [],
        [line for sentence in (*on_speed(summary), on_power(summary)) for line in wrapped(sentence, "  ")],
        on_missing_control(summary),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def plain_lines(said: Answer) -> list[str]:
    """Return question, answer and reason in plain words."""
    return wrapped(f"{said.question} {said.word}. {said.why}")


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
    conditions, rows, missing = conditions_of(summary), [], missing_control(summary)
    shown = conditions[:MOST_CONDITIONS]
    most = NAME if len(shown) == 1 else 27
    for content in summary["arms"].values():
        if missing and content["kind"] == "baseline":
            rows.append((missing.title, ["not run", *[""] * len(shown)]))
            missing = None
        by = content["by_condition"]
        accuracies = [within(by.get(condition)) for condition in shown]
        rows.append((clipped(content["title"], most), [*accuracies, area(by["all"]["auc"]["mean"])]))
    titles = [clipped(condition_title(summary, condition), 17) for condition in shown]
    lines = table("accuracy, % [95 %]", rows, [*titles, "AUC"]) + wrapped(on_reversal(summary), "  ")
    if len(conditions) > len(shown):
        lines.append(f"{len(conditions) - len(shown)} more conditions are in the HTML report")
    return lines


def size_lines(summary: dict[str, Any]) -> list[str]:
    """Return the accuracy of the arms by size of the training side."""
    sizes = summary["sizes"]
    accuracy = {(row["arm"], row["size"]): row["accuracy"] for row in summary["by_size"]}
    rows = [
        (clipped(content["title"], NAME), [percent(accuracy.get((arm, size))) for size in sizes])
        for arm, content in summary["arms"].items()
        if any(arm == name for name, _ in accuracy)
    ]
    columns = ["all" if size is None else str(size) for size in sizes]
    return table(f"accuracy, %, by training {plural(trained_on(summary))}", rows, columns)


def comparison_lines(summary: dict[str, Any]) -> list[str]:
    """Return a line for every comparison: effect and interval before p."""
    titles = {name: content["title"] for name, content in summary["arms"].items()}
    several, rows = len(conditions_of(summary)) > 1, []
    for row in summary["comparisons"]:
        if row["condition"] == "all" or (row["first"], row["second"]) == ("pretrained", "fresh"):
            name = f"{titles[row['first']]} - {titles[row['second']]}"
            name = clipped(f"{name}, {row['condition']}" if several else name, NAME)
            tests = [effect(row), p_value(row["p"]), p_value(row["p_holm"]), corrected(row), str(row["n"])]
            rows.append((name, tests))
    columns = ["effect [95 %]", "p", "p (Holm)", "corrected t (p)", "n"]
    lines = table("difference in accuracy, points", rows[:MOST_COMPARISONS], columns)
    hidden = len(summary["comparisons"]) - len(rows[:MOST_COMPARISONS])
    return [*lines, f"{hidden} more are in the HTML report"] if hidden else lines
