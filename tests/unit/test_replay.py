"""`fmriscale report RUN --to ...`: what other tools read back is what the record says."""

import itertools
import json
import math
import struct
import sys
import time
from pathlib import Path

import pytest

from fmriscale.cli import run
from fmriscale.reports.replay import read_record

START = 1_700_000_000.0


def line(step: int, loss: float | None = None, dated: bool = True) -> dict:
    content = {"step": step, "loss": math.exp(-step / 50) if loss is None else loss, "lr": 1e-3}
    content |= {"finite": True, "seen": {"abide": 8 * step}, "acc_by_kind": {"same_run": 0.5 + step / 1000}}
    content |= {"pairs_per_s": 100.0, "step_p50_s": 2.0, "space": "roi", "spike": None}
    return content | ({"time": START + 2 * step} if dated else {})


def evaluation(step: int) -> dict:
    return {"event": "eval", "step": step, "loss": 0.6 - step / 1000, "time": START + 2 * step + 1}


def write(folder: Path, lines: list[dict], end: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines) + end)
    (folder / "config.yaml").write_text("train: {lr: 0.001}\ntracking: {experiment: people}\n")


def record(n_steps: int) -> list[dict]:
    lines = [evaluation(0)]
    for step in range(1, n_steps + 1):
        lines += [line(step), *([evaluation(step)] if step % 10 == 0 else [])]
    return [*lines, {"event": "save", "step": n_steps, "error": None}]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    write(tmp_path / "runs" / "one", record(30), '{"step": 31, "lo')
    return tmp_path / "runs" / "one"


def scalars(where: Path) -> dict[str, list[tuple[int, float, float]]]:
    """Figures by name as TensorBoard reads them: step, time, value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(where), size_guidance={"tensors": 0, "scalars": 0})
    read.Reload()
    assert {"config"} <= set(read.Tags()["tensors"])
    (recipe,) = read.Tensors("config")
    assert b"    train: {lr: 0.001}" in recipe.tensor_proto.string_val[0]
    return {
        tag: [(event.step, event.wall_time, event.value) for event in read.Scalars(tag)]
        for tag in read.Tags()["scalars"]
    }


def test_tensorboard_reads_every_number_of_the_record_with_its_step_and_time(folder: Path, tmp_path: Path):
    assert run(["report", str(folder), "--to", "tensorboard", str(tmp_path / "tb")]) == 0
    found = scalars(tmp_path / "tb" / "one")
    steps = range(1, 31)
    assert [(s, w) for s, w, _ in found["train/loss"]] == [(s, START + 2 * s) for s in steps]
    assert [v for *_, v in found["train/loss"]] == pytest.approx([math.exp(-s / 50) for s in steps])
    assert [(s, v) for s, _, v in found["eval/loss"]] == [
        (s, pytest.approx(0.6 - s / 1000)) for s in (0, 10, 20, 30)
    ]
    assert found["train/seen.abide"][-1][2] == 240 and found["train/acc_by_kind.same_run"][-1][
        2
    ] == pytest.approx(0.53)
    assert not {"train/step", "train/time", "train/spike", "eval/step"} & set(found)


def test_a_second_replay_changes_nothing_and_one_of_a_run_that_went_on_appends(folder: Path, tmp_path: Path):
    command = ["report", str(folder), "--to", "tensorboard", str(tmp_path / "tb")]
    assert run(command) == 0
    (file,) = (tmp_path / "tb" / "one").iterdir()
    first, inode = file.read_bytes(), file.stat().st_ino
    assert run(command) == 0 and file.read_bytes() == first
    write(folder, record(40))
    assert run(command) == 0
    assert file.read_bytes().startswith(first) and file.stat().st_ino == inode, "an open TensorBoard goes on"
    assert [s for s, *_ in scalars(file.parent)["train/loss"]] == list(range(1, 41))


def test_a_run_that_resumed_from_an_earlier_step_has_no_step_twice(folder: Path, tmp_path: Path):
    command = ["report", str(folder), "--to", "tensorboard", str(tmp_path / "tb")]
    assert run(command) == 0
    again = [line(step, loss=9.0) for step in range(21, 26)]
    write(folder, [x for x in record(30) if x["step"] <= 20] + again)
    assert run(command) == 0
    losses = {s: v for s, _, v in scalars(tmp_path / "tb" / "one")["train/loss"]}
    assert len(losses) == 25 and losses[20] < 1 and all(losses[s] == 9.0 for s in range(21, 26))
    write(folder, record(30) + again)  # lines of two starts, as no run leaves them
    assert run(command) == 0
    found = scalars(tmp_path / "tb" / "one")["train/loss"]
    assert [s for s, *_ in found] == list(range(1, 31)) and found[22][2] == 9.0


def test_runs_lie_side_by_side_and_none_overwrites_another(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    where = ["--to", "tensorboard", str(tmp_path / "tb")]
    write(tmp_path / "others" / "one", record(5))
    write(tmp_path / "runs" / "two", record(5))
    assert (
        run(["report", str(folder), *where]) == run(["report", str(tmp_path / "runs" / "two"), *where]) == 0
    )
    capsys.readouterr()
    assert run(["report", str(tmp_path / "others" / "one"), *where]) == 2
    assert "holds events of another run" in capsys.readouterr().err
    assert len(scalars(tmp_path / "tb" / "one")["train/loss"]) == 30


def test_an_older_record_without_times_ends_when_its_file_was_written(folder: Path):
    write(folder, [line(step, dated=False) for step in range(1, 11)])
    points = read_record(folder).points
    assert points[-1].time == pytest.approx(time.time(), abs=60)
    assert [b.time - a.time for a, b in itertools.pairwise(points)] == pytest.approx([2.0] * 9)


def wandb_history(file: Path) -> tuple[dict, list[dict]]:
    """Settings and lines of the history in a .wandb file, whose blocks and records are LevelDB's."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, payload, records = file.read_bytes(), 7, b"", []
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        payload += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            records.append(Record.FromString(payload))
            payload = b""
    config, history = {}, []
    for entry in records:
        for item in (*entry.run.config.update, *entry.config.update):
            config[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        if entry.history.item:
            items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in entry.history.item}
            history.append(items)
    return config, history


