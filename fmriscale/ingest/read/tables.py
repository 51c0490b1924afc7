"""Read text tables of signals: what separates the cells, which line holds names, which column counts volumes.

The number of features, which the recipe knows, is the best judge of a column that is no signal. What cannot
be told is refused with both readings: a line of labels taken for a volume, or a volume for labels, would
never be noticed.
"""

import csv
import io
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from isal import igzip

from fmriscale.common.quarantine import Rejected
from fmriscale.ingest.read.text import to_utf8

SAMPLE = 8
"""Lines that tell how a table is laid out."""

INDEX_NAMES = ("", "unnamed: 0", "index", "time", "t", "volume", "vol", "frame", "scan", "tr", "timepoint")
"""What people call a column that counts volumes."""

_MISSING = ("", "n/a", "na", "nan", "<na>", "null", "none")
_FAR = 10.0
"""A line this many robust standard deviations from the others is not one of them."""
_TOO_FEW = 4
"""So many lines show no rule that another one could break."""
_INCREASING = 8
"""So many whole numbers do not increase by chance: one in 8! = 40,320."""


@dataclass(frozen=True)
class Shape:
    """What is told of the shape of a table, and what it should be.

    Attributes
    ----------
    n_features : int or None
        Features of a run, None = unknown.
    orientation : {"TV", "VT"}
        Whether a line of the file is a volume or a feature.
    header, index_column : bool or None
        Whether the first line or column is no signal; None = told from the table.
    """

    n_features: int | None = None
    orientation: Literal["TV", "VT"] = "TV"
    header: bool | None = None
    index_column: bool | None = None


@dataclass(frozen=True)
class _Layout:
    """How the text is to be parsed."""

    separator: str | None  # None = blanks
    decimal: str
    names: list[str]  # cells of a first line that holds words; [] where it holds numbers
    text_index: bool  # the first column holds words, too
    shifted: bool  # the first line lacks the name of the first column
    short: bool  # the first line lacks the separator that ends the others
    plain: bool  # the numbers of the first line are written without a point


def read_table(path: Path, shape: Shape) -> np.ndarray:
    """Read the numbers of a table as they are stored, without names and index; n/a is NaN."""
    content = path.read_bytes()
    content = to_utf8(igzip.decompress(content) if content.startswith(b"\x1f\x8b") else content)
    start, end, lines = _first_lines(content)
    layout = _layout(lines, content[end:], shape, Path(path.name.removesuffix(".gz")).suffix)
    has_names = layout.shifted or (bool(layout.names) if shape.header is None else shape.header)
    if layout.short and not has_names:
        content = content[start:end].rstrip() + (layout.separator or " ").encode() + b"\n" + content[end:]
        start = 0
    values = _without_empty(_parse(content[end if has_names else start :], layout), shape)
    if shape.orientation == "VT":
        values = values.T
    has_index = layout.text_index or layout.shifted
    labelled, timed = (has_names, has_index) if shape.orientation == "TV" else (has_index, has_names)
    corner = layout.names[0] if layout.names and not layout.shifted else "x"
    if not timed and _is_time(values, corner, shape):
        values = values[:, 1:]
    if _are_labels(values, labelled, layout, shape):
        values = values[1:]
    return values if shape.orientation == "TV" else values.T


# ---------------------------------------------------------------- text


def _first_lines(content: bytes) -> tuple[int, int, list[str]]:
    """Return where the first line that is no comment starts and ends, and the lines from it on."""
    start = end = position = 0
    lines: list[str] = []
    for line in io.BytesIO(content):
        position += len(line)
        bare = line.strip()
        if bare and not bare.startswith(b"#") and not re.fullmatch(rb"sep=.", bare):
            if not lines:
                start, end = position - len(line), position
            lines.append(line.decode(errors="replace").rstrip("\r\n"))
            if len(lines) == SAMPLE:
                break
    return start, end, lines


