"""Parts of training that need no second rank."""

import json
import math
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fmriscale.config import ModelConfig, PretrainConfig, TrainConfig
from fmriscale.errors import DamageError, UserError
from fmriscale.model.encoder import Encoder, resolve_encoder
from fmriscale.model.export import save_encoder
from fmriscale.recipe import parse, to_dict
from fmriscale.sampling.persistence import area_under_curve, best_threshold, persistence_score
from fmriscale.train import is_finished
from fmriscale.training import cluster
from fmriscale.training.checkpoint import Checkpoint, Checkpoints
from fmriscale.training.cluster import Cluster, read_environment
from fmriscale.training.continuation import changes, check_resumable
from fmriscale.training.resilience import NonFiniteGuard, StopRequest, is_late, time_limit
from fmriscale.training.schedule import plan_batch
from fmriscale.training.telemetry import Record, Tally, numbers, save_line, spike_score
from fmriscale.training.zero import deepspeed_dict, pick_precision

# ---------------------------------------------------------------- who am I


def test_each_launcher_says_who_we_are_in_its_own_words():
    common = {"MASTER_ADDR": "host1", "MASTER_PORT": "1234"}
    deepspeed = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_SIZE": "2", **common}
    found = read_environment(deepspeed)
    assert (found["rank"], found["world_size"], found["local_rank"], found["local_size"]) == (3, 8, 1, 2)
    assert (found["launcher"], found["address"], found["port"]) == ("deepspeed", "host1", 1234)
    torchrun = {**deepspeed, "TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4"}
    assert read_environment(torchrun)["launcher"] == "torchrun"
    assert read_environment(torchrun)["local_size"] == 4
    srun = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8", "SLURM_NNODES": "2"}
    found = read_environment({**srun, "SLURM_STEP_ID": "0", **common})
    assert (found["rank"], found["world_size"], found["local_rank"], found["local_size"]) == (5, 8, 1, 4)
    assert found["launcher"] == "srun"
    assert read_environment({})["world_size"] == 1


def test_a_batch_script_without_srun_is_one_rank():
    assert read_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"})["world_size"] == 1


def test_srun_on_several_nodes_needs_a_meeting_point():
    srun = {"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_NNODES": "2"}
    with pytest.raises(UserError, match=r"MASTER_ADDR.*slurm/pretrain\.sh"):
        read_environment(srun)


# ---------------------------------------------------------------- DeepSpeed's dictionary


def test_the_dictionary_is_derived_and_expert_settings_are_merged_into_it():
    train = TrainConfig(
        zero_stage=2,
        global_batch=64,
        max_micro_batch=8,
        offload="cpu",
        deepspeed={"zero_optimization": {"offload_optimizer": {"ratio": 0.5}}, "comms_logger": {}},
    )
    made = deepspeed_dict(train, plan_batch(64, 8, 4), "bf16", "cuda", 1000)
    assert made["train_batch_size"] == 64 and made["train_micro_batch_size_per_gpu"] == 8
    assert made["gradient_accumulation_steps"] == 2 and made["bf16"]["enabled"]
    zero = made["zero_optimization"]
    assert zero["stage"] == 2 and "offload_param" not in zero
    assert zero["offload_optimizer"] == {"device": "cpu", "pin_memory": True, "ratio": 0.5}
    assert zero["reduce_bucket_size"] == 1000 and made["comms_logger"] == {}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (
            {"train_batch_size": 3},
            "train.deepspeed.train_batch_size: this is derived; set train.global_batch",
        ),
        ({"zero_optimization": {"stage": 1}}, "set train.zero_stage"),
        ({"bf16": {"enabled": False}}, "set train.precision"),
        ({"optimizer": {"type": "Adam"}}, "set train.lr"),
        ({"zero_optimization": {"offload_param": {"device": "cpu"}}}, "set train.offload"),
        ({"activation_checkpointing": {"cpu_checkpointing": True}}, "set train.activation_checkpointing"),
    ],
)
def test_keys_that_are_ours_are_refused_by_name(raw: dict, said: str):
    train = TrainConfig(deepspeed=raw)
    with pytest.raises(UserError, match=said):
        deepspeed_dict(train, plan_batch(256, 8, 1), "fp32", "cpu", 10)


