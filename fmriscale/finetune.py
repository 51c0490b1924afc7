"""`fmriscale finetune`: fresh and pre-trained arms on a same-label task, over folds and seeds, with controls.

Reads top to bottom: prepare, refuse what would fool us, baselines, cells in parallel, tables, figure, MLflow.
"""

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from fmriscale.config import StudyConfig
from fmriscale.errors import EXIT_OK, UserError
from fmriscale.files import atomic_write, expand
from fmriscale.recipe import flatten, parse, save_config, to_dict

FINISHED = "finished.json"
"""File of a study's folder that says it is complete."""


def main(args: list[str]) -> int:
    """Run the verb; return the exit code."""
    config = parse(StudyConfig, args, prog="fmriscale finetune")
    # One thread a process: cells run side by side, and results do not depend on the number of cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    from fmriscale.evaluation import material as materials
    from fmriscale.evaluation import report, start, study
    from fmriscale.evaluation.baselines import baselines
    from fmriscale.evaluation.cells import cells
    from fmriscale.training.tracking import Tracker

    out = expand(config.out)
    material = materials.prepare(config)
    windows = material.windows
    description = (
        f"same {config.task.label}? {len(windows.label_N)} windows of {config.task.length} volumes, labels "
        f"{', '.join(windows.labels)}; {len(set(windows.person_N))} people, {len(set(windows.run_N))} runs, "
        f"{config.task.protocol} pairs, {config.n_folds} folds by {config.folds_by}"
    )
    print(description)
    if windows.n_lost:
        print(f"{windows.n_lost} events left out: their window leaves the run or meets a censored volume")
    if config.pretrained is not None:
        for fold in material.folds:
            start.check_encoder(config, material, fold)
    fingerprint = material.corpus.fingerprint
    identity = study.study_hash(config, fingerprint)
    whole = all(study.finished(config, fingerprint, cell) for cell in cells(config))
    if whole and (earlier := finished_study(out, identity)):
        print(f"finished already, nothing to do\n\n{earlier}")
        return EXIT_OK

    controls = []
    for fold in material.folds:
        train, test = materials.fold_pairs(config, material, fold)
        units = materials.units(config, material, fold, test)
        conditions = materials.conditions(config, material, test)
        scores = baselines(windows, train, test, units, conditions, seed=fold.number)
        controls.append(scores)
        print(
            f"fold {fold.number}: left out {config.folds_by} {' '.join(fold.left_out)}; "
            f"{len(train.same_P)} training and {len(test.same_P)} test pairs; "
            f"window classifier AUC {scores['category'].auc:.3f}"
        )

    save_config(config, out / "config.yaml")
    tracker = Tracker(config.tracking, out, f"study {out.name}", tags={"fmriscale": "study"})
    try:
        tracker.log_params(flatten(to_dict(config)) | {"corpus_fingerprint": fingerprint})
        results = list(run_cells(config, fingerprint))
        for result in results:
            log_cell(tracker, result)

        table, curves = report.tables(results, controls)
        for name, content in (("results.tsv", table), ("curves.tsv", curves)):
            atomic_write(out / name, content.to_csv(sep="\t", index=False, lineterminator="\n"))
        summary = report.text(config, description, results, controls, table, curves)
        atomic_write(out / "report.txt", summary + "\n")
        report.figure(out / "figure.png", f"Same {config.task.label}? ({out.name})", table, curves)

        for figure in ("auc", "accuracy"):
            means = report.fold_means(table, figure)
            tracker.log_metrics({f"{arm}_{figure}": by.mean() for arm, by in means.items()}, step=0)
        for name in ("config.yaml", "results.tsv", "curves.tsv", "report.txt", "figure.png"):
            tracker.log_artifact(out / name)
    except BaseException:
        tracker.close("FAILED")
        raise
    tracker.close()
    ending = f"{summary}\n\n{where(out, tracker.uri if tracker.run_id else None)}"
    # Written last: its presence says that tables, figure and MLflow have everything.
    atomic_write(out / FINISHED, json.dumps({"hash": identity, "told": ending}, indent=1) + "\n")
    print(f"\n{ending}")
    return EXIT_OK


def finished_study(out: Path, identity: str) -> str | None:
    """Return what a finished study told at its end; None where it is not finished, or was another one."""
    try:
        finished = json.loads((out / FINISHED).read_text())
    except (OSError, ValueError):
        return None
    return finished["told"] if finished.get("hash") == identity else None


def run_cells(config: StudyConfig, fingerprint: str) -> Iterator[dict[str, Any]]:
    """Yield the result of every cell in the order of the study; finished cells are read, not run again."""
    from fmriscale.evaluation import study
    from fmriscale.evaluation.cells import cells

    planned = cells(config)
    results = {cell: study.finished(config, fingerprint, cell) for cell in planned}
    missing = [cell for cell in planned if results[cell] is None]
    if len(missing) < len(planned):
        print(f"{len(planned) - len(missing)} of {len(planned)} cells are finished and reused")
    jobs = min(config.jobs or len(os.sched_getaffinity(0)), len(missing))
    if jobs == 1:
        done = ((cell, study.run_cell(config, cell)) for cell in missing)
    else:
        done = in_processes(config, missing, jobs)
    for count, (cell, result) in enumerate(done, len(planned) - len(missing) + 1):
        results[cell] = result
        last = result["epochs"][-1]
        print(
            f"cell {count}/{len(planned)} {cell.name}: AUC {last['auc']:.3f}, "
            f"accuracy {last['accuracy']:.3f} ({last['seconds']:.0f} s)",
            flush=True,
        )
    for cell in planned:
        yield results[cell] or {}


def in_processes(config: StudyConfig, cells: list[Any], jobs: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Run cells in parallel processes and yield them as they finish."""
    if not cells:
        return
    from fmriscale.evaluation import study

    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(study.run_cell, config, cell): cell for cell in cells}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BrokenProcessPool as error:
            raise UserError(
                f"{config.out}: a worker process died (out of memory?); finished cells are kept: "
                "run again, with fewer --jobs"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def log_cell(tracker: Any, result: dict[str, Any]) -> None:
    """Log a cell as a child run: its place in the design, and its curve by epoch."""
    place = {k: result[k] for k in ("arm", "fold", "seed")}
    name = f"{result['arm']} fold {result['fold']} seed {result['seed']}"
    child = tracker.child(name, {k: str(v) for k, v in place.items()})
    child.log_params({**place, "n_train": result["n_train"], "n_test": result["n_test"]})
    for epoch in result["epochs"]:
        child.log_metrics({k: v for k, v in epoch.items() if k != "epoch"}, step=epoch["epoch"])
    child.close()


def where(out: Path, uri: str | None) -> str:
    """Tell where the results lie and how each is opened."""
    lines = [
        f"figure   {out / 'figure.png'}   (any image viewer)",
        f"results  {out / 'results.tsv'}, {out / 'curves.tsv'}   (column -t -s $'\\t' {out / 'results.tsv'})",
    ]
    if uri is not None:
        lines.append(f"MLflow   mlflow ui --backend-store-uri {uri}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
