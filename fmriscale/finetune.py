"""`fmriscale finetune`: fresh and pre-trained arms on a same-label task, over folds and seeds, with controls.

Reads top to bottom: open the study, refuse what would fool us, run what is missing, then tables, report and
MLflow. Every job (a cell, the baselines of a fold, the final fit) stands alone: processes, tasks of an array
and later runs of the same command share the work, and only all of them together make a summary.
"""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmriscale.common.array_tasks import add_flags, read_flags
from fmriscale.common.console import is_quiet, say, tell
from fmriscale.common.errors import EXIT_OK, UserError
from fmriscale.common.files import atomic_write, expand, writing_to
from fmriscale.common.out_folder import refuse_other_content
from fmriscale.config import StudyConfig
from fmriscale.config.command_line import CommandLine
from fmriscale.config.recipe import parse, save_config
from fmriscale.corpus.manifest import require_corpus
from fmriscale.corpus.servers import is_url

if TYPE_CHECKING:
    from fmriscale.study.data import Study
    from fmriscale.study.mlflow_log import StudyLog
    from fmriscale.study.pairs import Pairs
    from fmriscale.study.run import Runner


def parser_of_verb() -> CommandLine:
    """Return the options of the verb."""
    usage = "fmriscale finetune --config FILE [--task-id I --num-tasks N | --finish] [--KEY VALUE]"
    parser = CommandLine("fmriscale finetune", StudyConfig, usage=usage)
    part, finishing = "compute part I = 0 ... N-1 of the cells", "write the summary when all parts are there"
    add_flags(parser, part, finishing)
    return parser


def main(args: list[str]) -> int:
    """Run the verb; return the exit code."""
    flags, recipe = read_flags(parser_of_verb(), args)
    config = parse(StudyConfig, recipe, prog="fmriscale finetune")
    out = expand(config.out)
    refuse_other_content(out, "a study")
    if not is_url(config.corpus):
        require_corpus(expand(config.corpus))
    # One thread a process: cells run side by side, and results do not depend on the number of cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    from fmriscale.corpus.reader import Corpus
    from fmriscale.study.data import open_study
    from fmriscale.study.encoders import computation
    from fmriscale.study.jobs import SUMMARY, jobs
    from fmriscale.study.learning import most_processes
    from fmriscale.study.mlflow_log import StudyLog
    from fmriscale.study.progress import FINISHED, finished_text, run_missing
    from fmriscale.study.results import Results, study_hash
    from fmriscale.study.run import Runner

    corpus = Corpus.open(config.corpus)
    study = open_study(config, corpus)
    for line in headlines(study).splitlines():
        (tell if line.startswith("warning") else say)(line)
    pairs = check_design(study)
    say(computation(study))
    results, all_jobs = Results.of(study), jobs(config)
    runner = Runner(study, results)
    identity, alone = study_hash(study, results), flags.task_id is None
    if alone and all(results.load(job) for job in all_jobs) and (earlier := finished_text(out, identity)):
        tell(f"{out}: finished already" if is_quiet() else f"finished already, nothing to do\n\n{earlier}")
        return EXIT_OK
    study.verify(corpus)
    with writing_to(out):
        for stale in (FINISHED, SUMMARY):  # of another recipe, or of cells that are gone
            (out / stale).unlink(missing_ok=True)

    own = [] if flags.finish else all_jobs[flags.task_id or 0 :: flags.num_tasks or 1]
    with StudyLog(study, identity, alone=alone) as log:
        if log.uri and not flags.finish:
            say(f"progress: mlflow ui --backend-store-uri {log.uri}")
        run_missing(runner.attempt, results, own, log, config.jobs or most_processes(), headline)
        if missing := results.describe_missing(all_jobs if alone else own):
            again = shlex.join(["fmriscale", "finetune", *recipe])
            raise UserError(f"{out}: {missing}. This runs them, and nothing else: {again}")
        if alone:
            with writing_to(out):
                finish(runner, pairs, identity, log)
    if not alone:
        done = f"its {len(own)} of {len(all_jobs)} results are there; --finish writes the summary when every"
        print(f"task {flags.task_id} of {flags.num_tasks}: {done} task is done")
    return EXIT_OK


