"""Events of a run: every column kept, onsets relative to the first kept volume."""

import math
import re
from pathlib import Path
from typing import Any

from fmriscale.common.quarantine import Rejected

_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d*)?([eE][+-]?\d+)?|[+-]?\.\d+")
_UNKNOWN = ("", "n/a")
_UNITS = (("milliseconds", 1e3), ("tenths of milliseconds", 1e4), ("microseconds", 1e6))
"""What is taken for seconds, and how many make one."""
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")


def read_events(path: Path, shift: float = 0.0, end: float = math.inf) -> list[dict[str, Any]]:
    """Read a BIDS events file."""
    columns, numbers = _read_table(path)
    if "onset" not in columns:
        has = ", ".join(columns) or "nothing"
        raise Rejected("bad_events", f"{path.name}: no column 'onset' but {has}; it must be tab-separated")
    placed = [n for n, cell in enumerate(columns["onset"]) if cell not in _UNKNOWN]
    columns = {name: [cells[n] for n in placed] for name, cells in columns.items()}
    lines = [numbers[n] for n in placed]
    durations = columns.get("duration", [""] * len(lines))
    events = {name: _values(cells) for name, cells in columns.items()}
    onsets = [_seconds(c, path, n) for n, c in zip(lines, columns["onset"], strict=True)]
    events["duration"] = [
        0.0 if c in _UNKNOWN else _seconds(c, path, n) for n, c in zip(lines, durations, strict=True)
    ]
    _check_times(path.name, onsets, events["duration"], end)
    events["onset"] = [round(onset - shift, 6) for onset in onsets]
    return [dict(zip(events, row, strict=True)) for row in zip(*events.values(), strict=True)]


def read_evs(paths: tuple[Path, ...], shift: float = 0.0, end: float = math.inf) -> list[dict[str, Any]]:
    """Read the EV files of an HCP task run, one a condition: rows of onset, duration and amplitude."""
    events, onsets = [], []
    for path in paths:
        try:
            rows = [
                [float(cell) for cell in line.split()]
                for line in path.read_text().splitlines()
                if line.strip()
            ]
            if not all(math.isfinite(cell) for row in rows for cell in row):
                raise ValueError("a number is not finite")
            for onset, duration, amplitude in rows:
                onsets.append(onset)
                event = {"onset": round(onset - shift, 6), "duration": duration}
                events.append({**event, "trial_type": path.stem, "amplitude": amplitude})
        except (OSError, ValueError) as error:
            raise Rejected("bad_events", f"EVs/{path.name}: {error}; mend or move it") from error
    _check_times("EVs", onsets, [event["duration"] for event in events], end)
    return sorted(events, key=lambda e: (e["onset"], e["trial_type"]))


def _read_table(path: Path) -> tuple[dict[str, list[str]], list[int]]:
    """Return the cells of each column without blanks and stray quotes, and the line number of each row.

    Quotes are text here: a stray one must not swallow the rows that follow. Cells beyond the header must be
    empty (trailing tabs), and missing ones are.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")  # one odd letter harms no onset
    except OSError as error:
        raise Rejected(
            "bad_events", f"{path.name}: not readable ({error.strerror}); mend or move it"
        ) from error
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    rows = [[_bare(cell) for cell in line.split("\t")] for _, line in lines]
    header = rows[0] if rows else []
    while header and not header[-1]:
        header.pop()
    columns: dict[str, list[str]] = {}
    for n, given in enumerate(header):
        name = given or f"column_{n + 1}"
        columns[name if name not in columns else f"{name}_{n + 1}"] = [
            row[n] if n < len(row) else "" for row in rows[1:]
        ]
    for (number, _), row in zip(lines[1:], rows[1:], strict=True):
        if any(row[len(header) :]):
            raise Rejected(
                "bad_events", f"{path.name}: line {number} has more cells than the header; mend it"
            )
    return columns, [number for number, _ in lines[1:]]


def _bare(cell: str) -> str:
    """Strip blanks and stray quotes."""
    return cell.strip().strip("\"'").strip()


def _seconds(cell: str, path: Path, line: int) -> float:
    """Read a time in a line of the file or reject the file."""
    try:
        seconds = float(cell)
        if math.isfinite(seconds):
            return seconds
    except ValueError:
        pass
    remedy = "write a decimal point" if _DECIMAL_COMMA.fullmatch(cell) else "mend it, or write n/a"
    raise Rejected("bad_events", f"{path.name}: '{cell}' in line {line} is no time in seconds; {remedy}")


def _check_times(name: str, onsets: list[float], durations: list[float], end: float) -> None:
    """Refuse events that cannot be those of a run of this length: a unit or a clock was mistaken.

    Some after the end are common: the paradigm went on when the scanner had stopped.
    """
    for onset, duration in zip(onsets, durations, strict=True):
        if duration < 0:
            raise Rejected("bad_events", f"{name}: a duration of {duration:g} s at {onset:g} s; mend it")
    late = sum(onset >= end for onset in onsets)
    if 2 * late > len(onsets):
        raise Rejected(
            "bad_events",
            f"{name}: {late} of {len(onsets)} events start beyond the end of the run ({end:g} s), the first "
            f"at {min(onsets):g} s{_guess(onsets, end)}; write onsets in seconds from the first volume",
        )
    long = sum(duration > end for duration in durations)
    if len(onsets) > 1 and 2 * long > len(onsets):
        raise Rejected(
            "bad_events",
            f"{name}: {long} of {len(onsets)} events last longer than the run ({end:g} s), the first "
            f"{durations[0]:g} s{_guess(durations, end)}; write durations in seconds",
        )


def _guess(times: list[float], end: float) -> str:
    """Say what was taken for seconds from the first volume, where that can be guessed."""
    spread = max(times) - min(times)
    if len(times) > 1 and 0.05 * end < spread <= end:
        return " (times of day, or from another run's start?)"
    return next((f" ({unit}?)" for unit, per in _UNITS if max(times) / per <= end), "")


def _values(cells: list[str]) -> list[Any]:
    """Turn a column into numbers where every cell that is given is one; labels like 01 stay text."""
    given = [c for c in cells if c not in _UNKNOWN]
    if not all(_NUMBER.fullmatch(c) for c in given):
        return [None if c in _UNKNOWN else c for c in cells]
    kind = int if all(c.lstrip("+-").isdigit() for c in given) else float
    return [None if c in _UNKNOWN else kind(c) for c in cells]
