"""MLflow as a view of the work that may fail without stopping it; one process of a work talks to it."""

import contextlib
import functools
import importlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from filelock import FileLock

from fmriscale.common.errors import UserError
from fmriscale.common.trust import without_login
from fmriscale.config import TrackingConfig

Tags = dict[str, str]
MAX_VALUE = 6000  # Characters of a parameter's value that MLflow keeps
MAX_PARAMS, MAX_METRICS = 100, 1000  # Parameters and metrics that MLflow takes in one call
MAX_DIGEST = 36  # Characters of a data set's digest that MLflow keeps
ALIAS = "champion"  # Alias of the newest version of a registered model ("latest" is MLflow's own)


class _Store:
    """The connection that a tracker and its children share, and whether it still works."""

    def __init__(self, config: TrackingConfig, folder: Path) -> None:
        self.off = not config.enabled
        self.uri = config.uri or f"sqlite:///{folder / 'mlflow.db'}"
        self.client: Any = None
        self.experiment = ""

    def connect(self, experiment: str, folder: Path) -> None:
        """Open the store; make the experiment where there is none."""
        # A server that is down must cost seconds, not the minutes of MLflow's own retries.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for noisy in ("alembic", "mlflow.store.db.utils"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        from mlflow.tracking import MlflowClient

        folder.mkdir(parents=True, exist_ok=True)
        artifacts, lock = None, contextlib.nullcontext()
        if self.uri.startswith("sqlite:///"):
            database = Path(self.uri.removeprefix("sqlite:///")).resolve()
            # MLflow would leave artifacts in the working directory, and makes the tables of a new file
            # without looking whether another process does so too.
            artifacts = (database.parent / "mlartifacts").as_uri()
            lock = FileLock(database.with_name(f".{database.name}.lock"))
        with lock:
            self.client = MlflowClient(tracking_uri=self.uri)
            self.experiment = self._find_experiment(experiment, artifacts)

    def _find_experiment(self, name: str, artifacts: str | None) -> str:
        from mlflow.exceptions import MlflowException

        if known := self.client.get_experiment_by_name(name):
            return known.experiment_id
        try:
            return self.client.create_experiment(name, artifact_location=artifacts)
        except MlflowException:
            if known := self.client.get_experiment_by_name(name):  # another process has made it
                return known.experiment_id
            raise


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method of `Tracker` warn at the first failure, and do nothing from then on."""

    @functools.wraps(method)
    def call(tracker: "Tracker", *args: Any, **kwargs: Any) -> Any:
        store = tracker._store
        if store.off:
            return None
        try:
            return method(tracker, *args, **kwargs)
        except Exception as error:
            store.off = True
            if isinstance(error, ModuleNotFoundError) and error.name == "mlflow":
                error = UserError("tracking needs mlflow: pip install mlflow, or tracking.enabled: false")
            words = " ".join(str(error).split())[:300] if tracker.uri == store.uri else "it holds a login"
            what = f"MLflow at {tracker.uri} failed ({type(error).__name__}: {words})"
            print(f"fmriscale: warning: {what}; going on without it", file=sys.stderr)
            return None

    return call


class Tracker:
    """One MLflow run. No call ever raises: the first failure warns, and switches tracking off.

    The default store is `folder/mlflow.db`. `run_id` is a run to continue, or to replace if it is not there.
    """

    def __init__(
        self,
        config: TrackingConfig,
        folder: Path,
        name: str,
        *,
        run_id: str | None = None,
        tags: Tags | None = None,
    ) -> None:
        folder = Path(folder).resolve()
        self._store, self._monitor = _Store(config, folder), None
        self.run_id: str | None = self._open(config.experiment, folder, name, run_id, tags or {})
        if config.system_metrics is not None:
            self._watch_machine(config.system_metrics)

    @property
    def uri(self) -> str:
        """The tracking URI, for people to open; without a login."""
        return without_login(self._store.uri)

    @property
    def off(self) -> bool:
        """Nothing is logged (any more): tracking is disabled, or the store has failed."""
        return self._store.off

    @_guarded
    def _open(self, experiment: str, folder: Path, name: str, run_id: str | None, tags: Tags) -> str:
        self._store.connect(experiment, folder)
        from mlflow.exceptions import MlflowException

        if run_id:
            try:
                self._store.client.update_run(run_id, status="RUNNING")
                return run_id
            except MlflowException as error:
                print(f"fmriscale: MLflow run {run_id} is gone, a new one is made ({error})")
        return self._create_run(name, tags)

    @_guarded
    def _create_run(self, name: str, tags: Tags, started: float | None = None) -> str:
        run = self._store.client.create_run(self._store.experiment, _milliseconds(started), tags, name)
        return run.info.run_id

    @_guarded
    def _watch_machine(self, interval: int) -> None:
        """Start the thread that logs load and memory of this machine."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(
            self.run_id, interval, resume_logging=True, tracking_uri=self._store.uri
        )
        monitor.start()
        self._monitor = monitor

    @_guarded
    def log_params(self, params: dict[str, Any]) -> None:
        """Log parameters; those that the run already has keep their first value."""
        from mlflow.entities import Param

        known = self._store.client.get_run(self.run_id).data.params
        new = [Param(k, str(v)[:MAX_VALUE]) for k, v in params.items() if k not in known]
        for start in range(0, len(new), MAX_PARAMS):
            self._store.client.log_batch(self.run_id, params=new[start : start + MAX_PARAMS])

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Log numbers at a step, in one call."""
        self.log_history([(step, time.time(), metrics)])

    @_guarded
    def log_history(self, history: list[tuple[int, float, dict[str, float]]]) -> None:
        """Log numbers at many steps: each with its step, time (s since 1970) and numbers by name."""
        from mlflow.entities import Metric

        rows = ((step, when, *item) for step, when, metrics in history for item in metrics.items())
        values = [Metric(name, float(value), int(1000 * when), step) for step, when, name, value in rows]
        for start in range(0, len(values), MAX_METRICS):
            self._store.client.log_batch(self.run_id, metrics=values[start : start + MAX_METRICS])

    @_guarded
    def log_artifact(self, path: Path | str, artifact_path: str | None = None) -> None:
        """Copy a file, or a folder with all in it, to the run's artifacts."""
        client = self._store.client
        log = client.log_artifacts if Path(path).is_dir() else client.log_artifact
        log(self.run_id, str(path), artifact_path)

    @_guarded
    def log_dataset(
        self, name: str, *, digest: str, source: str, schema: dict[str, Any], profile: dict[str, Any]
    ) -> None:
        """Log which data the run used."""
        from mlflow.entities import Dataset, DatasetInput
        from mlflow.exceptions import MlflowException

        kind = source.partition("://")[0] if "://" in source else "local"
        texts = (json.dumps(content) for content in ({"uri": source}, schema, profile))
        dataset = DatasetInput(Dataset(name, digest[:MAX_DIGEST], kind, *texts))
        for pause in (0.1, 0.3, 1.0, 3.0, None):
            try:
                return self._store.client.log_inputs(self.run_id, [dataset])
            except MlflowException:  # a server makes it twice when several runs use it first
                if pause is None:
                    raise
                time.sleep(pause)

    @_guarded
    def log_model(
        self, folder: Path, loader: str, registered: str, example: dict[str, Any], requirement: str
    ) -> None:
        """Log and register a model's folder, once a run; `loader` is the module that loads it (no pickle)."""
        import mlflow
        from mlflow import pyfunc
        from mlflow.exceptions import MlflowException
        from mlflow.models import Model, infer_signature

        client = self._store.client
        if client.search_model_versions(f"name = '{registered}' and run_id = '{self.run_id}'"):
            return
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        mlflow.set_tracking_uri(self._store.uri)
        mlflow.set_experiment(experiment_id=self._store.experiment)
        answer = importlib.import_module(loader)._load_pyfunc(str(folder)).predict(example)
        logged = Model.log(
            artifact_path=None,
            name="model",
            flavor=pyfunc,
            run_id=self.run_id,
            loader_module=loader,
            data_path=str(folder),
            signature=infer_signature(example, answer),
            input_example=example,
            pip_requirements=[requirement],
        )
        with contextlib.suppress(MlflowException):  # it is there already
            client.create_registered_model(registered)
        uri, model = logged.model_uri, logged.model_id
        version = client.create_model_version(registered, uri, self.run_id, model_id=model)
        client.set_registered_model_alias(registered, ALIAS, version.version)

    def child(self, name: str, tags: Tags | None = None, started: float | None = None) -> Self:
        """Open a run nested under this one, in the same store; started: s since 1970, None = now."""
        child = object.__new__(type(self))
        child._store, child._monitor = self._store, None
        tags = {"mlflow.parentRunId": self.run_id or "", **(tags or {})}
        child.run_id = self._create_run(name, tags, started)
        return child

    def children(self) -> list[dict[str, str]]:
        """Return the runs nested under this one, the oldest first: run_id, status, and all tags of each."""
        return self._search_children() or []

    @_guarded
    def _search_children(self) -> list[dict[str, str]]:
        query, runs, page = f"tags.`mlflow.parentRunId` = '{self.run_id}'", [], None
        while True:
            order, experiments = ["start_time ASC"], [self._store.experiment]
            found = self._store.client.search_runs(experiments, query, order_by=order, page_token=page)
            runs += [{"run_id": r.info.run_id, "status": r.info.status, **r.data.tags} for r in found]
            if not (page := found.token):
                return runs

    @_guarded
    def delete(self, run_id: str) -> None:
        """Delete a run of the store."""
        self._store.client.delete_run(run_id)

    def close(self, status: str = "FINISHED", ended: float | None = None) -> None:
        """End the run as FINISHED, FAILED or KILLED; ended: s since 1970, None = now."""
        if self._monitor is not None:
            self._monitor.finish()
        self._set_terminated(status, _milliseconds(ended))

    @_guarded
    def _set_terminated(self, status: str, end: int | None) -> None:
        self._store.client.set_terminated(self.run_id, status, end)


def flat_numbers(summary: dict[str, Any], prefix: str) -> dict[str, float]:
    """Flatten finite numbers under MLflow's names: `eval/acc_by_kind.same_run`."""
    flat: dict[str, float] = {}
    for key, value in summary.items():
        if isinstance(value, dict):
            flat |= flat_numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and math.isfinite(value):
            flat[prefix + key] = float(value)
    return flat


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(1000 * seconds)
