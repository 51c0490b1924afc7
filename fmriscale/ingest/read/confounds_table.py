"""Read the table of a confounds file, also one that other programs have written anew, or say what it is.

What pandas and nilearn read right is left as it is. The rest is brought to that form where it can be read in
one way only: both would otherwise shift columns, or call a table of numbers text.
"""

import csv
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from fmriscale.common.quarantine import Rejected
from fmriscale.ingest.read.tables import is_number, split_cells
from fmriscale.ingest.read.text import to_utf8

if TYPE_CHECKING:
    import pandas as pd

_ODD = (b"\r", b",", b'"', b"\n\n", b" \n", b" \t", b"\t ", b"\0")
"""What fMRIPrep does not write."""
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Table:
    """A table with one line a volume.

    Attributes
    ----------
    file : str
        Name of the file, for messages.
    names : tuple of str
        Columns, each once.
    content : bytes
        The table as tab-separated text.
    as_is : bool
        Whether the file itself holds just this.
    torn : tuple of str
        Columns that are there more than once, with different numbers; they are not among `names`.
    """

    file: str
    names: tuple[str, ...]
    content: bytes
    as_is: bool
    torn: tuple[str, ...] = ()

    @cached_property
    def n_rows(self) -> int:
        """Volumes."""
        return self.content.rstrip(b"\n").count(b"\n")

    def renamed(self, names: Mapping[str, str]) -> "Table":
        """Give columns other names."""
        after = tuple(names.get(name, name) for name in self.names)
        if after == self.names:
            return self
        rest = self.content[self.content.index(b"\n") :]
        return replace(self, names=after, content="\t".join(after).encode() + rest, as_is=False)

    def cut(self, rows: slice) -> "Table":
        """Return some of the lines."""
        names, *lines = self.content.rstrip(b"\n").split(b"\n")
        kept = lines[rows]
        return self if len(kept) == len(lines) else replace(self, content=_joined(names, kept), as_is=False)

    def numbers(self, wanted: Callable[[str], bool]) -> "pd.DataFrame":
        """Return the wanted columns."""
        import pandas as pd

        self.check_torn(wanted)
        columns = [name for name in self.names if wanted(name)]
        if not columns:
            return pd.DataFrame(index=range(self.n_rows))
        table = pd.read_csv(io.BytesIO(self.content), sep="\t", usecols=columns, index_col=False)
        for name in columns:
            if not pd.api.types.is_numeric_dtype(table[name]):
                cells = [str(cell) for cell in table[name]]
                line, odd = next((n, c) for n, c in enumerate(cells, 2) if not is_number(c))
                raise Rejected(
                    "unreadable",
                    f"{self.file}: {name} holds '{odd}' in line {line}, no number; mend it, or write n/a",
                )
        return table

    def check_torn(self, wanted: Callable[[str], bool]) -> None:
        """Refuse columns of which it is not known which one is meant."""
        if twice := [name for name in self.torn if wanted(name)]:
            raise Rejected(
                "confounds", f"{self.file}: {twice[0]} is there twice with different numbers; keep one"
            )


def _joined(names: bytes, lines: list[bytes]) -> bytes:
    return b"\n".join([names, *lines]) + b"\n"


