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
from fmriscale.ingest.plan import MEMBER_BYTES, Plan, Shard, make_plan

SAMPLING_SECONDS = 60.0  # Time after which no further data set is tried, s
ONE_IS_ENOUGH = 3.0  # A first run that took this long, s, is as good an estimate as a second
N_SHOWN = 12  # Lines of quarantine that are shown
COLUMNS = ("data set", "space", "shards", "to build", "runs", "GB in", "GB out", "hours", "core-hours")


@dataclass
class Yield:
    """What was made of some bytes of sources."""

    bytes_in: float = 0
    bytes_out: float = 0
    recorded: float = 0  # length of the recordings, s
    seconds: float = 0  # time that one process took, s
    refused: str = "no time was left to read one of its runs"  # why nothing is known, where `bytes_in` is 0


def describe(config: CorpusConfig, num_tasks: int) -> str:
    """Return a table of data sets; the rates are those of shards built before, else of one run, read now."""
    plan = make_plan(config)
    from fmriscale.ingest.fingerprint import fingerprints

    folder, started = expand(config.out), time.monotonic()
    prints = zip(plan.shards, fingerprints(plan.shards), strict=True)
    missing = {shard.name for shard, p in prints if load_state(folder, shard.name, p) is None}
    rows: list[tuple[str, ...]] = [COLUMNS]
    totals, unknown = [0.0] * 7, []
    for dataset in sorted(config.datasets, key=lambda d: d.name):
        shards = [s for s in plan.shards if s.dataset.name == dataset.name]
        known = _built_before(folder, shards)
        if not known.bytes_in and time.monotonic() - started < SAMPLING_SECONDS:
            known = _one_run(shards, config.read_timeout)
        if not known.bytes_in:
            unknown.append(f"  {dataset.name}: {known.refused}")
        cells = _cells(shards, missing, known)
        totals = [a + b for a, b in zip(totals, cells, strict=True)]
        rows.append((dataset.name, dataset.features.name, *_shown(cells)))
    rows.append(("all", "", *_shown(totals)))
    jobs, tasks = config.jobs or available_cores(), f"{num_tasks} tasks with " if num_tasks > 1 else ""
    duration = _duration(totals[-1] * 3600 / (jobs * num_tasks))
    lines = [*aligned(rows), f"about {duration} with {tasks}{jobs} jobs; hours and GB out are estimates"]
    if unknown:
        lines += ["not counted, as nothing is known of their runs:", *unknown]
    return "\n".join([*lines, *_about_files(plan)])


def _cells(shards: list[Shard], missing: set[str], known: Yield) -> list[float]:
    """Return the numbers of a data set's line."""
    to_build = [s for s in shards if s.name in missing]
    bytes_in, bytes_to_build = (sum(s.bytes_in for s in part) for part in (shards, to_build))
    scale = 1 / known.bytes_in if known.bytes_in else 0.0
    return [
        *(len(shards), len(to_build), sum(len(s.runs) for s in shards), bytes_in / 1e9),
        *(bytes_in * scale * known.bytes_out / 1e9, bytes_in * scale * known.recorded / 3600),
        bytes_to_build * scale * known.seconds / 3600,
    ]


def _about_files(plan: Plan) -> list[str]:
    """Return what became of every file, and the first of those that are no runs."""
    lines = [f"{name}: {counts}" for name, counts in plan.counts.items()]
    lines += [f"note: {note}" for note in plan.notes]
    if n := len(plan.rejections):
        lines.append(f"{n} files or folders give no usable run; --finish lists them in quarantine.tsv:")
        lines += [f"  {r.dataset}/{r.source}: {r.reason}: {r.detail}" for r in plan.rejections[:N_SHOWN]]
        lines += [f"  ... and {n - N_SHOWN} more"] * (n > N_SHOWN)
    return lines


def _built_before(folder: Path, shards: list[Shard]) -> Yield:
    """Return the yield of finished shards, also of earlier settings."""
    total = Yield()
    for shard in shards:
        state = read_state(folder, shard.name)
        if state is not None and state.rows:
            total.bytes_in += state.bytes_in
            total.bytes_out += 0 if state.shard is None else state.shard["bytes"]
            total.recorded += sum(row["t_r"] * row["n_volumes"] for row in state.rows)
            total.seconds += state.seconds
    return total


def _one_run(shards: list[Shard], limit: float) -> Yield:
    """Return the yield of one run, after a first one that imports libraries and loads the atlas."""
    from fmriscale.ingest.run import timed_run
    from fmriscale.ingest.shards import timed_out

    known, started = Yield(), time.monotonic()
    for shard, run in [(first, run) for first in shards[:1] for run in first.runs[:3]]:
        [outcome] = map_in_order(timed_run, [(run, shard.dataset)], 1, limit)
        if isinstance(outcome, TimedOut):
            known.refused = f"{run.source}: timed_out: {timed_out(limit)}"
            continue
        result, seconds = outcome
        if isinstance(result, EncodedRun):
            known = Yield(
                bytes_in=shard.bytes_in / len(shard.runs),
                bytes_out=sum(map(len, result.members.values())) + MEMBER_BYTES,
                recorded=result.row["t_r"] * result.row["n_volumes"],
                seconds=seconds,
            )
        elif not known.bytes_in:
            known.refused = f"{result.source}: {result.reason}: {result.detail}"
        if known.bytes_in and time.monotonic() - started > ONE_IS_ENOUGH:
            break
    return known


def _shown(cells: list[float]) -> list[str]:
    return [f"{c:.0f}" if i < 3 else f"{c:.3g}" for i, c in enumerate(cells)]


def _duration(seconds: float) -> str:
    """Write a time in the largest unit that fits twice."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
