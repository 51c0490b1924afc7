"""Kills ranks of a run at random moments, and hangs one.

`killed_worker.py FOLDER KILLS` writes FOLDER/told.json. FOLDER/recipe.yaml is the recipe. This process
forks two ranks for every start of a run.
"""

import contextlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from worker import fork_ranks, warm_up

from fmriscale import train
from fmriscale.common.errors import UserError
from fmriscale.common.files import atomic_write
from fmriscale.training import abort, distributed

folder, n_kills = Path(sys.argv[1]), int(sys.argv[2])


def work(name: str, *options: str) -> int:
    """Run train.py as a rank; return its exit code."""
    line = ["--config", str(folder / "recipe.yaml"), "--out", str(folder / name), *options]
    return train.exit_code_of(lambda: train.main(line))


def start(name: str, *options: str) -> list[int]:
    """Start a run, or restart it; its ranks end with the exit code of train.py."""
    return fork_ranks(2, lambda: os._exit(work(name, *options)))


def end(pid: int, patience: float = 120) -> int:
    """Wait for a rank and return its exit code; kill the rank if it does not end in time."""
    limit = time.monotonic() + patience
    while not (found := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > limit:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(found[1])


def lines(name: str) -> int:
    record = folder / name / "metrics.jsonl"
    return record.read_bytes().count(b"\n") if record.exists() else 0


def wait_for(what, pids: list[int]) -> None:
    """Wait until `what()` is true, or a rank has ended."""
    while not what() and all(
        os.waitid(os.P_PID, p, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None for p in pids
    ):
        time.sleep(0.0005)


def kill_at(moment: str, rng: random.Random) -> dict:
    """Start the run and kill a rank: while it starts, in a step, or while a checkpoint is written."""
    before, ranks = lines("killed"), start("killed")
    if moment == "start":
        time.sleep(rng.uniform(0.0, 1.5))
    else:
        wait_for(lambda: lines("killed") != before, ranks)
        goal = lines("killed") + rng.randint(2, 9)
        wait_for(lambda: lines("killed") >= goal, ranks)
        if moment == "save":
            drafts = (folder / "killed/checkpoints").glob
            wait_for(lambda: any(drafts("*.tmp")), ranks)
        time.sleep(rng.uniform(0.0, 0.01))
    victim = rng.randint(0, 1)
    os.kill(ranks[victim], signal.SIGKILL)
    codes = [end(pid, 0.5) for pid in ranks]
    drafts = [p.name for p in (folder / "killed/checkpoints").glob("*.tmp")]
    return {"moment": moment, "victim": victim, "codes": codes, "drafts": drafts, "lines": lines("killed")}


def flip_a_byte() -> str:
    """Damage the newest checkpoint; return its folder."""
    newest = max((folder / "killed/checkpoints").glob("step_*[0-9]"))
    path = newest / "rank_00001.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return str(newest)


def log_of_its_own(name: str) -> None:
    """Redirect the errors and stacks of this rank into a file."""
    os.dup2(os.open(folder / f"{name}{os.environ['RANK']}.log", os.O_WRONLY | os.O_CREAT), 2)


def hang() -> dict:
    """Stop a rank in a step, and wake it when the other has ended: both must write their stacks."""

    def rank() -> None:
        log_of_its_own("hung")
        # Rank 1 wakes after its time to write stacks and before its own end, so that stacks do not mix.
        minutes = ("0.1", "0.12")[int(os.environ["RANK"])]
        os._exit(work("hung", "--train.hang_minutes", minutes, "--train.steps", "100000"))

    ranks = fork_ranks(2, rank)
    wait_for(lambda: lines("hung") > 5, ranks)
    os.kill(ranks[1], signal.SIGSTOP)
    waiting = end(ranks[0], 60)
    os.kill(ranks[1], signal.SIGCONT)
    return {"codes": [waiting, end(ranks[1], 60)]}


def orphans() -> dict:
    """Kill the launcher of ranks: nobody forwards a signal or tells them that the launcher is gone."""

    def rank() -> None:
        os.environ["TORCHELASTIC_RUN_ID"] = "a launcher whose children are the ranks"
        code = work("orphans", "--train.steps", "100000", "--train.save_every", "100000")
        atomic_write(folder / f"orphan{os.environ['RANK']}", str(code))  # read as soon as it exists
        os._exit(0)

    if not (launcher := os.fork()):
        os.setpgid(0, 0)
        fork_ranks(2, rank)
        signal.pause()
    told = [folder / f"orphan{rank}" for rank in range(2)]
    wait_for(lambda: lines("orphans") > 5 or told[0].exists(), [launcher])
    os.kill(launcher, signal.SIGKILL)
    end(launcher)
    limit = time.monotonic() + 60
    while not all(path.exists() for path in told) and time.monotonic() < limit:
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(launcher, signal.SIGKILL)
    return {"codes": [path.read_text() if path.exists() else "" for path in told], "steps": lines("orphans")}


def twice() -> None:
    """Train twice in one process, as in a notebook, with a mistake in between."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        del os.environ[name]
    codes = [work("once", "--train.steps", "3"), work("once", "--train.steps", "4", "--train.seed", "9")]
    codes.append(work("once more", "--train.steps", "3", "--train.zero_stage", "3"))
    left = [signal.getitimer(signal.ITIMER_REAL), os.environ.get("RANK")]
    (folder / "twice.json").write_text(json.dumps([codes, left]))


def slow_disk() -> dict:
    """Let rank 1 wait with its part of a checkpoint: it writes to a pipe that nobody reads for a while."""
    ranks = start("slow", "--train.steps", "78")
    wait_for(lambda: lines("slow") > 0, ranks)
    final = folder / "slow/checkpoints/step_0000075"
    draft = final.with_suffix(".tmp")
    draft.mkdir(parents=True)
    os.mkfifo(draft / "rank_00001.safetensors")
    parts = os.open(draft, os.O_RDONLY)  # a descriptor, because the folder is renamed
    wait_for(lambda: os.access("rank_00000.safetensors", os.F_OK, dir_fd=parts), ranks)
    time.sleep(1)
    there = sorted(path.name for path in final.parent.iterdir())
    with os.fdopen(os.open("rank_00001.safetensors", os.O_RDONLY, dir_fd=parts), "rb") as pipe:
        pipe.read()
    return {"codes": [end(pid) for pid in ranks], "meanwhile": there}


def refused_on_one_rank() -> dict:
    """Let DeepSpeed refuse the settings of one rank while the other waits for it inside DeepSpeed."""
    abort.PATIENCE_S, abort.GRACE_S = 1.0, 2.0
    wrong = ["--train.deepspeed", json.dumps({"zero_optimization": {"sub_group_size": "many"}})]

    def rank() -> None:
        os._exit(work("refused", *(wrong * (os.environ["RANK"] == "1"))))

    begun = time.monotonic()
    codes = [end(pid, 60) for pid in fork_ranks(2, rank)]
    return {"codes": codes, "seconds": time.monotonic() - begun}


def fall() -> None:
    """Let one rank abort with a bug and not end, while the other waits for it."""
    abort.GRACE_S = 2.0
    world = distributed.init_distributed()
    if world.rank == 1:
        distributed.abort(ZeroDivisionError("a bug"))
        signal.pause()
    distributed.all_gather_object("there?")


def lose_the_first() -> None:
    """Kill rank 0 while the other rank waits outside of any collective."""
    abort.PATIENCE_S = 1.0
    log_of_its_own("lost")
    world, joined = distributed.init_distributed(), folder / "lost1.joined"
    if world.is_main:
        wait_for(joined.exists, [])
        os.kill(os.getpid(), signal.SIGKILL)
    joined.touch()
    signal.pause()


def disagree() -> None:
    """Let one rank fail before the first step."""
    world = distributed.init_distributed()
    try:
        with distributed.agree_on_errors():
            if world.rank == 1:
                raise UserError("no corpus on this node")
    except UserError as error:
        (folder / f"disagreed{world.rank}").write_text(str(error))
    distributed.destroy()


warm_up()
told: dict = {"undisturbed": [end(pid) for pid in start("undisturbed")]}
rng = random.Random(5)
told["kills"] = []
for moment in (["start", "step", "save", "save"] * n_kills)[:n_kills]:
    if len(told["kills"]) == n_kills // 2:
        told["flipped"] = flip_a_byte()
    told["kills"].append(kill_at(moment, rng))
told["last"] = [end(pid) for pid in start("killed")]
told["hang"] = hang()
told["orphans"] = orphans()
told["twice"] = [end(pid) for pid in fork_ranks(1, twice)]
told["slow"] = slow_disk()
told["refused"] = refused_on_one_rank()
told["fallen"] = [end(pid, 60) for pid in fork_ranks(2, fall)]
told["lost"] = [end(pid, 60) for pid in fork_ranks(2, lose_the_first)]
told["disagreed"] = [end(pid) for pid in fork_ranks(2, disagree)]
(folder / "told.json").write_text(json.dumps(told))
