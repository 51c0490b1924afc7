"""A study in MLflow while it runs: a parent run, a child run for every cell as it ends, the report at last.

MLflow is a view: all of it may fail, and stops nothing. However often a study is killed and taken up again,
it has one parent, whose id lies in the study's folder, and one child a cell, with the hash of its result.
"""

import contextlib
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock

from fmriscale.common.files import atomic_write, expand, writing_to
from fmriscale.common.version import __version__
from fmriscale.config import StudyConfig
from fmriscale.config.recipe import flatten, to_dict
from fmriscale.study.cells import Cell, Piece, cells
from fmriscale.study.runner import digest
from fmriscale.tracking import Tracker

if TYPE_CHECKING:
    import numpy as np

    from fmriscale.study.material import Material

BEGUN = "mlflow_run"
"""File of a study's folder with the hash of the study that is logged to MLflow, and the id of its run."""
TOLD = (".yaml", ".tsv", ".txt", ".png", ".html", ".json")
"""Files of a study's folder that are results: MLflow gets a copy."""


class Logbook:
    """The MLflow run of a study, from before its first cell to its end.

    Parameters
    ----------
    config : StudyConfig
        The study.
    material : Material
        What it is made from.
    identity : str
        Hash of the study: another one in the same folder has a run of its own.
    alone : bool
        This process does the whole study, or its end. A task of an array does not: it leaves the run open,
        and logs nothing where the store is a file of the study's folder, which one process writes.
    """

    def __init__(self, config: StudyConfig, material: "Material", identity: str, *, alone: bool) -> None:
        self.config, self.material, self.identity, self.alone = config, material, identity, alone
        self.out = expand(config.out)
        self.wanted = config.tracking.enabled and (alone or config.tracking.uri is not None)
        self._open()

    def _open(self) -> None:
        """Go on with the study's run, or make it; learn which cells it has."""
        self._tracker: Tracker | None = None
        self._children: defaultdict[str, dict[str, str]] = defaultdict(dict)
        """By cell the ids of its child runs, each with the hash of its result; "" where it was cut short."""
        if not self.wanted:
            return
        with writing_to(self.out), self._one_at_a_time():
            begun = self.out / BEGUN
            logged, _, run_id = begun.read_text().strip().partition(" ") if begun.exists() else ("", "", "")
            known = run_id if logged == self.identity else None
            name = f"study {self.out.resolve().name}"
            tracker = Tracker(self.config.tracking, self.out, name, run_id=known, tags={"fmriscale": "study"})
            if tracker.run_id and tracker.run_id != known:
                atomic_write(begun, f"{self.identity} {tracker.run_id}\n")
        self._tracker = tracker
        for child in tracker.children():
            whole = child["status"] == "FINISHED"
            self._children[child.get("cell", "")][child["run_id"]] = child.get("result", "") if whole else ""
        self._log_settings(tracker)

    @contextlib.contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Let tasks of an array, which start together, look one after the other whether there is a run."""
        self.out.mkdir(parents=True, exist_ok=True)
        if self.config.tracking.uri is None:
            yield
            return
        with FileLock(self.out / f".{BEGUN}.lock"):
            yield

    def _log_settings(self, tracker: Tracker) -> None:
        """Log the recipe, the number of cells, and the corpus."""
        config, corpus, space = self.config, self.material.corpus, self.material.space
        settings = flatten(to_dict(config))
        tracker.log_params(
            settings | {"corpus_fingerprint": corpus.fingerprint, "n_cells": len(cells(config))}
        )
        tracker.log_dataset(
            Path(config.corpus).name,
            digest=corpus.fingerprint,
            source=config.corpus,
            schema={"space": space.name, "n_features": space.n_features},
            profile={
                "n_runs": len(corpus.runs),
                "n_people": corpus.runs["person"].nunique(),
                "n_windows": len(self.material.windows.label_N),
                "fingerprint": corpus.fingerprint,
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._tracker and self.alone:
            self._tracker.close("KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED")

    @property
    def uri(self) -> str | None:
        """Where the run can be looked at; None where nothing is logged."""
        return self._tracker.uri if self._tracker and not self._tracker.off else None

    def add(self, piece: Piece, result: dict[str, Any] | str) -> None:
        """Log a cell that has ended, unless that is done: its place in the design, and its curve by epoch."""
        if self._tracker is None or not isinstance(piece, Cell):
            return
        mark, known = digest(result), self._children[piece.name]
        if mark in known.values():
            return
        for run_id in known:
            self._tracker.delete(run_id)
        known.clear()
        place = {"arm": piece.arm, "fold": piece.fold, "seed": piece.seed, "size": piece.size}
        tags = {"cell": piece.name, "result": mark, **{k: str(v) for k, v in place.items()}}
        if isinstance(result, str):
            child = self._tracker.child(piece.name, tags | {"failure": result[:500]})
            child.close("FAILED")
            known[child.run_id or ""] = ""
            return
        ended = (self.out / piece.file).stat().st_mtime
        started = ended - result["seconds"]
        child = self._tracker.child(piece.name, tags, started)
        counts = ("n_train", "n_test", "n_parameters", "n_trained", "reported")
        child.log_params({**place, **{name: result[name] for name in counts}})
        child.log_history(
            [
                (epoch["epoch"], started + epoch["seconds"], {k: v for k, v in epoch.items() if k != "epoch"})
                for epoch in result["epochs"]
            ]
        )
        child.close(ended=ended)
        known[child.run_id or ""] = mark
        finished = sum(any(marks.values()) for marks in self._children.values())
        self._tracker.log_metrics({"cells_finished": finished}, step=finished)

    def finish(self, results: list[dict[str, Any]], summary: dict[str, Any]) -> None:
        """Log the cells, means, figures, report and model that are not logged yet."""
        if self.wanted and (self._tracker is None or self._tracker.off):
            self._open()  # a server that was down may be back
        if self._tracker is None:
            return
        for cell, result in zip(cells(self.config), results, strict=True):
            self.add(cell, result)
        for name, arm in summary["arms"].items():
            whole = arm["by_condition"]["all"]
            means = {f"{name}_{figure}": whole[figure]["mean"] for figure in ("auc", "accuracy")}
            self._tracker.log_metrics({k: v for k, v in means.items() if v is not None}, step=0)
        for path in sorted(p for p in self.out.iterdir() if p.suffix in TOLD):
            self._tracker.log_artifact(path)
        if self.config.keep_model:
            # The folder's name is that of the study; what a registry cannot hold in a name is left out of it.
            name = re.sub(r"[^\w.-]", "_", self.out.resolve().name)
            self._tracker.log_model(
                self.out / "model",
                "fmriscale.model.classifier",
                name,
                example(self.material),
                f"fmriscale=={__version__}",
            )
        self._tracker.close()


def example(material: "Material", count: int = 2) -> dict[str, "np.ndarray"]:
    """Return what a model of the study can be asked: some pairs of windows and their repetition times, s."""
    windows = material.windows
    first, second = windows.bold_NLV[:count], windows.bold_NLV[-count:]
    named = {"left": first, "right": second, "t_r": windows.t_r_N[:count]}
    return {name: value.astype("float32") for name, value in named.items()}
