"""What a corpus says of its runs, its data sets and itself, for whoever makes one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fmriscale.common.errors import UserError
from fmriscale.common.files import printable
from fmriscale.config import SplitConfig
from fmriscale.corpus.manifest import (
    QUARANTINE_COLUMNS,
    RUN_COLUMNS,
    FeatureSpace,
    details_hash,
    segments_of,
    split_of,
)
from fmriscale.corpus.writer import EncodedRun, npy_bytes

if TYPE_CHECKING:
    import pandas as pd

MEASURED = ("coverage", "mean_fd", "tsnr")  # Figures of a run's quality that are columns of runs.tsv too
MAX_ONSET = 86400.0  # Seconds that a stimulus may have begun before the run
NO_GROUP = ("", "n/a", "na", "nan", "none", "null")  # Cells, in small letters, that name no group


@dataclass(frozen=True)
class RunRecord:
    """A run before it is encoded: its signals, and what is known of it."""

    bold: np.ndarray  # float16 [T, V], standardised
    mean: np.ndarray  # [V]; undoes the standardisation, together with std
    std: np.ndarray
    key: str
    dataset: str
    entities: Mapping[str, str]
    t_r: float
    space: str
    sample_mask: Sequence[int] | None
    events: Sequence[Mapping[str, Any]]
    source: str
    source_sha256: str
    quality: Mapping[str, Any]
    denoise: Mapping[str, Any]
    further: Mapping[str, Any] = field(default_factory=dict)  # also kept in the run's JSON, but for None

    def encode(self) -> EncodedRun:
        """Return the members of the run in its shard, and its line of runs.tsv."""
        n_volumes, n_features = self.bold.shape
        source = printable(self.source)
        entities = {name: printable(label) for name, label in self.entities.items()}
        quality = {**dict.fromkeys(MEASURED), **self.quality}
        quality["n_censored"] = 0 if self.sample_mask is None else n_volumes - len(self.sample_mask)
        labels = {
            "dataset": self.dataset,
            "subject": entities["sub"],
            "session": entities.get("ses", ""),
            "task": entities.get("task", ""),
            "run": entities.get("run", ""),
        }
        record = {
            **labels,
            "entities": entities,
            "t_r": self.t_r,
            "n_volumes": n_volumes,
            "space": self.space,
            "sample_mask": None if self.sample_mask is None else list(self.sample_mask),
            "events": [dict(event) for event in self.events],
            "source": source,
            "source_sha256": self.source_sha256,
            "quality": quality,
            "denoise": dict(self.denoise),
            **{name: value for name, value in self.further.items() if value is not None},
        }
        members = {
            "bold.npy": npy_bytes(self.bold.astype("<f2", copy=False)),
            "json": (json.dumps(record, sort_keys=True, allow_nan=False) + "\n").encode(),
            "mean.npy": npy_bytes(self.mean.astype("<f4")),
            "std.npy": npy_bytes(self.std.astype("<f4")),
        }
        row = {
            "key": self.key,
            **labels,
            "t_r": self.t_r,
            "space": self.space,
            "segments": segments_of(self.sample_mask, n_volumes),
            **{name: quality[name] for name in (*MEASURED, "n_censored")},
            "source": source,
            "source_sha256": self.source_sha256,
            "n_volumes": n_volumes,
            "n_features": n_features,
            "sha256": hashlib.sha256(members["bold.npy"]).hexdigest(),
            "details": details_hash(members),
        }
        return EncodedRun(self.key, row, members)


def run_table(
    rows: Iterable[Mapping[str, Any]],
    people: Mapping[str, str],
    split: SplitConfig,
    groups: Mapping[str, Any] | None = None,
    stimuli: Mapping[str, tuple[str, float]] | None = None,
) -> pd.DataFrame:
    """Return runs.tsv: each run with person and split; `people` by data set, `groups` and `stimuli` by run.

    A stimulus is its name and its onset, s.
    """
    import pandas as pd  # not where runs are encoded

    table = [{**row, "person": f"{people[row['dataset']]}/{row['subject']}"} for row in rows]
    columns, group_of = list(RUN_COLUMNS), {row["person"]: row["person"] for row in table}
    if split.group is not None:
        cells = ((row["person"], people[row["dataset"]], (groups or {}).get(row["key"])) for row in table)
        columns, group_of = [*columns, "group"], group_of | groups_of(cells, split.group)
    for row in table:
        row["group"] = group_of[row["person"]]
        row["split"] = split_of(row["group"], split)
    if stimuli:
        columns = [*columns, "stimulus", "stimulus_onset"]
        for row in table:
            row["stimulus"], row["stimulus_onset"] = stimuli.get(row["key"], ("", 0.0))
    return pd.DataFrame(table, columns=columns)


def stimulus_of(key: str, name: str | None, onset: float, seconds: float) -> tuple[str, float] | None:
    """Return what runs.tsv says of a run's stimulus; UserError where a run of `seconds` ends before it."""
    text = "" if name is None else " ".join(name.split())
    if not text:
        return None
    if not -MAX_ONSET <= onset < seconds:
        what = f"{key}: stimulus_onset of {onset:g} s, but the run is {seconds:g} s long"
        raise UserError(f"{what}; give seconds from its first volume (below 0: it starts amid the stimulus)")
    return printable(text), float(onset)


