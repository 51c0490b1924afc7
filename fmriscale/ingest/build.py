"""`fmriscale shard`: scans -> a corpus of tar shards.

Plan (which runs go to which shard) -> build what is not there yet -> manifest -> closing table.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

import fmriscale
from fmriscale.config import CorpusConfig, DatasetConfig
from fmriscale.corpus.inspect import table
from fmriscale.corpus.manifest import QUARANTINE_COLUMNS, RUN_COLUMNS, split_of, write_manifest
from fmriscale.corpus.writer import ShardWriter, load_state, remove_stale, save_state
from fmriscale.errors import EXIT_OK, EXIT_QUARANTINED
from fmriscale.files import expand
from fmriscale.ingest.features import load_features
from fmriscale.ingest.plan import Shard, make_plan
from fmriscale.ingest.pool import WorkerDied, available_cores, in_order
from fmriscale.ingest.progress import Progress
from fmriscale.ingest.quality import Rejection
from fmriscale.ingest.run import process_run
from fmriscale.recipe import parse, to_dict

SOFTWARE = ("isal", "nibabel", "nilearn", "numpy", "scipy", "webdataset")
"""Packages whose versions shape the numbers or bytes of a corpus."""


def main(args: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 3 where runs were quarantined."""
    config = parse(CorpusConfig, args, prog="fmriscale-shard")
    manifest, quarantine = build(config)
    print(table(manifest, quarantine))
    return EXIT_QUARANTINED if len(quarantine) else EXIT_OK


def build(config: CorpusConfig) -> tuple[dict[str, Any], pd.DataFrame]:
    """Build or complete a corpus.

    Returns
    -------
    dict
        corpus.json as written.
    DataFrame
        quarantine.tsv as written.

    Raises
    ------
    UserError
        The recipe is wrong; nothing is written.
    """
    plan, rejections = make_plan(config)
    folder = expand(config.out)
    states = _build_shards(plan, folder, config.jobs or available_cores())
    rejected = [asdict(r) for r in rejections] + [r for s in states for r in s["rejections"]]
    quarantine = pd.DataFrame(rejected, columns=QUARANTINE_COLUMNS).sort_values(QUARANTINE_COLUMNS)
    people = {d.name: d.people or d.name for d in config.datasets}
    rows = [row for s in states for row in s["rows"]]
    for row in rows:
        row["person"] = f"{people[row['dataset']]}/{row['subject']}"
        row["split"] = split_of(row["person"], config.split)
    runs = pd.DataFrame(rows, columns=RUN_COLUMNS)
    manifest = write_manifest(folder, _corpus_json(config, states, runs, quarantine), runs, quarantine)
    remove_stale(folder, {shard.name for shard in plan})
    return manifest, quarantine


# ---------------------------------------------------------------- shards


def fingerprint(shard: Shard) -> str:
    """Hash what a shard is made from: settings, runs, and size and time of every input file."""
    settings = to_dict(shard.dataset)
    for later in ("weight", "licence", "people"):  # these stand in the manifest alone
        del settings[later]
    files = {file for run in shard.runs for file in run.inputs()}
    features = shard.dataset.features
    files |= {expand(p) for p in (features.labels_img, features.mask_img, features.labels) if p}
    content = {
        "settings": settings,
        "runs": [[r.key, r.source, r.array, r.t_r, r.entities] for r in shard.runs],
        "files": [[str(f), *_stamp(f)] for f in sorted(files)],
        "software": software(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    """Return size and modification time in ns; -1 where the file is not there."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _build_shards(plan: list[Shard], folder: Path, jobs: int) -> list[dict[str, Any]]:
    """Return the state of every shard of the plan, building those that are not up to date."""
    prints = [fingerprint(shard) for shard in plan]
    states = [load_state(folder, s.name, p) for s, p in zip(plan, prints, strict=True)]
    todo = [shard for shard, state in zip(plan, states, strict=True) if state is None]
    work = ((run, shard.dataset) for shard in todo for run in shard.runs)
    jobs = min(jobs, max(1, sum(len(shard.runs) for shard in todo)))
    results = in_order(process_run, work, jobs)
    with Progress(sum(len(s.runs) for s in plan), "runs") as progress:
        for i, shard in enumerate(plan):
            if states[i] is None:
                states[i] = _build_shard(shard, prints[i], folder, results, progress)
            else:
                progress.update(len(shard.runs))
    return [state for state in states if state is not None]


def _build_shard(
    shard: Shard, fingerprint: str, folder: Path, results: Iterator, progress: Progress
) -> dict[str, Any]:
    """Write one shard from the next results."""
    rejections = []
    with ShardWriter(folder, shard.name) as writer:
        for run in shard.runs:
            result = next(results)
            if isinstance(result, WorkerDied):
                detail = "the process that read it died twice (out of memory?); try --jobs 1 or a larger node"
                result = Rejection(run.dataset, run.source, "crashed", detail)
            if isinstance(result, Rejection):
                rejections.append(asdict(result))
                progress.rejected += 1
            else:
                writer.add(result)
            progress.update(1)
        summary = writer.commit()
    state = {
        "fingerprint": fingerprint,
        "shard": summary,
        "rows": writer.rows,
        "rejections": rejections,
    }
    save_state(folder, shard.name, state)
    return state


# ---------------------------------------------------------------- manifest


def software() -> dict[str, str]:
    """Return the versions that a corpus depends on."""
    versions = {name: importlib.metadata.version(name) for name in SOFTWARE}
    return {"fmriscale": fmriscale.__version__, **versions}


def _corpus_json(
    config: CorpusConfig, states: list[dict[str, Any]], runs: pd.DataFrame, quarantine: pd.DataFrame
) -> dict[str, Any]:
    """Return the content of corpus.json."""
    spaces = {d.features.name: load_features(d.features).space for d in config.datasets}
    datasets = {
        d.name: _dataset_json(d, runs.loc[runs.dataset == d.name], int((quarantine.dataset == d.name).sum()))
        for d in config.datasets
    }
    shards = [s["shard"] for s in states if s["shard"] is not None]
    return {
        "spaces": {name: space.to_dict() for name, space in sorted(spaces.items())},
        "datasets": datasets,
        "split": asdict(config.split),
        "shards": shards,
        "totals": {
            "n_datasets": len(datasets),
            "n_runs": len(runs),
            "n_people": int(runs.person.nunique()),
            "n_quarantined": len(quarantine),
            "hours": round(_hours(runs), 4),
            "bytes": sum(s["bytes"] for s in shards),
        },
        "software": software(),
    }


def _dataset_json(dataset: DatasetConfig, runs: pd.DataFrame, n_quarantined: int) -> dict[str, Any]:
    """Return a data set's entry of corpus.json."""
    return {
        "kind": dataset.kind,
        "space": dataset.features.name,
        "people": dataset.people or dataset.name,
        "weight": dataset.weight,
        "licence": dataset.licence,
        "entities": dict(dataset.entities),
        "denoise": asdict(dataset.denoise),
        "quality": asdict(dataset.quality),
        "t_r": sorted({float(t) for t in runs.t_r}),
        "n_runs": len(runs),
        "n_subjects": int(runs.subject.nunique()),
        "hours": round(_hours(runs), 4),
        "n_quarantined": n_quarantined,
    }


def _hours(runs: pd.DataFrame) -> float:
    """Return the recorded time of runs, h."""
    return float((runs.t_r.astype(float) * runs.n_volumes.astype(float)).sum() / 3600)
