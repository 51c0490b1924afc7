"""--quiet leaves errors and results; progress is a bar on a terminal and a line now and then in a log."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
import yaml

from fmriscale import cli
from fmriscale.common import console

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "corpus"
    sizes = ["--n_subjects", "3", "--n_runs", "2", "--n_volumes", "40", "--timbre", "0", "--sound", "0"]
    assert cli.run(["simulate", "--form", "corpus", "--out", str(folder), *sizes]) == 0
    return folder


def on_a_terminal(args: list[str]) -> str:
    """What a terminal on stderr shows of a command."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    code = "from fmriscale import cli; cli.main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *args], stdout=theirs, stderr=theirs, env=env
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 65536):
                shown += piece
        except OSError:  # the other side is closed
            pass
    os.close(ours)
    assert process.returncode == 0, shown
    return shown.decode()


def test_a_terminal_has_a_bar_which_quiet_leaves_out(corpus: Path):
    shown = on_a_terminal(["verify", str(corpus)])
    assert "1/1 [" in shown and "shards/s" in shown and "no damage" in shown
    quiet = on_a_terminal(["verify", str(corpus), "--quiet"])
    assert quiet.strip().endswith("no damage") and quiet.count("\n") == 1


def test_a_log_has_a_line_now_and_then_and_no_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    console.set_quiet(False)
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    for item in console.counted(range(7), 7, "runs"):
        now[0] += 11.0 if item < 6 else 0.0
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["3 of 7 runs", "6 of 7 runs"]
    with console.Progress(3, "runs", done=1) as progress:
        progress.note, now[0] = "1 quarantined", now[0] + 31
        progress.update()
    assert capsys.readouterr().err == "2 of 3 runs, 1 quarantined\n"
    console.set_quiet(True)
    now[0] += 31
    progress.update()
    console.say("chatter")
    console.tell("result")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("result\n", "")
    console.set_quiet(False)


def test_quiet_holds_for_one_command(corpus: Path, capsys: pytest.CaptureFixture[str]):
    for args in (["--quiet", "verify", str(corpus)], ["verify", "-q", str(corpus)]):
        assert cli.run(args) == 0 and console.is_quiet()
    assert cli.run(["inspect", str(corpus)]) == 0 and not console.is_quiet()
    assert cli.run(["--quiet"]) == 0 and "usage: fmriscale VERB" in capsys.readouterr().out


def test_a_quiet_build_tells_its_size_and_its_quarantine(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for subject, n_volumes in (("01", 90), ("02", 90), ("03", 4)):
        bold = rng.normal(100, 5, (n_volumes, 6)).astype(np.float32)
        np.save(tmp_path / "data" / f"sub-{subject}_task-x_bold.npy", bold)
    recipe = {
        "out": str(tmp_path / "corpus"),
        "datasets": [
            {
                **{
                    "name": "a",
                    "kind": "arrays",
                    "root": str(tmp_path / "data"),
                    "files": "*.npy",
                    "t_r": 2.0,
                },
                "features": {"name": "p", "columns": 6},
            }
        ],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert cli.run(["shard", "--config", str(tmp_path / "recipe.yaml"), "--jobs", "1", "--quiet"]) == 3
    told = capsys.readouterr()
    first, second, *more = told.out.splitlines()
    assert first == f"{tmp_path / 'corpus'}: 2 runs of 2 people, 0.1 hours"
    assert second.startswith("quarantined: 1 ") and len(more) == 1 and "sub-03" in more[0]
    assert not told.err


def test_a_quiet_training_tells_where_its_encoder_is(corpus: Path, tmp_path: Path):
    run = ["pretrain", "--quiet", "--data.corpus", str(corpus), "--out", str(tmp_path / "run")]
    run += [
        "--train.steps",
        "2",
        "--train.global_batch",
        "8",
        "--tracking.enabled",
        "false",
        "--model.preset",
        "tiny",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    code = "from fmriscale import cli; cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *run], capture_output=True, text=True, env=env, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"done: {tmp_path / 'run' / 'encoder'}\n"
