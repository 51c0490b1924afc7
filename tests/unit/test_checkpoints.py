"""Checkpoints: whole or not there; what may change in a run between its starts."""

import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fmriscale.common.errors import DamageError, UserError
from fmriscale.config import PretrainConfig
from fmriscale.config.recipe import parse, to_dict
from fmriscale.training import distributed
from fmriscale.training.checkpoint import Checkpoint, Checkpoints
from fmriscale.training.console import save_line
from fmriscale.training.distributed import World
from fmriscale.training.resume import changes, check_resumable

STATES = "rank_00000.safetensors"


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


class TinyEngine:
    """What `Checkpoints` asks of DeepSpeed's engine at stage 0."""

    def __init__(self, value: float = 0) -> None:
        self.module = torch.nn.Linear(3, 2)
        self.optimizer = torch.optim.AdamW(self.module.parameters())
        self.value = value

    def zero_optimization_stage(self) -> int:
        return 0

    @property
    def value(self) -> float:
        return float(self.module.bias.detach()[1])

    @value.setter
    def value(self, value: float) -> None:
        torch.nn.init.constant_(self.module.bias, value)


def save(checkpoints: Checkpoints, engine: TinyEngine, state: dict) -> dict:
    checkpoints.save(engine, {"world_size": 1, **state})
    figures = checkpoints.commit()
    checkpoints.close()
    return figures


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_STEP_ID"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield distributed.init_distributed()
    distributed.destroy()


