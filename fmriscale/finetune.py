"""`fmriscale finetune`: fresh and pre-trained arms on a same-label task, over folds and seeds, with controls.

Reads top to bottom: open the study, refuse what would fool us, run what is missing, then tables, report and
MLflow; what a probe does alike is in `study/work.py`.
"""

import sys
from typing import TYPE_CHECKING, Any

from fmriscale.common.errors import EXIT_OK
from fmriscale.common.files import writing_to
from fmriscale.config import StudyConfig
from fmriscale.config.command_line import CommandLine
from fmriscale.study import work

if TYPE_CHECKING:
    from fmriscale.study.data import Study
    from fmriscale.study.mlflow_log import StudyLog
    from fmriscale.study.pairs import Pairs
    from fmriscale.study.results import Results


def parser_of_verb() -> CommandLine:
    """Return the options of the verb."""
    return work.parser_of("finetune", StudyConfig, "cells")


def main(args: list[str]) -> int:
    """Run the verb; return the exit code."""
    call = work.read_call(parser_of_verb(), "finetune", StudyConfig, "a study", args)
    from fmriscale.corpus.reader import Corpus
    from fmriscale.study.data import open_study
    from fmriscale.study.encoders import computation
    from fmriscale.study.learning import most_processes
    from fmriscale.study.mlflow_log import StudyLog
    from fmriscale.study.results import Results, study_hash
    from fmriscale.study.run import Runner

    corpus = Corpus.open(call.config.corpus)
    study = open_study(call.config, corpus)
    work.tell_headlines(headlines(study))
    pairs = check_design(study)
    work.say(computation(study))
    results = Results.of(study)
    identity = study_hash(study, results)
    if work.was_finished(call, results, identity):
        return EXIT_OK
    study.verify(corpus)
    with StudyLog(study, identity, alone=call.task is None) as log:
        if work.do_share(call, Runner(study).run, results, log, headline, most_processes()):
            with writing_to(call.out):
                finish(call, study, results, pairs, identity, log)
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


def finish(
    call: work.Call,
    study: "Study",
    results: "Results",
    pairs: list[tuple["Pairs", "Pairs"]],
    identity: str,
    log: "StudyLog",
) -> None:
    """Make tables, summary and report from results that are all there, and end the study's MLflow run."""
    from fmriscale.reports.study import write_page
    from fmriscale.study.controls import commands, missing_control
    from fmriscale.study.design import describe
    from fmriscale.study.jobs import Baselines, cells
    from fmriscale.study.results import provenance_of
    from fmriscale.study.scores import Score
    from fmriscale.study.summary import summarise, tables
    from fmriscale.study.text import report_text

    config, out = call.config, call.out
    for left in out.glob("*/.*.tmp"):  # by processes that were killed while they wrote
        left.unlink(missing_ok=True)
    of_cells = [results.load(cell) or {} for cell in cells(config)]
    of_folds = [results.load(Baselines(fold)) or {} for fold in range(config.n_folds)]
    baselines = [{name: Score(**score) for name, score in fold["scores"].items()} for fold in of_folds]
    summary = summarise(config, of_cells, baselines, provenance_of(study))
    summary["design"] = describe(study, pairs)
    control = missing_control(summary)
    summary["to_run"] = commands(config, control) if control else []
    text = report_text(summary)
    work.write_results(call, tables(of_cells, of_folds), summary, text)
    write_page(out, out / "report.html")
    log.finish(of_cells, summary)
    results_tsv = out / "results.tsv"
    where = f"{results_tsv}, {out / 'curves.tsv'}   (column -t -s $'\\t' {results_tsv})"
    work.end(call, identity, summary, text, where, log.uri)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
