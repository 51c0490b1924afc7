"""How the jobs of a study (or a probe) are run: what is missing, side by side, with the time that is left."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from fmriscale.common.console import counted, say, tell
from fmriscale.common.trust import parse_json
from fmriscale.common.workers import WorkerDied, available_cores, map_in_order
from fmriscale.study.results import Results

FINISHED = "finished.json"
"""File of a study's folder that says it is complete."""


class Log(Protocol):
    """Where results are logged as they come."""

    def add(self, job: Any, result: dict[str, Any] | str) -> None:
        """Log a result, or the reason why there is none."""


def finished_text(out: Path, identity: str) -> str | None:
    """Return what a finished study printed at its end; None where it is not finished, or was another one."""
    try:
        finished = parse_json((out / FINISHED).read_text())
        return str(finished["told"]) if finished["hash"] == identity else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def run_missing(
    attempt: Callable[..., dict[str, Any] | str],
    results: Results,
    own: Sequence[Any],
    log: Log,
    jobs: int,
    headline: Callable[[dict[str, Any] | str], str],
) -> None:
    """Run the jobs that have no valid result yet, side by side; print each result on a line, and log it.

    attempt: from a job to its result, or to the reason why there is none; jobs: processes, 0 = one a core.
    """
    missing = []
    for job in own:
        if (result := results.load(job)) is None:
            missing.append(job)
        else:
            log.add(job, result)
    if len(missing) < len(own):
        say(f"{len(own) - len(missing)} of {len(own)} results are there and reused")
    processes = max(1, min(jobs or available_cores(), len(missing)))
    started = time.monotonic()
    attempts = map_in_order(attempt, [(job,) for job in missing], processes)
    shown = counted(attempts, len(missing), "results", log=False)  # a log has the lines below
    for count, (job, result) in enumerate(zip(missing, shown, strict=True), 1):
        if isinstance(result, WorkerDied):
            result = "two processes were killed over it (out of memory?): fewer --jobs"
            results.save_failure(job, result)
        left = (time.monotonic() - started) / count * (len(missing) - count)
        ahead = f"; {duration(left)} left" if count < len(missing) else ""
        line = tell if isinstance(result, str) else say
        line(f"{count}/{len(missing)} {job.name}: {headline(result)}{ahead}")
        log.add(job, result)


def duration(seconds: float) -> str:
    """Return a time in a unit that reads well."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"about {seconds / size:.0f} {unit}"
    return f"about {seconds:.0f} s"