def headlines(study: "Study") -> str:
    """Say what is asked of which data."""
    task, windows = study.config.task, study.windows
    lines = [
        f"same {task.label}? {len(windows.label_N)} windows of {task.length} volumes, labels "
        f"{', '.join(windows.labels)}; {len(set(windows.person_N))} people, {len(set(windows.run_N))} runs, "
        f"{task.protocol} pairs, {study.config.n_folds} folds by {study.config.folds_by}"
    ]
    if windows.n_lost:
        why = "their window leaves the run or meets a censored volume"
        lines.append(f"{windows.n_lost} events left out: {why}")
    times = sorted({f"{t_r:g}" for t_r in windows.t_r_N.tolist()})
    if task.label_of == "run" and len(times) > 1:
        lines.append(
            f"warning: windows differ in repetition time ({', '.join(times)} s), which rotary positions "
            "show; where they go with the label, name data sets of one t_r in `datasets`"
        )
    return "\n".join(lines)


def check_design(study: "Study") -> list[tuple["Pairs", "Pairs"]]:
    """Refuse encoders that do not suit, and folds without pairs; return the pairs of every fold."""
    from fmriscale.study.encoders import check_encoder
    from fmriscale.study.jobs import arms, sizes

    for arm in arms(study.config):
        for fold in study.folds:
            check_encoder(study, fold, arm)
    smallest, full, seed = sizes(study.config)[0], sizes(study.config)[-1], study.config.seeds[0]
    if smallest != full:
        for fold in study.folds:
            study.pairs(fold, smallest, seed)
    return [study.pairs(fold, full, seed) for fold in study.folds]


def headline(result: dict[str, Any] | str) -> str:
    """Say on one line what a job gave."""
    if isinstance(result, str):
        return f"FAILED, {result}"
    if "epochs" not in result:
        names, auc = result["left_out"], result["scores"]["category"]["auc"]
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        pairs = f"{result['n_train']} training and {result['n_test']} test pairs"
        return f"left out {' '.join(names[:4])}{more}; {pairs}; window classifier AUC {auc:.3f}"
    last = result["epochs"][result.get("reported", 0) - 1]
    tested = "" if "reported" in result else " on its own training windows"
    took = ", ".join([f"{last['seconds']:.0f} s", *([result["precision"]] if "precision" in result else [])])
    return f"AUC {last['auc']:.3f}, accuracy {last['accuracy']:.3f}{tested} ({took})"


def finish(runner: "Runner", pairs: list[tuple["Pairs", "Pairs"]], identity: str, log: "StudyLog") -> None:
    """Make tables, summary and report from results that are all there, and end the study's MLflow run."""
    from fmriscale.reports.study import write_page
    from fmriscale.study.controls import commands, missing_control
    from fmriscale.study.design import describe
    from fmriscale.study.jobs import SUMMARY, Baselines, cells
    from fmriscale.study.progress import FINISHED
    from fmriscale.study.results import provenance
    from fmriscale.study.scores import Score
    from fmriscale.study.summary import summarise, tables
    from fmriscale.study.text import report_text

    study, results = runner.study, runner.results
    config, out = study.config, results.out
    for left in out.glob("*/.*.tmp"):  # by processes that were killed while they wrote
        left.unlink(missing_ok=True)
    of_cells = [results.load(cell) or {} for cell in cells(config)]
    of_folds = [results.load(Baselines(fold)) or {} for fold in range(config.n_folds)]
    baselines = [{name: Score(**score) for name, score in fold["scores"].items()} for fold in of_folds]
    summary = summarise(config, of_cells, baselines, provenance(study))
    summary["design"] = describe(study, pairs)
    control = missing_control(summary)
    summary["to_run"] = commands(config, control) if control else []
    text = report_text(summary)

    save_config(config, out / "config.yaml")
    for name, table in tables(of_cells, of_folds).items():
        atomic_write(out / name, table.to_csv(sep="\t", index=False, lineterminator="\n"))
    atomic_write(out / SUMMARY, json.dumps(summary, indent=1, allow_nan=False) + "\n")
    atomic_write(out / "report.txt", text + "\n")
    write_page(out, out / "report.html")

    log.finish(of_cells, summary)
    text = f"{text}\n\n{where(out, log.uri)}"
    # Written last: its presence says that tables, report and MLflow have everything.
    atomic_write(out / FINISHED, json.dumps({"hash": identity, "told": text}, indent=1) + "\n")
    say(f"\n{text}")
    if is_quiet():
        tell(f"{summary['verdict']['sentence']}\nreport   {out / 'report.html'}")


def where(out: Path, uri: str | None) -> str:
    """Tell where the results are and how each is opened."""
    results, curves = out / "results.tsv", out / "curves.tsv"
    lines = [f"report   {out / 'report.html'}   (any browser)"]
    lines += [f"results  {results}, {curves}   (column -t -s $'\\t' {results})"]
    lines += [] if uri is None else [f"MLflow   mlflow ui --backend-store-uri {uri}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
