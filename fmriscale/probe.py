"""`fmriscale probe`: decode any column from encoders, beside the baselines that labs use.

Reads top to bottom: open the probe, refuse what would fool us, run the fits that are missing, then table,
report and MLflow; what a study does alike is in `study/work.py`.
"""

import shutil
import sys
from typing import TYPE_CHECKING, Any

from fmriscale.common.errors import EXIT_OK
from fmriscale.common.files import writing_to
from fmriscale.config import ProbeConfig
from fmriscale.config.command_line import CommandLine
from fmriscale.study import work

if TYPE_CHECKING:
    from fmriscale.study.mlflow_log import ProbeLog
    from fmriscale.study.probe.data import Probe
    from fmriscale.study.results import Results


def parser_of_verb() -> CommandLine:
    """Return the options of the verb."""
    return work.parser_of("probe", ProbeConfig, "fits")


def main(args: list[str]) -> int:
    """Run the verb; return the exit code."""
    call = work.read_call(parser_of_verb(), "probe", ProbeConfig, "a probe", args)
    from fmriscale.corpus.reader import Corpus
    from fmriscale.study.learning import most_processes
    from fmriscale.study.mlflow_log import ProbeLog
    from fmriscale.study.probe.data import open_probe
    from fmriscale.study.probe.run import Runner, results_of
    from fmriscale.study.results import digest

    corpus = Corpus.open(call.config.corpus)
    probe = open_probe(call.config, corpus)
    work.tell_headlines(headlines(probe))
    results = results_of(probe)
    identity = digest(list(results.hashes.values()))
    if work.was_finished(call, results, identity):
        return EXIT_OK
    probe.verify(corpus)
    with ProbeLog(probe, identity, len(results.hashes), alone=call.task is None) as log:
        processes = 0 if call.config.train.adapt == "probe" else most_processes()
        if work.do_share(call, Runner(probe).run, results, log, headline, processes):
            with writing_to(call.out):
                finish(call, probe, results, identity, log)
    return EXIT_OK


def headlines(probe: "Probe") -> str:
    """Say what is asked of which data, what is left out, and how encoders compute."""
    from fmriscale.study.probe.features import computation
    from fmriscale.study.probe.folds import as_list

    config, rows = probe.config, probe.rows
    kind = f"{len(rows.classes)} classes" if rows.classes else "a number"
    by = " and ".join(as_list(config.folds_by))
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


def finish(call: work.Call, probe: "Probe", results: "Results", identity: str, log: "ProbeLog") -> None:
    """Make table, summary and report from results that are all there, and end the probe's MLflow run."""
    from fmriscale.reports.probe import write_page
    from fmriscale.study.probe.run import FEATURES
    from fmriscale.study.probe.summary import summarise, table_of
    from fmriscale.study.probe.text import report_text

    out, of_fits = call.out, [results.load(fit) or {} for fit in results.hashes]
    summary = summarise(probe, of_fits)
    text = report_text(summary)
    work.write_results(call, {"results.tsv": table_of(probe, of_fits)}, summary, text)
    write_page(out, out / "report.html")
    log.finish(summary)
    shutil.rmtree(out / FEATURES, ignore_errors=True)
    work.end(call, identity, summary, text, f"{out / 'results.tsv'}", log.uri)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
