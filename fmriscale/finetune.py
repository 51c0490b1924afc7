"""`fmriscale finetune`: fresh and pre-trained arms on a same-label task, over folds and seeds, with controls.

Reads top to bottom: prepare, refuse what would fool us, run what is missing, then tables, report and MLflow.
Every piece (a cell, the baselines of a fold, the final fit) stands alone: processes, tasks of an array and
later runs of the same command share the work, and only all of them together make a summary.
"""

import argparse
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmriscale.common.array_tasks import add_flags, settle
from fmriscale.common.errors import EXIT_OK, UserError
from fmriscale.common.files import atomic_write, expand, writing_to
from fmriscale.common.workers import WorkerDied, available_cores, map_in_order
from fmriscale.config import StudyConfig
from fmriscale.config.recipe import CommandLine, parse, save_config
from fmriscale.corpus.manifest import require_corpus
from fmriscale.corpus.servers import is_url

if TYPE_CHECKING:
    from fmriscale.study.cells import Piece
    from fmriscale.study.material import Material
    from fmriscale.study.mlflow_log import Logbook
    from fmriscale.study.pairs import Pairs

FINISHED = "finished.json"
"""File of a study's folder that says it is complete."""


def main(args: list[str]) -> int:
    """Run the verb; return the exit code."""
    flags, recipe = read_flags(args)
    config = parse(StudyConfig, recipe, prog="fmriscale finetune")
    out = expand(config.out)
    for name, what in (("corpus.json", "a corpus"), ("metrics.jsonl", "a pre-training run")):
        if (out / name).exists():
            raise UserError(f"{out}: holds {what}, which a study would spoil; choose another out")
    if not is_url(config.corpus):
        require_corpus(expand(config.corpus))
    # One thread a process: cells run side by side, and results do not depend on the number of cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    from fmriscale.study import material as materials
    from fmriscale.study import runner as study
    from fmriscale.study import start
    from fmriscale.study.cells import SUMMARY, arms, pieces, sizes
    from fmriscale.study.mlflow_log import Logbook

    material = materials.prepare(config)
    print(headlines(config, material))
    for arm in arms(config):
        for fold in material.folds:
            start.check_encoder(config, material, fold, arm)
    # The design has pairs in every fold, on the smallest training side too, or it is refused here.
    full = sizes(config)[-1]
    pairs = {
        size: [materials.fold_pairs(config, material, fold, size, config.seeds[0]) for fold in material.folds]
        for size in {sizes(config)[0], full}
    }
    fingerprint, work = material.corpus.fingerprint, pieces(config)
    identity = study.study_hash(config, fingerprint)
    whole = all(study.finished(config, fingerprint, piece) for piece in work)
    if whole and flags.task_id is None and (earlier := finished_study(out, identity)):
        print(f"finished already, nothing to do\n\n{earlier}")
        return EXIT_OK
    materials.verify(material)
    with writing_to(out):
        for stale in (FINISHED, SUMMARY):  # of another recipe, or of cells that are gone
            (out / stale).unlink(missing_ok=True)

    alone = flags.task_id is None
    part = [] if flags.finish else work[flags.task_id or 0 :: flags.num_tasks or 1]
    with Logbook(config, material, identity, alone=alone) as logbook:
        if logbook.uri and not flags.finish:
            print(f"progress: mlflow ui --backend-store-uri {logbook.uri}", flush=True)
        run_missing(config, fingerprint, part, logbook)
        if complaint := study.complain(config, fingerprint, work if alone else part):
            again = shlex.join(["fmriscale", "finetune", *recipe])
            raise UserError(f"{out}: {complaint}. This runs them, and nothing else: {again}")
        if alone:
            with writing_to(out):
                finish(config, material, pairs[full], identity, logbook)
    if not alone:
        print(
            f"task {flags.task_id} of {flags.num_tasks}: its {len(part)} of {len(work)} results are there; "
            "--finish writes the summary when every task is done"
        )
    return EXIT_OK


# ---------------------------------------------------------------- before


