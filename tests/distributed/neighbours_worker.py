"""One rank that exchanges with others of its machine: neighbours_worker.py OUT writes what it found."""

import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import torch
import torch.distributed as dist

from fmriscale.training import neighbours

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BUFFER = 2**12


def exchange(near: neighbours.Neighbours, dtype: torch.dtype, size: int) -> dict[str, bool]:
    """Compare sums and collections of one size with what they must be."""
    rank, n_ranks = near.rank, near.n_ranks
    small = torch.arange(size) % 32  # sums of these are exact in 16 bits too
    total = (small + rank).to(dtype)
    near.all_reduce(total)
    drawn = torch.randn(size, generator=torch.Generator().manual_seed(rank)).to(dtype)
    near.all_reduce(drawn)
    everyones = [torch.empty_like(drawn) for _ in range(n_ranks)]
    dist.all_gather(everyones, drawn)
    parts = torch.empty(n_ranks, size, dtype=dtype)
    near.all_gather(parts.view(-1), (small + rank).to(dtype))
    expected = torch.stack([small + r for r in range(n_ranks)]).to(dtype)
    own = parts.clone()
    own[[r for r in range(n_ranks) if r != rank]] = 0
    near.all_gather(own.view(-1), own[rank])
    return {
        "sum": torch.equal(total, (n_ranks * small + sum(range(n_ranks))).to(dtype)),
        "alike": all(torch.equal(drawn, theirs) for theirs in everyones),
        "gathered": torch.equal(parts, expected) and torch.equal(own, expected),
    }


def shared_with(**attributes: object) -> bool:
    """Tell whether ranks share memory when this rank's os has other functions."""
    before = {name: getattr(os, name) for name in attributes}
    try:
        for name, value in attributes.items():
            setattr(os, name, value)
        return neighbours.share_memory() is not None
    finally:
        for name, value in before.items():
            setattr(os, name, value)


def fail(*_: object) -> None:
    raise OSError("refused")


warnings.filterwarnings("ignore", category=FutureWarning)
torch.set_num_threads(1)
neighbours.BUFFER = BUFFER
dist.init_process_group("gloo")
near = neighbours.share_memory()
assert near
sizes = (1, 2, 3, 7, BUFFER // 4, BUFFER // 4 + 1, 3 * BUFFER + 5)
large = torch.zeros(neighbours.SMALL)
told = {
    "exchanges": {f"{n} {name}": exchange(near, kind, n) for name, kind in TYPES.items() for n in sizes},
    "takes": [near.take(large, None), near.take(large[::2], None), near.take(large[:9], None)],
    "no room": shared_with(posix_fallocate=fail),
    "one is elsewhere": shared_with(**({"readlink": lambda _: "/dev/null"} if near.rank == 1 else {})),
    "one may not": shared_with(**({"readlink": fail} if near.rank == 2 else {})),
    "others": shared_with(),
    "mapped": [m for m in Path("/proc/self/maps").read_text().splitlines() if "fmriscale-" in m],
}
if near.rank == near.n_ranks - 1:
    Path(f"{sys.argv[1]}{near.rank}").write_text(json.dumps(told))
    near.all_reduce(torch.zeros(1))
    os.kill(os.getpid(), signal.SIGKILL)
near.all_reduce(torch.zeros(1))
begun = time.monotonic()
try:
    while True:
        near.all_reduce(large)
except RuntimeError as error:
    told |= {"lost": str(error), "after": time.monotonic() - begun}
Path(f"{sys.argv[1]}{near.rank}").write_text(json.dumps(told))
