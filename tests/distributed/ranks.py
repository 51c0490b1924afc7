"""Starts ranks, and reads what they recorded."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path


def clean_environment() -> dict[str, str]:
    """Return the environment without the variables of a launcher or of Slurm."""
    ours = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    kept = {k: v for k, v in os.environ.items() if k not in ours and not k.startswith("SLURM_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**kept, "OMP_NUM_THREADS": "1", "PATH": path}


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start_ranks(command: list[str], environments: list[dict[str, str]]) -> list[subprocess.Popen]:
    """Start one process for each environment; each leads a process group of its own."""
    base = clean_environment()
    return [
        subprocess.Popen(
            command,
            env={**base, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )
        for env in environments
    ]


def steps_of(run: Path) -> list[dict]:
    """Return the step lines of a run's metrics.jsonl, without the figures that a clock measured."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clock = (
        "pairs_per_s",
        "windows_per_s",
        "volumes_per_s",
        "flops_per_s",
        "mfu",
        "data_wait_share",
        "step_p50_s",
        "step_p95_s",
    )
    clock += ("memory_gib", "time")
    return [{k: v for k, v in x.items() if k not in clock} for x in lines if "event" not in x]


def evals_of(run: Path) -> list[dict]:
    """Return the evaluation lines of a run's metrics.jsonl."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in x.items() if k != "time"} for x in lines if x.get("event") == "eval"]
