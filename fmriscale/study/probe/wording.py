"""Numbers and phrases of a probe's summary, as its text and its page have them."""

from collections.abc import Callable
from typing import Any

from fmriscale.study.wording import bounds, counted, p_equals

LEARNS = {"lora": "low-rank additions to the encoders (LoRA)", "full": "all of the encoders"}
"""What learns beside the linear model, by `adapt`."""
NAMES = {"auc": "AUC", "balanced_accuracy": "balanced accuracy", "r": "r", "mae": "mean absolute error"}
HEADINGS = {"auc": "AUC", "balanced_accuracy": "balanced accuracy, %", "r": "r", "mae": "mean absolute error"}
"""Headings of columns."""

Summary = dict[str, Any]


def number(figure: str) -> Callable[[float], str]:
    """Return how a value of a figure is written, without its unit."""
    if figure == "balanced_accuracy":
        return lambda x: f"{100 * x:.1f}"
    return (lambda x: f"{x:.3g}") if figure == "mae" else (lambda x: f"{x:.3f}")


def signed(figure: str) -> Callable[[float], str]:
    """Return how a difference of a figure is written; of accuracies in points."""
    if figure == "balanced_accuracy":
        return lambda x: f"{100 * x:+.1f}"
    return (lambda x: f"{x:+.3g}") if figure == "mae" else (lambda x: f"{x:+.3f}")


def title(summary: Summary, name: str) -> str:
    """Return what a method is called."""
    return summary["methods"][name]["title"]


def value(summary: Summary, name: str, figure: str | None = None) -> str:
    """Return a figure with its name: AUC 0.681."""
    figure = figure or str(summary["figures"][0])
    text = number(figure)(summary["methods"][name][figure]["mean"])
    return f"{NAMES[figure]} {text}" + (" %" if figure == "balanced_accuracy" else "")


def with_interval(summary: Summary, name: str, figure: str | None = None) -> str:
    """Return a figure with its name and interval: AUC 0.681 [0.590, 0.772]."""
    figure = figure or str(summary["figures"][0])
    interval = bounds(summary["methods"][name][figure], number(figure))
    return f"{value(summary, name, figure)} {interval}".strip()


def cell(content: dict[str, Any], figure: str) -> str:
    """Return a figure and its interval for a table."""
    return f"{number(figure)(content[figure]['mean'])} {bounds(content[figure], number(figure))}".strip()


def effect(row: dict[str, Any]) -> str:
    """Return a difference and its interval."""
    return f"{signed(row['figure'])(row['effect'])} {bounds(row, signed(row['figure']))}".strip()


def difference(row: dict[str, Any]) -> str:
    """Return a difference with interval and both p."""
    text = f"{effect(row)}, {p_equals(row['p'])}"
    return (
        text if row["corrected_p"] is None else f"{text}, over folds and seeds {p_equals(row['corrected_p'])}"
    )


def setting(summary: Summary) -> str:
    """Say in a line how a probe was done."""
    made_of = f"{counted(summary['n_rows'], summary['rows'] if summary['rows'] != 'person' else 'row')}"
    who = f"{counted(summary['n_people'], 'person')}, {counted(summary['n_runs'], 'run')}"
    folds = f"{counted(summary['n_folds'], 'fold')} by {summary['folds_by']}"
    without = f"; without the effect of {', '.join(summary['regress_out'])}" if summary["regress_out"] else ""
    learns = f"; {LEARNS[summary['adapt']]} learned the target" if adapted(summary) else ""
    return f"{made_of} of {who}; {folds}; {counted(len(summary['seeds']), 'seed')}{without}{learns}"


def adapted(summary: Summary) -> bool:
    """Tell whether the encoders learned the target; summaries of older versions do not say, and none did."""
    return summary.get("adapt", "probe") != "probe"


def values(summary: Summary) -> str:
    """Describe the target."""
    found = summary["values"]
    if "rows" not in found:
        ends = f"from {found['low']:.4g} to {found['high']:.4g}"
        return f"mean {found['mean']:.4g}, s.d. {found['sd']:.3g}, {ends}"
    each = ", ".join(f"{name} ({n:,})" for name, n in found["rows"].items())
    more = found["n_classes"] - len(found["rows"])
    return each + (f", and {more} more" if more else "")


def left_out(summary: Summary) -> str:
    """Say which rows have no place in the probe."""
    return "; ".join(f"{n:,}: {reason}" for reason, n in summary["left_out"].items()) or "none"
