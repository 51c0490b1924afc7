"""`fmriscale probe`: decode any column from encoders, beside the baselines that labs use.

Reads top to bottom: open the probe, refuse what would fool us, run the fits that are missing, then table,
report and MLflow. Every fit (a method, a fold, a size, a seed) stands alone: processes, tasks of an array and
later runs of the same command share the work, and only all of them together make a summary.
"""

import json
import os
import shlex
import shutil
import sys
from typing import TYPE_CHECKING, Any

from fmriscale.common.array_tasks import add_flags, read_flags
from fmriscale.common.console import is_quiet, say, tell
from fmriscale.common.errors import EXIT_OK, UserError
from fmriscale.common.files import atomic_write, expand, writing_to
from fmriscale.common.out_folder import refuse_other_content
from fmriscale.config import ProbeConfig
from fmriscale.config.command_line import CommandLine
from fmriscale.config.recipe import parse, save_config
from fmriscale.corpus.manifest import require_corpus
from fmriscale.corpus.servers import is_url

if TYPE_CHECKING:
    from fmriscale.study.probe.data import Probe
    from fmriscale.study.probe.jobs import Fit
    from fmriscale.study.probe.mlflow_log import ProbeLog
    from fmriscale.study.probe.run import Runner

SUMMARY = "summary.json"


def parser_of_verb() -> CommandLine:
    """Return the options of the verb."""
    usage = "fmriscale probe --config FILE [--task-id I --num-tasks N | --finish] [--KEY VALUE]"
    parser = CommandLine("fmriscale probe", ProbeConfig, usage=usage)
    part, finishing = "compute part I = 0 ... N-1 of the fits", "write the summary when all parts are there"
    add_flags(parser, part, finishing)
    return parser


def main(args: list[str]) -> int:
    """Run the verb; return the exit code."""
    flags, recipe = read_flags(parser_of_verb(), args)
    config = parse(ProbeConfig, recipe, prog="fmriscale probe")
    out = expand(config.out)
    refuse_other_content(out, "a probe")
    if not is_url(config.corpus):
        require_corpus(expand(config.corpus))
    # One thread a process: fits run side by side, and results do not depend on the number of cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    from fmriscale.corpus.reader import Corpus
    from fmriscale.study.learning import most_processes
    from fmriscale.study.probe.data import open_probe
    from fmriscale.study.probe.mlflow_log import ProbeLog
    from fmriscale.study.probe.run import Runner, results_of
    from fmriscale.study.progress import FINISHED, finished_text, run_missing
    from fmriscale.study.results import digest

    corpus = Corpus.open(config.corpus)
    probe = open_probe(config, corpus)
    for line in headlines(probe).splitlines():
        (tell if line.startswith("warning") else say)(line)
    results, all_fits = results_of(probe)
    identity, alone = digest(list(results.hashes.values())), flags.task_id is None
    if alone and all(results.load(fit) for fit in all_fits) and (earlier := finished_text(out, identity)):
        tell(f"{out}: finished already" if is_quiet() else f"finished already, nothing to do\n\n{earlier}")
        return EXIT_OK
    probe.verify(corpus)
    with writing_to(out):
        for stale in (FINISHED, SUMMARY):  # of another recipe, or of fits that are gone
            (out / stale).unlink(missing_ok=True)

    own = [] if flags.finish else all_fits[flags.task_id or 0 :: flags.num_tasks or 1]
    runner = Runner(probe, results)
    with ProbeLog(probe, identity, len(all_fits), alone=alone) as log:
        if log.uri and not flags.finish:
            say(f"progress: mlflow ui --backend-store-uri {log.uri}")
        jobs = config.jobs or (0 if config.train.adapt == "probe" else most_processes())
        run_missing(runner.attempt, results, own, log, jobs, headline)
        if missing := results.describe_missing(all_fits if alone else own):
            again = shlex.join(["fmriscale", "probe", *recipe])
            raise UserError(f"{out}: {missing}. This runs them, and nothing else: {again}")
        if alone:
            with writing_to(out):
                finish(runner, all_fits, identity, log)
    if not alone:
        done = f"its {len(own)} of {len(all_fits)} results are there; --finish writes the summary when every"
        print(f"task {flags.task_id} of {flags.num_tasks}: {done} task is done")
    return EXIT_OK


def headlines(probe: "Probe") -> str:
    """Say what is asked of which data, what is left out, and how encoders compute."""
    from fmriscale.study.probe.features import computation

    config, rows = probe.config, probe.rows
    kind = f"{len(rows.classes)} classes" if rows.classes else "a number"
    by = config.folds_by if isinstance(config.folds_by, str) else " and ".join(config.folds_by)
    lines = [
        f"{config.target} ({kind}) of {len(rows)} rows ({config.rows}); {len(set(rows.person_N))} people, "
        f"{len(probe.table)} runs, {len(probe.folds)} folds by {by}; methods: {', '.join(probe.methods)}"
    ]
    lines += [f"{n:,} left out: {reason}" for reason, n in rows.left_out.items()]
    lines += [computation(probe)] if config.encoders else []
    return "\n".join(lines)


def headline(result: dict[str, Any] | str) -> str:
    """Say on one line what a fit gave."""
    if isinstance(result, str):
        return f"FAILED, {result}"
    sides = f"{result['n_train']} training and {result['n_test']} test rows"
    what = "" if "right" not in result else f", {100 * sum(result['right']) / result['n_test']:.1f} % right"
    learned = f", {result['epochs']} epochs" if "epochs" in result else ""
    return f"{sides}{what}{learned} ({result['seconds']:.0f} s)"


def finish(runner: "Runner", all_fits: list["Fit"], identity: str, log: "ProbeLog") -> None:
    """Make table, summary and report from results that are all there, and end the probe's MLflow run."""
    from fmriscale.reports.probe import write_page
    from fmriscale.study.probe.run import FEATURES
    from fmriscale.study.probe.summary import summarise, table_of
    from fmriscale.study.probe.text import report_text
    from fmriscale.study.progress import FINISHED

    probe, out = runner.probe, runner.results.out
    results = [runner.results.load(fit) or {} for fit in all_fits]
    summary = summarise(probe, results)
    text = report_text(summary)
    save_config(probe.config, out / "config.yaml")
    table = table_of(probe, results).to_csv(sep="\t", index=False, lineterminator="\n")
    atomic_write(out / "results.tsv", table)
    atomic_write(out / SUMMARY, json.dumps(summary, indent=1, allow_nan=False) + "\n")
    atomic_write(out / "report.txt", text + "\n")
    write_page(out, out / "report.html")
    log.finish(summary)
    shutil.rmtree(out / FEATURES, ignore_errors=True)
    lines = [text, "", f"report   {out / 'report.html'}   (any browser)", f"results  {out / 'results.tsv'}"]
    if log.uri is not None:
        lines.append(f"MLflow   mlflow ui --backend-store-uri {log.uri}")
    # Written last: its presence says that table, report and MLflow have everything.
    atomic_write(out / FINISHED, json.dumps({"hash": identity, "told": "\n".join(lines)}, indent=1) + "\n")
    say("\n" + "\n".join(lines))
    if is_quiet():
        tell(f"{summary['verdict']['sentence']}\nreport   {out / 'report.html'}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
