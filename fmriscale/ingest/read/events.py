"""Events of a run: every column kept, onsets relative to the first kept volume."""

import math
import re
from pathlib import Path
from typing import Any

from fmriscale.common.quarantine import Rejected

_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d*)?([eE][+-]?\d+)?|[+-]?\.\d+")
_UNKNOWN = ("", "n/a")
_UNITS = (("milliseconds", 1e3), ("tenths of milliseconds", 1e4), ("microseconds", 1e6))
"""Units that are taken for seconds, and how many make one."""
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")


def read_events(path: Path, shift: float = 0.0, end: float = math.inf) -> list[dict[str, Any]]:
    """Read a BIDS events file; onsets are less `shift`, `end` is that of the run, both in s."""
    columns, numbers = _read_table(path)
    if "onset" not in columns:
        has = ", ".join(columns) or "nothing"
        raise Rejected("bad_events", f"{path.name}: no column 'onset' but {has}; it must be tab-separated")
    rows = [n for n, cell in enumerate(columns["onset"]) if cell not in _UNKNOWN]
    columns = {name: [cells[n] for n in rows] for name, cells in columns.items()}
    events = {name: _convert(cells) for name, cells in columns.items()}
    durations = columns.get("duration", [""] * len(rows))
    onsets = [_seconds(path, numbers[n], cell) for n, cell in zip(rows, columns["onset"], strict=True)]
    known = ((numbers[n], "0" if cell in _UNKNOWN else cell) for n, cell in zip(rows, durations, strict=True))
    events["duration"] = [_seconds(path, line, cell) for line, cell in known]
    _check_times(path.name, onsets, events["duration"], end)
    events["onset"] = [round(onset - shift, 6) for onset in onsets]
    return [dict(zip(events, row, strict=True)) for row in zip(*events.values(), strict=True)]


def read_evs(paths: tuple[Path, ...], shift: float = 0.0, end: float = math.inf) -> list[dict[str, Any]]:
    """Read the EV files of an HCP task run, one per condition: rows of onset, duration and amplitude."""
    events, onsets = [], []
    for path in paths:
        try:
            rows = [[float(cell) for cell in line.split()] for line in path.read_text().splitlines()]
            if not all(math.isfinite(cell) for row in rows for cell in row):
                raise ValueError("a number is not finite")
            for onset, duration, amplitude in filter(None, rows):
                onsets.append(onset)
                event = {"onset": round(onset - shift, 6), "duration": duration}
                events.append({**event, "trial_type": path.stem, "amplitude": amplitude})
        except (OSError, ValueError) as error:
            raise Rejected("bad_events", f"EVs/{path.name}: {error}; correct or move it") from error
    _check_times("EVs", onsets, [event["duration"] for event in events], end)
    return sorted(events, key=lambda e: (e["onset"], e["trial_type"]))


def _read_table(path: Path) -> tuple[dict[str, list[str]], list[int]]:
    """Return the cells of each column without blanks and stray quotes, and the line number of each row."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")  # one odd letter harms no onset
    except OSError as error:
        what = f"{path.name}: not readable ({error.strerror})"
        raise Rejected("bad_events", f"{what}; correct or move it") from error
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    # A stray quote must not swallow the rows that follow, so quotes are text here.
    rows = [(n, [cell.strip().strip("\"'").strip() for cell in line.split("\t")]) for n, line in lines]
    header = rows[0][1] if rows else []
    while header and not header[-1]:
        header.pop()
    for number, cells in rows[1:]:
        if any(cells[len(header) :]):
            what = f"{path.name}: line {number} has more cells than the header"
            raise Rejected("bad_events", f"{what}; correct it")
    columns: dict[str, list[str]] = {}
    for n, title in enumerate(header):
        name = title or f"column_{n + 1}"
        name = name if name not in columns else f"{name}_{n + 1}"
        columns[name] = [cells[n] if n < len(cells) else "" for _, cells in rows[1:]]
    return columns, [number for number, _ in rows[1:]]


def _seconds(path: Path, line: int, cell: str) -> float:
    """Read a time in a line of the file, or reject the file."""
    try:
        seconds = float(cell)
        if math.isfinite(seconds):
            return seconds
    except ValueError:
        pass
    remedy = "write a decimal point" if _DECIMAL_COMMA.fullmatch(cell) else "correct it, or write n/a"
    raise Rejected("bad_events", f"{path.name}: '{cell}' in line {line} is no time in seconds; {remedy}")


def _check_times(name: str, onsets: list[float], durations: list[float], end: float) -> None:
    """Reject events that cannot be those of a run of this length; a few after its end are common."""
    for onset, duration in zip(onsets, durations, strict=True):
        if duration < 0:
            raise Rejected("bad_events", f"{name}: a duration of {duration:g} s at {onset:g} s; correct it")
    late = sum(onset >= end for onset in onsets)
    if 2 * late > len(onsets):
        what = f"{late} of {len(onsets)} events start beyond the end of the run ({end:g} s)"
        first = f"the first at {min(onsets):g} s{_guess(onsets, end)}; write seconds from the first volume"
        raise Rejected("bad_events", f"{name}: {what}, {first}")
    long = sum(duration > end for duration in durations)
    if len(onsets) > 1 and 2 * long > len(onsets):
        what = f"{long} of {len(onsets)} events last longer than the run ({end:g} s)"
        first = f"the first {durations[0]:g} s{_guess(durations, end)}"
        raise Rejected("bad_events", f"{name}: {what}, {first}; write durations in seconds")


def _guess(times: list[float], end: float) -> str:
    """Return what was probably taken for seconds from the first volume, in brackets; "" = unclear."""
    spread = max(times) - min(times)
    if len(times) > 1 and 0.05 * end < spread <= end:
        return " (times of day, or from another run's start?)"
    return next((f" ({unit}?)" for unit, per in _UNITS if max(times) / per <= end), "")


def _convert(cells: list[str]) -> list[Any]:
    """Convert a column to numbers if every known cell is one; labels like 01 stay text."""
    known = [c for c in cells if c not in _UNKNOWN]
    kind: Any = int if all(c.lstrip("+-").isdigit() for c in known) else float
    kind = kind if all(_NUMBER.fullmatch(c) for c in known) else str
    return [None if c in _UNKNOWN else kind(c) for c in cells]
