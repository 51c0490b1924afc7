"""The record of benchmarks/transfer.py: the figures that docs/benchmarks.md takes from its probes."""

import json
from pathlib import Path
from typing import Any

import record

from fmriscale.common.files import atomic_write

Summary = dict[str, Any]
UNITS = {"balanced_accuracy": ("%", "points", 100), "auc": ("AUC", "AUC", 1), "r": ("r", "r", 1)}
"""Unit of a figure, unit of a difference, and what values are multiplied by."""
OTHERS = {"linear": "weighted_start", "shifted": "shifted_clock"}
"""Further encoders, by what the record calls them."""
BEGUN = "begun.json"
"""File of a work folder: machine, date and code of its first call."""


def begin(work: Path) -> None:
    """Note with which code a work folder was begun: later calls go on with what it has computed."""
    path = work / BEGUN
    if not path.exists():
        steps = record.catalogue()["benchmarks"]["transfer"]["steps"]
        atomic_write(path, json.dumps(record.make("transfer", {}, [steps], 0.0), indent=1) + "\n")


def write(found: dict[str, Summary], work: Path) -> None:
    """Write the record of all questions that are answered, as measured by the code that began them."""
    figures: dict[str, dict[str, Any]] = {}
    for name, summary in found.items():
        for size in summary["sizes"]:
            figures |= {f"{name}_{size or 'all'}_{key}": told for key, told in of_size(summary, size).items()}
    record.write("transfer", json.loads((work / BEGUN).read_text()) | {"figures": figures})


def of_size(summary: Summary, size: int | None) -> dict[str, dict[str, Any]]:
    """Return the figures with so many training people: encoder, fresh, best baseline, gain, controls."""
    figure, main, methods = summary["figures"][0], summary["main"], summary["methods"]
    unit, unit_of_gain, factor = UNITS[figure]
    if size is None:
        best, at = summary["best_baseline"], {name: content[figure] for name, content in methods.items()}
    else:
        at = {row["method"]: row[figure] for row in summary["by_size"] if row["size"] == size}
        rows = [row for row in summary["size_comparisons"] if row["size"] == size]
        best = next(row["second"] for row in rows if row["second"] != "fresh")

    def told(method: str, of: str = "") -> dict[str, Any]:
        ends = {end: factor * at[method][end] for end in ("low", "high") if at[method][end] is not None}
        people = f"{at[method]['n']} people"
        return {"value": factor * at[method]["mean"], **ends, "unit": unit, "of": of or people}

    row = next(
        row
        for row in summary["comparisons" if size is None else "size_comparisons"]
        if (row["first"], row["second"], row["size"], row["figure"]) == (main, best, size, figure)
    )
    gain = {"value": factor * row["effect"], "unit": unit_of_gain}
    gain |= {end: factor * row[end] for end in ("low", "high") if row[end] is not None}
    over_trainings = "" if row["corrected_p"] is None else f", over trainings {row['corrected_p']:.2g}"
    gain["of"] = f"{row['n']} people; p = {row['p']:.2g}{over_trainings}"
    found = {"pretrained": told(main), "fresh": told("fresh"), "best": told(best, methods[best]["title"])}
    return found | {"gain": gain} | {key: told(name) for key, name in OTHERS.items() if name in at}
