"""slurm/pretrain.sh on a real Slurm: requests, limits, crashes and failing nodes; the run must not notice."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from factory import write_corpus

from fmriscale.config import SplitConfig
from fmriscale.model.encoder import Encoder

pytestmark = pytest.mark.slurm

STEPS = 80
CLOCK = ("pairs_per_s", "volumes_per_s", "flops_per_s", "mfu", "data_wait_share", "step_p50_s", "step_p95_s")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe for two ranks; give `--out`."""
    folder = tmp_path_factory.mktemp("recipe")
    write_corpus(folder / "corpus", split=SplitConfig(val=0.3, test=0.0))
    train = {
        "steps": STEPS,
        "global_batch": 16,
        "max_micro_batch": 1,
        "warmup_steps": 5,
        "zero_stage": 2,
        "save_every": 10,
    }
    settings = {
        "out": "unset",
        "data": {"corpus": str(folder / "corpus")},
        "model": {"n_layers": 2},
        "train": {**train, "eval_every": 0, "eval_pairs": 50, "log_every": 50},
        "tracking": {"enabled": False},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(settings))
    return path


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The steps of a run on two ranks that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    runs = [["--config", str(recipe), "--out", str(folder / "run")]]
    (folder / "runs.json").write_text(json.dumps([{"ranks": 2, "runs": runs}]))
    worker = [sys.executable, "tests/distributed/worker.py", str(folder / "runs.json")]
    done = subprocess.run(worker, cwd=repository, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return steps_of(folder / "run")


def steps_of(run: Path) -> list[dict]:
    """Step lines without what a clock measured."""
    path = run / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    drop = {*CLOCK, "memory_gib", "time"}
    return [{k: v for k, v in line.items() if k not in drop} for line in lines if "event" not in line]


def submit(cluster, repository: Path, run: Path, recipe: Path, *options: str, **env: str) -> tuple[str, Path]:
    """Submit a training; return its job id and its log."""
    log = run.with_suffix(".log")
    before = [option for option in options if not option.startswith("--train.")]
    after = [part for option in options if option.startswith("--train.") for part in option.split("=")]
    job = cluster.sbatch(
        *(*before, f"--output={log}", "slurm/pretrain.sh", recipe, "--out", str(run), *after),
        cwd=repository,
        OMP_NUM_THREADS="1",
        PATH=f"{Path(sys.executable).parent}:{cluster.path}",
        **env,
    )
    return job, log


def until(what, log: Path, timeout: float = 120) -> None:
    """Wait until something is true, or fail with the log."""
    end = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < end, log.read_text() if log.exists() else "no log"
        time.sleep(0.1)


def saved(run: Path) -> int:
    """Step of the newest checkpoint, 0 if there is none."""
    names = sorted(p.name for p in (run / "checkpoints").glob("step_*") if p.suffix != ".tmp")
    return int(names[-1].removeprefix("step_")) if names else 0


@pytest.fixture(scope="module")
def limited(
    slurm_cluster, recipe: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, Path]]:
    """A job that no signal asks before its time limit, and that may come back once: its id, log and run.

    It takes two minutes, beside the jobs of the other tests.
    """
    run = tmp_path_factory.mktemp("limited") / "run"
    job, log = submit(
        *(slurm_cluster, repository, run, recipe, "--nodelist=node03", "--time=1", "--signal=B:CONT@1"),
        "--train.steps=1000000",
        MAX_RESTARTS="1",
    )
    with slurm_cluster.slowed(run):
        yield job, log, run
    slurm_cluster.run("scancel", "--quiet", job)


@pytest.mark.usefixtures("limited")
def test_a_killed_rank_and_a_dead_node_cost_only_time(
    slurm_cluster, recipe: Path, undisturbed: list[dict], tmp_path: Path, repository: Path
):
    run = tmp_path / "run"
    job, log = submit(slurm_cluster, repository, run, recipe, "--nodes=2")
    try:
        until(lambda: saved(run) >= 10, log)
        slurm_cluster.kill_ranks(run, "node02")
        until(lambda: "start 2" in log.read_text() and "resumed from" in log.read_text(), log)
        until(lambda: "after a checkpoint" in log.read_text(), log)
        first = saved(run)
        until(lambda: saved(run) > first, log)
        with slurm_cluster.held(run):
            slurm_cluster.node("poweroff", "node02")
        fields = slurm_cluster.wait(job, timeout=150)
        told = log.read_text()
        assert fields["JobState"] == "COMPLETED" and fields["Restarts"] == "2", told
        assert "start 3, on node[01,03]" in told
        assert steps_of(run) == undisturbed
    finally:
        slurm_cluster.mend()


