"""Who am I among the ranks? Read from deepspeed, torchrun, srun or nothing; and what ranks agree on."""

import contextlib
import datetime
import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from fmriscale.common.errors import EXIT_FAULT, EXIT_INTERRUPTED, UserError
from fmriscale.training.board import Board
from fmriscale.training.heap import keep_pages

TIMEOUT = datetime.timedelta(minutes=30)
"""Longest wait for another rank, at the start and in any exchange."""
_board: Board | None = None
"""Of this rank, from `join` to `leave`; None where there is one rank."""
_environment: dict[str, str | None] = {}
"""Variables that `join` has set, as they were before."""


@dataclass(frozen=True)
class Cluster:
    """The place of one process in the job.

    Attributes
    ----------
    rank, world_size : int
        Number of this process and of all of them.
    local_rank, local_size : int
        The same among the processes of this node.
    launcher : str
        What started us: deepspeed or torchrun (one environment), srun, or python.
    device : torch.device
        Where this rank computes.
    """

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    launcher: str
    device: torch.device

    @property
    def leads(self) -> bool:
        """Rank 0 writes the records and talks."""
        return self.rank == 0


def read_environment(env: Mapping[str, str]) -> dict[str, Any]:
    """Find rank, world size and meeting point in the variables that a launcher sets."""
    if "RANK" in env and "WORLD_SIZE" in env:
        # `deepspeed` says LOCAL_SIZE, torchrun says LOCAL_WORLD_SIZE.
        local_size = env.get("LOCAL_WORLD_SIZE") or env.get("LOCAL_SIZE") or "1"
        return {
            "rank": int(env["RANK"]),
            "world_size": int(env["WORLD_SIZE"]),
            "local_rank": int(env.get("LOCAL_RANK", "0")),
            "local_size": int(local_size),
            "launcher": "torchrun" if "TORCHELASTIC_RUN_ID" in env else "deepspeed",
            "address": env.get("MASTER_ADDR", "127.0.0.1"),
            "port": int(env.get("MASTER_PORT", "29500")),
        }
    # A batch script has SLURM_PROCID too; only a task of srun has a step.
    if "SLURM_PROCID" in env and ("SLURM_STEP_ID" in env or "SLURM_STEPID" in env):
        world_size = int(env.get("SLURM_STEP_NUM_TASKS") or env.get("SLURM_NTASKS") or "1")
        nodes = int(env.get("SLURM_STEP_NUM_NODES") or env.get("SLURM_NNODES") or "1")
        if nodes > 1 and "MASTER_ADDR" not in env:
            raise UserError(
                f"{world_size} ranks on {nodes} nodes and no MASTER_ADDR: start with slurm/pretrain.sh, or "
                "export MASTER_ADDR (the first host of the job) and MASTER_PORT before srun"
            )
        job = int(env.get("SLURM_JOB_ID", "0"))
        return {
            "rank": int(env["SLURM_PROCID"]),
            "world_size": world_size,
            "local_rank": int(env.get("SLURM_LOCALID", "0")),
            "local_size": max(1, world_size // nodes),
            "launcher": "srun",
            "address": env.get("MASTER_ADDR", "127.0.0.1"),
            "port": int(env.get("MASTER_PORT", str(20000 + job % 10000))),
        }
    alone = {"rank": 0, "world_size": 1, "local_rank": 0, "local_size": 1}
    return {**alone, "launcher": "python", "address": "127.0.0.1", "port": 0}


def join() -> Cluster:
    """Meet the other ranks (gloo on CPU, NCCL on GPU) and set up this process."""
    place = read_environment(os.environ)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    # With one GPU visible per task (srun --gpus-per-task=1) every rank's GPU is number 0.
    index = place["local_rank"] % gpus if gpus else place["local_rank"]
    device = torch.device("cuda", index) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    else:
        keep_pages()
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // place["local_size"]))
    ours = {
        "RANK": str(place["rank"]),
        "WORLD_SIZE": str(place["world_size"]),
        "LOCAL_RANK": str(index),  # DeepSpeed takes it for the number of the device
        "MASTER_ADDR": place["address"],
        "MASTER_PORT": str(place["port"] or _free_port()),
    }
    global _board, _environment
    _environment = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        backend = "nccl" if gpus else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT, device_id=device if gpus else None)
    except (RuntimeError, ValueError) as error:
        where = f"{place['address']}:{os.environ['MASTER_PORT']}"
        reason = " ".join(str(error).split())
        if "EADDRINUSE" in reason:
            raise UserError(
                f"{where} is taken by another job on this machine: give the launcher another --master_port"
            ) from error
        raise UserError(
            f"rank {place['rank']} of {place['world_size']} met nobody at {where} ({reason[:200]})"
        ) from error
    _board = Board(place["rank"], place["world_size"], TIMEOUT) if place["world_size"] > 1 else None
    return Cluster(
        place["rank"],
        place["world_size"],
        place["local_rank"],
        place["local_size"],
        place["launcher"],
        device,
    )


def leave() -> None:
    """Take leave of the other ranks, so that none of them sees a broken connection; `join` may follow."""
    global _board
    if _board:
        _board.close()
    if dist.is_initialized():
        dist.destroy_process_group()
    _board = None
    for name, value in _environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _environment.clear()


def alarm(error: BaseException) -> None:
    """End the other ranks too, wherever they wait: this one fails with an error that they do not have."""
    if _board:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        reason = " ".join(f"{kind}{error}".split())[:500]
        code = EXIT_FAULT if isinstance(error, Exception) else EXIT_INTERRUPTED
        _board.alarm(reason, error.exit_code if isinstance(error, UserError) else code)


def total(values: torch.Tensor) -> torch.Tensor:
    """Sum float64 values over all ranks, in place; every rank gets the same."""
    dist.all_reduce(values)
    return values


def everyones(value: Any) -> list[Any]:
    """Collect one plain value of each rank, in order of rank, on every rank."""
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def leaders(value: Any) -> Any:
    """Return rank 0's plain value on every rank."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Do what any rank may find impossible: where one does, all end there, and rank 0 tells why.

    Without this a rank that cannot go on would leave the others waiting for it. They meet at the board,
    not in an exchange: those that passed the point may be in one already, in DeepSpeed's say.
    """
    error = None
    try:
        yield
    except UserError as found:
        error = found
    if not _board:
        if error:
            error.agreed = True
            raise error
        return
    try:
        told = _board.meet(json.dumps((str(error), error.exit_code)) if error else "")
    except TimeoutError as alone:
        raise (error or alone) from alone
    if not told:
        return
    notes = {rank: json.loads(note) for rank, note in told.items()}
    reasons = {text: rank for rank, (text, _) in reversed(notes.items())}
    alike = len(reasons) == 1 and len(notes) == _board.world_size
    lines = [
        text if alike else f"rank {rank} of {_board.world_size}: {text}" for text, rank in reasons.items()
    ]
    agreed = UserError("; ".join(reversed(lines)))
    agreed.exit_code = max(code for _, code in notes.values())
    agreed.agreed = True
    raise agreed from error


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
