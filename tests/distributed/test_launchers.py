"""Every door to pre-training, with real launchers; the losses must not depend on the door."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ranks import clean_environment, evals_of, free_port, start_ranks, steps_of

from fmriscale.common.errors import EXIT_STOPPED
from fmriscale.model.encoder import Encoder

pytestmark = pytest.mark.distributed

PYTHON = Path(sys.executable)
DOORS = {
    "python": ([PYTHON], 1, 0),
    "deepspeed": ([PYTHON.with_name("deepspeed")], 1, 1),
    "module": ([PYTHON.with_name("deepspeed"), "--num_accelerators", "2", "--module"], 2, 2),
    "torchrun": ([PYTHON.with_name("torchrun"), "--nproc_per_node", "2"], 2, 3),
}
"""Command, ranks it must give, and the ZeRO stage that is tried with it."""


def launch(command: list, repository: Path, *options: str) -> subprocess.CompletedProcess:
    """Start train.py from the repository, or the module of the installed package from another folder."""
    script, folder = "fmriscale/train.py", repository
    if "--module" in command:
        script, folder = "fmriscale.train", repository.parent
    line = [*map(str, command), script, *options]
    return subprocess.run(
        line, cwd=folder, env=untracked_environment(), capture_output=True, text=True, timeout=300
    )


def untracked_environment() -> dict[str, str]:
    """Return a clean environment without MLflow, which the launcher of DeepSpeed would import for seconds."""
    places = [str(Path(__file__).parents[1] / "untracked"), os.environ.get("PYTHONPATH", "")]
    return clean_environment() | {"PYTHONPATH": os.pathsep.join(filter(None, places))}


def test_every_launcher_rank_count_and_zero_stage_gives_the_same_run(
    recipe: Path, repository: Path, tmp_path: Path
):
    curves, encoders = {}, {}
    for name, (command, ranks, stage) in DOORS.items():
        out = tmp_path / name
        port = ["--master_port", str(free_port())] if name != "python" else []
        options = ("--config", str(recipe), "--out", str(out), "--train.zero_stage", str(stage))
        done = launch([*command, *port], repository, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{ranks} x CPU" in done.stdout and f"ZeRO stage {stage}" in done.stdout
        curves[name] = [(x["step"], x["loss"], x["grad_norm"]) for x in steps_of(out)]
        curves[name] += [(x["step"], x["loss"], x["pairs"]) for x in evals_of(out)]
        encoders[name] = Encoder.from_pretrained(out / "encoder")

    first = encoders["python"]
    assert len(curves["python"]) == 12 + 4 and first.meta["step"] == 12
    left, right, t_r = torch.randn(4, 5, 12), torch.randn(4, 5, 12), torch.ones(4)
    for name in DOORS:
        for a, b in zip(curves["python"], curves[name], strict=True):
            assert a == pytest.approx(b, abs=1e-6), name
        # Outputs, not weights: a bias added to all keys has no gradient, and Adam makes much of its noise.
        given, expected = encoders[name](left, right, t_r), first(left, right, t_r)
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


def until(what, timeout: float = 240) -> None:
    """Wait until something is true."""
    end = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def lines_of(run: Path) -> int:
    record = run / "metrics.jsonl"
    return record.read_bytes().count(b"\n") if record.exists() else 0


def test_ranks_whose_launcher_died_save_and_end(recipe: Path, repository: Path, tmp_path: Path):
    # deepspeed hands on no TERM and no USR1: it dies of them, and leaves its ranks behind.
    out, log = tmp_path / "orphans", tmp_path / "log"
    options = ["--config", recipe, "--out", out, "--train.steps", "100000", "--train.save_every", "100000"]
    command = [PYTHON.with_name("deepspeed"), "--num_accelerators", "2", "--master_port", str(free_port())]
    with log.open("w") as handle:
        launcher = subprocess.Popen(
            [*command, "fmriscale/train.py", *options, "--train.eval_every", "0"],
            cwd=repository,
            env=untracked_environment(),
            stdout=handle,
            stderr=handle,
        )
    try:
        until(lambda: lines_of(out) >= 5 or launcher.poll() is not None)
        launcher.send_signal(signal.SIGTERM)
        assert abs(launcher.wait(60)) in (signal.SIGTERM, 128 + signal.SIGTERM)
        until(lambda: "asked to stop (the launcher is gone): saved at step" in log.read_text(), timeout=60)
        until(lambda: not processes_of(out))
    finally:
        for pid in processes_of(out):
            os.kill(pid, signal.SIGKILL)
    stopped = steps_of(out)[-1]["step"]
    assert (out / f"checkpoints/step_{stopped:07d}/manifest.json").exists()


def processes_of(run: Path) -> list[int]:
    """Processes that have this run on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if str(run).encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def resumed(record: Path, step: int) -> bool:
    """Tell whether the record goes on, whole, after a step."""
    return any(line.startswith(f'{{"step": {step + 2},') for line in record.read_text().splitlines())


def slurm_ranks(port: int) -> list[dict[str, str]]:
    """What srun sets in two tasks on one node."""
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_NNODES": "1"}
    place = {**step, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{**place, "SLURM_PROCID": str(r), "SLURM_LOCALID": str(r)} for r in range(2)]


def test_a_signal_to_one_rank_saves_on_all_and_the_restart_is_exactly_the_same_run(
    recipe: Path, repository: Path, tmp_path: Path, sessions
):
    options = [
        *("--config", str(recipe), "--model.dropout", "0.1", "--train.zero_stage", "2"),
        *("--train.steps", "160", "--train.save_every", "50", "--train.eval_every", "40"),
    ]
    command = [sys.executable, str(repository / "fmriscale/train.py"), *options, "--out", str(tmp_path / "b")]
    processes = start_ranks(command, slurm_ranks(free_port()))
    record, end = tmp_path / "b/metrics.jsonl", time.monotonic() + 120
    while not record.exists() or len(record.read_text().splitlines()) < 10:
        assert time.monotonic() < end and processes[1].poll() is None
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGUSR1)
    told = [p.communicate(timeout=120)[0] for p in processes]
    assert [p.returncode for p in processes] == [EXIT_STOPPED] * 2, "\n".join(told)
    assert "asked to stop" in told[0] and "started by srun" in told[0]
    stopped = steps_of(tmp_path / "b")[-1]["step"]
    assert 8 <= stopped < 160

    # The start that was lost had written on: those lines must go, and a torn one too.
    with record.open("a") as handle:
        handle.write(json.dumps({"step": stopped + 1, "loss": 9.9}) + '\n{"step": 3, "lo')
    # After the restart every process is told at once, as by scancel: no helper of a rank may die of it.
    processes = start_ranks(command, slurm_ranks(free_port()))
    until(lambda: resumed(record, stopped) or processes[0].poll() is not None)
    for process in processes:
        os.killpg(process.pid, signal.SIGTERM)
    told = [p.communicate(timeout=120)[0] for p in processes]
    assert [p.returncode for p in processes] == [EXIT_STOPPED] * 2, "\n".join(told)
    assert f"step_{stopped:07d}" in told[0] and "resumed from" in told[0]

    processes = start_ranks(command, slurm_ranks(free_port()))
    told = [p.communicate(timeout=240)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], "\n".join(told)

    assert sessions((2, [[*options, "--out", str(tmp_path / "a")]])) == [[0]]
    assert steps_of(tmp_path / "b") == steps_of(tmp_path / "a")
    assert evals_of(tmp_path / "b") == evals_of(tmp_path / "a")
    weights = [(tmp_path / run / "encoder/model.safetensors").read_bytes() for run in "ab"]
    assert weights[0] == weights[1]