def load_table(path: Path) -> Table:
    """Read a confounds file; the last ones are remembered."""
    try:
        status = path.stat()
        table = _load(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise Rejected("unreadable", f"{path.name}: {error.strerror}; copy it again") from error
    return table.renamed(current_columns(table.names))


@lru_cache(maxsize=2)
def _load(path: Path, time: int, size: int) -> Table:
    """Read a file as it was at this time."""
    content = path.read_bytes()
    if (names := _tidy(content)) is not None:
        return Table(path.name, names, content, as_is=True)
    return _tidied(path.name, content)


def _tidy(content: bytes) -> tuple[str, ...] | None:
    """Return the names of the columns where every reader takes the table for what it is."""
    if not content.isascii() or any(mark in content for mark in _ODD):
        return None
    first, *others = content.rstrip(b"\n").split(b"\n")
    names = tuple(first.decode().split("\t"))
    if len(set(names)) < len(names) or first in others or all(is_number(name) for name in names):
        return None
    if any(not name or name != name.strip() or name.startswith("Unnamed") for name in names):
        return None
    tabs = first.count(b"\t")
    return names if tabs and all(line.count(b"\t") == tabs for line in others) else None


def _tidied(file: str, content: bytes) -> Table:
    """Bring a table to tabs, one name a column and one cell a name."""
    text = to_utf8(content).decode("utf-8", errors="replace").replace("\0", "")
    lines = [(n, line) for n, line in enumerate(re.split(r"\r\n|\n|\r", text), 1) if line.strip()]
    if not lines:
        raise Rejected("unreadable", f"{file}: is empty; copy it again")
    separator = next((s for s in "\t;," if s in lines[0][1]), None)
    numbered = [(n, split_cells(line.lstrip(" "), separator)) for n, line in lines]
    (_, header), *body = numbered
    if all(is_number(cell) for cell in header):
        raise Rejected(
            "unreadable",
            f"{file}: has no line of column names (it begins with {header[0]}); add it as fMRIPrep writes it",
        )
    header, body = _without_index(*_without_end(header, body))
    for n, cells in body:
        _check_line(file, n, cells, header)
    columns = dict[str, list[str]]()
    torn: list[str] = []
    for place, name in enumerate(header):
        cells = [row[place] for _, row in body]
        if columns.setdefault(name, cells) != cells:
            torn.append(name)
    kept = {name: cells for name, cells in columns.items() if name not in torn}
    written = io.StringIO()
    writer = csv.writer(written, delimiter="\t", lineterminator="\n")
    writer.writerow(kept)
    writer.writerows(zip(*kept.values(), strict=True))
    return Table(file, tuple(kept), written.getvalue().encode(), False, tuple(torn))


_Rows = list[tuple[int, list[str]]]


def _without_end(header: list[str], body: _Rows) -> tuple[list[str], _Rows]:
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
    firsts = [row[0] for _, row in body if len(row) == len(header) + 1]
    counted = all(cell.isdigit() and int(cell) - int(firsts[0]) == n for n, cell in enumerate(firsts))
    if len(firsts) == len(body) > 1 and (counted or not any(is_number(cell) for cell in firsts)):
        return header, [(n, row[1:]) for n, row in body]
    return header, body


def _check_line(file: str, n: int, cells: list[str], header: list[str]) -> None:
    """Refuse a line that does not stand under the header."""
    for name, cell in zip(header, cells, strict=False):
        if _DECIMAL_COMMA.fullmatch(cell):
            raise Rejected(
                "unreadable", f"{file}: decimal commas ({name} is {cell} in line {n}); write decimal points"
            )
    if cells == header:
        raise Rejected(
            "unreadable",
            f"{file}: line {n} repeats the column names: two tables in one; give each run its own",
        )
    if len(cells) != len(header):
        commas = len(cells) >= 1.5 * len(header) and all(c.lstrip("+-").isdigit() for c in cells[:2])
        raise Rejected(
            "unreadable",
            f"{file}: line {n} has {len(cells)} cells under {len(header)} column names"
            + (" (decimal commas? write decimal points)" if commas else "; copy it again or mend it"),
        )


# ---------------------------------------------------------------- older names of columns

COLUMNS = {
    "CSF": "csf",
    "WhiteMatter": "white_matter",
    "GlobalSignal": "global_signal",
    "stdDVARS": "std_dvars",
    "non-stdDVARS": "dvars",
    "FramewiseDisplacement": "framewise_displacement",
    **{axis: f"trans_{axis.lower()}" for axis in "XYZ"},
    **{f"Rot{axis}": f"rot_{axis.lower()}" for axis in "XYZ"},
}
"""Columns of confounds by what they are called today."""

_NUMBERED = (
    (re.compile(r"aCompCor(\d+)"), "a_comp_cor_"),
    (re.compile(r"tCompCor(\d+)"), "t_comp_cor_"),
    (re.compile(r"Cosine(\d+)"), "cosine"),
    (re.compile(r"NonSteadyStateOutlier(\d+)"), "non_steady_state_outlier"),
    (re.compile(r"AROMAAggrComp(\d+)"), "aroma_motion_"),
)


def current_columns(names: tuple[str, ...]) -> dict[str, str]:
    """Return which columns are called otherwise today, and how; none that is there under both names."""
    new = {}
    for name in names:
        match = next(
            ((rule.fullmatch(name), start) for rule, start in _NUMBERED if rule.fullmatch(name)), None
        )
        today = COLUMNS.get(name, f"{match[1]}{match[0][1]}" if match and match[0] else name)
        if today != name and today not in names:
            new[name] = today
    return new
