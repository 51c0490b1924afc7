"""Events of a run: every column kept, onsets relative to the first kept volume."""

import csv
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd

from fmriscale.ingest.quality import Rejected

_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d*)?([eE][+-]?\d+)?|[+-]?\.\d+")
_UNKNOWN = ("", "n/a")


def read_events(path: Path, shift: float = 0.0) -> list[dict[str, Any]]:
    """Read a BIDS events file.

    Parameters
    ----------
    path : Path
        Tab-separated, with the columns onset and duration in seconds.
    shift : float
        Seconds dropped at the start of the run; onsets move back by as much.

    Returns
    -------
    list of dict
        onset and duration (0 where it is n/a) as floats; every other column as numbers where all its
        cells are numbers, else as text; None for n/a.

    Raises
    ------
    Rejected
        The file is no table, or an onset is not a number.
    """
    try:
        # Quotes are text to this reader: a stray one must not swallow the rows that follow.
        table = pd.read_csv(
            path, sep="\t", dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE, encoding="utf-8-sig"
        )
    except (OSError, ValueError) as error:
        raise Rejected("bad_events", f"{path.name}: not a table ({error}); mend or move it") from error
    table.columns = [_bare(c) for c in table.columns]
    if "onset" not in table.columns:
        raise Rejected("bad_events", f"{path.name}: no column 'onset'; mend or move it")
    bare = {c: [_bare(v) for v in table[c].fillna("")] for c in table.columns}
    columns = {c: _values(cells) for c, cells in bare.items()}
    columns["onset"] = [round(_seconds(c, path, n) - shift, 6) for n, c in enumerate(bare["onset"])]
    columns["duration"] = [
        0.0 if c in _UNKNOWN else _seconds(c, path, n)
        for n, c in enumerate(bare.get("duration", [""] * len(table)))
    ]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _bare(cell: str) -> str:
    """Strip blanks and stray quotes."""
    return str(cell).strip().strip("\"'").strip()


def _seconds(cell: str, path: Path, row: int) -> float:
    """Read a time of row `row` or reject the file."""
    try:
        seconds = float(cell)
        if math.isfinite(seconds):
            return seconds
    except ValueError:
        pass
    raise Rejected("bad_events", f"{path.name}: '{cell}' in line {row + 2} is no time in seconds; mend it")


def _values(cells: list[str]) -> list[Any]:
    """Turn a column into numbers where every cell that is given is one; labels like 01 stay text."""
    given = [c for c in cells if c not in _UNKNOWN]
    if not all(_NUMBER.fullmatch(c) for c in given):
        return [None if c in _UNKNOWN else c for c in cells]
    kind = int if all(c.lstrip("+-").isdigit() for c in given) else float
    return [None if c in _UNKNOWN else kind(c) for c in cells]
