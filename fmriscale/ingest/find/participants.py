"""The participants table of a data set: who a run is of, its repetition time, and what else is kept."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand
from fmriscale.common.quarantine import Rejected
from fmriscale.config import DatasetConfig
from fmriscale.ingest.find.fetch import readable


class Participant(NamedTuple):
    """What the table says of a run."""

    subject: str
    t_r: float | None
    """Repetition time, s; None where the cell is no number."""
    kept: dict[str, str]
    """Columns that the recipe keeps."""
    written: str = ""
    """The id as the table has it, where it is written otherwise than the run's."""


class Participants:
    """The table, looked up by a run's identity or subject.

    Parameters
    ----------
    dataset : DatasetConfig
        Names the table and its columns.
    root : Path
        Of the data set.
    labels : iterable of str
        Identities and subjects of all runs: an id that lost its zeros is taken only where one label and one
        row can be meant.

    Raises
    ------
    UserError
        The table is missing, lacks a column, or says different things of one run.
    """

    def __init__(self, dataset: DatasetConfig, root: Path, labels: Iterable[str]) -> None:
        import pandas as pd

        self.dataset, path = dataset, readable(expand(dataset.participants or "", relative_to=root))
        try:
            separator = "," if path.suffix == ".csv" else "\t"
            with path.open(encoding="utf-8-sig", errors="replace") as text:  # one odd letter harms no label
                table = pd.read_csv(text, sep=separator, dtype=str, keep_default_na=False, index_col=False)
        except FileNotFoundError as error:
            raise UserError(
                f"data set '{dataset.name}': there is no {path}; set participants, a path below root"
            ) from error
        except (OSError, ValueError) as error:
            raise UserError(f"data set '{dataset.name}': participants {path} is no table: {error}") from error
        self.key, self.t_r = dataset.participants_key, dataset.participants_t_r
        self.subject = dataset.participants_subject or self.key
        self.kept = dataset.participants_columns
        kept = [("columns", column) for column in self.kept]
        for field, column in (("key", self.key), ("subject", self.subject), ("t_r", self.t_r), *kept):
            if column is not None and column not in table:
                has = ", ".join(table.columns)
                raise UserError(f"{path}: no column '{column}'; set participants_{field}, it has {has}")
        self.rows: dict[str, tuple[str, str, dict[str, str]]] = {}
        stated = table[self.t_r] if self.t_r is not None else [""] * len(table)
        cells = [dict[str, str]() for _ in range(len(table))]
        for column in self.kept:
            for its, cell in zip(cells, table[column], strict=True):
                its[column] = cell
        for key, subject, t_r, its in zip(table[self.key], table[self.subject], stated, cells, strict=True):
            told = subject, t_r, its
            if self.rows.setdefault(key, told) != told:
                raise UserError(
                    f"{path}: rows '{key}' in column {self.key} contradict each other; "
                    "correct them or set participants_key"
                )
        self._near = _by_sense(self.rows)
        self._labels = _by_sense(label.removeprefix("sub-") for label in labels)

    def look_up(self, identity: str, subject: str | None) -> Participant:
        """Return what the table says of a run."""
        exact = [identity, *([subject, f"sub-{subject}"] if subject else [])]
        written = next((c for c in exact if c in self.rows), None)
        if written is not None:
            label, t_r, kept = self.rows[written]
            return Participant(label.removeprefix("sub-"), _number(t_r), kept)
        for label in dict.fromkeys((identity, subject or identity)):
            near = self._near.get(_sense(label), set())
            if len(near) == 1 == len(self._labels.get(_sense(label), set())):
                (written,) = near
                own, t_r, kept = self.rows[written]
                own = label if self.subject == self.key else own
                return Participant(own.removeprefix("sub-"), _number(t_r), kept, written)
        looked = " or ".join(f"'{c}'" for c in dict.fromkeys(exact[:2]))
        ids = ", ".join([*self.rows][:8]) + (f" and {len(self.rows) - 8} more" if len(self.rows) > 8 else "")
        raise Rejected(
            "no_participant",
            f"no row {looked} in column {self.key} of {self.dataset.participants}, which has "
            f"{ids or 'no row'}; add it or set participants_key",
        )


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _by_sense(labels: Iterable[str]) -> dict[str, set[str]]:
    """Group labels that may mean the same person."""
    groups: dict[str, set[str]] = defaultdict(set)
    for label in labels:
        groups[_sense(label)].add(label)
    return groups


def _sense(label: str) -> str:
    """Return a label without what spreadsheets take and give: zeros before, `.0` after, sub-, capitals."""
    bare = unicodedata.normalize("NFC", label).strip().casefold().removeprefix("sub-")
    return re.sub(r"\.0+$", "", bare).lstrip("0") if re.fullmatch(r"\d+(\.0+)?", bare) else bare
