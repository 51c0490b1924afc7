"""Names of the features of a recipe: a list, or one of the text files that atlases come with.

Of lines 'name' or 'index name', a table, or a file of FreeSurfer, ITK-SNAP or Connectome Workbench; one that
can be read in two ways is refused with both.
"""

import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import NoReturn

import numpy as np

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand
from fmriscale.config import FeatureConfig
from fmriscale.ingest.read.content import open_content, reading_input
from fmriscale.ingest.read.text import split_cells, to_utf8

_INDEX = (
    *("index", "idx", "id", "no", "no.", "number", "value", "key", "intensity", "integer_label"),
    *("label_id", "labelid", "roi_id", "region_id", "parcel_id"),
)
_NAME = ("name", "label_name", "labelname", "roi_name", "region_name", "region", "structure", "text_label")
_EITHER = ("label", "labels", "roi", "parcel")
"""Names of columns, in lower case; those of the last hold numbers or names."""

_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?")
_INDEXED = re.compile(r"(\d+)[:.)]?\s+(\S.*)")
_ITK_SNAP = re.compile(r'([\d.]+\s+){3,6}"(?P<name>.*)"')
_BACKGROUND = ("background", "unknown", "clear label", "")

Names = dict[int, str] | list[str]  # Names by label, or in the order of the features


def whole_labels(values: np.ndarray) -> np.ndarray:
    """Return the labels of an atlas as integers; NaN is background, as 0 is."""
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), 0, values)
        if np.isinf(values).any():
            raise ValueError("holds infinite values; correct it")
        if not np.array_equal(values, np.round(values)):
            raise ValueError("must hold whole numbers; is it a probability map or a mask?")
    return values.astype(np.int64)


def feature_labels(config: FeatureConfig, numbers: Sequence[int]) -> tuple[str, ...] | None:
    """Return the names that a recipe gives to the features with these labels; None = it gives none."""
    if config.labels is None:
        return None
    if isinstance(config.labels, list):
        return _in_order(config, config.labels, len(numbers), "labels")
    path = expand(config.labels)
    names = _read_names(path, numbers)
    if isinstance(names, list):
        return _in_order(config, names, len(numbers), str(path))
    if missing := [n for n in numbers if n not in names]:
        raise UserError(f"{path}: no name for label {missing[0]} of features '{config.name}'; add it")
    return tuple(names[n] for n in numbers)


def _in_order(config: FeatureConfig, names: list[str], n_features: int, source: str) -> tuple[str, ...]:
    if len(names) != n_features:
        has_background = len(names) == n_features + 1 and names[0].strip("?").lower() in _BACKGROUND
        remedy = f"remove the first, '{names[0]}'" if has_background else "give one a line, or 'index name'"
        what = f"{len(names)} names for the {n_features} features of '{config.name}'"
        raise UserError(f"{source}: {what}; {remedy}")
    return tuple(names)


def _read_names(path: Path, numbers: Sequence[int]) -> Names:
    """Read a file of names; `numbers` are the labels of the atlas."""
    lines = [line.strip(" ") for line in re.split(r"\r\n|\r|\n", _read_text(path))]
    lines = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise UserError(f"{path}: holds no names; give one a line in order, or 'index name'")
    if len(lines) % 2 == 0 and all(re.fullmatch(r"\d+(\s+\d+){4}", line) for line in lines[1::2]):
        keys = (int(line.split()[0]) for line in lines[1::2])  # Connectome Workbench
        return _by_label(path, list(zip(keys, lines[::2], strict=True)))
    for separator in "\t;,":
        if all(separator in line for line in lines):
            names = _from_table(path, [split_cells(line, separator) for line in lines], numbers)
            if names is not None:
                return names
            if separator != "," or path.suffix == ".csv":  # else the comma belongs to the names
                _refuse(path, "no column of it is an index")
    return _from_lines(path, lines, numbers)


def _read_text(path: Path) -> str:
    with reading_input(path, "text"), open_content(path) as handle:
        content = to_utf8(handle.read())
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8") from error


def _refuse(path: Path, why: str) -> NoReturn:
    remedy = "write one 'index<tab>name' a line, or give the columns a header: index, name"
    raise UserError(f"{path}: {why}; {remedy}")


def _by_label(path: Path, pairs: list[tuple[int, str]]) -> dict[int, str]:
    names: dict[int, str] = {}
    for label, name in pairs:
        if names.setdefault(label, name) != name:
            raise UserError(f"{path}: calls label {label} '{names[label]}' and '{name}'; remove one")
    return {label: name for label, name in names.items() if name}


