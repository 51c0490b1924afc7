"""A probe in MLflow: a run that counts the fits as they end, and at last a child run for every method."""

from pathlib import Path
from typing import Any, Self

from fmriscale.common.files import expand
from fmriscale.config.recipe import flatten, to_dict
from fmriscale.study.mlflow_log import LOGGED_FILES, open_tracker
from fmriscale.study.probe.data import Probe
from fmriscale.study.probe.jobs import Fit
from fmriscale.tracking import Tracker


class ProbeLog:
    """The MLflow run of a probe, from before its first fit to its end.

    A probe of another hash (`identity`) in the same folder has a run of its own. A task of an array (not
    `alone`) logs nothing: the task that writes the summary does.
    """

    def __init__(self, probe: Probe, identity: str, n_fits: int, *, alone: bool) -> None:
        self.probe, self.out, self._n_done = probe, expand(probe.config.out), 0
        tracking, self._tracker = probe.config.tracking, None
        if not alone or not tracking.enabled:
            return
        name, tags = f"probe {self.out.resolve().name}", {"fmriscale": "probe"}
        self._tracker: Tracker | None = open_tracker(tracking, self.out, identity, name, tags)
        settings = flatten(to_dict(probe.config))
        self._tracker.log_params(settings | {"corpus_fingerprint": probe.fingerprint, "n_fits": n_fits})
        self._tracker.log_dataset(
            Path(probe.config.corpus).name,
            digest=probe.fingerprint,
            source=probe.config.corpus,
            schema={"space": probe.space.name, "n_features": probe.space.n_features},
            profile={"n_runs": len(probe.table), "n_rows": len(probe.rows), "fingerprint": probe.fingerprint},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._tracker:
            self._tracker.close("KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED")

    @property
    def uri(self) -> str | None:
        """Where the run can be looked at; None where nothing is logged."""
        return self._tracker.uri if self._tracker and not self._tracker.off else None

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
        for path in sorted(p for p in self.out.iterdir() if p.suffix in LOGGED_FILES):
            self._tracker.log_artifact(path)
        self._tracker.close()