def test_states_are_offloaded_from_a_gpu_only_and_by_zero_only():
    nvme = TrainConfig(zero_stage=3, offload="nvme", nvme_path="/scratch")
    zero = deepspeed_dict(nvme, plan_batch(256, 8, 1), "bf16", "cuda", 10)["zero_optimization"]
    place = {"device": "nvme", "pin_memory": True, "nvme_path": "/scratch"}
    assert zero["offload_optimizer"] == zero["offload_param"] == place
    with pytest.raises(UserError, match=r"has none .* set train.offload none"):
        deepspeed_dict(nvme, plan_batch(256, 8, 1), "fp32", "cpu", 10)
    for wrong, said in (
        ({"zero_stage": 0, "offload": "cpu"}, "needs train.zero_stage 1, 2 or 3"),
        ({"zero_stage": 3, "offload": "nvme"}, "a folder in train.nvme_path"),
    ):
        with pytest.raises(ValueError, match=said):
            TrainConfig(**wrong)


def test_precision_is_what_the_device_can_do():
    cpu = torch.device("cpu")
    assert pick_precision(TrainConfig(), cpu) == "fp32"
    assert pick_precision(TrainConfig(precision="bf16"), cpu) == "bf16"
    with pytest.raises(UserError, match="needs a GPU"):
        pick_precision(TrainConfig(precision="fp16"), cpu)
    with pytest.raises(UserError, match=r"zero_stage 1, 2 or 3"):
        pick_precision(TrainConfig(precision="bf16", zero_stage=0), cpu)


# ---------------------------------------------------------------- checkpoints


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
        return float(self.module.bias[1])

    @value.setter
    def value(self, value: float) -> None:
        torch.nn.init.constant_(self.module.bias, value)


def save(checkpoints: Checkpoints, engine: TinyEngine, state: dict) -> dict:
    checkpoints.save(engine, {"world_size": 1, **state})
    return checkpoints.commit()


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_STEP_ID"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield cluster.join()
    cluster.leave()


