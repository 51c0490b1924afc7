"""Small runs on real ranks: DeepSpeed over gloo, two processes."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from factory import write_corpus
from ranks import free_port, start_ranks

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
        "eval_pairs": 50,
        "save_every": 6,
        "log_every": 4,
    },
    "tracking": {"enabled": False},
}


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe for a tiny model on a corpus of two data sets; give `--out`."""
    folder = tmp_path_factory.mktemp("corpora")
    datasets = {"alpha": {"subjects": 6}, "beta": {"subjects": 6, "t_r": 1.5, "n_volumes": 90}}
    write_corpus(folder / "toy", datasets=datasets, split=SplitConfig(val=0.3, test=0.0))
    path = folder / "tiny.yaml"
    path.write_text(json.dumps({"out": "unset", "data": {"corpus": str(folder / "toy")}, **SETTINGS}))
    return path


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[list[str]]], list]:
    """Train runs, one after the other, on two ranks; return their exit codes or errors."""

    def run(command_lines: list[list[str]]) -> list:
        path = tmp_path_factory.mktemp("runs") / "runs.json"
        path.write_text(json.dumps(command_lines))
        port = str(free_port())
        place = {"WORLD_SIZE": "2", "LOCAL_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks = [{**place, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(2)]
        worker = str(Path(__file__).with_name("worker.py"))
        processes = start_ranks([sys.executable, worker, str(path)], ranks)
        told = [p.communicate(timeout=300)[0] for p in processes]
        assert [p.returncode for p in processes] == [0, 0], "\n".join(told)
        return json.loads(path.with_suffix(".out").read_text())

    return run