def read_flags(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Take what says how to run from the command line; the rest is the recipe's."""
    parser = CommandLine(
        prog="fmriscale finetune",
        usage="fmriscale finetune --config FILE [--task-id I --num-tasks N | --finish] [--KEY VALUE]",
        add_help=False,
        allow_abbrev=False,
    )
    group = parser.add_argument_group("how to run (not part of the recipe)")
    add_flags(group, "compute part I = 0 ... N-1 of the cells", "write the summary when all parts are there")
    if {"-h", "--help"} & set(args):
        print(parser.format_help())
    flags, recipe = parser.parse_known_args(args)
    settle(flags)
    return flags, recipe


def headlines(config: StudyConfig, material: "Material") -> str:
    """Say what is asked of which data."""
    windows = material.windows
    told = (
        f"same {config.task.label}? {len(windows.label_N)} windows of {config.task.length} volumes, labels "
        f"{', '.join(windows.labels)}; {len(set(windows.person_N))} people, {len(set(windows.run_N))} runs, "
        f"{config.task.protocol} pairs, {config.n_folds} folds by {config.folds_by}"
    )
    if windows.n_lost:
        told += f"\n{windows.n_lost} events left out: their window leaves the run or meets a censored volume"
    times = sorted({f"{t_r:g}" for t_r in windows.t_r_N.tolist()})
    if config.task.label_of == "run" and len(times) > 1:
        told += (
            f"\nwarning: windows differ in repetition time ({', '.join(times)} s), which rotary positions "
            "show; where they go with the label, name data sets of one t_r in `datasets`"
        )
    return told


def finished_study(out: Path, identity: str) -> str | None:
    """Return what a finished study told at its end; None where it is not finished, or was another one."""
    try:
        finished = json.loads((out / FINISHED).read_text())
    except (OSError, ValueError):
        return None
    return finished["told"] if finished.get("hash") == identity else None


# ---------------------------------------------------------------- the work


def run_missing(config: StudyConfig, fingerprint: str, part: list["Piece"], logbook: "Logbook") -> None:
    """Run the pieces that have no valid result yet, side by side; tell each result on a line, and log it."""
    from fmriscale.study import runner as study

    missing = []
    for piece in part:
        if (earlier := study.finished(config, fingerprint, piece)) is None:
            missing.append(piece)
        else:
            logbook.add(piece, earlier)
    if len(missing) < len(part):
        print(f"{len(part) - len(missing)} of {len(part)} results are there and reused", flush=True)
    jobs = min(config.jobs or available_cores(), len(missing))
    work = [(config, fingerprint, piece) for piece in missing]
    started = time.monotonic()
    results = map_in_order(study.attempt, work, max(1, jobs))
    for count, (piece, result) in enumerate(zip(missing, results, strict=True), 1):
        if isinstance(result, WorkerDied):
            result = "two processes were killed over it (out of memory?): fewer --jobs"
            study.give_up(config, piece, result)
        left = (time.monotonic() - started) / count * (len(missing) - count)
        ahead = f"; {duration(left)} left" if count < len(missing) else ""
        print(f"{count}/{len(missing)} {piece.name}: {headline(result)}{ahead}", flush=True)
        logbook.add(piece, result)


def headline(result: dict[str, Any] | str) -> str:
    """Say on one line what a piece gave."""
    if isinstance(result, str):
        return f"FAILED, {result}"
    if "epochs" not in result:
        auc = result["scores"]["category"]["auc"]
        return (
            f"left out {some(result['left_out'])}; {result['n_train']} training and {result['n_test']} "
            f"test pairs; window classifier AUC {auc:.3f}"
        )
    last = result["epochs"][result.get("reported", 0) - 1]
    tested = "" if "reported" in result else " on its own training windows"
    return f"AUC {last['auc']:.3f}, accuracy {last['accuracy']:.3f}{tested} ({last['seconds']:.0f} s)"


def some(names: list[str], most: int = 4) -> str:
    """Name a few of many."""
    return " ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"about {seconds / size:.0f} {unit}"
    return f"about {seconds:.0f} s"


# ---------------------------------------------------------------- after


def finish(
    config: StudyConfig,
    material: "Material",
    pairs: list[tuple["Pairs", "Pairs"]],
    identity: str,
    logbook: "Logbook",
) -> None:
    """Make tables, summary and report from results that are all there, and end the study's MLflow run."""
    from fmriscale.reports.study import write_page
    from fmriscale.study import printed as report
    from fmriscale.study import runner as study
    from fmriscale.study import shuffled_order
    from fmriscale.study.baselines import Score
    from fmriscale.study.cells import SUMMARY, Baselines, cells
    from fmriscale.study.design import describe
    from fmriscale.study.summary import summarise
    from fmriscale.study.tables import tables

    out, fingerprint = expand(config.out), material.corpus.fingerprint
    for left in out.glob("*/.*.tmp"):  # by processes that were killed while they wrote
        left.unlink(missing_ok=True)
    results = [study.finished(config, fingerprint, cell) or {} for cell in cells(config)]
    folds = [study.finished(config, fingerprint, Baselines(fold)) or {} for fold in range(config.n_folds)]
    controls = [{name: Score(**score) for name, score in fold["scores"].items()} for fold in folds]
    summary = summarise(config, results, controls, study.provenance(config, material))
    summary["design"] = describe(config, material, pairs)
    summary["to_run"] = shuffled_order.commands(config) if shuffled_order.is_lacking(summary) else []
    told = report.printed(summary)

    save_config(config, out / "config.yaml")
    for name, table in tables(results, folds).items():
        atomic_write(out / name, table.to_csv(sep="\t", index=False, lineterminator="\n"))
    atomic_write(out / SUMMARY, json.dumps(summary, indent=1, allow_nan=False) + "\n")
    atomic_write(out / "report.txt", told + "\n")
    report.draw(out / "figure.png", summary)
    write_page(out)

    logbook.finish(results, summary)
    ending = f"{told}\n\n{where(out, logbook.uri)}"
    # Written last: its presence says that tables, report and MLflow have everything.
    atomic_write(out / FINISHED, json.dumps({"hash": identity, "told": ending}, indent=1) + "\n")
    print(f"\n{ending}")


def where(out: Path, uri: str | None) -> str:
    """Tell where the results lie and how each is opened."""
    lines = [
        f"report   {out / 'report.html'}   (any browser), {out / 'figure.png'}",
        f"results  {out / 'results.tsv'}, {out / 'curves.tsv'}   (column -t -s $'\\t' {out / 'results.tsv'})",
    ]
    if uri is not None:
        lines.append(f"MLflow   mlflow ui --backend-store-uri {uri}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
