"""Small runs on real ranks: DeepSpeed over gloo, in two processes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from factory import write_corpus
from ranks import clean_environment

from fmriscale.config import SplitConfig

SETTINGS = {
    "model": {"preset": "paper", "n_layers": 2, "dropout": 0.0},
    "train": {
        "steps": 12,
        "global_batch": 16,
        "max_micro_batch": 4,
        "warmup_steps": 2,
        "lr": 0.003,
        "schedule": "constant",
        "eval_every": 5,
        "eval_pairs": 26,
        "save_every": 6,
        "log_every": 4,
    },
    "tracking": {"enabled": False},
}


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a recipe for a tiny model on a corpus of two data sets; its user gives `--out`."""
    folder = tmp_path_factory.mktemp("corpora")
    datasets = {"alpha": {"subjects": 6}, "beta": {"subjects": 6, "t_r": 1.5, "n_volumes": 90}}
    write_corpus(folder / "toy", datasets=datasets, split=SplitConfig(val=0.3, test=0.0))
    path = folder / "tiny.yaml"
    path.write_text(json.dumps({"out": "unset", "data": {"corpus": str(folder / "toy")}, **SETTINGS}))
    return path


@pytest.fixture(scope="session")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[list]]:
    """Return a function that trains runs in sessions (ranks, [command lines]).

    The function returns, for each session, the exit code or error of each run.
    """

    def run(*wanted: tuple[int, list[list[str]]]) -> list[list]:
        path = tmp_path_factory.mktemp("runs") / "runs.json"
        path.write_text(json.dumps([{"ranks": n, "runs": runs} for n, runs in wanted]))
        worker = str(Path(__file__).with_name("worker.py"))
        done = subprocess.run(
            [sys.executable, worker, str(path)],
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=550,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(path.with_suffix(".out").read_text())

    return run
