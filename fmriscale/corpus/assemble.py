"""What a corpus says of its runs, its data sets and itself, put together in one place.

Whoever makes a corpus (`fmriscale shard`, `fmriscale simulate`, `CorpusWriter`) makes it from these.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from fmriscale.common.files import printable
from fmriscale.config import SplitConfig
from fmriscale.corpus.manifest import QUARANTINE_COLUMNS, FeatureSpace, details_hash, segments_of
from fmriscale.corpus.writer import EncodedRun, npy_bytes

if TYPE_CHECKING:
    import pandas as pd

MEASURED = ("coverage", "mean_fd", "tsnr")
"""Figures of a run's quality that are columns of runs.tsv too."""


def encode_run(
    bold: np.ndarray,
    mean: np.ndarray,
    std: np.ndarray,
    *,
    key: str,
    dataset: str,
    entities: Mapping[str, str],
    t_r: float,
    space: str,
    sample_mask: Sequence[int] | None,
    events: Sequence[Mapping[str, Any]],
    source: str,
    source_sha256: str,
    quality: Mapping[str, Any],
    denoise: Mapping[str, Any],
    further: Mapping[str, Any] | None = None,
) -> EncodedRun:
    """Turn a run into the members of its shard and its line of runs.tsv."""
    n_volumes, n_features = bold.shape
    source, entities = printable(source), {name: printable(label) for name, label in entities.items()}
    known = {"coverage": None, "mean_fd": None, "tsnr": None, **quality}
    known["n_censored"] = 0 if sample_mask is None else n_volumes - len(sample_mask)
    named = {
        "dataset": dataset,
        "subject": entities["sub"],
        "session": entities.get("ses", ""),
        "task": entities.get("task", ""),
        "run": entities.get("run", ""),
    }
    record = {
        **named,
        "entities": dict(entities),
        "t_r": t_r,
        "n_volumes": n_volumes,
        "space": space,
        "sample_mask": None if sample_mask is None else list(sample_mask),
        "events": [dict(event) for event in events],
        "source": source,
        "source_sha256": source_sha256,
        "quality": known,
        "denoise": dict(denoise),
        **{name: value for name, value in (further or {}).items() if value is not None},
    }
    members = {
        "bold.npy": npy_bytes(bold.astype("<f2", copy=False)),
        "json": (json.dumps(record, sort_keys=True, allow_nan=False) + "\n").encode(),
        "mean.npy": npy_bytes(mean.astype("<f4")),
        "std.npy": npy_bytes(std.astype("<f4")),
    }
    row = {
        "key": key,
        **named,
        "t_r": t_r,
        "space": space,
        "segments": segments_of(sample_mask, n_volumes),
        **{figure: known[figure] for figure in (*MEASURED, "n_censored")},
        "source": source,
        "source_sha256": source_sha256,
        "n_volumes": n_volumes,
        "n_features": n_features,
        "sha256": hashlib.sha256(members["bold.npy"]).hexdigest(),
        "details": details_hash(members),
    }
    return EncodedRun(key, row, members)


def quarantine_table(rows: Iterable[Mapping[str, str]]) -> pd.DataFrame:
    """Return quarantine.tsv, sorted."""
    import pandas as pd  # not where runs are encoded

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
    return {
        "spaces": {space.name: space.to_dict() for space in sorted(spaces, key=lambda space: space.name)},
        "datasets": {
            name: {
                **asked,
                **_found(runs.loc[runs.dataset == name]),
                "n_quarantined": _count(quarantine, name),
            }
            for name, asked in datasets.items()
        },
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


def _found(runs: pd.DataFrame) -> dict[str, Any]:
    """Return what is known of a data set from its runs."""
    return {
        "t_r": sorted({float(t) for t in runs.t_r}),
        "n_runs": len(runs),
        "n_subjects": int(runs.subject.nunique()),
        "hours": _hours(runs),
    }


def _count(quarantine: pd.DataFrame, dataset: str) -> int:
    return int((quarantine.dataset == dataset).sum())


def _hours(runs: pd.DataFrame) -> float:
    """Return the recorded time of runs, h."""
    return round(float((runs.t_r.astype(float) * runs.n_volumes.astype(float)).sum() / 3600), 4)
