"""Read text tables of signals: separator, decimal mark, names, and a column that counts volumes.

The number of features in the recipe judges columns; an ambiguous table is refused with both readings.
"""

import io
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from isal import igzip

from fmriscale.common.quarantine import Rejected
from fmriscale.ingest.read.text import MISSING, is_number, split_cells, to_utf8

SAMPLE = 8  # Lines from which the dialect of a table is detected

INDEX_NAMES = ("", "unnamed: 0", "index", "time", "t", "volume", "vol", "frame", "scan", "tr", "timepoint")
"""Names of columns that count volumes."""

_FAR = 10.0  # Robust standard deviations from the other lines beyond which a line is no volume
_TOO_FEW = 4  # Lines up to which a table is too short to judge one of them by the others
_INCREASING = 8  # Whole numbers that do not increase by chance: one in 8! = 40,320


@dataclass(frozen=True)
class TableOptions:
    """What the recipe states about its tables; None = to be detected."""

    n_features: int | None = None
    orientation: Literal["TV", "VT"] = "TV"  # TV: a line of the file is a volume, VT: a feature
    header: bool | None = None  # the first line is no signal
    index_column: bool | None = None  # the first column is no signal


@dataclass(frozen=True)
class _Dialect:
    """How the text of a table is parsed."""

    separator: str | None  # None = blanks
    decimal: str
    names: list[str]  # cells of a first line that holds words; [] where it holds numbers
    text_index: bool  # the first column holds words, too
    shifted: bool  # the first line lacks the name of the first column
    short: bool  # the first line lacks the separator that ends the others
    plain: bool  # the numbers of the first line are written without a point


def read_table(path: Path, options: TableOptions) -> np.ndarray:
    """Return the numbers of a table [lines, columns] without names and index; n/a is NaN."""
    content = path.read_bytes()
    content = to_utf8(igzip.decompress(content) if content.startswith(b"\x1f\x8b") else content)
    start, end, lines = _first_lines(content)
    dialect = _detect(lines, content[end:], options, Path(path.name.removesuffix(".gz")).suffix)
    has_names = dialect.shifted or (bool(dialect.names) if options.header is None else options.header)
    if dialect.short and not has_names:
        content = content[start:end].rstrip() + (dialect.separator or " ").encode() + b"\n" + content[end:]
        start = 0
    values = _drop_empty_column(_parse(content[end if has_names else start :], dialect), options)
    has_index = dialect.text_index or dialect.shifted
    if options.orientation == "VT":  # from here on [T, V]
        values, has_names, has_index = values.T, has_index, has_names
    corner = dialect.names[0] if dialect.names and not dialect.shifted else "x"
    if not has_index and _counts_volumes(values, corner, options):
        values = values[:, 1:]
    if _begins_with_labels(values, has_names, dialect, options):
        values = values[1:]
    return values if options.orientation == "TV" else values.T


def _first_lines(content: bytes) -> tuple[int, int, list[str]]:
    """Return start and end of the first line that is no comment, and up to SAMPLE lines from it on."""
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


def _detect(lines: list[str], body: bytes, options: TableOptions, extension: str) -> _Dialect:
    """Detect separator, decimal mark and words from the first lines of a table."""
    sample = lines[1:] or lines
    separator, decimal = _separator(sample, body, options, extension)
    rows = [split_cells(line, separator) for line in sample]
    first = split_cells(lines[0], separator) if lines else []
    text_index = bool(rows) and all(len(r) > 1 and not is_number(r[0], decimal) for r in rows)
    words = [c for c in first[text_index:] if not is_number(c, decimal)]
    numbers = [c for c in first[1:] if c.lower() not in MISSING and is_number(c, decimal)]
    fractions = [c for c in numbers if not re.fullmatch(r"\d+(\.0*)?", c)]
    if fractions and words and words != first[:1]:
        raise Rejected("unreadable", f"line 1 holds both '{words[0]}' and {fractions[0]}; correct it")
    lacks_one = bool(rows) and len(first) == len(rows[0]) - 1
    is_short = lacks_one and rows[0][-1] == ""
    fits = options.n_features is None or options.orientation == "VT" or len(first) == options.n_features
    labels = len(first) > 2 and len(set(first)) == len(first) and all(c.isdigit() for c in first)
    return _Dialect(
        separator,
        decimal,
        names=first if words else [],
        text_index=text_index,
        shifted=lacks_one and not is_short and (bool(words) or (fits and labels)),
        short=is_short,
        plain=all(re.fullmatch(r"\d*", c) for c in first),
    )


def _separator(
    sample: list[str], body: bytes, options: TableOptions, extension: str
) -> tuple[str | None, str]:
    """Choose separator and decimal mark such that every cell is a number, and their count the wanted one."""
    readings: list[tuple[str | None, str, int]] = []  # the last is the number of cells in a line
    for separator in ("\t", ";", ",", None):
        if separator is not None and not all(separator in line for line in sample):
            continue
        decimal = "," if separator != "," and b"," in body else "."
        rows = [split_cells(line, separator) for line in sample]
        if rows and all(is_number(c, decimal) for row in rows for c in row[min(1, len(row) - 1) :]):
            readings.append((separator, decimal, len(rows[0])))
    if not readings:  # the parser reports what is no number
        line = sample[0] if sample else ""
        return next((s for s in "\t;," if s in line), "," if extension == ".csv" else None), "."
    wanted = options.n_features if options.orientation == "TV" else None
    if wanted == 1 and len(readings) > 1 and _rise([line.split(",")[0] for line in sample]):
        what = f"'{sample[0]}' may be two columns or a number with a decimal comma"
        raise Rejected("unreadable", f"{what}; write points, and tabs between columns")
    fitting = [r for extra in (0, 1) for r in readings if wanted is not None and r[2] == wanted + extra]
    return (fitting or readings)[0][:2]


