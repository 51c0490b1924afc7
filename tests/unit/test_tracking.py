"""MLflow as a view of the work: what is kept, what may fail, and a real server with a database."""

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from toystudy import options, write_toy

from fmriscale.cli import run
from fmriscale.config import TrackingConfig
from fmriscale.model.classifier import SameLabel
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


def test_load_and_memory_of_the_machine_are_logged_on_request(store: Path):
    tracker = Tracker(TrackingConfig(system_metrics=1), store, "watched")
    client, run_id = MlflowClient(tracking_uri=tracker.uri), tracker.run_id or ""
    end = time.monotonic() + 30
    while "system/cpu_utilization_percentage" not in client.get_run(run_id).data.metrics:
        assert time.monotonic() < end
        time.sleep(0.2)
    tracker.close()
    assert client.get_run(run_id).data.metrics["system/system_memory_usage_megabytes"] > 0
    with pytest.raises(ValueError, match="at least 1 s"):
        TrackingConfig(system_metrics=0)


@pytest.fixture
def server(tmp_path: Path):
    """A real server with a database and its own store of artifacts; the address of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = tmp_path / "server.txt"
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
    try:
        end = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                break
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_study_of_tasks_on_a_server_has_cells_corpus_report_and_a_model_to_ask(server: str, tmp_path: Path):
    place = write_toy(tmp_path)
    changed = {"tracking__enabled": True, "tracking__uri": server, "tracking__experiment": "timbre"}
    client, command = MlflowClient(tracking_uri=server), options(place, "my study", **changed)

    def logged():
        [experiment] = [e for e in client.search_experiments() if e.name == "timbre"]
        runs = client.search_runs([experiment.experiment_id])
        [parent] = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
        return parent, [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]

    # Tasks of an array log their cells below one run, which the last step ends.
    for task, n_cells in ((1, 2), (0, 4)):
        assert run([*command, "--task-id", str(task), "--num-tasks", "2"]) == 0
        parent, children = logged()
        assert (parent.info.status, len(children)) == ("RUNNING", n_cells)
    assert run([*command, "--finish"]) == 0
    parent, children = logged()
    assert len(children) == 4 and all(r.info.status == "FINISHED" for r in (parent, *children))
    assert {"report.html", "figure.png"} <= {a.path for a in client.list_artifacts(parent.info.run_id)}
    [data] = [used.dataset for used in parent.inputs.dataset_inputs]
    fingerprint = json.loads((place / "corpus/corpus.json").read_text())["fingerprint"]
    assert data.name == "corpus" and fingerprint.startswith(data.digest) and len(data.digest) == 36
    assert json.loads(data.schema)["n_features"] == 12 and json.loads(data.profile)["n_people"] == 4

    version = client.get_model_version_by_alias("my_study", "champion")
    assert version.run_id == parent.info.run_id
    mlflow.set_tracking_uri(server)
    model = mlflow.pyfunc.load_model("models:/my_study@champion")
    assert model.metadata.signature.inputs.input_names() == ["left", "right", "t_r"]
    example = model.input_example
    assert {name: np.shape(value) for name, value in example.items()} == {
        **{"left": (2, 5, 12), "right": (2, 5, 12)},
        "t_r": (2,),
    }
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, 7, 5, 12), np.float32)
    pairs = {"left": left, "right": right, "t_r": np.full(7, 2.0, np.float32)}
    np.testing.assert_array_equal(model.predict(pairs), SameLabel(place / "my study/model").predict(pairs))
    kept = [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]
    assert any(path.name == "MLmodel" for path in kept)
    assert not [path for path in kept if path.suffix in (".pkl", ".pickle", ".pt", ".pth")]
