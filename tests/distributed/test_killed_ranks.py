"""Ranks that are killed, hang or go blind: the run goes on to the same end, or says where it stands."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from factory import write_corpus
from ranks import clean_environment, steps_of

from fmriscale.common.errors import EXIT_STOPPED
from fmriscale.training.metrics import SPIKE

pytestmark = pytest.mark.distributed

WORKER = Path(__file__).with_name("killed_worker.py")
KILLS = 20


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the worker found: it forks all ranks from one warm process."""
    folder = tmp_path_factory.mktemp("killed")
    write_corpus(folder / "corpus")
    settings = {
        "data": {"corpus": str(folder / "corpus")},
        "model": {"preset": "tiny", "n_layers": 1, "dropout": 0.1},
        "train": {
            "steps": 90,
            "global_batch": 8,
            "warmup_steps": 2,
            "zero_stage": 2,
            "save_every": 3,
            "keep_last": 3,
            "eval_every": 0,
            "log_every": 1000,
        },
        "tracking": {"enabled": False},
    }
    (folder / "recipe.yaml").write_text(json.dumps({"out": "unset", **settings}))
    done = subprocess.run(
        [sys.executable, WORKER, folder, str(KILLS)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=420,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    told = json.loads((folder / "told.json").read_text())
    return told | {"folder": folder, "stdout": done.stdout, "stderr": done.stderr}


def test_twenty_kills_at_any_moment_leave_the_run_as_it_was(told: dict):
    assert told["undisturbed"] == told["last"] == [0, 0], told["stderr"][-3000:]
    assert all(x["spike"] < SPIKE for x in steps_of(told["folder"] / "undisturbed"))  # no false alarm
    assert len(told["kills"]) == KILLS
    assert all(-signal.SIGKILL in life["codes"] for life in told["kills"])
    assert any(life["drafts"] for life in told["kills"])  # some died with a checkpoint half written
    assert steps_of(told["folder"] / "killed") == steps_of(told["folder"] / "undisturbed")
    runs = [told["folder"] / name / "encoder/model.safetensors" for name in ("killed", "undisturbed")]
    assert runs[0].read_bytes() == runs[1].read_bytes()
    assert told["stdout"].count("resumed from") >= KILLS // 2
    damage = "is skipped: rank_00001.safetensors has other content than its sha256 tells"
    assert f"checkpoint {told['flipped']} {damage}" in told["stdout"]


def test_a_checkpoint_is_one_only_when_every_rank_has_written_its_part(told: dict):
    # DeepSpeed names it in `latest` before that.
    slow = told["slow"]
    assert slow["codes"] == [0, 0]
    assert slow["meanwhile"] == ["step_0000066", "step_0000069", "step_0000072", "step_0000075.tmp"]


LOOP = 'fmriscale/train.py", line'


def test_every_rank_of_a_run_that_hangs_tells_where_it_stands_before_any_of_them_ends(told: dict):
    assert told["hang"]["codes"] == [1, 1]
    waited, stopped = ((told["folder"] / f"hung{rank}.log").read_text() for rank in range(2))
    # Rank 0 told it, waited for a launcher's other ranks to do so too, and ended in time.
    head, tail = waited.split("Timeout (0:00:06)!")
    for stacks in (head, tail):
        assert all(part in stacks for part in ("all_reduce", LOOP, "thread.py"))
    # Rank 1 did so when it was woken, before it met the lost connection, or its own end.
    first = stopped.partition("Timeout (0:00:06)!")[0].partition("Traceback")[0]
    assert all(part in first for part in (LOOP, "most recent call first", "thread.py"))


def test_a_rank_that_lost_rank_0_ends_and_tells_where_it_stood(told: dict):
    assert told["lost"] == [-signal.SIGKILL, 1]
    log = (told["folder"] / "lost1.log").read_text()
    assert "rank 1 ends: rank 0 is gone" in log and "in lose_the_first" in log


def test_ranks_whose_launcher_was_killed_save_and_end(told: dict):
    steps = told["orphans"]["steps"] - 1  # the last line tells of the save
    assert told["orphans"]["codes"] == [str(EXIT_STOPPED)] * 2 and steps > 5
    assert (told["folder"] / f"orphans/checkpoints/step_{steps:07d}/manifest.json").exists()


def test_one_process_may_train_twice(told: dict):
    assert told["twice"] == [0]
    codes, left = json.loads((told["folder"] / "twice.json").read_text())
    assert codes == [0, 2, 0] and left == [[0.0, 0.0], None]


def test_what_one_rank_finds_impossible_ends_all_of_them(told: dict):
    assert told["disagreed"] == [0, 0]
    said = [(told["folder"] / f"disagreed{rank}").read_text() for rank in range(2)]
    assert said == ["rank 1 of 2: no corpus on this node"] * 2


def test_what_deepspeed_refuses_on_one_rank_does_not_leave_the_others_waiting(told: dict):
    assert told["refused"]["codes"] == [2, 2] and told["refused"]["seconds"] < 30
    assert "rank 0 ends: rank 1 failed (train.deepspeed: DeepSpeed refuses these settings" in told["stderr"]


def test_a_rank_that_fails_and_cannot_end_is_ended_with_the_others(told: dict):
    assert told["fallen"] == [1, 1]
    assert "rank 0 ends: rank 1 failed (ZeroDivisionError: a bug)" in told["stderr"]
    assert "in fall" in told["stderr"].partition("(ZeroDivisionError: a bug)")[2]  # where rank 0 waited