def _from_table(path: Path, rows: list[list[str]], numbers: Sequence[int]) -> Names | None:
    """Read rows of cells; None where there is neither a header nor a column of whole numbers."""
    header = [cell.lower() for cell in rows[0]]
    has_header = any(cell in (*_INDEX, *_NAME, *_EITHER) for cell in header)
    has_header = has_header and not any(cell.isdigit() for cell in header)
    body = rows[1:] if has_header else rows
    width = max(map(len, rows))
    columns = [[row[k] if k < len(row) else "" for row in body] for k in range(width)]
    whole = [k for k in range(width) if body and all(re.fullmatch(r"\d+(\.0*)?", c) for c in columns[k])]
    covering = [k for k in whole if set(numbers) <= {int(float(cell)) for cell in columns[k]}]
    texts = [k for k in range(width) if not all(_is_no_name(cell) for cell in columns[k])]
    if has_header:
        header += [""] * (width - len(header))
        if "index" in header and header.index("index") not in whole:
            _refuse(path, "its column index does not hold a whole number in every row")
        whole = [k for k in whole if header[k] in (*_INDEX, *_EITHER)] or covering
        texts = [k for k in texts if header[k] in (*_NAME, *_EITHER)]
    elif not whole:
        return None
    elif whole[0] == 0:
        whole = [0]
    titles = header if has_header else None
    name = _choose_column(path, texts, "name", titles, columns)
    if not whole:
        return columns[name]
    index = _choose_column(path, [k for k in whole if k in covering] or whole, "index", titles, columns)
    return _by_label(path, [(int(float(i)), n) for i, n in zip(columns[index], columns[name], strict=True)])


def _choose_column(
    path: Path, candidates: list[int], what: str, header: list[str] | None, columns: list[list[str]]
) -> int:
    """Return the one column that can be the index or the names, or the one that is called so."""
    if header is not None and what in header and header.index(what) in candidates:
        return header.index(what)
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        _refuse(path, f"no column of it holds names, in a header it is called {what}")
    shown = [header[k] if header else f"{k + 1} ('{columns[k][0]}', ...)" for k in candidates]
    _refuse(path, f"columns {' and '.join(shown)} may be the {what}")


def _is_no_name(cell: str) -> bool:
    """Return whether a cell holds numbers, a colour or nothing."""
    is_colour = re.fullmatch("#[0-9a-fA-F]{6,8}", cell) is not None
    return cell in ("", "n/a") or is_colour or all(map(_NUMBER.fullmatch, cell.split()))


def _from_lines(path: Path, lines: list[str], numbers: Sequence[int]) -> Names:
    """Read 'index name' or one name a line."""
    matches = [_INDEXED.fullmatch(line) for line in lines]
    first = lines[0].split()[0].lower().rstrip(":")
    if len(lines) > 1 and not matches[0] and all(matches[1:]) and first in (*_INDEX, *_EITHER):
        lines, matches = lines[1:], matches[1:]
    indexed = [match for match in matches if match]
    if indexed and len(indexed) < len(lines):
        _refuse(path, f"'{lines[matches.index(None)]}' begins with no number, other lines do")
    if indexed:
        names = _without_colours(path, [match[2] for match in indexed])
        return _by_label(path, [(int(m[1]), n) for m, n in zip(indexed, names, strict=True)])
    names = [_unquoted(line) for line in lines]
    if path.suffix in (".csv", ".tsv") and names[0].lower() in (*_NAME, *_EITHER):
        return names[1:]
    last = [line.split()[-1] for line in lines]
    if all(word.isdigit() for word in last) and len(names[0].split()) > 1:
        ends = [int(word) for word in last]
        if set(numbers) <= set(ends) and ends != list(numbers):
            _refuse(path, f"'{lines[0]}' may end in its index, or be the name of the first label")
    return names


def _without_colours(path: Path, rests: list[str]) -> list[str]:
    """Remove the numbers behind names (ITK-SNAP: before names) from what follows the index on every line."""
    if all(matches := [_ITK_SNAP.fullmatch(rest) for rest in rests]):
        return [match["name"] for match in matches if match]
    words = [rest.split() for rest in rests]
    n_behind = min(sum(1 for _ in takewhile(_NUMBER.fullmatch, line[:0:-1])) for line in words)
    whole = [_unquoted(rest) for rest in rests]
    if n_behind == 0:
        return whole
    short = [_unquoted(" ".join(line[:-n_behind])) for line in words]
    if n_behind > 1:
        return short
    if len(set(short)) == len(short) > 1:
        _refuse(path, f"the name on its first line is '{short[0]}' or '{rests[0]}'")
    return whole  # Visual 1, Visual 2: the number belongs to the name


def _unquoted(name: str) -> str:
    name = name.strip()
    return name[1:-1] if len(name) > 1 and name[0] == name[-1] and name[0] in "'\"" else name
