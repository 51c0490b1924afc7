"""Kill ranks of a run at random moments, and hang one: killed_worker.py FOLDER KILLS writes FOLDER/told.json.

FOLDER/recipe.yaml is the run. Every life is two ranks forked from this process.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from worker import fork_ranks, warm_up

from fmriscale import train
from fmriscale.errors import UserError
from fmriscale.training import board, cluster

folder, n_kills = Path(sys.argv[1]), int(sys.argv[2])


def start(name: str, *options: str) -> list[int]:
    """Begin a life of a run; its ranks end with the exit code of train.py."""
    line = ["--config", str(folder / "recipe.yaml"), "--out", str(folder / name), *options]
    return fork_ranks(2, lambda: os._exit(train.exit_code_of(lambda: train.main(line))))


def end(pid: int, patience: float = 120) -> int:
    """Wait for a rank, and return its exit code; kill it where it does not end."""
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
    """Wait until something is true, or a rank has ended."""
    while not what() and all(
        os.waitid(os.P_PID, p, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None for p in pids
    ):
        time.sleep(0.0005)


def kill_at(moment: str, rng: random.Random) -> dict:
    """One life that is cut short: while it starts, in a step, or while a checkpoint is written."""
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


def hang() -> dict:
    """A rank that is stopped in a step: the other must not wait for ever."""
    ranks = start("hung", "--train.hang_minutes", "0.1", "--train.steps", "100000")
    wait_for(lambda: lines("hung") > 5, ranks)
    os.kill(ranks[1], signal.SIGSTOP)
    waiting = end(ranks[0], 60)
    os.kill(ranks[1], signal.SIGCONT)
    return {"codes": [waiting, end(ranks[1], 60)]}


def slow_disk() -> dict:
    """Rank 1 cannot write its part of a checkpoint (it opens a pipe that nobody reads) until we let it."""
    ranks = start("slow", "--train.steps", "78")
    wait_for(lambda: lines("slow") > 0, ranks)
    final = folder / "slow/checkpoints/step_0000075"
    draft = final.with_suffix(".tmp")
    draft.mkdir(parents=True)
    os.mkfifo(draft / "rank_00001.safetensors")
    wait_for((draft / "rank_00000.safetensors").exists, ranks)
    time.sleep(1)
    there = sorted(path.name for path in final.parent.iterdir())
    with (draft / "rank_00001.safetensors").open("rb") as pipe:
        pipe.read()
    return {"codes": [end(pid) for pid in ranks], "meanwhile": there}


def refused_on_one_rank() -> dict:
    """DeepSpeed refuses the settings of one rank, while the other waits for it inside of DeepSpeed."""
    board.PATIENCE_S, board.GRACE_S = 1.0, 2.0
    line = ["--config", str(folder / "recipe.yaml"), "--out", str(folder / "refused")]
    wrong = ["--train.deepspeed", json.dumps({"zero_optimization": {"sub_group_size": "many"}})]

    def work() -> None:
        args = line + wrong * (os.environ["RANK"] == "1")
        os._exit(train.exit_code_of(lambda: train.main(args)))

    begun = time.monotonic()
    codes = [end(pid, 60) for pid in fork_ranks(2, work)]
    return {"codes": codes, "seconds": time.monotonic() - begun}


def fall() -> None:
    """One rank falls over something that no user can mend, and does not end; the other waits for it."""
    board.GRACE_S = 2.0
    place = cluster.join()
    if place.rank == 1:
        cluster.alarm(ZeroDivisionError("a bug"))
        signal.pause()
    cluster.everyones("there?")


def disagree() -> None:
    """One rank cannot go on before the first step."""
    place = cluster.join()
    try:
        with cluster.together():
            if place.rank == 1:
                raise UserError("no corpus on this node")
    except UserError as error:
        (folder / f"disagreed{place.rank}").write_text(str(error))
    cluster.leave()


warm_up()
told: dict = {"undisturbed": [end(pid) for pid in start("undisturbed")]}
rng = random.Random(5)
told["kills"] = [kill_at(moment, rng) for moment in (["start", "step", "save", "save"] * n_kills)[:n_kills]]
told["last"] = [end(pid) for pid in start("killed")]
print("one hangs", file=sys.stderr, flush=True)
told["hang"] = hang()
print("none hangs", file=sys.stderr, flush=True)
told["slow"] = slow_disk()
told["refused"] = refused_on_one_rank()
told["fallen"] = [end(pid, 60) for pid in fork_ranks(2, fall)]
told["disagreed"] = [end(pid) for pid in fork_ranks(2, disagree)]
(folder / "told.json").write_text(json.dumps(told))
