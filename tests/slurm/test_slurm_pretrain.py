"""slurm/pretrain.sh on a real Slurm: two nodes, a request to stop, a requeue, and the end product."""

import json
import sys
import time
from pathlib import Path

import pytest
from factory import write_corpus

from fmriscale.config import SplitConfig
from fmriscale.model.export import load_encoder

pytestmark = pytest.mark.slurm

STEPS = 300


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus", split=SplitConfig(val=0.3, test=0.0))
    train = {"steps": STEPS, "global_batch": 16, "warmup_steps": 5, "zero_stage": 2, "save_every": 1000}
    settings = {
        "out": str(tmp_path / "run"),
        "data": {"corpus": str(tmp_path / "corpus")},
        "model": {"n_layers": 2},
        "train": {**train, "eval_every": 0, "eval_pairs": 50},
        "tracking": {"enabled": False},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(settings))
    return path


def steps_of(run: Path) -> list[int]:
    path = run / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line["step"] for line in lines if "event" not in line]


def test_two_nodes_stop_on_request_are_requeued_and_finish_the_same_run(
    slurm_cluster, recipe: Path, tmp_path: Path, repository: Path
):
    run, log = tmp_path / "run", tmp_path / "log.txt"
    job = slurm_cluster.sbatch(
        *("--nodes=2", f"--output={log}", "slurm/pretrain.sh", recipe, "--train.log_every", "50"),
        cwd=repository,
        OMP_NUM_THREADS="1",
        PATH=f"{Path(sys.executable).parent}:{slurm_cluster.path}",
    )
    slurm_cluster.wait(job, "RUNNING")
    end = time.monotonic() + 90
    while len(steps_of(run)) < 20:
        assert time.monotonic() < end, log.read_text() if log.exists() else "no log"
        time.sleep(0.1)
    slurm_cluster.run("scancel", "--batch", "--signal=USR1", job)
    fields = slurm_cluster.wait(job, ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"), timeout=150)
    told = log.read_text()
    assert fields["JobState"] == "COMPLETED" and fields["Restarts"] == "1", told
    assert "the ranks are asked to save" in told and "asked to stop" in told
    assert "life 1, on node" in told and "life 2, on node" in told and "resumed from" in told
    assert "2 x CPU (1 on this node" in told and "ZeRO stage 2" in told
    assert steps_of(run) == list(range(1, STEPS + 1))
    _, meta = load_encoder(run / "encoder")
    assert meta["step"] == STEPS


def test_a_refused_configuration_is_not_requeued(
    slurm_cluster, recipe: Path, tmp_path: Path, repository: Path
):
    log = tmp_path / "log.txt"
    job = slurm_cluster.sbatch(
        *(f"--output={log}", "slurm/pretrain.sh", recipe, "--train.stepz", "1"),
        cwd=repository,
        PATH=f"{Path(sys.executable).parent}:{slurm_cluster.path}",
    )
    fields = slurm_cluster.wait(job, timeout=60)
    assert (fields["JobState"], fields["ExitCode"], fields["Restarts"]) == ("FAILED", "2:0", "0")
    assert "train.stepz" in log.read_text()