def _layout(lines: list[str], body: bytes, shape: Shape, kind: str) -> _Layout:
    """Tell separator, decimal mark and words of a table from its first lines."""
    sample = lines[1:] or lines
    separator, decimal = _separator(sample, body, shape, kind)
    rows = [split_cells(line, separator) for line in sample]
    first = split_cells(lines[0], separator) if lines else []
    text_index = bool(rows) and all(len(r) > 1 and not is_number(r[0], decimal) for r in rows)
    words = [c for c in first[text_index:] if not is_number(c, decimal)]
    numbers = [c for c in first[1:] if c.lower() not in _MISSING and is_number(c, decimal)]
    odd = [c for c in numbers if not re.fullmatch(r"\d+(\.0*)?", c)]
    if odd and words and words != first[:1]:
        raise Rejected("unreadable", f"line 1 holds both '{words[0]}' and {odd[0]}; mend it")
    width = len(rows[0]) if rows else 0
    fits = shape.n_features is None or shape.orientation == "VT" or len(first) == shape.n_features
    shifted = len(first) == width - 1 and rows[0][-1] != "" and (bool(words) or (fits and _counted(first)))
    short = len(first) == width - 1 and rows[0][-1] == ""
    plain = all(re.fullmatch(r"\d*", c) for c in first)
    return _Layout(separator, decimal, first if words else [], text_index, shifted, short, plain)


def _counted(first: list[str]) -> bool:
    """Tell a line of distinct whole numbers."""
    return len(first) > 2 and len(set(first)) == len(first) and all(c.isdigit() for c in first)


def _separator(sample: list[str], body: bytes, shape: Shape, kind: str) -> tuple[str | None, str]:
    """Choose separator and decimal mark such that every cell is a number, and their count the wanted one."""
    wanted = shape.n_features if shape.orientation == "TV" else None
    readings: list[tuple[str | None, str, int]] = []
    for separator in ("\t", ";", ",", None):
        if separator is not None and not all(separator in line for line in sample):
            continue
        decimal = "," if separator != "," and b"," in body else "."
        rows = [split_cells(line, separator) for line in sample]
        if rows and all(is_number(c, decimal) for row in rows for c in row[min(1, len(row) - 1) :]):
            readings.append((separator, decimal, len(rows[0])))
    if not readings:  # the parser says what is no number
        line = sample[0] if sample else ""
        return next((s for s in ("\t", ";", ",") if s in line), "," if kind == ".csv" else None), "."
    for extra in (0, 1):
        fitting = [r for r in readings if wanted is not None and r[2] == wanted + extra]
        if wanted == 1 and len(readings) > 1 and _rise([line.split(",")[0] for line in sample]):
            raise Rejected(
                "unreadable",
                f"'{sample[0]}' may be two columns or a number with a decimal comma; write points, and tabs "
                "between columns",
            )
        if fitting:
            return fitting[0][:2]
    return readings[0][:2]


def _rise(numbers: list[str]) -> bool:
    """Tell whole numbers that rise from line to line."""
    return all(int(a) < int(b) for a, b in pairwise(numbers)) if all(map(str.isdigit, numbers)) else False


def split_cells(line: str, separator: str | None) -> list[str]:
    """Split a line, without blanks and quotes."""
    if separator is None:
        return [cell.strip('"') for cell in re.findall(r'"[^"]*"|[^\s"]+', line)]
    cells = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    return [cell.strip() for cell in cells]


def is_number(cell: str, decimal: str = ".") -> bool:
    """Tell a number, or what stands for a missing one, from a word."""
    if cell.lower() in _MISSING:
        return True
    try:
        float(cell if decimal == "." else re.sub(r"^([^.]*),", r"\1.", cell))
    except ValueError:
        return False
    return "_" not in cell  # 1_000 is a number in Python alone


def _parse(content: bytes, layout: _Layout) -> np.ndarray:
    """Turn text into numbers [lines, columns]."""
    import pandas as pd

    options: dict[str, Any] = {"sep": layout.separator or r"\s+", "header": None, "comment": "#"}
    options |= {"decimal": layout.decimal, "skipinitialspace": True}
    if layout.text_index:
        width = pd.read_csv(io.BytesIO(content), nrows=1, dtype=str, **options).shape[1]
        options["usecols"] = range(1, width)
    values = pd.read_csv(io.BytesIO(content), dtype=np.float64, **options).to_numpy()
    return values[:, 1:] if layout.shifted and not layout.text_index else values


# ---------------------------------------------------------------- what is no signal


def _without_empty(values: np.ndarray, shape: Shape) -> np.ndarray:
    """Drop an empty column that a separator at the end or at the start of every line makes."""
    for end in (-1, 0):
        wanted = shape.n_features if shape.orientation == "TV" else 0
        if wanted is not None and values.shape[1] > max(wanted, 1) and np.isnan(values[:, end]).all():
            values = values[:, :-1] if end else values[:, 1:]
    return values