def test_a_cancelled_job_and_a_refused_configuration_do_not_come_back(
    slurm_cluster, recipe: Path, tmp_path: Path, repository: Path
):
    wrong, its_log = submit(
        slurm_cluster, repository, tmp_path / "wrong", recipe, "--train.stepz=1", "--ntasks-per-node=2"
    )
    run = tmp_path / "run"
    job, log = submit(slurm_cluster, repository, run, recipe, "--train.steps=1000000")
    until(lambda: saved(run) >= 10, log)
    slurm_cluster.run("scancel", job)
    fields = slurm_cluster.wait(job, timeout=60)
    assert (fields["JobState"], fields["Restarts"]) == ("CANCELLED", "0"), log.read_text()
    fields = slurm_cluster.wait(wrong, timeout=60)
    assert (fields["JobState"], fields["ExitCode"], fields["Restarts"]) == ("FAILED", "2:0", "0")
    assert its_log.read_text().count("train.stepz") == 1  # rank 0 tells it for all
    time.sleep(6)
    assert slurm_cluster.job(job)["JobState"] == "CANCELLED", log.read_text()


def test_a_job_stops_itself_before_its_time_limit_and_is_not_restarted_too_often(slurm_cluster, limited):
    job, log, run = limited
    fields = slurm_cluster.wait(job, timeout=150)
    told = log.read_text()
    assert told.count("asked to stop (time limit): saved at step") == 2 and "resumed from" in told
    assert "no more restarts: MAX_RESTARTS is 1" in told
    assert (fields["JobState"], fields["ExitCode"], fields["Restarts"]) == ("FAILED", "85:0", "1")
    steps = [line["step"] for line in steps_of(run)]
    assert steps == list(range(1, len(steps) + 1))


def test_a_request_to_stop_ends_in_the_same_run_though_slurmctld_was_restarted(
    slurm_cluster, recipe: Path, undisturbed: list[dict], tmp_path: Path, repository: Path
):
    run = tmp_path / "run"
    job, log = submit(slurm_cluster, repository, run, recipe, "--nodes=2")
    until(lambda: len(steps_of(run)) >= 5, log)
    with slurm_cluster.held(run):
        slurm_cluster.restart_controller()
        slurm_cluster.run("scancel", "--batch", "--signal=USR1", job)
        until(lambda: "the ranks are asked to save" in log.read_text(), log)
    fields = slurm_cluster.wait(job, timeout=150)
    told = log.read_text()
    assert fields["JobState"] == "COMPLETED" and fields["Restarts"] == "1", told
    assert "the ranks are asked to save" in told and "asked to stop" in told
    assert "start 1, on node" in told and "start 2, on node" in told and "resumed from" in told
    assert "2 x CPU (1 on this node" in told and "ZeRO stage 2" in told
    assert steps_of(run) == undisturbed
    meta = Encoder.from_pretrained(run / "encoder").meta
    assert meta["step"] == STEPS
    assert not list(repository.glob(f"slurm-{job}*"))


def test_gpus_without_cores_are_refused_with_the_remedy(slurm_cluster, repository, recipe, tmp_path):
    """Slurm gives a batch script of one task one CPU, however many GPUs it asks for."""
    job, log = submit(slurm_cluster, repository, tmp_path / "run", recipe, "--nodes=2", "--gpus-per-node=2")
    assert slurm_cluster.wait(job)["ExitCode"] == "2:0"
    assert "2 GPUs on a node, but 1 CPUs: add --exclusive --mem=0" in log.read_text()
    assert not (tmp_path / "run").exists()


def test_one_rank_per_gpu_with_their_share_of_the_cores(slurm_cluster, repository, recipe, tmp_path):
    """The GPUs are null devices, so the ranks train on the CPU; four of them, two on each node."""
    options = "--nodes=2", "--gpus-per-node=2", "--cpus-per-gpu=3", "--train.steps=3"
    job, log = submit(slurm_cluster, repository, tmp_path / "run", recipe, *options)
    assert slurm_cluster.wait(job, timeout=180)["JobState"] == "COMPLETED", log.read_text()
    assert "4 x CPU (2 on this node, 1 threads each)" in log.read_text()