def test_wandb_gets_the_same_numbers_in_files_without_a_network(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    for n_steps in (30, 40):
        write(folder, record(n_steps))
        assert run(["report", str(folder), "--to", "wandb"]) == 0
        told = capsys.readouterr().out
        assert "for project people; wandb sync " in told and told.count("\n") == 1
        (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
        config, history = wandb_history(file)
        assert config["train"] == {"lr": 0.001}
        assert [point["_step"] for point in history] == list(range(n_steps + 1))
        assert [p["_timestamp"] for p in history[1:]] == [START + 2 * s for s in range(1, n_steps + 1)]
        assert [p["train/loss"] for p in history[1:]] == pytest.approx(
            [math.exp(-s / 50) for s in range(1, n_steps + 1)]
        )
        assert {p["_step"]: p["eval/loss"] for p in history if "eval/loss" in p}[20] == pytest.approx(0.58)


@pytest.mark.parametrize(
    ("to", "words"),
    [
        (["tensorbord", "x"], "--to tensorbord: no such tool; did you mean 'tensorboard'?"),
        (["tensorboard"], "give the folder of its event files"),
        (["wandb", "a", "b"], "give one place, not 2"),
        (["tensorboard", "x", "--out", "y"], "--to draws no page"),
    ],
)
def test_what_cannot_be_replayed_is_refused_on_one_line(folder: Path, to: list[str], words: str, capsys):
    assert run(["report", str(folder), "--to", *to]) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1


def test_a_study_a_run_without_steps_and_a_wrong_folder_are_refused(folder: Path, tmp_path: Path, capsys):
    (tmp_path / "study" / "cells").mkdir(parents=True)
    write(tmp_path / "early", [evaluation(0)])
    for name, words in (
        ("study", "a study or a probe; its figures are in results.tsv and in MLflow"),
        ("early", "no step yet"),
        ("runs/on", "no metrics.jsonl; did you mean "),
    ):
        assert run(["report", str(tmp_path / name), "--to", "tensorboard", str(tmp_path / "tb")]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "tb").exists()


@pytest.mark.parametrize("tool", ["tensorboard", "wandb"])
def test_a_tool_that_is_not_installed_is_named_with_the_command(
    folder: Path, tool: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for name in [name for name in sys.modules if name.partition(".")[0] == tool]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, tool, None)
    assert run(["report", str(folder), "--to", tool, *(["x"] if tool == "tensorboard" else [])]) == 2
    told = capsys.readouterr().err
    assert f"pip install 'fmriscale[{tool}]'" in told and told.count("\n") == 1
