"""Build the missing shards; several processes may, each another shard, and each may be killed at any time."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path

from fmriscale.common.console import Progress
from fmriscale.common.files import expand
from fmriscale.common.quarantine import Rejection
from fmriscale.common.workers import TimedOut, WorkerDied, available_cores, map_in_order
from fmriscale.config import CorpusConfig, DatasetConfig
from fmriscale.corpus.building import FolderLock, ShardState, load_state, save_state, staged_path
from fmriscale.corpus.writer import EncodedRun, ShardWriter
from fmriscale.ingest.find.fetch import delete_archive
from fmriscale.ingest.find.forms import form_of
from fmriscale.ingest.find.sources import RunSource
from fmriscale.ingest.fingerprint import fingerprints
from fmriscale.ingest.plan import Shard
from fmriscale.ingest.read.mirror import sweep_scratch
from fmriscale.ingest.run import timed_run

Outcome = tuple[EncodedRun | Rejection, float] | WorkerDied | TimedOut
"""Result of a run and its time, s, or why there is none."""


def build_shards(shards: list[Shard], config: CorpusConfig, lock: FolderLock) -> tuple[int, int]:
    """Build every shard that is not up to date; return how many, and how many of all runs are rejected."""
    folder, limit = expand(config.out), config.read_timeout
    prints = dict(zip((s.name for s in shards), fingerprints(shards), strict=True))
    states = {s.name: _up_to_date(folder, s, prints[s.name]) for s in shards}
    missing = [s for s in shards if states[s.name] is None]
    n_runs, n_missing = (sum(len(s.runs) for s in part) for part in (shards, missing))
    jobs = max(1, min(config.jobs or available_cores(), n_missing))
    claimed: deque[Shard] = deque()

    def runs_to_read() -> Iterator[tuple[RunSource, DatasetConfig]]:
        for shard in missing:
            lock.claim(shard.name)
            states[shard.name] = _up_to_date(folder, shard, prints[shard.name])
            if states[shard.name] is not None:  # another process built it meanwhile
                lock.release(shard.name)
                progress.update(len(shard.runs))
                continue
            claimed.append(shard)
            yield from ((run, shard.dataset) for run in shard.runs)

    n_built = 0
    with Progress(n_runs, "runs", done=n_runs - n_missing) as progress:
        outcomes = map_in_order(timed_run, runs_to_read(), jobs, limit, libraries(s.dataset for s in missing))
        for first in outcomes:
            shard = claimed.popleft()
            own = chain([first], islice(outcomes, len(shard.runs) - 1))
            states[shard.name] = _write(shard, prints[shard.name], config, own, progress)
            lock.release(shard.name)
            n_built += 1
    delete_archive()
    sweep_scratch()
    return n_built, sum(len(state.rejections) for state in states.values() if state is not None)


def libraries(datasets: Iterable[DatasetConfig]) -> list[str]:
    """Return the modules that runs of these data sets import late."""
    needed: dict[str, None] = {}
    for dataset in datasets:
        denoise = dataset.denoise
        for module, is_needed in (
            ("fmriscale.ingest.read.voxels", form_of(dataset) == "nifti"),
            ("pandas", dataset.kind == "fmriprep"),
            ("nilearn.interfaces.fmriprep", denoise.strategy),
            ("scipy.linalg", denoise.strategy),
            ("nilearn.signal", denoise.high_pass or denoise.low_pass),
            ("scipy.signal", denoise.resample_t_r),
        ):
            if is_needed:
                needed[module] = None
    return list(needed)


def _up_to_date(folder: Path, shard: Shard, fingerprint: str) -> ShardState | None:
    """Return the state of a shard that need not be built again."""
    state = load_state(folder, shard.name, fingerprint)
    return state if state is not None and state.final() else None


def _write(
    shard: Shard, fingerprint: str, config: CorpusConfig, outcomes: Iterable[Outcome], progress: Progress
) -> ShardState:
    """Write one shard, then its state, from the outcomes of its runs."""
    folder, rejections, seconds = expand(config.out), [], 0.0
    with ShardWriter(staged_path(folder, shard.name), shard.name) as writer:
        for run, outcome in zip(shard.runs, outcomes, strict=True):
            result, run_seconds = _result(run, outcome, config.read_timeout)
            seconds += run_seconds
            if isinstance(result, Rejection):
                rejections.append(asdict(result))
                progress.rejected += 1
                progress.note = f"{progress.rejected} quarantined"
            else:
                writer.add(result)
            progress.update(1)
        summary = writer.commit()
    state = ShardState(
        name=shard.name,
        fingerprint=fingerprint,
        shard=summary,
        mtime_ns=0 if summary is None else staged_path(folder, shard.name).stat().st_mtime_ns,
        rows=writer.rows,
        rejections=rejections,
        bytes_in=shard.bytes_in,
        seconds=round(seconds, 3),
    )
    save_state(folder, state)
    return state


def _result(run: RunSource, outcome: Outcome, limit: float) -> tuple[EncodedRun | Rejection, float]:
    """Turn a run without a result into a rejection."""
    if isinstance(outcome, WorkerDied):
        detail = "the process that read it died twice (out of memory?); try --jobs 1 or a larger node"
        return Rejection(run.dataset, run.source, "crashed", detail), 0.0
    if isinstance(outcome, TimedOut):
        return Rejection(run.dataset, run.source, "timed_out", timed_out(limit)), limit
    return outcome


def timed_out(limit: float) -> str:
    """Say what is wrong with a run that was not read in time."""
    what = f"not read within {limit:g} s (read_timeout): a dead mount, or a pipe in place of a file?"
    return f"{what} See that it can be copied, or raise read_timeout, then run this again"
