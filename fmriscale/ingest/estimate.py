"""`fmriscale shard --plan`: what a recipe would build, and about how long that takes; nothing is written."""

import time
from dataclasses import dataclass
from pathlib import Path

from fmriscale.common.files import expand
from fmriscale.common.workers import TimedOut, available_cores, map_in_order
from fmriscale.config import CorpusConfig
from fmriscale.corpus.building import load_state, read_state
from fmriscale.corpus.inspect import aligned
from fmriscale.corpus.writer import EncodedRun
from fmriscale.ingest.plan import MEMBER_BYTES, Shard, make_plan

SAMPLING_SECONDS = 60.0
"""Time after which no further data set is tried, s."""
ONE_IS_ENOUGH = 3.0
"""A first run that took this long, s, tells as much as a second would."""
FEW = 12
"""Lines of quarantine that are shown."""


@dataclass
class Yield:
    """What was made of some bytes of sources."""

    bytes_in: float = 0
    bytes_out: float = 0
    recorded: float = 0
    """Length of the recordings, s."""
    seconds: float = 0
    """Time that one process took, s."""
    refused: str = "no time was left to read one of its runs"
    """Why nothing is known, where nothing is."""


def describe(config: CorpusConfig, num_tasks: int) -> str:
    """Return a table of data sets: shards, runs, bytes in and out, hours, time to build what is missing.

    The rates are those of shards built before, else of one run of each data set, which is read now.
    """
    planned = make_plan(config)
    plan = planned.shards
    from fmriscale.ingest.fingerprint import fingerprints

    folder, jobs = expand(config.out), config.jobs or available_cores()
    prints = fingerprints(plan)
    missing = {s.name for s, p in zip(plan, prints, strict=True) if load_state(folder, s.name, p) is None}
    rows: list[tuple[str, ...]] = [
        ("data set", "space", "shards", "to build", "runs", "GB in", "GB out", "hours", "core-hours")
    ]
    totals, unknown, started = [0.0] * 7, [], time.monotonic()
    for dataset in sorted(config.datasets, key=lambda d: d.name):
        shards = [s for s in plan if s.dataset.name == dataset.name]
        rate = _built_before(folder, shards)
        if not rate.bytes_in and time.monotonic() - started < SAMPLING_SECONDS:
            rate = _one_run(shards, config.read_timeout)
        if not rate.bytes_in:
            unknown.append(f"{dataset.name}: {rate.refused}")
        todo = [s for s in shards if s.name in missing]
        size, size_todo = (sum(s.bytes_in for s in part) for part in (shards, todo))
        scale = 1 / rate.bytes_in if rate.bytes_in else 0.0
        cells = [
            *(len(shards), len(todo), sum(len(s.runs) for s in shards), size / 1e9),
            *(size * scale * rate.bytes_out / 1e9, size * scale * rate.recorded / 3600),
            size_todo * scale * rate.seconds / 3600,
        ]
        totals = [a + b for a, b in zip(totals, cells, strict=True)]
        rows.append((dataset.name, dataset.features.name, *_shown(cells)))
    rows.append(("all", "", *_shown(totals)))
    seconds_left = totals[-1] * 3600 / (jobs * num_tasks)
    tasks = f"{num_tasks} tasks with " if num_tasks > 1 else ""
    lines = aligned(rows)
    lines.append(f"about {_duration(seconds_left)} with {tasks}{jobs} jobs; hours and GB out are estimates")
    if unknown:
        lines += ["not counted, as nothing is known of their runs:", *(f"  {line}" for line in unknown)]
    lines += [f"{name}: {counts}" for name, counts in planned.counts.items()]
    lines += [f"note: {note}" for note in planned.notes]
    if planned.rejections:
        n = len(planned.rejections)
        lines.append(f"{n} files or folders give no usable run; --finish lists them in quarantine.tsv:")
        lines += [f"  {r.dataset}/{r.source}: {r.reason}: {r.detail}" for r in planned.rejections[:FEW]]
        lines += [f"  ... and {n - FEW} more"] * (n > FEW)
    return "\n".join(lines)


def _built_before(folder: Path, shards: list[Shard]) -> Yield:
    """Return what finished shards tell, also of earlier settings."""
    found = Yield()
    for shard in shards:
        state = read_state(folder, shard.name)
        if state is not None and state.rows:
            found.bytes_in += state.bytes_in
            found.bytes_out += 0 if state.shard is None else state.shard["bytes"]
            found.recorded += sum(row["t_r"] * row["n_volumes"] for row in state.rows)
            found.seconds += state.seconds
    return found


def _one_run(shards: list[Shard], limit: float) -> Yield:
    """Return what one run tells, after a first one that brings in libraries and atlas."""
    from fmriscale.ingest.run import timed_run
    from fmriscale.ingest.shards import hung

    found, started = Yield(), time.monotonic()
    for shard in shards[:1]:
        for run in shard.runs[:3]:
            [outcome] = map_in_order(timed_run, [(run, shard.dataset)], 1, limit)
            if isinstance(outcome, TimedOut):
                found.refused = f"{run.source}: timed_out: {hung(limit)}"
                continue
            result, seconds = outcome
            if isinstance(result, EncodedRun):
                found = Yield(
                    bytes_in=shard.bytes_in / len(shard.runs),
                    bytes_out=sum(map(len, result.members.values())) + MEMBER_BYTES,
                    recorded=result.row["t_r"] * result.row["n_volumes"],
                    seconds=seconds,
                )
            elif not found.bytes_in:
                found.refused = f"{result.source}: {result.reason}: {result.detail}"
            if found.bytes_in and time.monotonic() - started > ONE_IS_ENOUGH:
                break
    return found


def _shown(cells: list[float]) -> list[str]:
    return [f"{c:.0f}" if i < 3 else f"{c:.3g}" for i, c in enumerate(cells)]


def _duration(seconds: float) -> str:
    """Write a time as people say it."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