def _is_time(values: np.ndarray, name: str, shape: Shape) -> bool:
    """Tell whether the first column of [T, V] counts volumes or seconds."""
    given = shape.index_column if shape.orientation == "TV" else shape.header
    if given is not None or values.shape[1] < 2 or len(values) < 3:
        return bool(given)
    column = values[1:, 0] if np.isnan(values[0, 0]) else values[:, 0]
    named = name.lower() in INDEX_NAMES
    steady = _is_steady(column) or _is_steady(values[1:, 0])
    counts = steady or ((named or _is_whole(column)) and bool((np.diff(column) > 0).all()))
    if not counts:
        return False
    if shape.n_features == values.shape[1] - 1:
        return True
    if (
        shape.n_features in (None, values.shape[1])
        and len(values) > _TOO_FEW
        and not _is_steady(values[1:, 1])
    ):
        _refuse_column(values, name, shape)
    return False


def _refuse_column(values: np.ndarray, name: str, shape: Shape) -> None:
    """Refuse a first column that may be an index or a feature."""
    place, setting = ("column", "index_column") if shape.orientation == "TV" else ("line", "header")
    first = ", ".join(f"{v:g}" for v in values[1:4, 0])
    raise Rejected(
        "unreadable",
        f"the first {place} (... {first} ...) only rises, as a count of volumes or seconds does, but without "
        f"it there are {values.shape[1] - 1} features; set {setting}: true and features.columns: "
        f"{values.shape[1] - 1}, or {setting}: false if it is a signal",
    )


def _are_labels(values: np.ndarray, known: bool, layout: _Layout, shape: Shape) -> bool:
    """Tell whether the first volume of [T, V] holds the numbers of regions; `known` names were taken off."""
    given = shape.header if shape.orientation == "TV" else shape.index_column
    if given is not None:
        return bool(given) and not known
    if len(values) <= _TOO_FEW or not values.shape[1]:
        return False
    row, others = values[0], values[1:]
    told = _tell_labels(row, others, layout.plain)
    if told is False or (known and told is None):
        return False
    if told and not known:
        return True
    place, setting = ("line", "header") if shape.orientation == "TV" else ("column", "index_column")
    first = ", ".join(f"{v:g}" for v in row[:3]) + (", ..." if len(row) > 3 else "")
    raise Rejected(
        "unreadable",
        f"the first {place} of numbers ({first}) may hold column names (labels of regions) or a volume; "
        + (
            f"delete one of the two {place}s of names"
            if known
            else f"set {setting}: true if these are names, false if not"
        ),
    )


def _tell_labels(row: np.ndarray, others: np.ndarray, plain: bool) -> bool | None:
    """Tell labels from a volume by how others are; None = either."""
    if not _is_whole(row) or (row < 0).any() or len(np.unique(row)) < len(row):
        return False
    n = len(row)
    if n > 2 and any(np.array_equal(row, np.arange(n) + first) for first in (0, 1)):
        return True
    known = ~np.isnan(others)
    whole = ((others == np.rint(others)) | ~known).all(axis=1) & known.any(axis=1)
    if not whole.any():
        return True if n > 1 else (None if plain else False)
    rising = n > 1 and bool((np.diff(row) > 0).all())
    if rising and n >= _INCREASING:
        return True
    middle = np.nanmedian(others, axis=0)
    spread = 1.4826 * np.nanmedian(np.abs(others - middle), axis=0)
    far = float(np.median(np.abs(row - middle) / np.maximum(spread, 1e-12))) > _FAR
    return None if rising or far else False


def _is_whole(numbers: np.ndarray) -> bool:
    """Tell whole numbers, none missing."""
    return bool((numbers == np.rint(numbers)).all())


def _is_steady(numbers: np.ndarray) -> bool:
    """Tell numbers that rise by equal steps, as printed with few digits."""
    if len(numbers) < 2:
        return False
    step = (numbers[-1] - numbers[0]) / (len(numbers) - 1)
    line = numbers[0] + step * np.arange(len(numbers))
    return bool(step > 0 and (np.abs(numbers - line) <= 0.02 * step).all())
