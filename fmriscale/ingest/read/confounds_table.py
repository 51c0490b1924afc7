"""Read the table of a confounds file, also one that another program has rewritten, if in one way only."""

import csv
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from fmriscale.common.quarantine import Rejected
from fmriscale.ingest.read.text import is_number, split_cells, to_utf8

if TYPE_CHECKING:
    import pandas as pd

_UNUSUAL = (b"\r", b",", b'"', b"\n\n", b" \n", b" \t", b"\t ", b"\0")  # What fMRIPrep does not write
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_OLD_NAMES = {
    "CSF": "csf",
    "WhiteMatter": "white_matter",
    "GlobalSignal": "global_signal",
    "stdDVARS": "std_dvars",
    "non-stdDVARS": "dvars",
    "FramewiseDisplacement": "framewise_displacement",
    **{axis: f"trans_{axis.lower()}" for axis in "XYZ"},
    **{f"Rot{axis}": f"rot_{axis.lower()}" for axis in "XYZ"},
}
_OLD_PREFIXES = {  # Columns of fMRIPrep 1.0 and 1.1 by their present names; those of the second are numbered
    "aCompCor": "a_comp_cor_",
    "tCompCor": "t_comp_cor_",
    "Cosine": "cosine",
    "NonSteadyStateOutlier": "non_steady_state_outlier",
    "AROMAAggrComp": "aroma_motion_",
}

_Rows = list[tuple[int, list[str]]]  # Line number and cells of each line


@dataclass(frozen=True)
class Table:
    """A table with one line per volume."""

    file: str  # name of the file, for messages
    names: tuple[str, ...]  # of columns, each once
    content: bytes  # the table as tab-separated text
    conflicting: tuple[str, ...] = ()  # columns that the file holds twice, with different numbers

    @cached_property
    def n_rows(self) -> int:
        """Number of volumes."""
        return self.content.rstrip(b"\n").count(b"\n")

    def renamed(self, names: Mapping[str, str]) -> "Table":
        """Give columns other names."""
        after = tuple(names.get(name, name) for name in self.names)
        rows = self.content[self.content.index(b"\n") :]
        return replace(self, names=after, content="\t".join(after).encode() + rows)

    def cut(self, rows: slice) -> "Table":
        """Return some of the lines."""
        names, *lines = self.content.rstrip(b"\n").split(b"\n")
        return replace(self, content=b"\n".join([names, *lines[rows]]) + b"\n")

    def without(self, names: re.Pattern[str]) -> "Table":
        """Leave out columns of such names, where that is easy: to parse them takes longer."""
        kept = [n for n, name in enumerate(self.names) if not names.fullmatch(name)]
        # A line of one empty cell would be no line, and a quoted cell may hold tabs.
        if not 1 < len(kept) < len(self.names) or b'"' in self.content:
            return self
        pick, lines = itemgetter(*kept), self.content.rstrip(b"\n").split(b"\n")
        content = b"\n".join(b"\t".join(pick(line.split(b"\t"))) for line in lines) + b"\n"
        return replace(self, names=pick(self.names), content=content)

    def numbers(self, wanted: Callable[[str], bool]) -> "pd.DataFrame":
        """Return the columns whose names are wanted."""
        import pandas as pd

        self.refuse_conflicts(wanted)
        columns = [name for name in self.names if wanted(name)]
        if not columns:
            return pd.DataFrame(index=range(self.n_rows))
        table = pd.read_csv(io.BytesIO(self.content), sep="\t", usecols=columns, index_col=False)
        for name in columns:
            if not pd.api.types.is_numeric_dtype(table[name]):
                cells = enumerate(map(str, table[name]), 2)
                line, word = next((n, cell) for n, cell in cells if not is_number(cell))
                what = f"{name} holds '{word}' in line {line}, no number"
                raise Rejected("unreadable", f"{self.file}: {what}; correct it, or write n/a")
        return table

    def refuse_conflicts(self, wanted: Callable[[str], bool]) -> None:
        """Reject a wanted column that the file holds twice, with different numbers."""
        for name in filter(wanted, self.conflicting):
            what = f"{name} is there twice with different numbers"
            raise Rejected("confounds", f"{self.file}: {what}; keep one")


