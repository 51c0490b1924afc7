"""A study in MLflow while it runs: a parent run, a child run for every cell as it ends, the report at last.

MLflow is a view: all of it may fail, and stops nothing. However often a study is killed and taken up again,
it has one parent, whose id is in the study's folder, and one child a cell, with the hash of its result.
"""

import contextlib
import re
from collections import defaultdict
from pathlib import Path
from typing import Any, Self

from filelock import FileLock

from fmriscale.common.files import atomic_write, expand, writing_to
from fmriscale.common.version import __version__
from fmriscale.config import TrackingConfig
from fmriscale.config.recipe import flatten, to_dict
from fmriscale.study.data import Study
from fmriscale.study.jobs import Cell, Job, cells
from fmriscale.study.results import digest
from fmriscale.tracking import Tracker

RUN_FILE = "mlflow_run"
"""File of a study's folder with the hash of the study that is logged to MLflow, and the id of its run."""
LOGGED_FILES = (".yaml", ".tsv", ".txt", ".html", ".json")
"""Files of a study's folder that are results: MLflow gets a copy."""


def open_tracker(
    tracking: TrackingConfig, out: Path, identity: str, name: str, tags: dict[str, str]
) -> Tracker:
    """Go on with the run of the results in a folder, or make it; another identity has one of its own."""
    file = out / RUN_FILE
    # Tasks of an array, which start together, look one after the other whether there is a run.
    lock = FileLock(out / f".{RUN_FILE}.lock") if tracking.uri else contextlib.nullcontext()
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        with lock:
            logged, _, run_id = file.read_text().strip().partition(" ") if file.exists() else ("", "", "")
            known = run_id if logged == identity else None
            tracker = Tracker(tracking, out, name, run_id=known, tags=tags)
            if tracker.run_id and tracker.run_id != known:
                atomic_write(file, f"{identity} {tracker.run_id}\n")
    return tracker


class StudyLog:
    """The MLflow run of a study, from before its first cell to its end.

    A study of another hash (`identity`) in the same folder has a run of its own. A task of an array (not
    `alone`) leaves the run open, and logs nothing where the store is a file of the study's folder, which one
    process writes.
    """

    def __init__(self, study: Study, identity: str, *, alone: bool) -> None:
        self.study, self.config, self.identity, self.alone = study, study.config, identity, alone
        self.out = expand(self.config.out)
        tracking = self.config.tracking
        self.wanted = tracking.enabled and (alone or tracking.uri is not None)
        self._tracker: Tracker | None = None
        self._children: defaultdict[str, dict[str, str]] = defaultdict(dict)
        """By cell the ids of its child runs, each with the hash of its result; "" where it was cut short."""
        if self.wanted:
            self._open()

    def _open(self) -> None:
        """Go on with the study's run, or make it; learn which cells it has."""
        name, tags = f"study {self.out.resolve().name}", {"fmriscale": "study"}
        self._tracker = open_tracker(self.config.tracking, self.out, self.identity, name, tags)
        self._children.clear()
        for child in self._tracker.children():
            whole = child["status"] == "FINISHED"
            self._children[child.get("cell", "")][child["run_id"]] = child.get("result", "") if whole else ""
        self._log_settings(self._tracker)

    def _log_settings(self, tracker: Tracker) -> None:
        """Log the recipe, the number of cells, and the corpus."""
        config, study = self.config, self.study
        settings = flatten(to_dict(config))
        settings |= {"corpus_fingerprint": study.fingerprint, "n_cells": len(cells(config))}
        tracker.log_params(settings)
        tracker.log_dataset(
            Path(config.corpus).name,
            digest=study.fingerprint,
            source=config.corpus,
            schema={"space": study.space.name, "n_features": study.space.n_features},
            profile={
                "n_runs": len(study.runs),
                "n_people": study.runs["person"].nunique(),
                "n_windows": len(study.windows.label_N),
                "fingerprint": study.fingerprint,
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._tracker and self.alone:
            self._tracker.close("KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED")

    @property
    def uri(self) -> str | None:
        """Where the run can be looked at; None where nothing is logged."""
        return self._tracker.uri if self._tracker and not self._tracker.off else None

    def add(self, job: Job, result: dict[str, Any] | str) -> None:
        """Log a cell that has ended, unless that is done: its place in the design, and its curve by epoch."""
        if self._tracker is None or not isinstance(job, Cell):
            return
        result_hash, known = digest(result), self._children[job.name]
        if result_hash in known.values():
            return
        for run_id in known:
            self._tracker.delete(run_id)
        known.clear()
        cell = {"arm": job.arm, "fold": job.fold, "seed": job.seed, "size": job.size}
        tags = {"cell": job.name, "result": result_hash, **{k: str(v) for k, v in cell.items()}}
        if isinstance(result, str):
            child = self._tracker.child(job.name, tags | {"failure": result[:500]})
            child.close("FAILED")
            known[child.run_id or ""] = ""
            return
        ended = (self.out / job.file).stat().st_mtime
        started = ended - result["seconds"]
        child = self._tracker.child(job.name, tags, started)
        counts = ("n_train", "n_test", "n_parameters", "n_trained", "reported")
        child.log_params({**cell, **{name: result[name] for name in counts}})
        child.log_history(
            [
                (epoch["epoch"], started + epoch["seconds"], {k: v for k, v in epoch.items() if k != "epoch"})
                for epoch in result["epochs"]
            ]
        )
        child.close(ended=ended)
        known[child.run_id or ""] = result_hash
        finished = sum(any(hashes.values()) for hashes in self._children.values())
        self._tracker.log_metrics({"cells_finished": finished}, step=finished)

    def finish(self, results: list[dict[str, Any]], summary: dict[str, Any]) -> None:
        """Log the cells, means, report and model that are not logged yet."""
        if self.wanted and (self._tracker is None or self._tracker.off):
            self._open()  # a server that was down may be back
        if self._tracker is None:
            return
        for cell, result in zip(cells(self.config), results, strict=True):
            self.add(cell, result)
        for name, arm in summary["arms"].items():
            figures = arm["by_condition"]["all"]
            means = {f"{name}_{figure}": figures[figure]["mean"] for figure in ("auc", "accuracy")}
            self._tracker.log_metrics({k: v for k, v in means.items() if v is not None}, step=0)
        for path in sorted(p for p in self.out.iterdir() if p.suffix in LOGGED_FILES):
            self._tracker.log_artifact(path)
        if self.config.keep_model:
            # The folder's name is that of the study; what a registry cannot hold in a name is left out of it.
            name = re.sub(r"[^\w.-]", "_", self.out.resolve().name)
            windows = self.study.windows
            pairs = {"left": windows.bold_NLV[:2], "right": windows.bold_NLV[-2:], "t_r": windows.t_r_N[:2]}
            example = {side: value.astype("float32") for side, value in pairs.items()}
            loader, requirement = "fmriscale.model.classifier", f"fmriscale=={__version__}"
            self._tracker.log_model(self.out / "model", loader, name, example, requirement)
        self._tracker.close()