def _rise(numbers: list[str]) -> bool:
    """Return whether all are whole numbers that rise from line to line."""
    return all(map(str.isdigit, numbers)) and all(int(a) < int(b) for a, b in pairwise(numbers))


def _parse(content: bytes, dialect: _Dialect) -> np.ndarray:
    """Parse text as numbers [lines, columns]."""
    import pandas as pd

    options: dict[str, Any] = {"sep": dialect.separator or r"\s+", "header": None, "comment": "#"}
    options |= {"decimal": dialect.decimal, "skipinitialspace": True}
    if dialect.text_index:
        width = pd.read_csv(io.BytesIO(content), nrows=1, dtype=str, **options).shape[1]
        options["usecols"] = range(1, width)
    values = pd.read_csv(io.BytesIO(content), dtype=np.float64, **options).to_numpy()
    return values[:, 1:] if dialect.shifted and not dialect.text_index else values


def _drop_empty_column(values: np.ndarray, options: TableOptions) -> np.ndarray:
    """Drop the empty column that a separator at the end or at the start of every line makes."""
    wanted = options.n_features if options.orientation == "TV" else 0
    for end, others in ((-1, slice(None, -1)), (0, slice(1, None))):
        if wanted is not None and values.shape[1] > max(wanted, 1) and np.isnan(values[:, end]).all():
            values = values[:, others]
    return values


def _counts_volumes(values: np.ndarray, name: str, options: TableOptions) -> bool:
    """Return whether the first column of [T, V] counts volumes or seconds."""
    given = options.index_column if options.orientation == "TV" else options.header
    if given is not None or values.shape[1] < 2 or len(values) < 3:
        return bool(given)
    column, n_features = values[1:, 0] if np.isnan(values[0, 0]) else values[:, 0], values.shape[1]
    is_steady = _is_steady(column) or _is_steady(values[1:, 0])
    may_count = name.lower() in INDEX_NAMES or _is_whole(column)
    if not is_steady and not (may_count and (np.diff(column) > 0).all()):
        return False
    if options.n_features == n_features - 1:
        return True
    is_open = options.n_features in (None, n_features) and len(values) > _TOO_FEW
    if not is_open or _is_steady(values[1:, 1]):
        return False
    line, setting = ("column", "index_column") if options.orientation == "TV" else ("line", "header")
    shown = ", ".join(f"{v:g}" for v in values[1:4, 0])
    what = f"the first {line} (... {shown} ...) rises as a count of volumes or seconds does"
    remedy = f"set {setting}: true and features.columns: {n_features - 1}"
    raise Rejected("unreadable", f"{what}; {remedy}, or {setting}: false if it is a signal")


def _begins_with_labels(
    values: np.ndarray, has_names: bool, dialect: _Dialect, options: TableOptions
) -> bool:
    """Return whether the first volume of [T, V] holds numbers of regions; `has_names`: names were cut off."""
    given = options.header if options.orientation == "TV" else options.index_column
    if given is not None:
        return bool(given) and not has_names
    if len(values) <= _TOO_FEW or not values.shape[1]:
        return False
    row = values[0]
    is_label = _are_labels(row, values[1:], dialect.plain)
    if is_label is False or (has_names and is_label is None):
        return False
    if is_label and not has_names:
        return True
    line, setting = ("line", "header") if options.orientation == "TV" else ("column", "index_column")
    shown = ", ".join(f"{v:g}" for v in row[:3]) + (", ..." if len(row) > 3 else "")
    what = f"the first {line} of numbers ({shown}) may hold column names (labels of regions) or a volume"
    remedy = f"set {setting}: true if these are names, false if not"
    remedy = f"delete one of the two {line}s of names" if has_names else remedy
    raise Rejected("unreadable", f"{what}; {remedy}")


def _are_labels(row: np.ndarray, others: np.ndarray, plain: bool) -> bool | None:
    """Judge by the other volumes [T - 1, V] whether a row [V] holds labels; None = ambiguous."""
    n = len(row)
    if not _is_whole(row) or (row < 0).any() or len(np.unique(row)) < n:
        return False
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
    """Return whether all are whole numbers, none missing."""
    return bool((numbers == np.rint(numbers)).all())


def _is_steady(numbers: np.ndarray) -> bool:
    """Return whether numbers rise by equal steps, as printed with few digits."""
    if len(numbers) < 2:
        return False
    step = (numbers[-1] - numbers[0]) / (len(numbers) - 1)
    line = numbers[0] + step * np.arange(len(numbers))
    return bool(step > 0 and (np.abs(numbers - line) <= 0.02 * step).all())
