"""From finished shards to a corpus: duplicates are taken out, shards and manifest put in place together."""

import dataclasses
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand, printable
from fmriscale.common.quarantine import Rejection
from fmriscale.config import CorpusConfig
from fmriscale.config.document import dump
from fmriscale.config.paths import absolute, map_paths
from fmriscale.corpus import building
from fmriscale.corpus.assemble import MAX_ONSET, corpus_json, quarantine_table, run_table
from fmriscale.corpus.building import FolderLock, ShardState, locate, staged_path, state_path
from fmriscale.corpus.manifest import RECIPE, install, render_manifest
from fmriscale.corpus.writer import EncodedRun, ShardWriter, read_members
from fmriscale.ingest.fingerprint import fingerprints, software
from fmriscale.ingest.plan import Plan, Shard
from fmriscale.ingest.read.features import load_features
from fmriscale.ingest.shards import build_shards


def finish(
    config: CorpusConfig, plan: Plan, lock: FolderLock, command: str
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Write the manifest of a corpus whose shards are all built."""
    folder = expand(config.out)
    lock.claim_all()
    prints = fingerprints(plan.shards)
    states = _load_all(folder, plan.shards, prints, command)
    duplicates = find_duplicates(states)
    # A run whose duplicate is gone comes back: its bytes were taken out, so its shard is built again.
    while outdated := {state.name for state in states if {*state.excluded} - {*duplicates}}:
        for name in outdated:
            state_path(folder, name).unlink()
        build_shards([shard for shard in plan.shards if shard.name in outdated], config, lock)
        states = _load_all(folder, plan.shards, prints, command)
        duplicates = find_duplicates(states)
    states = [_without(folder, state, duplicates) for state in states]

    people = {d.name: d.people or d.name for d in config.datasets}
    groups = {run.key: run.group for shard in plan.shards for run in shard.runs}
    rows = [row for state in states for row in state.runs()]
    runs = run_table(rows, people, config.split, groups, _stimuli(plan, rows))
    rejected = [asdict(rejection) for rejection in (*plan.rejections, *duplicates.values())]
    quarantine = quarantine_table(rejected + [line for state in states for line in state.rejections])
    manifest, files = render_manifest(_corpus_json(config, states, runs, quarantine), runs, quarantine)
    files_of = {folder / s.name: locate(folder, s) for s in states}
    moves = {file: path for path, file in files_of.items() if file is not None and file != path}
    built = (path.stem for path in (folder / ".build").glob("*.json"))  # by earlier recipes, too
    names = {f"{stem.rpartition('-')[0]}/{stem}.tar" for stem in built}
    old = [folder / name for name in sorted(names - {s.name for s in states if s.shard is not None})]
    recipe = dump(map_paths(config, absolute) | {"out": ".", "jobs": 0})  # the same for any folder and jobs
    install(folder, {RECIPE: recipe, **files}, moves, old)
    _sweep(folder, {state_path(folder, shard.name) for shard in plan.shards})
    return manifest, quarantine


def _load_all(folder: Path, shards: list[Shard], prints: list[str], command: str) -> list[ShardState]:
    """Return the state of every shard."""
    loaded = {s.name: building.load_state(folder, s.name, p) for s, p in zip(shards, prints, strict=True)}
    missing = [name for name, state in loaded.items() if state is None]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        what = f"{len(missing)} of {len(shards)} shards are not built, or their inputs changed: {shown}"
        raise UserError(f"{folder}: {what}; build them, then finish again: {command}")
    states = [state for state in loaded.values() if state is not None]
    for shard, state in zip(shards, states, strict=True):
        n_done = len(state.rows) + len(state.rejections)
        if n_done != len(shard.runs):
            raise RuntimeError(f"{shard.name}: {len(shard.runs)} runs were planned, {n_done} accounted for")
    return states


def find_duplicates(states: Iterable[ShardState]) -> dict[str, Rejection]:
    """Return the runs whose file or signals an earlier run in corpus order has, by key."""
    first: dict[tuple[str, ...], dict] = {}
    duplicates = {}
    for row in (row for state in states for row in state.rows):
        same_source = ("source", row["space"], row["source_sha256"], row["array"])
        same_signals = ("signals", row["space"], row["sha256"])
        other = first.get(same_source) or first.get(same_signals)
        if other is None:
            first[same_source] = first[same_signals] = row
            continue
        what = "file" if same_source in first else "signals"
        detail = f"the same {what} as {other['key']} ({other['source']}), which stays; remove one of them"
        duplicates[row["key"]] = Rejection(row["dataset"], row["source"], "duplicate_content", detail)
    return duplicates


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
    mtime = 0 if summary is None else staged_path(folder, state.name).stat().st_mtime_ns
    rows = list(rows.values())
    state = dataclasses.replace(state, shard=summary, mtime_ns=mtime, rows=rows, excluded=excluded)
    building.save_state(folder, state)
    return state


def _sweep(folder: Path, states: set[Path]) -> None:
    """Remove what earlier recipes and killed builders left; the corpus is locked, so nobody needs it."""
    build = folder / ".build"
    old = [path for path in build.glob("*.json") if path not in states]
    for path in (*folder.glob(".*.tmp"), *build.glob(".*.tmp"), *build.glob("*.tar"), *old):
        path.unlink(missing_ok=True)
    for dataset in {path.stem.rpartition("-")[0] for path in old}:
        if (folder / dataset).is_dir() and not any((folder / dataset).iterdir()):
            (folder / dataset).rmdir()


def _stimuli(plan: Plan, rows: list[dict[str, Any]]) -> dict[str, tuple[str, float]]:
    """Return stimulus and onset of the runs that have one, s from the first volume that is in the corpus."""
    sources = {run.key: run for shard in plan.shards for run in shard.runs if run.stimulus}
    stimuli: dict[str, tuple[str, float]] = {}
    late: dict[str, list[str]] = {}
    for row in rows:
        if (run := sources.get(row["key"])) is not None:
            onset, seconds = run.stimulus_onset - row["first_volume"], row["n_volumes"] * row["t_r"]
            stimuli[run.key] = (printable(run.stimulus), round(onset, 6))
            if not -MAX_ONSET <= onset < seconds:
                what = f"run {run.key} of {seconds:g} s has stimulus_onset {run.stimulus_onset:g} s"
                late.setdefault(run.dataset, []).append(what)
    for dataset, whats in late.items():
        if 2 * len(whats) > sum(sources[key].dataset == dataset for key in stimuli):
            remedy = "give seconds from the beginning of the run (below 0: it starts amid the stimulus)"
            raise UserError(f"data set '{dataset}': {whats[0]}, and {len(whats) - 1} more; {remedy}")
    return stimuli


def _corpus_json(
    config: CorpusConfig, states: list[ShardState], runs: pd.DataFrame, quarantine: pd.DataFrame
) -> dict[str, Any]:
    """Return the content of corpus.json."""
    spaces = {d.features.name: load_features(d.features).space for d in config.datasets}
    settings = {
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
    return corpus_json(spaces.values(), settings, config.split, shards, software(), runs, quarantine)
