"""Forks ranks from one warm process, because starting Python and DeepSpeed costs more than training.

worker.py SESSIONS.json reads a list of {"ranks": N, "runs": [command lines of train.py]}. Each session has
N ranks, which do its runs one after the other. SESSIONS.out gets, by session, the exit code of each run or
the error that a user would see.
"""

import contextlib
import gc
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ranks import free_port

from fmriscale.common.errors import UserError
from fmriscale.common.randomness import mix
from fmriscale.config import PretrainConfig
from fmriscale.config.recipe import parse
from fmriscale.train import train
from fmriscale.training import distributed
from fmriscale.training.deepspeed_import import import_deepspeed
from fmriscale.training.resilience import StopRequest, Watchdog

LATE = (
    "deepspeed.runtime.zero.muon.muon_optimizer",  # it imports torch's compiler
    "deepspeed.module_inject.auto_ep_layer",
    *(f"fmriscale.training.{name}" for name in ("checkpoint", "console", "resume", "run", "trainer")),
)


def warm_up() -> None:
    """Load what ranks load late, so that forked ranks have it."""
    import_deepspeed(torch.device("cpu"))
    for name in LATE:
        importlib.import_module(name)
    mix(np.uint64(1))  # numba fills its tables of types at the first call
    gc.freeze()  # DeepSpeed collects garbage often, and would look at all that is imported


def fork_ranks(n: int, work: Callable[[], None]) -> list[int]:
    """Fork ranks, as a launcher does, which do some work; return their process ids."""
    place = {"WORLD_SIZE": str(n), "LOCAL_SIZE": str(n), "MASTER_ADDR": "127.0.0.1"}
    place["MASTER_PORT"] = str(free_port())
    pids = []
    for rank in range(n):
        if pid := os.fork():
            pids.append(pid)
            continue
        code = 1
        try:
            os.environ.update(place, RANK=str(rank), LOCAL_RANK=str(rank))
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return pids


def make(runs: list[list[str]], results: Path) -> None:
    """Do the runs of a session as one of its ranks."""
    world = distributed.init_distributed()
    told: list[int | str] = []
    for args in runs:
        config = parse(PretrainConfig, args)
        try:
            with contextlib.closing(Watchdog(config.train.hang_minutes)) as watchdog:
                told.append(train(config, world, StopRequest(), watchdog))
        except UserError as error:
            told.append(f"{error.exit_code}: {error}")
    if world.is_main:
        results.write_text(json.dumps(told))
    distributed.destroy()


def main() -> int:
    path = Path(sys.argv[1])
    warm_up()
    told, failed = [], 0
    for session in json.loads(path.read_text()):
        results = path.with_suffix(".session")
        for pid in fork_ranks(session["ranks"], lambda s=session, r=results: make(s["runs"], r)):
            failed += os.waitpid(pid, 0)[1] != 0
        if failed:
            break
        told.append(json.loads(results.read_text()))
    path.with_suffix(".out").write_text(json.dumps(told))
    return failed


if __name__ == "__main__":
    sys.exit(main())
