"""The participants table of a data set: a run's subject, repetition time, group, and what else is kept."""

import csv
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand
from fmriscale.common.quarantine import Rejected
from fmriscale.common.suggest import did_you_mean, did_you_mean_path
from fmriscale.config import CorpusConfig, DatasetConfig
from fmriscale.corpus.assemble import groups_of
from fmriscale.ingest.find.fetch import readable

if TYPE_CHECKING:
    import pandas as pd

    from fmriscale.ingest.find.sources import RunSource


@dataclass(frozen=True)
class Participant:
    """The row of a run."""

    subject: str
    t_r: float | None = None  # repetition time, s; None where the cell is no number
    kept: dict[str, str] = field(default_factory=dict)  # columns that the recipe keeps
    group: str = ""  # the cell of the column `split.group`
    table_id: str = ""  # the id as the table has it, where it is written otherwise than the run's


class Participants:
    """The table, looked up by a run's identity or subject.

    An id that lost its zeros is taken only where one of `labels` (of all runs) and one row can be meant.
    """

    def __init__(self, dataset: DatasetConfig, root: Path, labels: Iterable[str], group: str | None) -> None:
        self.dataset, self.subject = dataset, dataset.participants_subject or dataset.participants_key
        self.group = group
        path = readable(expand(dataset.participants or "", relative_to=root))
        table = _read(path)
        key, t_r, kept = dataset.participants_key, dataset.participants_t_r, dataset.participants_columns
        settings = [("key", key), ("subject", self.subject), ("t_r", t_r), *(("columns", c) for c in kept)]
        for name, column in settings:
            if column is not None and column not in table:
                existing = ", ".join(table.columns) + did_you_mean(column, map(str, table.columns))
                raise UserError(f"{path}: no column '{column}'; set participants_{name}, it has {existing}")
        columns = [self.subject, *kept, *(column for column in (t_r, group) if column is not None)]
        self.rows: dict[str, dict[str, str]] = {}
        for record in table.to_dict("records"):
            row = {column: record[column] for column in columns}
            if self.rows.setdefault(record[key], row) != row:
                what = f"rows '{record[key]}' in column {key} contradict each other"
                raise UserError(f"{path}: {what}; correct them or set participants_key")
        self._similar_rows = _by_person(self.rows)
        self._similar_labels = _by_person(label.removeprefix("sub-") for label in labels)

    def look_up(self, identity: str, subject: str | None) -> Participant:
        """Return the row of a run."""
        exact = [identity, *([subject, f"sub-{subject}"] if subject else [])]
        for label in exact:
            if label in self.rows:
                return self._participant(label)
        for label in dict.fromkeys((identity, subject or identity)):
            rows = self._similar_rows.get(_person(label), set())
            if len(rows) == 1 == len(self._similar_labels.get(_person(label), set())):
                (table_id,) = rows
                participant = replace(self._participant(table_id), table_id=table_id)
                is_key = self.subject == self.dataset.participants_key
                return replace(participant, subject=label.removeprefix("sub-")) if is_key else participant
        labels = " or ".join(f"'{label}'" for label in dict.fromkeys(exact[:2]))
        ids = ", ".join([*self.rows][:8]) + (f" and {len(self.rows) - 8} more" if len(self.rows) > 8 else "")
        column = f"column {self.dataset.participants_key} of {self.dataset.participants}"
        what = f"no row {labels} in {column}, which has {ids or 'no row'}"
        raise Rejected("no_participant", f"{what}; add it or set participants_key")

    def _participant(self, table_id: str) -> Participant:
        row, dataset = self.rows[table_id], self.dataset
        try:
            t_r = float(row[dataset.participants_t_r]) if dataset.participants_t_r is not None else None
        except ValueError:
            t_r = None
        kept = {column: row[column] for column in dataset.participants_columns}
        group = "" if self.group is None else row[self.group]
        return Participant(row[self.subject].removeprefix("sub-"), t_r, kept, group)


def _read(path: Path) -> "pd.DataFrame":
    """Read the table as text; a letter in another encoding harms no id."""
    import pandas as pd

    separator = "," if path.suffix == ".csv" else "\t"
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as text:
            return pd.read_csv(text, sep=separator, dtype=str, keep_default_na=False, index_col=False)
    except FileNotFoundError as error:
        hint = did_you_mean_path(path) or "; set participants, a path below root"
        raise UserError(f"there is no {path}{hint}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"participants {path} is no table: {error}") from error


def _by_person(labels: Iterable[str]) -> dict[str, set[str]]:
    """Group labels that may mean the same person."""
    groups: dict[str, set[str]] = defaultdict(set)
    for label in labels:
        groups[_person(label)].add(label)
    return groups


def _person(label: str) -> str:
    """Return a label without what spreadsheets remove and add: leading zeros, `.0`, sub-, capitals."""
    bare = unicodedata.normalize("NFC", label).strip().casefold().removeprefix("sub-")
    return re.sub(r"\.0+$", "", bare).lstrip("0") if re.fullmatch(r"\d+(\.0+)?", bare) else bare


def datasets_with_groups(config: CorpusConfig) -> set[str]:
    """Return the names of the data sets whose table has the column `split.group`; one must have it."""
    column, columns = config.split.group, {d.name: _columns(d) for d in config.datasets}
    names = {name for name, existing in columns.items() if column in existing}
    if column is not None and not names:
        tables = [f"{name} has {', '.join(existing)}" for name, existing in columns.items() if existing]
        what = "; ".join(tables) or "no data set has participants, the path of its table"
        raise UserError(f"split.group: no participants table has a column '{column}': {what}")
    return names


def check_groups(config: CorpusConfig, runs: Iterable["RunSource"]) -> None:
    """Refuse two groups of one person before anything is built."""
    if config.split.group is not None:
        people = {d.name: d.people or d.name for d in config.datasets}
        named = ((people[run.dataset], run) for run in runs)
        groups_of(((f"{p}/{run.entities['sub']}", p, run.group) for p, run in named), config.split.group)


def _columns(dataset: DatasetConfig) -> list[str]:
    """Return the columns of the participants table; none where `find_runs` will refuse it."""
    if dataset.participants is None:
        return []
    path = expand(dataset.participants, relative_to=expand(dataset.root))
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as text:
            return next(csv.reader(text, delimiter="," if path.suffix == ".csv" else "\t"), [])
    except OSError:
        return []
