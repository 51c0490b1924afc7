"""The participants table of a data set: who a run is of, its repetition time, and what else is kept."""

from pathlib import Path

import pandas as pd

from fmriscale.config import DatasetConfig
from fmriscale.errors import UserError
from fmriscale.files import expand
from fmriscale.ingest.quality import Rejected


class Participants:
    """The table, looked up by a run's identity or subject.

    Raises
    ------
    UserError
        The table is missing, lacks a column, or says different things of one run.
    """

    def __init__(self, dataset: DatasetConfig, root: Path) -> None:
        self.dataset, path = dataset, expand(dataset.participants or "", relative_to=root)
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
        for row in table.to_dict("records"):
            told = row[self.subject], row.get(self.t_r, ""), {column: row[column] for column in self.kept}
            if self.rows.setdefault(row[self.key], told) != told:
                raise UserError(
                    f"{path}: rows '{row[self.key]}' in column {self.key} contradict each other; "
                    "correct them or set participants_key"
                )

    def look_up(self, identity: str, subject: str | None) -> tuple[str, float | None, dict[str, str]]:
        """Return subject, t_r (s) and kept columns of a run; t_r is None where the cell is no number."""
        candidates = [identity, subject, f"sub-{subject}"]
        row = next((self.rows[c] for c in candidates if c in self.rows), None)
        if row is None:
            raise Rejected(
                "no_participant",
                f"no row '{identity}' in column {self.key} of {self.dataset.participants}; "
                "add it or set participants_key",
            )
        label, t_r, kept = row
        try:
            return label.removeprefix("sub-"), float(t_r), kept
        except ValueError:
            return label.removeprefix("sub-"), None, kept