@pytest.fixture
def saved(place: Cluster, tmp_path: Path) -> Checkpoints:
    """Three checkpoints, of which two are kept."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", place, keep_last=2)
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


def test_what_was_not_committed_is_not_there(saved: Checkpoints):
    (saved.folder / "step_0000015").rename(saved.folder / "step_0000020.tmp")
    found, skipped = saved.newest()
    assert found and found.state["step"] == 10 and not skipped
    assert [p.name for p in saved.folder.iterdir()] == ["step_0000010"]


def test_checkpoints_that_are_to_stay_stay(place: Cluster, tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, place, keep_last=1, keep_every=20)
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


def test_no_whole_checkpoint_is_an_error_and_none_at_all_is_a_start(saved: Checkpoints, place: Cluster):
    assert Checkpoints(saved.folder / "nothing", place, 1).newest() == (None, [])
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


def test_a_finished_run_is_not_made_again_nor_taken_for_another(tmp_path: Path):
    out = tmp_path / "run"
    settings = ["--out", str(out), "--data.corpus", "corpus", "--train.steps", "10"]
    made = parse(PretrainConfig, settings)
    assert not is_finished(made, out)
    shape = resolve_encoder(ModelConfig(preset="tiny", n_layers=1), {"roi": 3}, 5)
    save_encoder(out / "encoder", Encoder(shape), {"config": to_dict(made), "step": 10})
    assert is_finished(made, out) == f"{out / 'encoder'} is finished: 10 steps"
    assert not is_finished(parse(PretrainConfig, [*settings, "--train.steps", "20"]), out)
    assert is_finished(parse(PretrainConfig, [*settings, "--train.log_every", "1"]), out)
    with pytest.raises(UserError, match=r"finished encoder of another run: train\.seed was 0, is 1"):
        is_finished(parse(PretrainConfig, [*settings, "--train.seed", "1"]), out)


# ---------------------------------------------------------------- being stopped, going wrong


def test_a_signal_only_sets_a_flag():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
    try:
        for number in before:
            stop = StopRequest()
            assert not stop
            signal.raise_signal(number)
            assert stop and stop.name == number.name
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_bad_steps_are_counted_and_only_many_in_a_row_end_the_run():
    guard = NonFiniteGuard(3, total=2)
    assert not any(guard.note(finite) for finite in [False, False, True, False, False])
    assert guard.total == 6 and guard.note(False)
    error = guard.error(6, 10)
    assert "steps 4 to 6" in str(error) and "pairs 30 to 59" in str(error) and error.exit_code == 1


def test_time_is_up_while_a_save_still_fits():
    assert time_limit({}, None, 100) is None
    assert time_limit({"SLURM_JOB_END_TIME": "900"}, None, 100) == 900
    assert time_limit({"SLURM_JOB_END_TIME": "900"}, 10, 100) == 700
    assert not is_late(100, 130, stretch=1, save_seconds=2)
    assert is_late(100, 130, stretch=1, save_seconds=3)  # 2 x 1 + 3 x 3 + 20 s of safety
    assert is_late(100, 130, stretch=6, save_seconds=0)


def test_a_loss_spike_is_measured_in_deviations_that_spikes_do_not_widen():
    recent = [1.0, 1.2, 0.8, 1.1, 0.9, 1.0, 1.1, 0.9, 50.0, 40.0]
    assert spike_score(1.0, recent[:8]) == 0 and spike_score(9.0, recent[:7]) == 0
    deviation = 1.4826 * np.median(np.abs(np.array(recent[:8]) - 1.0))
    assert spike_score(2.0, recent[:8]) == pytest.approx(1 / deviation)
    assert spike_score(3.0, recent) > 6 and spike_score(math.inf, recent) == 0


# ---------------------------------------------------------------- records


def test_sums_by_kind_and_data_set_make_up_the_whole():
    tally = Tally(["a", "b", "c"], torch.device("cpu"))
    loss = torch.tensor([1.0, 2.0, 3.0, 100.0])
    correct = torch.tensor([True, False, True, True])
    tally.add(loss, correct, torch.tensor([0, 1, 0, -1]), torch.tensor([0, 0, 2, -1]))
    told = tally.summary()
    assert (told["pairs"], told["loss"], told["acc"]) == (3, 2.0, pytest.approx(2 / 3))
    assert told["loss_by_kind"] == {"positive": 2.0, "same_run": 2.0}
    assert told["acc_by_dataset"] == {"a": 0.5, "c": 1.0}
    assert tally.pairs_by_dataset() == {"a": 2, "b": 0, "c": 1}
    assert numbers({**told, "step": 1, "x": math.nan}, "eval/")["eval/acc_by_kind.same_run"] == 0.0


def test_the_record_is_cut_back_to_the_step_that_is_resumed(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    record = Record(path, 0)
    record.write({"event": "eval", "step": 0, "loss": math.inf})
    for step in range(1, 6):
        record.write({"step": step})
    record.write({"event": "eval", "step": 3})
    record.close()
    with path.open("a") as handle:
        handle.write('{"step": 3, "lo')
    Record(path, 3).close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(x.get("event"), x["step"]) for x in lines] == [
        ("eval", 0),
        (None, 1),
        (None, 2),
        (None, 3),
        ("eval", 3),
    ]
    assert lines[0]["loss"] is None
    Record(path, 0).close()
    assert path.read_text() == ""


# ---------------------------------------------------------------- persistence baseline


def test_persistence_is_the_correlation_of_the_two_volumes_at_the_border():
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, 7, 4, 30)).astype(np.float16)
    right[0, 0], right[1, 0], right[2, 0] = left[0, -1], -left[1, -1], 3.0
    score = persistence_score(left, right)
    assert score[:3] == pytest.approx([1, -1, 0], abs=1e-6)
    expected = np.corrcoef(left[3, -1].astype(float), right[3, 0].astype(float))[0, 1]
    assert score[3] == pytest.approx(expected)


def test_the_best_threshold_is_that_of_trying_all():
    rng = np.random.default_rng(1)
    for _ in range(20):
        label = rng.integers(0, 2, 40)
        score = np.round(rng.standard_normal(40) + label, 1)  # with ties
        threshold = best_threshold(score, label)
        tried = [-np.inf, *score, np.inf]
        best = max(((score > t) == label).mean() for t in tried)
        assert ((score > threshold) == label).mean() == best


def test_area_under_curve_counts_pairs_and_half_of_ties():
    score, label = np.array([1.0, 2, 2, 3]), np.array([0, 0, 1, 1])
    assert area_under_curve(score, label) == 0.875
