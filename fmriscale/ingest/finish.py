"""From finished shards to a corpus: duplicates out, shards and manifest put in place together."""

import dataclasses
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand
from fmriscale.common.quarantine import Rejection
from fmriscale.config import CorpusConfig
from fmriscale.config.document import dump
from fmriscale.config.paths import absolute, map_paths
from fmriscale.corpus.assemble import corpus_json, quarantine_table
from fmriscale.corpus.building import (
    FolderLock,
    ShardState,
    load_state,
    locate,
    save_state,
    staged_path,
    state_path,
)
from fmriscale.corpus.manifest import RECIPE, install, render_manifest
from fmriscale.corpus.people import run_table
from fmriscale.corpus.writer import EncodedRun, ShardWriter, read_members
from fmriscale.ingest.duplicates import find_duplicates
from fmriscale.ingest.fingerprint import fingerprints, software
from fmriscale.ingest.plan import Shard
from fmriscale.ingest.read.features import load_features
from fmriscale.ingest.shards import build_shards


def finish(
    config: CorpusConfig, plan: list[Shard], rejections: list[Rejection], lock: FolderLock, command: str
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Write the manifest of a corpus whose shards are all built."""
    folder = expand(config.out)
    lock.claim_all()
    prints = fingerprints(plan)
    states = _load_all(folder, plan, prints, command)
    duplicates = find_duplicates(states)
    # A run whose twin is gone comes back: its bytes were taken out, so its shard is built again.
    while back := [s for s, state in zip(plan, states, strict=True) if set(state.excluded) - set(duplicates)]:
        for shard in back:
            state_path(folder, shard.name).unlink()
        build_shards(back, folder, config.jobs, lock, config.read_timeout)
        states = _load_all(folder, plan, prints, command)
        duplicates = find_duplicates(states)
    states = [_without(folder, state, duplicates) for state in states]

    groups = {run.key: run.group for shard in plan for run in shard.runs}
    runs, quarantine = _tables(config, states, groups, [*rejections, *duplicates.values()])
    manifest, files = render_manifest(_corpus_json(config, states, runs, quarantine), runs, quarantine)
    located = {folder / s.name: locate(folder, s) for s in states}
    moves = {new: place for place, new in located.items() if new is not None and new != place}
    gone = _strangers(folder, {s.name for s in states if s.shard is not None})
    install(folder, {RECIPE: _recipe(config), **files}, moves, gone)
    _sweep(folder, {state_path(folder, shard.name) for shard in plan})
    return manifest, quarantine


def _load_all(folder: Path, plan: list[Shard], prints: list[str], command: str) -> list[ShardState]:
    """Return the state of every shard."""
    states = [load_state(folder, s.name, p) for s, p in zip(plan, prints, strict=True)]
    missing = [s.name for s, state in zip(plan, states, strict=True) if state is None]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise UserError(
            f"{folder}: {len(missing)} of {len(plan)} shards are not built, or their inputs changed: "
            f"{shown}; build them, then finish again: {command}"
        )
    for shard, state in zip(plan, states, strict=True):
        n_done = 0 if state is None else len(state.rows) + len(state.rejections)
        if n_done != len(shard.runs):
            raise RuntimeError(f"{shard.name}: {len(shard.runs)} runs were planned, {n_done} accounted for")
    return [state for state in states if state is not None]


def _without(folder: Path, state: ShardState, duplicates: dict[str, Rejection]) -> ShardState:
    """Take duplicates out of a shard by copying the other runs."""
    excluded = [row["key"] for row in state.rows if row["key"] in duplicates]
    path = locate(folder, state)
    if excluded == state.excluded or path is None:
        return state
    rows = {row["key"]: row for row in state.rows}
    with ShardWriter(staged_path(folder, state.name), state.name) as writer:
        for key, members in read_members(path):
            if key not in excluded:
                writer.add(EncodedRun(key, rows[key], members))
        summary = writer.commit()
    rows |= {row["key"]: row for row in writer.rows}
    time = 0 if summary is None else staged_path(folder, state.name).stat().st_mtime_ns
    state = dataclasses.replace(
        state, shard=summary, mtime_ns=time, rows=list(rows.values()), excluded=excluded
    )
    save_state(folder, state)
    return state


def _strangers(folder: Path, shards: set[str]) -> list[Path]:
    """Return shards that an earlier recipe put here and the present one does not."""
    states = (folder / ".build").glob("*.json")
    names = {f"{state.stem.rpartition('-')[0]}/{state.stem}.tar" for state in states}
    return [folder / name for name in sorted(names - shards)]


def _sweep(folder: Path, states: set[Path]) -> None:
    """Remove what earlier recipes and dead builders left; the corpus is locked, so nobody needs it."""
    notes = folder / ".build"
    old = [path for path in notes.glob("*.json") if path not in states]
    for path in (*folder.glob(".*.tmp"), *notes.glob(".*.tmp"), *notes.glob("*.tar"), *old):
        path.unlink(missing_ok=True)
    for dataset in {path.stem.rpartition("-")[0] for path in old}:
        if (folder / dataset).is_dir() and not any((folder / dataset).iterdir()):
            (folder / dataset).rmdir()


# ---------------------------------------------------------------- manifest


def _recipe(config: CorpusConfig) -> str:
    """Return the recipe as YAML, the same whatever the folder's name and the number of jobs."""
    return dump(map_paths(config, absolute) | {"out": ".", "jobs": 0})


def _tables(
    config: CorpusConfig, states: list[ShardState], groups: dict[str, str], rejections: list[Rejection]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return runs.tsv and quarantine.tsv."""
    people = {d.name: d.people or d.name for d in config.datasets}
    runs = run_table((row for state in states for row in state.runs()), people, config.split, groups)
    rejected = [asdict(r) for r in rejections] + [r for state in states for r in state.rejections]
    return runs, quarantine_table(rejected)


def _corpus_json(
    config: CorpusConfig, states: list[ShardState], runs: pd.DataFrame, quarantine: pd.DataFrame
) -> dict[str, Any]:
    """Return the content of corpus.json."""
    spaces = {d.features.name: load_features(d.features).space for d in config.datasets}
    asked = {
        d.name: {
            "kind": d.kind,
            "space": d.features.name,
            "people": d.people or d.name,
            "weight": d.weight,
            "licence": d.licence,
            "entities": dict(d.entities),
            "denoise": asdict(d.denoise),
            "quality": asdict(d.quality),
        }
        for d in config.datasets
    }
    shards = [state.shard for state in states if state.shard is not None]
    return corpus_json(spaces.values(), asked, config.split, shards, software(), runs, quarantine)
