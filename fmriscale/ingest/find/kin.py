"""People who are kin (`split.group`): what the participants tables say of each run."""

import csv
import dataclasses
from collections.abc import Iterable

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand
from fmriscale.config import CorpusConfig, DatasetConfig
from fmriscale.corpus.people import groups_of
from fmriscale.ingest.find.sources import RunSource


def tell_kin(config: CorpusConfig) -> set[str]:
    """Return the names of the data sets whose participants table has the column `split.group`."""
    column, columns = config.split.group, {d.name: _columns(d) for d in config.datasets}
    having = {name for name, its in columns.items() if column in its}
    if column is not None and not having:
        there = "; ".join(f"{name} has {', '.join(its)}" for name, its in columns.items() if its)
        raise UserError(
            f"split.group: no participants table has a column '{column}': "
            f"{there or 'no data set has participants, the path of its table'}"
        )
    return having


def asking(dataset: DatasetConfig, column: str | None, having: set[str]) -> DatasetConfig:
    """Return the data set with the column among those that the table is asked for."""
    kept = dataset.participants_columns
    if column is None or dataset.name not in having or column in kept:
        return dataset
    return dataclasses.replace(dataset, participants_columns=[*kept, column])


def with_groups(runs: Iterable[RunSource], dataset: DatasetConfig, column: str | None) -> list[RunSource]:
    """Give runs their group; among the columns kept with a run it stays only where the recipe names it."""
    if column is None:
        return list(runs)
    kept = dataset.participants_columns
    return [
        dataclasses.replace(
            run,
            group=run.participant.get(column, ""),
            participant={name: value for name, value in run.participant.items() if name in kept},
        )
        for run in runs
    ]


def check_kin(config: CorpusConfig, runs: Iterable[RunSource]) -> None:
    """Refuse two groups of one person before anything is built."""
    if config.split.group is None:
        return
    people = {d.name: d.people or d.name for d in config.datasets}
    spaces = ((run, people[run.dataset]) for run in runs)
    groups_of(((f"{p}/{run.entities['sub']}", p, run.group) for run, p in spaces), config.split.group)


def _columns(dataset: DatasetConfig) -> list[str]:
    """Return the columns of the participants table; none where there is no table that can be read."""
    if dataset.participants is None:
        return []
    path = expand(dataset.participants, relative_to=expand(dataset.root))
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as text:
            return next(csv.reader(text, delimiter="," if path.suffix == ".csv" else "\t"), [])
    except OSError:  # said when the runs are looked for
        return []
