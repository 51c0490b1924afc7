"""What `fmriscale finetune` and `fmriscale probe` do alike, from the command line to the summary's files.

Every job (of a study a cell, the baselines of a fold or the final fit; of a probe a fit) stands alone:
processes, tasks of an array and later runs of the same command share the work, and only all of them together
make a summary.
"""

import json
import os
import shlex
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmriscale.common.array_tasks import add_flags, read_flags
from fmriscale.common.console import counted, is_quiet, say, tell
from fmriscale.common.errors import UserError
from fmriscale.common.files import atomic_write, expand, writing_to
from fmriscale.common.out_folder import refuse_other_content
from fmriscale.common.trust import parse_json
from fmriscale.common.workers import WorkerDied, available_cores, map_in_order
from fmriscale.config.command_line import CommandLine
from fmriscale.config.recipe import parse, save_config
from fmriscale.corpus.manifest import require_corpus
from fmriscale.corpus.servers import is_url

if TYPE_CHECKING:
    from fmriscale.study.mlflow_log import Log
    from fmriscale.study.results import Results

SUMMARY = "summary.json"
"""File of a study's (or probe's) folder that holds every number of its report."""
FINISHED = "finished.json"
"""File that says that the folder is complete."""

Run = Callable[[Any], dict[str, Any]]
"""From a job to its result."""
Said = Callable[[dict[str, Any] | str], str]
"""From a result, or the reason why there is none, to a line."""


@dataclass(frozen=True)
class Call:
    """A command line of the verb."""

    verb: str
    config: Any
    recipe: list[str]
    """The part of the command line that is the recipe's."""
    finishing: bool
    task: int | None
    """Number of the task of an array; None: this process alone makes the summary."""
    n_tasks: int

    @property
    def out(self) -> Path:
        """The folder of the study or probe."""
        return expand(self.config.out)


def parser_of(verb: str, recipe: type, jobs: str) -> CommandLine:
    """Return the options of a verb."""
    usage = f"fmriscale {verb} --config FILE [--task-id I --num-tasks N | --finish] [--KEY VALUE]"
    parser = CommandLine(f"fmriscale {verb}", recipe, usage=usage)
    part, finishing = (
        f"compute part I = 0 ... N-1 of the {jobs}",
        "write the summary when all parts are there",
    )
    add_flags(parser, part, finishing)
    return parser


def read_call(parser: CommandLine, verb: str, recipe: type, own: str, args: list[str]) -> Call:
    """Read a command line; refuse a folder that holds anything but `own`, and a corpus that is none."""
    flags, given = read_flags(parser, args)
    config = parse(recipe, given, prog=f"fmriscale {verb}")
    refuse_other_content(expand(config.out), own)
    if not is_url(config.corpus):
        require_corpus(expand(config.corpus))
    # One thread a process: jobs run side by side, and results do not depend on the number of cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    return Call(verb, config, given, flags.finish, flags.task_id, flags.num_tasks or 1)


def tell_headlines(text: str) -> None:
    """Print what is asked of which data; --quiet leaves the warnings."""
    for line in text.splitlines():
        (tell if line.startswith("warning") else say)(line)


def was_finished(call: Call, results: "Results", identity: str) -> bool:
    """Tell whether there is nothing to do, and print again what was printed at the end then."""
    earlier = finished_text(call.out, identity)
    if call.task is not None or not earlier or not all(map(results.load, results.hashes)):
        return False
    tell(f"{call.out}: finished already" if is_quiet() else f"finished already, nothing to do\n\n{earlier}")
    return True


def finished_text(out: Path, identity: str) -> str | None:
    """Return what a finished study printed at its end; None where it is not finished, or was another one."""
    try:
        finished = parse_json((out / FINISHED).read_text())
        return str(finished["told"]) if finished["hash"] == identity else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


# ---------------------------------------------------------------- jobs


