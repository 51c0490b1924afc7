"""Runs that lie end to end in one file: the volumes of each, and its rows of the tables beside the file."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from fmriscale.common.quarantine import Rejected


@dataclass(frozen=True)
class Cut:
    """A run within a file."""

    first: int  # its first volume in the file
    n_volumes: int  # its volumes, dummy volumes included
    of: int  # volumes of all runs of the file

    def __str__(self) -> str:
        return f"[{self.first}:{self.first + self.n_volumes}]"

    @property
    def volumes(self) -> slice:
        """Its volumes in the file."""
        return slice(self.first, self.first + self.n_volumes)

    def rows(self, n_rows: int, table: str) -> slice:
        """Return the run's rows of a table that has one row per volume, of the file or of the run."""
        if n_rows == self.of:
            return self.volumes
        if n_rows == self.n_volumes:
            return slice(0, n_rows)
        what = f"{table} has {n_rows} rows; the file has {self.of} volumes, this run {self.n_volumes}"
        raise Rejected("confounds_length", f"{what}: both must come from one preprocessing")


def cuts(lengths: list[int]) -> Iterator[Cut]:
    """Yield the runs of a file from the number of volumes of each."""
    for end, n_volumes in zip(accumulate(lengths), lengths, strict=True):
        yield Cut(end - n_volumes, n_volumes, sum(lengths))


def volumes_of(cut: Cut | None, n_volumes: int) -> slice:
    """Return which of the n_volumes of a file are the run's."""
    if cut is None:
        return slice(0, n_volumes)
    if cut.of != n_volumes:
        what = f"runs adds up to {cut.of} volumes, the file has {n_volumes}"
        raise Rejected("other_length", f"{what}; correct runs, or list this file in a data set of its own")
    return cut.volumes


def within(
    events: list[dict[str, Any]], cut: Cut, t_r: float, shift: float, is_shared: bool
) -> list[dict[str, Any]]:
    """Return the events of a run, onsets less `shift`; shared events are those of the whole file."""
    start, end = cut.first * t_r if is_shared else 0.0, (cut.first + cut.n_volumes) * t_r
    if is_shared:
        events = [e for e in events if (start <= e["onset"] or cut.first == 0) and e["onset"] < end]
    return [{**event, "onset": round(event["onset"] - start - shift, 6)} for event in events]
