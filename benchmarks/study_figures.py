"""Figures from the summary of a finished study."""

from typing import Any

Figures = dict[str, dict[str, Any]]


def figures_of(summary: dict[str, Any]) -> Figures:
    """Return the accuracy of every arm and baseline and the gain over the fresh arm, with 95 % intervals.

    Accuracies are in percent, gains in points. With several sizes of the training side the arms are told
    for each.
    """
    found: Figures = {}
    for name, arm in summary["arms"].items():
        accuracy = arm["by_condition"].get("all", {}).get("accuracy")
        if accuracy:
            found[name] = percent(accuracy, "mean", "%") | {"n": accuracy["n"]}
    for row in summary["comparisons"]:
        if row["condition"] == "all" and row["second"] == "fresh":
            found["gain"] = percent(row, "effect", "points") | {"n": row["n"]}
            found["gain_p"] = {"value": row["p"], "unit": ""}
            if row["corrected_p"] is not None:
                found["gain_corrected_p"] = {"value": row["corrected_p"], "unit": ""}
    if len(summary["sizes"]) > 1:
        for row in summary["by_size"]:
            found[f"{row['arm']}_{row['size']}"] = percent(row, "accuracy", "%") | {"n": summary["n_units"]}
        for row in summary["size_comparisons"]:
            found[f"gain_{row['size']}"] = percent(row, "effect", "points") | {"n": row["n"]}
    return found


def percent(row: dict[str, Any], key: str, unit: str) -> dict[str, Any]:
    """Return a share and its interval as a figure of percent."""
    names = {"value": key, "low": "low", "high": "high"}
    numbers = {to: 100 * row[name] for to, name in names.items() if row.get(name) is not None}
    return {**numbers, "unit": unit}