def load_table(path: Path) -> Table:
    """Read a confounds file under the present names of its columns; the last two files are cached."""
    try:
        status = path.stat()
        return _load(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise Rejected("unreadable", f"{path.name}: {error.strerror}; copy it again") from error


@lru_cache(maxsize=2)
def _load(path: Path, time: int, size: int) -> Table:
    content = path.read_bytes()
    names = _names_of_regular(content)
    table = Table(path.name, names, content) if names else _normalized(path.name, content)
    new = _new_names(table.names)
    return table.renamed(new) if new else table


def _new_names(names: tuple[str, ...]) -> dict[str, str]:
    """Return the present names of columns that have an old one, unless both are there."""
    new = {}
    for name in names:
        prefix = name.rstrip("0123456789")
        if prefix in _OLD_PREFIXES and prefix != name:
            new[name] = _OLD_PREFIXES[prefix] + name.removeprefix(prefix)
        elif name in _OLD_NAMES:
            new[name] = _OLD_NAMES[name]
    return {old: name for old, name in new.items() if name not in names}


def _names_of_regular(content: bytes) -> tuple[str, ...] | None:
    """Return the names of the columns of a table as fMRIPrep writes it; None for any other."""
    if not content.isascii() or any(mark in content for mark in _UNUSUAL):
        return None
    first, *others = content.rstrip(b"\n").split(b"\n")
    names = tuple(first.decode().split("\t"))
    if len(set(names)) < len(names) or first in others or all(is_number(name) for name in names):
        return None
    if any(not name or name != name.strip() or name.startswith("Unnamed") for name in names):
        return None
    tabs = first.count(b"\t")
    return names if tabs and all(line.count(b"\t") == tabs for line in others) else None


def _normalized(file: str, content: bytes) -> Table:
    """Rewrite a table with tabs, one name per column and one cell per name."""
    text = to_utf8(content).decode("utf-8", errors="replace").replace("\0", "")
    lines = [(n, line) for n, line in enumerate(re.split(r"\r\n|\n|\r", text), 1) if line.strip()]
    if not lines:
        raise Rejected("unreadable", f"{file}: is empty; copy it again")
    separator = next((s for s in "\t;," if s in lines[0][1]), None)
    (_, header), *body = [(n, split_cells(line.lstrip(" "), separator)) for n, line in lines]
    if all(is_number(cell) for cell in header):
        what = f"has no line of column names (it begins with {header[0]})"
        raise Rejected("unreadable", f"{file}: {what}; add it as fMRIPrep writes it")
    header, body = _without_index(*_without_empty_ends(header, body))
    for n, cells in body:
        _check_line(file, n, cells, header)
    columns: dict[str, list[str]] = {}
    conflicting = []
    for name, *cells in zip(header, *(row for _, row in body), strict=True):
        if columns.setdefault(name, cells) != cells:
            conflicting.append(name)
    kept = {name: cells for name, cells in columns.items() if name not in conflicting}
    written = io.StringIO()
    writer = csv.writer(written, delimiter="\t", lineterminator="\n")
    writer.writerow(kept)
    writer.writerows(zip(*kept.values(), strict=True))
    return Table(file, tuple(kept), written.getvalue().encode(), tuple(conflicting))


def _without_empty_ends(header: list[str], body: _Rows) -> tuple[list[str], _Rows]:
    """Drop empty cells that separators at the ends of lines make."""
    while header and not header[-1] and not any(row[len(header) - 1 :][:1] > [""] for _, row in body):
        header = header[:-1]
    width = len(header)
    if all(not any(row[width:]) for _, row in body):
        body = [(n, row[:width]) for n, row in body]
    return header, body


def _without_index(header: list[str], body: _Rows) -> tuple[list[str], _Rows]:
    """Drop a first column without a name: the index of pandas, or of R, whose header lacks its cell."""
    if header[0].lower() in ("", "unnamed: 0"):
        return header[1:], [(n, row[1:]) for n, row in body]
    index = [row[0] for _, row in body if len(row) == len(header) + 1]
    counts = all(cell.isdigit() and int(cell) - int(index[0]) == n for n, cell in enumerate(index))
    if len(index) == len(body) > 1 and (counts or not any(is_number(cell) for cell in index)):
        return header, [(n, row[1:]) for n, row in body]
    return header, body


def _check_line(file: str, n: int, cells: list[str], header: list[str]) -> None:
    """Reject a line that does not fit the header."""
    for name, cell in zip(header, cells, strict=False):
        if _DECIMAL_COMMA.fullmatch(cell):
            what = f"decimal commas ({name} is {cell} in line {n}); write decimal points"
            raise Rejected("unreadable", f"{file}: {what}")
    if cells == header:
        what = f"line {n} repeats the column names: two tables in one; give each run its own"
        raise Rejected("unreadable", f"{file}: {what}")
    if len(cells) != len(header):
        commas = len(cells) >= 1.5 * len(header) and all(c.lstrip("+-").isdigit() for c in cells[:2])
        remedy = " (decimal commas? write decimal points)" if commas else "; copy it again or correct it"
        what = f"line {n} has {len(cells)} cells under {len(header)} column names{remedy}"
        raise Rejected("unreadable", f"{file}: {what}")
