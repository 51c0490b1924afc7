"""Studies and probes in MLflow while they run, and their report at last.

MLflow is a view: all of it may fail, and stops nothing. However often a study is killed and taken up again,
it has one parent, whose id is in the study's folder, and one child a cell, with the hash of its result.
"""

import contextlib
import re
from abc import ABC, abstractmethod
from collections import defaultdict
from pathlib import Path
from typing import Any, Self

from filelock import FileLock

from fmriscale.common.files import atomic_write, expand, writing_to
from fmriscale.common.version import __version__
from fmriscale.config.recipe import flatten, to_dict
from fmriscale.study.data import Study
from fmriscale.study.jobs import Cell, Job, cells
from fmriscale.study.probe.data import Probe
from fmriscale.study.probe.jobs import Fit
from fmriscale.study.results import digest
from fmriscale.tracking import Tracker

RUN_FILE = "mlflow_run"
"""File of a study's folder with the hash of the study that is logged to MLflow, and the id of its run."""
LOGGED_FILES = (".yaml", ".tsv", ".txt", ".html", ".json")
"""Files of a study's folder that are results: MLflow gets a copy."""


class Log(ABC):
    """The MLflow run of a study or a probe, from before its first job to its end.

    One of another hash (`identity`) in the same folder has a run of its own. A process that is not `alone`,
    a task of an array, leaves the run open.
    """

    kind: str
    _tracker: Tracker | None = None

    def __init__(self, of: Study | Probe, identity: str, *, alone: bool, wanted: bool) -> None:
        self.config, self.fingerprint, self.space = of.config, of.fingerprint, of.space
        self.identity, self.alone, self.wanted = identity, alone, wanted and of.config.tracking.enabled
        self.out = expand(self.config.out)

    def open(self, counts: dict[str, int], profile: dict[str, int]) -> Tracker:
        """Go on with the run, or make it; log the recipe, the number of jobs, and the corpus."""
        file, tracking = self.out / RUN_FILE, self.config.tracking
        name, tags = f"{self.kind} {self.out.resolve().name}", {"fmriscale": self.kind}
        # Tasks of an array, which start together, look one after the other whether there is a run.
        lock = FileLock(self.out / f".{RUN_FILE}.lock") if tracking.uri else contextlib.nullcontext()
        with writing_to(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            with lock:
                logged, _, run_id = file.read_text().strip().partition(" ") if file.exists() else ("",) * 3
                known = run_id if logged == self.identity else None
                tracker = Tracker(tracking, self.out, name, run_id=known, tags=tags)
                if tracker.run_id and tracker.run_id != known:
                    atomic_write(file, f"{self.identity} {tracker.run_id}\n")
        settings = flatten(to_dict(self.config)) | {"corpus_fingerprint": self.fingerprint, **counts}
        tracker.log_params(settings)
        tracker.log_dataset(
            Path(self.config.corpus).name,
            digest=self.fingerprint,
            source=self.config.corpus,
            schema={"space": self.space.name, "n_features": self.space.n_features},
            profile={**profile, "fingerprint": self.fingerprint},
        )
        return tracker

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._tracker and self.alone:
            self._tracker.close("KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED")

    @property
    def uri(self) -> str | None:
        """Where the run can be looked at; None where nothing is logged."""
        return self._tracker.uri if self._tracker and not self._tracker.off else None

    @abstractmethod
    def add(self, job: Any, result: dict[str, Any] | str) -> None:
        """Log a result, or the reason why there is none."""

    def log_files(self, tracker: Tracker) -> None:
        """Log the files of the folder that are results."""
        for path in sorted(p for p in self.out.iterdir() if p.suffix in LOGGED_FILES):
            tracker.log_artifact(path)


class StudyLog(Log):
    """The MLflow run of a study, with a child run a cell.

    A task of an array logs nothing where the store is a file of the study's folder, which one process writes.
    """

    kind = "study"

    def __init__(self, study: Study, identity: str, *, alone: bool) -> None:
        wanted = alone or study.config.tracking.uri is not None
        super().__init__(study, identity, alone=alone, wanted=wanted)
        self.study = study
        self._children: defaultdict[str, dict[str, str]] = defaultdict(dict)
        """By cell the ids of its child runs, each with the hash of its result; "" where it was cut short."""
        if self.wanted:
            self._begin()

    def _begin(self) -> None:
        """Go on with the study's run, or make it; learn which cells it has."""
        people, windows = self.study.runs["person"], self.study.windows
        counts = {"n_people": people.nunique(), "n_windows": len(windows.label_N)}
        self._tracker = self.open(
            {"n_cells": len(cells(self.study.config))}, {"n_runs": len(people), **counts}
        )
        self._children.clear()
        for child in self._tracker.children():
            whole = child["status"] == "FINISHED"
            self._children[child.get("cell", "")][child["run_id"]] = child.get("result", "") if whole else ""

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
            self._begin()  # a server that was down may be back
        if self._tracker is None:
            return
        for cell, result in zip(cells(self.study.config), results, strict=True):
            self.add(cell, result)
        for name, arm in summary["arms"].items():
            figures = arm["by_condition"]["all"]
            means = {f"{name}_{figure}": figures[figure]["mean"] for figure in ("auc", "accuracy")}
            self._tracker.log_metrics({k: v for k, v in means.items() if v is not None}, step=0)
        self.log_files(self._tracker)
        if self.study.config.keep_model:
            # The folder's name is that of the study; what a registry cannot hold in a name is left out of it.
            name = re.sub(r"[^\w.-]", "_", self.out.resolve().name)
            windows = self.study.windows
            pairs = {"left": windows.bold_NLV[:2], "right": windows.bold_NLV[-2:], "t_r": windows.t_r_N[:2]}
            example = {side: value.astype("float32") for side, value in pairs.items()}
            loader, requirement = "fmriscale.model.classifier", f"fmriscale=={__version__}"
            self._tracker.log_model(self.out / "model", loader, name, example, requirement)
        self._tracker.close()


class ProbeLog(Log):
    """The MLflow run of a probe; a task of an array logs nothing: the one that writes the summary does."""

    kind = "probe"

    def __init__(self, probe: Probe, identity: str, n_fits: int, *, alone: bool) -> None:
        super().__init__(probe, identity, alone=alone, wanted=alone)
        self._n_done = 0
        if self.wanted:
            profile = {"n_runs": len(probe.table), "n_rows": len(probe.rows)}
            self._tracker = self.open({"n_fits": n_fits}, profile)

    def add(self, job: Fit, result: dict[str, Any] | str) -> None:
        """Count a fit that has ended."""
        if self._tracker and not isinstance(result, str):
            self._n_done += 1
            self._tracker.log_metrics({"fits_finished": self._n_done}, step=self._n_done)

    def finish(self, summary: dict[str, Any]) -> None:
        """Log the figures of every method, as a run of its own and together, and the report."""
        if self._tracker is None:
            return
        for child in self._tracker.children():
            self._tracker.delete(child["run_id"])
        for name, content in summary["methods"].items():
            figures = {figure: content[figure]["mean"] for figure in summary["figures"]}
            child = self._tracker.child(content["title"], {"method": name, "kind": content["kind"]})
            child.log_metrics(figures, step=0)
            child.close()
            self._tracker.log_metrics({f"{name}_{figure}": x for figure, x in figures.items()}, step=0)
        self.log_files(self._tracker)
        self._tracker.close()
