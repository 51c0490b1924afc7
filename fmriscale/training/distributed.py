"""The ranks of a run: which one this process is, and what all of them agree on."""

import contextlib
import datetime
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from fmriscale.common import console
from fmriscale.common.errors import EXIT_FAULT, EXIT_INTERRUPTED, UserError
from fmriscale.training.abort import AbortChannel

TIMEOUT = datetime.timedelta(minutes=30)
"""Longest wait for another rank, at the start and in any collective."""
_channel: AbortChannel | None = None
"""Of this rank, from `init_distributed` to `destroy`; None where there is one rank."""
_environment: dict[str, str | None] = {}
"""Variables that `init_distributed` sets, with their values before."""


@dataclass(frozen=True)
class World:
    """A process among the ranks of a run."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    """Ranks on this node."""
    launcher: str
    """deepspeed, torchrun, srun or python."""
    device: torch.device
    """Where this rank computes."""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which prints and writes the records."""
        return self.rank == 0

    def print(self, text: str) -> None:
        """Print on rank 0 alone; a full disk or a closed pipe does not matter."""
        if self.is_main:
            with contextlib.suppress(OSError):
                console.tell(text)

    def say(self, text: str) -> None:
        """Print what --quiet leaves out."""
        if not console.is_quiet():
            self.print(text)


def read_environment(env: Mapping[str, str]) -> dict[str, Any]:
    """Find rank, world size and master address in the variables of deepspeed, torchrun, srun or nobody."""
    if "RANK" in env and "WORLD_SIZE" in env:
        # deepspeed sets LOCAL_SIZE, torchrun LOCAL_WORLD_SIZE.
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
        return {
            "rank": int(env["SLURM_PROCID"]),
            "world_size": world_size,
            "local_rank": int(env.get("SLURM_LOCALID", "0")),
            "local_size": max(1, world_size // nodes),
            "launcher": "srun",
            "address": env.get("MASTER_ADDR", "127.0.0.1"),
            "port": int(env.get("MASTER_PORT") or 20000 + int(env.get("SLURM_JOB_ID", "0")) % 10000),
        }
    alone = {"rank": 0, "world_size": 1, "local_rank": 0, "local_size": 1}
    return {**alone, "launcher": "python", "address": "127.0.0.1", "port": _free_port()}


def init_distributed() -> World:
    """Connect to the other ranks (gloo on CPU, NCCL on GPU) and set up this process."""
    global _channel
    found = read_environment(os.environ)
    address, port = found.pop("address"), found.pop("port")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    # With one GPU visible per task (srun --gpus-per-task=1) every rank's GPU is number 0.
    index = found["local_rank"] % gpus if gpus else found["local_rank"]
    world = World(**found, device=torch.device("cuda", index) if gpus else torch.device("cpu"))
    if gpus:
        torch.cuda.set_device(world.device)
        torch.set_float32_matmul_precision("high")  # TF32, whose peak `peak_flops` knows
    if "OMP_NUM_THREADS" not in os.environ:  # offloaded optimiser states are stepped here, by every rank
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // world.local_size))
    # DeepSpeed takes LOCAL_RANK for the number of the device.
    numbers = {"RANK": world.rank, "WORLD_SIZE": world.world_size, "LOCAL_RANK": index}
    numbers["LOCAL_WORLD_SIZE"] = world.local_size  # torchrun sets it, the other launchers do not
    variables = {**numbers, "MASTER_ADDR": address, "MASTER_PORT": port}
    alone: dict[str, Any] = {}
    if world.launcher == "python":  # nobody else is to be met: what listens, listens on this machine alone
        alone = {"store": HashStore(), "rank": 0, "world_size": 1}
        if sys.platform == "linux":
            variables["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    _environment.update({name: os.environ.get(name) for name in variables})
    os.environ.update({name: str(value) for name, value in variables.items()})
    try:
        backend = "nccl" if gpus else "gloo"
        device = world.device if gpus else None
        dist.init_process_group(backend, timeout=TIMEOUT, device_id=device, **alone)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        if "EADDRINUSE" in reason:
            raise UserError(
                f"{address}:{port} is taken by another job on this machine: give the launcher another "
                "--master_port"
            ) from error
        raise UserError(
            f"rank {world.rank} of {world.world_size} met nobody at {address}:{port} ({reason[:200]})"
        ) from error
    _channel = AbortChannel(world.rank, world.world_size, TIMEOUT) if world.world_size > 1 else None
    return world


def destroy() -> None:
    """Disconnect without breaking the connections of other ranks; `init_distributed` may follow."""
    global _channel
    if _channel:
        _channel.close()
    if dist.is_initialized():
        dist.destroy_process_group()
    _channel = None
    for name, value in _environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _environment.clear()


def abort(error: BaseException) -> None:
    """End the other ranks wherever they wait: this rank fails with an error that they do not have."""
    if _channel:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        reason = " ".join(f"{kind}{error}".split())[:500]
        code = EXIT_FAULT if isinstance(error, Exception) else EXIT_INTERRUPTED
        _channel.abort(reason, error.exit_code if isinstance(error, UserError) else code)


def all_gather_object(value: Any) -> list[Any]:
    """Return the plain values of all ranks, in order of rank, on every rank."""
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def broadcast_object(value: Any) -> Any:
    """Return the plain value of rank 0 on every rank."""
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def gather_vectors(own: Tensor) -> Tensor:
    """Return the rows of all ranks, in order of rank; the gradient flows into own rows alone.

    That gradient is multiplied by the number of ranks. Where every rank computes the same loss of all rows,
    the mean over ranks, which is what DeepSpeed takes, is then the gradient of that loss.
    """
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    if world_size == 1:
        return own
    rows = own.detach().contiguous()
    parts = [torch.empty_like(rows) for _ in range(world_size)]
    dist.all_gather(parts, rows)
    parts[dist.get_rank()] = rows + world_size * (own - rows)
    return torch.cat(parts)


def gather_rows(own: np.ndarray) -> np.ndarray:
    """Return equally many numbers of each rank, in order of rank."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return own
    device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
    return gather_vectors(torch.from_numpy(own).to(device)).cpu().numpy()


@contextlib.contextmanager
def agree_on_errors() -> Iterator[None]:
    """Raise a `UserError` of any rank on all ranks, so that none goes on to wait for one that failed.

    Ranks meet in the store, not in a collective: one that passed this point may be in another collective
    already, of DeepSpeed's for example.
    """
    error = None
    try:
        yield
    except UserError as own_error:
        error = own_error
    if not _channel:
        if error:
            error.agreed = True
            raise error
        return
    try:
        notes = _channel.gather_notes(json.dumps((str(error), error.exit_code)) if error else "")
    except TimeoutError as timeout:
        raise (error or timeout) from timeout
    if notes:
        raise _common_error({rank: json.loads(note) for rank, note in notes.items()}) from error


def _common_error(failures: dict[int, tuple[str, int]]) -> UserError:
    """Make one error of the message and exit code of each rank that failed."""
    assert _channel
    n_ranks = _channel.world_size
    first_rank = {message: rank for rank, (message, _) in reversed(failures.items())}
    if len(first_rank) == 1 and len(failures) == n_ranks:
        error = UserError(next(iter(first_rank)))
    else:
        lines = [f"rank {rank} of {n_ranks}: {message}" for message, rank in first_rank.items()]
        error = UserError("; ".join(reversed(lines)))
    error.exit_code = max(code for _, code in failures.values())
    error.agreed = True
    return error


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