@pytest.fixture
def saved(world: World, tmp_path: Path) -> Checkpoints:
    """Three checkpoints, of which two are kept."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", world, keep_last=2)
    for step in (5, 10, 15):
        assert not save(checkpoints, TinyEngine(step), {"step": step})["error"]
    return checkpoints


def test_the_newest_checkpoint_is_loaded_with_its_random_numbers(saved: Checkpoints):
    assert sorted(p.name for p in saved.folder.iterdir()) == ["step_0000010", "step_0000015"]
    found, skipped = saved.newest()
    assert found and found.state["step"] == 15 and not skipped
    drawn = torch.rand(3)
    engine = TinyEngine()
    saved.load(engine, found)
    assert engine.value == 15 and torch.equal(torch.rand(3), drawn)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda d: flip_byte(d / STATES), f"{STATES} has other content than its sha256"),
        (lambda d: (d / STATES).write_text("1"), f"{STATES} has 1 bytes instead of "),
        (lambda d: (d / STATES).unlink(), f"{STATES} is missing"),
        (lambda d: (d / "manifest.json").unlink(), "manifest.json"),
        (lambda d: (d / "manifest.json").write_text("{"), "manifest.json"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_with_its_reason(saved: Checkpoints, damage, reason: str):
    damage(saved.folder / "step_0000015")
    found, skipped = saved.newest()
    assert found and found.state["step"] == 10
    assert len(skipped) == 1 and "step_0000015" in skipped[0] and reason in skipped[0]
    save(saved, TinyEngine(), {"step": 12})
    assert sorted(p.name for p in saved.folder.iterdir()) == ["step_0000010", "step_0000012"]


@pytest.mark.parametrize(
    "name", [f"../step_0000010/{STATES}", "/etc/hostname", f"{STATES}/../x", "https://host/x", "C:\\x", ""]
)
def test_a_checkpoint_that_names_files_elsewhere_is_skipped(saved: Checkpoints, name: str):
    path = saved.folder / "step_0000015/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"] = {name: manifest["files"][STATES]}
    path.write_text(json.dumps(manifest))
    found, skipped = saved.newest()
    assert found and found.state["step"] == 10
    assert len(skipped) == 1 and "is no file of a checkpoint, and is not read" in skipped[0]


def test_what_was_not_committed_is_not_there(saved: Checkpoints):
    (saved.folder / "step_0000015").rename(saved.folder / "step_0000020.tmp")
    found, skipped = saved.newest()
    assert found and found.state["step"] == 10 and not skipped
    assert [p.name for p in saved.folder.iterdir()] == ["step_0000010"]


def test_an_old_checkpoint_that_cannot_be_removed_stays_and_is_named(saved: Checkpoints, capsys, monkeypatch):
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("fmriscale.training.checkpoint._remove", refuse)
    assert not save(saved, TinyEngine(), {"step": 20})["error"]
    assert "an old checkpoint is not removed: Permission denied" in capsys.readouterr().out
    found, skipped = saved.newest()
    assert found and found.state["step"] == 20 and not skipped


def test_checkpoints_that_are_to_stay_stay(world: World, tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, world, keep_last=1, keep_every=20)
    for step in range(5, 50, 5):
        save(checkpoints, TinyEngine(), {"step": step, "best": {"step": min(step, 15), "loss": 0.1}})
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"step_00000{n}" for n in (15, 20, 40, 45)]


def test_a_full_disk_costs_one_checkpoint_and_training_goes_on(saved: Checkpoints):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        told = save(saved, TinyEngine(20), {"step": 20})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large" in told["error"] and not saved.pending
    assert sorted(p.name for p in saved.folder.iterdir()) == ["step_0000010", "step_0000015"]
    assert save_line(told).startswith("warning: no checkpoint of step 20: File too large")
    assert not save(saved, TinyEngine(25), {"step": 25})["error"]
    found, _ = saved.newest()
    assert found and found.state["step"] == 25


def test_a_checkpoint_holds_the_moment_it_was_asked_for(saved: Checkpoints):
    engine, state = TinyEngine(1), {"step": 20, "world_size": 1, "seen": {"a": 1}}
    saved.save(engine, state)
    engine.value, state["seen"]["a"] = 2, 2  # training goes on while it is written
    saved.commit()
    found, _ = saved.newest()
    assert found and found.state["seen"] == {"a": 1}
    saved.load(engine, found)
    assert engine.value == 1


def test_no_whole_checkpoint_is_an_error_and_none_at_all_is_a_start(saved: Checkpoints, world: World):
    assert Checkpoints(saved.folder / "nothing", world, 1).newest() == (None, [])
    for folder in saved.folder.iterdir():
        (folder / STATES).unlink()
    with pytest.raises(DamageError, match="None is whole: move"):
        saved.newest()


def config(**changed) -> dict:
    train = {"lr": 1e-3, "seed": 0, "zero_stage": 2, "steps": 10, "allow_data_change": False, **changed}
    data = {"corpus": "here", "access": "mmap", "pairs": {"gap": 0}}
    return {"model": {"preset": "paper"}, "data": data, "train": train, "out": "run"}


def data_of(**datasets) -> dict:
    return {
        "seed": 0,
        "data.pairs.gap": 0,
        "mixture": [[4]],
        "data sets": {"a": {"runs": 8, "windows": 90}, **datasets},
    }


def now(
    its_config: dict | None = None, data: dict | None = None, spaces: dict | None = None, **other
) -> dict:
    encoder = {"d_model": 8, "spaces": spaces or {"roi": 5}}
    place = {"world_size": 2, "precision": "fp32", **other}
    return {"config": its_config or config(), "data": data or data_of(), "encoder": encoder, **place}


def test_a_run_may_go_on_with_another_pace_but_not_as_another_run(tmp_path: Path):
    found = Checkpoint(tmp_path, now(), [])
    assert check_resumable(found, now()) == []
    assert check_resumable(found, now(config(steps=20))) == [
        "changed since the checkpoint: train.steps from 10 to 20"
    ]
    moved = {**config(), "data": {**config()["data"], "corpus": "there", "access": "memory"}}
    assert check_resumable(found, now(moved)) == []
    with pytest.raises(UserError, match=r"train\.seed was 0, is 1"):
        check_resumable(found, now(config(seed=1)))
    lines = check_resumable(found, now(config(zero_stage=3), world_size=4, precision="bf16"))
    assert [line.partition(": ")[2].partition(":")[0] for line in lines] == [
        "train.zero_stage from 2 to 3",
        "precision from fp32 to bf16",
        "ranks from 2 to 4",
    ]


def test_settings_that_a_checkpoint_did_not_know_yet_count_as_their_defaults(tmp_path: Path):
    new = to_dict(parse(PretrainConfig, ["--out", "x", "--data.corpus", "c"]))
    old = json.loads(json.dumps(new))
    del old["model"]["start"], old["train"]["masked_weight"], old["data"]["volume_order"]
    found = Checkpoint(tmp_path, now(old), [])
    assert check_resumable(found, now(new)) == []
    new["model"]["start"] = "identity"
    with pytest.raises(UserError, match=r"model\.start was 'random', is 'identity'"):
        check_resumable(found, now(new))


def test_data_that_have_changed_are_named_and_refused_unless_that_is_meant(tmp_path: Path):
    found = Checkpoint(tmp_path, now(data=data_of(b={"runs": 2})), [])
    changed = {**config(), "data": {**config()["data"], "pairs": {"gap": 3}}}
    data = {**data_of(a={"runs": 9, "windows": 99}, c={"runs": 1}), "data.pairs.gap": 3}
    said = (
        r"data\.pairs\.gap was 0, is 3; data set a had 8 runs and 90 windows, has 9 runs and 99 windows; "
        r"data set b is gone; data set c is new\. .*allow_data_change"
    )
    with pytest.raises(UserError, match=said):
        check_resumable(found, now(changed, data=data))
    changed["train"]["allow_data_change"] = True
    lines = check_resumable(found, now(changed, data=data))
    assert len(lines) == 4 and lines[0] == "changed since the checkpoint: data.pairs.gap was 0, is 3"
    with pytest.raises(UserError, match=r"encoder spaces\.cc200 was None, is 200.*do not fit"):
        check_resumable(found, now(changed, data=data, spaces={"roi": 5, "cc200": 200}))
    with pytest.raises(UserError, match=r"train\.seed was 0, is 1"):
        check_resumable(found, now(config(seed=1, allow_data_change=True), data=data))


def test_changes_are_named_by_dotted_keys():
    assert changes({"a": {"b": 1, "c": [1]}, "d": 0}, {"a": {"b": 2, "c": [1]}, "e": 5}) == {
        "a.b": (1, 2),
        "d": (0, None),
        "e": (None, 5),
    }