def groups_of(cells: Iterable[tuple[str, str, Any]], column: str) -> dict[str, str]:
    """Return the groups of the people who have one, as `<people>/<group>`; cells: person, people, group."""
    groups: dict[str, str] = {}
    for person, people, cell in cells:
        label = "" if cell is None else str(cell).strip()
        if label.lower() in NO_GROUP:
            continue
        group = f"{people}/{label}"
        if groups.setdefault(person, group) != group:
            both = " and ".join(sorted({groups[person].split("/", 1)[1], label}))
            raise UserError(f"split.group: column {column} gives two groups to {person}: {both}; give one")
    return groups


def quarantine_table(rows: Iterable[Mapping[str, str]]) -> pd.DataFrame:
    """Return quarantine.tsv, sorted."""
    import pandas as pd

    rows = [{column: printable(str(cell)) for column, cell in row.items()} for row in rows]
    return pd.DataFrame(rows, columns=QUARANTINE_COLUMNS).sort_values(QUARANTINE_COLUMNS)


def corpus_json(
    spaces: Iterable[FeatureSpace],
    datasets: Mapping[str, Mapping[str, Any]],
    split: SplitConfig,
    shards: Sequence[Mapping[str, Any]],
    software: Mapping[str, str],
    runs: pd.DataFrame,
    quarantine: pd.DataFrame,
) -> dict[str, Any]:
    """Return the content of corpus.json, but for what `render_manifest` adds."""
    entries = {}
    for name, settings in datasets.items():
        of_set = runs.loc[runs.dataset == name]
        entries[name] = {
            **settings,
            "t_r": sorted({float(t) for t in of_set.t_r}),
            "n_runs": len(of_set),
            "n_subjects": int(of_set.subject.nunique()),
            "hours": _hours(of_set),
            "n_quarantined": int((quarantine.dataset == name).sum()),
        }
    return {
        "spaces": {space.name: space.to_dict() for space in sorted(spaces, key=lambda space: space.name)},
        "datasets": entries,
        "split": {name: value for name, value in asdict(split).items() if value is not None},
        "shards": list(shards),
        "totals": {
            "n_datasets": len(datasets),
            "n_runs": len(runs),
            "n_people": int(runs.person.nunique()),
            "n_quarantined": len(quarantine),
            "hours": _hours(runs),
            "bytes": sum(shard["bytes"] for shard in shards),
        },
        "software": dict(software),
    }


def _hours(runs: pd.DataFrame) -> float:
    """Return the recorded time of runs, h."""
    return round(float((runs.t_r.astype(float) * runs.n_volumes.astype(float)).sum() / 3600), 4)
