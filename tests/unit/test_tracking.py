"""MLflow as a view of the work: what is kept, what may fail, and a real server with a database."""

import contextlib
import json
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from multiprocessing.synchronize import Barrier
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from toystudy import options, write_toy

from fmriscale.cli import run
from fmriscale.config import StudyConfig, TrackingConfig
from fmriscale.config.recipe import parse
from fmriscale.model.classifier import SameLabel
from fmriscale.study.data import Study, open_study
from fmriscale.study.jobs import cells
from fmriscale.study.mlflow_log import StudyLog
from fmriscale.tracking import MAX_VALUE, Tracker


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


def begin(gate: Barrier, study: Study, task: int) -> None:
    """Be a task of an array that logs one cell, once all processes are ready."""
    gate.wait(60)
    with StudyLog(study, "study", alone=False) as log:
        log.add(cells(study.config)[task], "nothing came of it")


def all_begin(place: Path, uri: str) -> dict[str, list[str]]:
    """Start two tasks of one study and one of another at once; return the cells that MLflow has by study."""
    processes = multiprocessing.get_context("fork")  # the libraries are loaded, so that all arrive together
    gate, started = processes.Barrier(3), []
    for name, task in (("array", 0), ("array", 1), ("other", 0)):
        changed = {"tracking__enabled": True, "tracking__uri": uri, "tracking__experiment": "at once"}
        config = parse(StudyConfig, options(place, name, **changed)[1:])
        started.append(processes.Process(target=begin, args=(gate, open_study(config), task)))
    for process in started:
        process.start()
    for process in started:
        process.join(60)
        assert process.exitcode == 0
    client = MlflowClient(tracking_uri=uri)
    [experiment] = [e for e in client.search_experiments() if e.name == "at once"]
    runs = client.search_runs([experiment.experiment_id])
    found = {r.info.run_id: r.info.run_name for r in runs if "mlflow.parentRunId" not in r.data.tags}
    assert all(client.get_run(run_id).data.params["task.label"] == "timbre" for run_id in found)
    assert all(len(client.get_run(run_id).inputs.dataset_inputs) == 1 for run_id in found)
    below = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    return {
        name: sorted(r.data.tags["cell"] for r in below if r.data.tags["mlflow.parentRunId"] == run_id)
        for run_id, name in found.items()
    }


BEGUN_AT_ONCE = {
    "study array": ["fresh_fold0_seed0", "pretrained_fold0_seed0"],
    "study other": ["fresh_fold0_seed0"],
}


def test_tasks_and_studies_that_begin_at_once_share_a_new_database_and_a_run_a_study(tmp_path: Path, capfd):
    uri = f"sqlite:///{tmp_path}/store.db"
    assert all_begin(write_toy(tmp_path), uri) == BEGUN_AT_ONCE
    experiment = MlflowClient(tracking_uri=uri).get_experiment_by_name("at once")
    assert experiment and experiment.artifact_location == f"file://{tmp_path}/mlartifacts"
    assert "warning" not in capfd.readouterr().err


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
    assert all_begin(place, server) == BEGUN_AT_ONCE
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
    assert {"report.html", "report.txt"} <= {a.path for a in client.list_artifacts(parent.info.run_id)}
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
