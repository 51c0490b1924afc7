"""What the pages of a study and of a probe share, from the summary to the first screen."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from fmriscale.common.errors import DamageError, UserError
from fmriscale.reports.first_screen import Row
from fmriscale.study.plain import Compared
from fmriscale.study.work import SUMMARY

SHORT = 24  # Characters of a value that shares its line of the provenance with others

Summary = dict[str, Any]


def read_summary(folder: Path, what: str, verb: str, methods: str) -> Summary:
    """Return summary.json of a finished study (or probe), whose arms (or methods) are under a name."""
    file = folder / SUMMARY
    try:
        summary = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file; finish the {what} first") from error
    except ValueError as error:
        raise DamageError(f"{file}: not JSON ({error}); run the {what} again") from error
    if not isinstance(summary, dict) or not {"verdict", methods, "provenance"} <= summary.keys():
        raise DamageError(f"{file}: not as fmriscale {verb} writes it; run the {what} again")
    return summary


def compared_rows(
    compared: Iterable[Compared], figures: dict[str, Summary], number: Callable[[float], str], unit: str
) -> list[Row]:
    """Return the lines of the picture; figures: mean, low and high by name."""
    rows = []
    for method in compared:
        figure = figures[method.name]
        interval = "" if figure["low"] is None else f"{number(figure['low'])} to {number(figure['high'])}"
        value = f"{number(figure['mean'])}{unit}"
        rows.append(Row(method.title, method.look, figure, value, interval, method.what))
    return rows


def look_of(name: str, content: Summary, main: str | None = "pretrained") -> str:
    """Return mark and ink of an arm, control or baseline; main: the arm that is judged."""
    if name in (main, "fresh"):
        return "fresh" if name == "fresh" else "pretrained"
    return "control" if content["kind"] == "control" else "baseline"


def flattened(content: Summary, above: str = "") -> Iterator[tuple[str, str]]:
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
