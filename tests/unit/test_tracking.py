import math
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from fmriscale.config import TrackingConfig
from fmriscale.training.tracking import MAX_VALUE, Tracker


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the module: making the SQLite tables takes seconds."""
    return tmp_path_factory.mktemp("store")


def test_params_metrics_artifacts_and_children_are_read_back(store: Path, tmp_path: Path):
    tracker = Tracker(TrackingConfig(), store, "pretrain", tags={"stage": "test"})
    tracker.log_params({"train.lr": 1e-3, "long": "x" * 20_000, **{f"p{i}": i for i in range(150)}})
    for step in range(3):
        tracker.log_metrics({"loss": 1.0 / (step + 1), "grad_norm": math.nan}, step)
    report = tmp_path / "report.md"
    report.write_text("hello")
    tracker.log_artifact(report, "final")
    child = tracker.child("cell", {"fold": "0"})
    child.log_metrics({"accuracy": 0.5}, 0)
    child.close()
    tracker.close()

    client = MlflowClient(tracking_uri=tracker.uri)
    run = client.get_run(tracker.run_id or "")
    assert run.info.status == "FINISHED" and run.info.run_name == "pretrain"
    assert run.data.params["train.lr"] == "0.001" and len(run.data.params) == 152
    assert len(run.data.params["long"]) == MAX_VALUE
    history = client.get_metric_history(tracker.run_id or "", "loss")
    assert [(m.step, m.value) for m in history] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert [a.path for a in client.list_artifacts(tracker.run_id or "", "final")] == ["final/report.md"]
    assert (store / "mlflow.db").exists() and (store / "mlartifacts").is_dir()
    nested = client.get_run(child.run_id or "")
    assert nested.data.tags["mlflow.parentRunId"] == tracker.run_id and nested.data.tags["fold"] == "0"


def test_a_run_is_continued_and_keeps_its_first_parameters(store: Path):
    first = Tracker(TrackingConfig(), store, "run")
    first.log_params({"lr": 1})
    first.log_metrics({"loss": 2.0}, 1)
    first.close("KILLED")
    again = Tracker(TrackingConfig(), store, "run", run_id=first.run_id)
    again.log_params({"lr": 2, "world_size": 4})
    again.log_metrics({"loss": 1.0}, 2)
    again.close()
    run = MlflowClient(tracking_uri=again.uri).get_run(again.run_id or "")
    assert again.run_id == first.run_id and run.info.status == "FINISHED"
    assert run.data.params == {"lr": "1", "world_size": "4"} and run.data.metrics["loss"] == 1.0


def test_an_unknown_run_is_replaced_by_a_new_one(store: Path):
    tracker = Tracker(TrackingConfig(), store, "run", run_id="0" * 32)
    assert tracker.run_id and tracker.run_id != "0" * 32


def test_a_store_that_fails_warns_once_and_never_raises(tmp_path: Path, capsys):
    (tmp_path / "file").write_text("a file where a folder should be")
    tracker = Tracker(TrackingConfig(), tmp_path / "file" / "store", "run")
    tracker.log_params({"a": 1})
    tracker.log_metrics({"b": 2}, 0)
    tracker.log_artifact("no/such/file")
    child = tracker.child("cell")
    child.close()
    tracker.close()
    assert tracker.run_id is None and child.run_id is None
    assert capsys.readouterr().err.count("warning: MLflow") == 1


def test_a_failure_later_on_switches_tracking_off(store: Path, capsys):
    tracker = Tracker(TrackingConfig(), store, "run")
    tracker.log_artifact("no/such/file")
    tracker.log_metrics({"b": 2}, 0)
    assert capsys.readouterr().err.count("warning: MLflow") == 1


def test_disabled_makes_no_store(tmp_path: Path):
    tracker = Tracker(TrackingConfig(enabled=False), tmp_path, "run")
    tracker.log_params({"a": 1})
    tracker.close()
    assert tracker.run_id is None and not list(tmp_path.iterdir())