def do_share(call: Call, run: Run, results: "Results", log: "Log", said: Said, processes: int) -> bool:
    """Run what is missing of this process's share; tell whether all is there and it is to finish.

    said: a result on a line; processes: where the recipe does not say how many, 0 = one a core.
    """
    with writing_to(call.out):
        for stale in (FINISHED, SUMMARY):  # of another recipe, or of results that are gone
            (call.out / stale).unlink(missing_ok=True)
    all_jobs = list(results.hashes)
    own = [] if call.finishing else all_jobs[call.task or 0 :: call.n_tasks]
    if log.uri and not call.finishing:
        say(f"progress: mlflow ui --backend-store-uri {log.uri}")
    run_missing(run, results, own, log, said, call.config.jobs or processes)
    if missing := results.describe_missing(all_jobs if call.task is None else own):
        again = shlex.join(["fmriscale", call.verb, *call.recipe])
        raise UserError(f"{call.out}: {missing}. This runs them, and nothing else: {again}")
    if call.task is not None:
        done = f"its {len(own)} of {len(all_jobs)} results are there; --finish writes the summary when every"
        print(f"task {call.task} of {call.n_tasks}: {done} task is done")
    return call.task is None


def run_missing(run: Run, results: "Results", own: list, log: "Log", said: Said, processes: int) -> None:
    """Run the jobs that have no valid result yet, side by side; print each result on a line, and log it."""
    missing = []
    for job in own:
        if (result := results.load(job)) is None:
            missing.append(job)
        else:
            log.add(job, result)
    if len(missing) < len(own):
        say(f"{len(own) - len(missing)} of {len(own)} results are there and reused")
    processes = max(1, min(processes or available_cores(), len(missing)))
    started, work = time.monotonic(), [(job,) for job in missing]
    attempts = map_in_order(Attempt(run, results), work, processes, libraries=[run.__module__])
    shown = counted(attempts, len(missing), "results", log=False)  # a log has the lines below
    for count, (job, result) in enumerate(zip(missing, shown, strict=True), 1):
        if isinstance(result, WorkerDied):
            result = "two processes were killed over it (out of memory?): fewer --jobs"
            results.save_failure(job, result)
        left = (time.monotonic() - started) / count * (len(missing) - count)
        ahead = f"; {duration(left)} left" if count < len(missing) else ""
        line = tell if isinstance(result, str) else say
        line(f"{count}/{len(missing)} {job.name}: {said(result)}{ahead}")
        log.add(job, result)


@dataclass(frozen=True)
class Attempt:
    """Runs jobs and keeps their results; every worker process has a copy."""

    run: Run
    results: "Results"

    def __call__(self, job: Any) -> dict[str, Any] | str:
        """Run a job; return its result, or the reason why it has none."""
        try:
            with writing_to(self.results.out):
                return self.results.save(job, self.run(job))
        except UserError as error:
            reason = str(error)
        except Exception as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        self.results.save_failure(job, reason)
        return reason


def duration(seconds: float) -> str:
    """Return a time in a unit that reads well."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"about {seconds / size:.0f} {unit}"
    return f"about {seconds:.0f} s"


# ---------------------------------------------------------------- files


def write_results(call: Call, tables: Mapping[str, Any], summary: dict[str, Any], text: str) -> None:
    """Write recipe, tables (data frames by name of file), summary and text into the folder."""
    out = call.out
    save_config(call.config, out / "config.yaml")
    for name, table in tables.items():
        atomic_write(out / name, table.to_csv(sep="\t", index=False, lineterminator="\n"))
    atomic_write(out / SUMMARY, json.dumps(summary, indent=1, allow_nan=False) + "\n")
    atomic_write(out / "report.txt", text + "\n")


def end(call: Call, identity: str, summary: dict[str, Any], text: str, tables: str, uri: str | None) -> None:
    """Print the text and where everything is, and mark the folder as finished."""
    page = call.out / "report.html"
    lines = [text, "", f"report   {page}   (any browser)", f"results  {tables}"]
    lines += [] if uri is None else [f"MLflow   mlflow ui --backend-store-uri {uri}"]
    told = "\n".join(lines)
    # Written last: its presence says that tables, report and MLflow have everything.
    atomic_write(call.out / FINISHED, json.dumps({"hash": identity, "told": told}, indent=1) + "\n")
    say(f"\n{told}")
    if is_quiet():
        tell(f"{summary['verdict']['sentence']}\nreport   {page}")
