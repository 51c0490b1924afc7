"""Who a run is of, and who must not be parted from whom."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fmriscale.common.errors import UserError
from fmriscale.config import SplitConfig
from fmriscale.corpus.manifest import RUN_COLUMNS, split_of

if TYPE_CHECKING:
    import pandas as pd

UNKNOWN = ("", "n/a", "na", "nan", "none", "null")
"""Cells, in small letters, that name no group."""


def run_table(
    rows: Iterable[Mapping[str, Any]],
    people: Mapping[str, str],
    split: SplitConfig,
    groups: Mapping[str, Any] | None = None,
) -> "pd.DataFrame":
    """Return runs.tsv: every run's line, with the person it is of, that person's kin, and the split."""
    import pandas as pd

    table = [{**row, "person": f"{people[row['dataset']]}/{row['subject']}"} for row in rows]
    columns, unit = list(RUN_COLUMNS), {row["person"]: row["person"] for row in table}
    if split.group is not None:
        told = ((row["person"], people[row["dataset"]], (groups or {}).get(row["key"])) for row in table)
        columns, unit = [*columns, "group"], unit | groups_of(told, split.group)
    for row in table:
        row["group"] = unit[row["person"]]
        row["split"] = split_of(row["group"], split)
    return pd.DataFrame(table, columns=columns)


def groups_of(told: Iterable[tuple[str, str, Any]], column: str) -> dict[str, str]:
    """Return the groups of the people who have one, as `<people>/<group>`."""
    found: dict[str, str] = {}
    for person, space, cell in told:
        label = "" if cell is None else str(cell).strip()
        if label.lower() in UNKNOWN:
            continue
        group = f"{space}/{label}"
        if found.setdefault(person, group) != group:
            both = " and ".join(sorted({found[person].split("/", 1)[1], label}))
            raise UserError(
                f"split.group: column {column} gives two groups to {person}: {both}; give one to each person"
            )
    return found
