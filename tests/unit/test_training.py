"""Parts of training that need no second rank."""

import itertools
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from factory import write_corpus
from torch.utils import cpp_extension

from fmriscale.common.errors import UserError
from fmriscale.config import ModelConfig, PretrainConfig, TrainConfig
from fmriscale.config.recipe import parse, to_dict
from fmriscale.model.encoder import Encoder
from fmriscale.model.presets import resolve_encoder
from fmriscale.sampling.batch import Batch
from fmriscale.sampling.persistence import area_under_curve, best_threshold, persistence_score
from fmriscale.tracking import flat_numbers
from fmriscale.training.distributed import read_environment
from fmriscale.training.metrics import SPIKE, MetricsFile, spike_score
from fmriscale.training.objective import Losses, Objective
from fmriscale.training.resilience import NonFiniteGuard, StopRequest, is_late, time_limit
from fmriscale.training.resume import is_finished
from fmriscale.training.schedule import plan_batch
from fmriscale.training.tally import Tally
from fmriscale.training.zero import PlainAdamW, check_nvme, deepspeed_config

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


def test_elsewhere_than_on_linux_pre_training_ends_in_one_line():
    code = "import sys; sys.platform = 'darwin'; import fmriscale.train"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "fmriscale: error: pre-training runs on Linux alone; all other verbs run here too\n"


# ---------------------------------------------------------------- DeepSpeed's dictionary


def test_the_dictionary_is_derived_and_expert_settings_are_merged_into_it():
    train = TrainConfig(
        zero_stage=2,
        global_batch=64,
        max_micro_batch=8,
        offload="cpu",
        deepspeed={"zero_optimization": {"offload_optimizer": {"ratio": 0.5}}, "comms_logger": {}},
    )
    made = deepspeed_config(train, plan_batch(64, 8, 4), "bf16", "cuda", 1000)
    assert made["train_batch_size"] == 64 and made["train_micro_batch_size_per_gpu"] == 8
    assert made["gradient_accumulation_steps"] == 2 and made["bf16"]["enabled"]
    zero = made["zero_optimization"]
    assert zero["stage"] == 2 and "offload_param" not in zero
    assert zero["offload_optimizer"] == {"device": "cpu", "pin_memory": True, "ratio": 0.5}
    assert zero["reduce_bucket_size"] == 1000 and made["comms_logger"] == {}
    # Masked volumes of an odd number of features make a model with an odd number of parameters.
    odd = deepspeed_config(TrainConfig(), plan_batch(256, 8, 4), "bf16", "cuda", 1001)["zero_optimization"]
    assert odd["reduce_bucket_size"] == odd["allgather_bucket_size"] == 1002


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
        deepspeed_config(train, plan_batch(256, 8, 1), "fp32", "cpu", 10)


def test_states_are_offloaded_from_where_they_are_and_by_zero_only():
    nvme = TrainConfig(zero_stage=3, offload="nvme", nvme_path="/scratch")
    zero = deepspeed_config(nvme, plan_batch(256, 8, 1), "bf16", "cuda", 10)["zero_optimization"]
    place = {"device": "nvme", "pin_memory": True, "nvme_path": "/scratch"}
    assert zero["offload_optimizer"] == zero["offload_param"] == place
    with pytest.raises(UserError, match=r"has none .* set train.offload none"):
        deepspeed_config(TrainConfig(offload="cpu"), plan_batch(256, 8, 1), "fp32", "cpu", 10)
    for wrong, said in (
        ({"zero_stage": 0, "offload": "cpu"}, "needs train.zero_stage 1, 2 or 3"),
        ({"zero_stage": 3, "offload": "nvme"}, "a folder in train.nvme_path"),
    ):
        with pytest.raises(ValueError, match=said):
            TrainConfig(**wrong)


def test_a_disk_that_cannot_be_used_is_refused_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=r"nvme_path .*nothing: give a folder on a local disk"):
        check_nvme(tmp_path / "nothing")
    monkeypatch.setenv("CC", str(tmp_path / "no_compiler"))
    with pytest.raises(UserError, match=r"async_io operator, which cannot be built here: .*libaio-dev"):
        check_nvme(tmp_path)


def test_states_that_are_kept_on_a_disk_do_not_change_the_run(tmp_path: Path, repository: Path):
    built = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root())
    if not any(built.glob("**/async_io/async_io.so")):
        pytest.skip(f"no async_io operator of DeepSpeed in {built}: it needs libaio, and minutes to build")
    try:
        check_nvme(tmp_path)
    except UserError as error:
        pytest.skip(str(error))
    write_corpus(tmp_path / "corpus")
    train = "--train.zero_stage 3 --train.global_batch 8 --train.schedule constant --train.warmup_steps 2"
    line = ["--config", str(repository / "configs/pretrain_demo.yaml"), "--tracking.enabled", "false"]
    line += ["--data.corpus", str(tmp_path / "corpus"), "--train.eval_every", "0", *train.split()]
    line += ["--model.d_model", "512"]  # DeepSpeed keeps what is below 1 MiB in memory
    on_disk = ["--train.offload", "nvme", "--train.nvme_path", str(tmp_path)]
    starts = [("memory", "6", []), ("disk", "3", on_disk), ("disk", "6", on_disk)]
    lines = [
        [*line, "--out", str(tmp_path / out), "--train.steps", steps, *more] for out, steps, more in starts
    ]
    code = (
        "import json, sys; from fmriscale.train import main; [main(line) for line in json.loads(sys.argv[1])]"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(lines)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("resumed from") == 1, done.stdout + done.stderr
    records = [(tmp_path / out / "metrics.jsonl").read_text().splitlines() for out in ("memory", "disk")]
    losses = [[x["loss"] for x in map(json.loads, record) if "event" not in x] for record in records]
    assert len(losses[0]) == 6 and losses[0] == pytest.approx(losses[1], abs=1e-6)
    kept = [path.name for path in (tmp_path / "zero_stage_3").rglob("*.swp")]
    assert any(name.startswith("exp_avg_sq") for name in kept) and any("param" in name for name in kept)


def test_a_finished_run_is_not_made_again_nor_taken_for_another(tmp_path: Path):
    out = tmp_path / "run"
    settings = ["--out", str(out), "--data.corpus", "corpus", "--train.steps", "10"]
    made = parse(PretrainConfig, settings)
    assert not is_finished(made, out)
    shape = resolve_encoder(ModelConfig(preset="tiny", n_layers=1), {"roi": 3}, 5)
    Encoder(shape).save_pretrained(out / "encoder", {"config": to_dict(made), "step": 10})
    assert is_finished(made, out) == f"{out / 'encoder'} is finished: 10 steps"
    assert not is_finished(parse(PretrainConfig, [*settings, "--train.steps", "20"]), out)
    assert is_finished(parse(PretrainConfig, [*settings, "--train.log_every", "1"]), out)
    with pytest.raises(UserError, match=r"finished encoder of another run: train\.seed was 0, is 1"):
        is_finished(parse(PretrainConfig, [*settings, "--train.seed", "1"]), out)
    for stranger, what in (("corpus.json", "a corpus"), ("cells", "a study")):
        (tmp_path / what / stranger).mkdir(parents=True)
        with pytest.raises(UserError, match=f"holds {what}"):
            is_finished(made, tmp_path / what)


# ---------------------------------------------------------------- being stopped, going wrong


def test_a_signal_only_sets_a_flag():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
    try:
        for number in before:
            stop = StopRequest()
            assert not stop.reason
            signal.raise_signal(number)
            assert stop.reason == number.name
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_gradient_that_is_not_finite_leaves_weights_and_moments_as_they_were():
    weights = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    adamw = PlainAdamW([weights], lr=0.1, fused=True)
    weights.grad = torch.tensor([0.5, -0.5])
    adamw.step()
    before = [weights.detach().clone(), *(value.clone() for value in adamw.state[weights].values())]
    for bad in (math.nan, math.inf):
        weights.grad = torch.tensor([0.5, bad])
        adamw.step()
        assert adamw.overflow
    after = [weights.detach(), *adamw.state[weights].values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    weights.grad = torch.tensor([0.5, -0.5])
    adamw.step()
    assert not adamw.overflow and not torch.equal(weights, before[0])


HANGING = """
import os, threading, time
from fmriscale.training.resilience import Watchdog

def deep(n, rank):
    if n:
        deep(n - 1, rank)
    else:
        (hangs_in_rank_0, hangs_in_rank_1)[rank]()

def hangs_in_rank_0():
    time.sleep(60)

def hangs_in_rank_1():
    time.sleep(60)

begin = time.monotonic() + 0.5
for rank in range(2):
    if not os.fork():
        for _ in range(8):
            threading.Thread(target=deep, args=(40, rank), daemon=True).start()
        watchdog = Watchdog(5 / 60, position=rank)
        time.sleep(begin - time.monotonic())
        watchdog.beat()
        time.sleep(60)
for _ in range(2):
    os.wait()
"""


def test_stacks_of_ranks_that_hang_together_do_not_run_into_each_other():
    log = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=60).stderr
    told = [rank for rank, _ in itertools.groupby(re.findall(r"in hangs_in_rank_(\d)", log))]
    assert told == ["0", "1", "0", "1"]  # each of them before any of them ends


def test_bad_steps_are_counted_and_only_many_in_a_row_end_the_run():
    guard = NonFiniteGuard(3, total=2)
    assert not any(guard.count(finite) for finite in [False, False, True, False, False])
    assert guard.total == 6 and guard.count(False)
    error = guard.error(6, 10)
    assert "steps 4 to 6" in str(error) and "pairs 30 to 59" in str(error) and error.exit_code == 1


def test_time_is_up_while_a_save_still_fits():
    assert time_limit({}, None, 100) is None
    assert time_limit({"SLURM_JOB_END_TIME": "900"}, None, 100) == 900
    assert time_limit({"SLURM_JOB_END_TIME": "900"}, 10, 100) == 700
    assert not is_late(100, 130, step_seconds=1, save_seconds=2)
    assert is_late(100, 130, step_seconds=1, save_seconds=3)  # 2 x 1 + 3 x 3 + 20 s of safety
    assert is_late(100, 130, step_seconds=6, save_seconds=0)


def test_a_loss_spike_is_measured_in_deviations_that_spikes_do_not_widen():
    recent = [1.0, 1.2, 0.8, 1.1, 0.9, 1.0, 1.1, 0.9] * 4
    assert spike_score(1.0, recent) == 0 and spike_score(9.0, recent[:31]) == 0
    deviation = 1.4826 * np.median(np.abs(np.array(recent) - 1.0))
    assert spike_score(2.0, recent) == pytest.approx(1 / deviation)
    assert spike_score(3.0, [*recent, 50.0, 40.0]) > 6 and spike_score(math.inf, recent) == 0


def test_losses_that_hardly_differ_yet_make_no_spikes():
    start = [math.log(2) + 1e-4 * (i % 5) for i in range(64)]
    assert spike_score(0.70, start) < SPIKE < spike_score(0.80, start)


# ---------------------------------------------------------------- records


def batch_of(kind: torch.Tensor, dataset: torch.Tensor) -> Batch:
    sides = [f"{name}_{side}" for name in ("run", "row", "start") for side in ("left", "right")]
    return Batch(
        **dict.fromkeys([*sides, "t_r", "label"], np.empty(0)), kind=kind, dataset=dataset, space="toy"
    )


def test_sums_by_kind_and_data_set_make_up_the_whole():
    tally = Tally(["a", "b", "c"], torch.device("cpu"), Objective(TrainConfig()))
    loss = torch.tensor([1.0, 2.0, 3.0, 100.0])
    correct = torch.tensor([True, False, True, True])
    pairs = batch_of(kind=torch.tensor([0, 1, 0, -1]), dataset=torch.tensor([0, 0, 2, -1]))
    tally.add(Losses(total=loss.mean(), ntp=loss, correct=correct), pairs)
    told = tally.summary()
    assert (told["pairs"], told["loss"], told["acc"]) == (3, 2.0, pytest.approx(2 / 3))
    assert told["loss_by_kind"] == {"positive": 2.0, "same_run": 2.0}
    assert told["acc_by_dataset"] == {"a": 0.5, "c": 1.0}
    assert tally.pairs_by_dataset() == {"a": 2, "b": 0, "c": 1}
    assert flat_numbers({**told, "step": 1, "x": math.nan}, "eval/")["eval/acc_by_kind.same_run"] == 0.0
    weights = {"ntp_weight": 0.1, "masked_weight": 0.9, "contrastive_weight": 2.0, "connectivity_weight": 3.0}
    both = Tally(["a", "b", "c"], torch.device("cpu"), Objective(TrainConfig(**weights)))
    masked, filler = torch.tensor([0.5, 0.7, 0.9, 100.0]), torch.tensor([False, False, False, True])
    pairs = batch_of(kind=torch.tensor([0, 1, 0, 1]), dataset=torch.tensor([0, 0, 2, 1]))
    for way in (torch.tensor(0.3), torch.tensor(0.5)):
        both.add(
            Losses(
                total=loss.mean(),
                ntp=loss,
                correct=correct,
                masked=masked,
                contrastive=way,
                contrastive_correct=2 * way,
                connectivity=way / 2,
            ),
            pairs,
            filler,
        )
    parts = both.summary()
    assert (parts["ntp_loss"], parts["masked_loss"]) == (2.0, pytest.approx(0.7))
    assert (parts["contrastive_loss"], parts["contrastive_acc"]) == (pytest.approx(0.4), pytest.approx(0.8))
    assert parts["connectivity_loss"] == pytest.approx(0.2)
    assert parts["loss"] == pytest.approx(0.1 * 2 + 0.9 * 0.7 + 2 * 0.4 + 3 * 0.2)
    assert parts["loss_by_kind"] == told["loss_by_kind"]


def test_a_step_without_pairs_has_no_answers_of_ntp():
    train = TrainConfig(ntp_weight=0, contrastive_weight=2)
    tally = Tally([], torch.device("cpu"), Objective(train))
    half = torch.tensor(0.5)
    tally.add(Losses(total=half, contrastive=half, contrastive_correct=half))
    assert tally.summary() == {"pairs": 0, "loss": 1.0, "contrastive_loss": 0.5, "contrastive_acc": 0.5}


def test_the_record_is_cut_back_to_the_step_that_is_resumed(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    record = MetricsFile(path, 0)
    record.write({"event": "eval", "step": 0, "loss": math.inf})
    for step in range(1, 6):
        record.write({"step": step})
    record.write({"event": "eval", "step": 3})
    record.close()
    with path.open("a") as handle:
        handle.write('{"step": 3, "lo')
    MetricsFile(path, 3).close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(x.get("event"), x["step"]) for x in lines] == [
        ("eval", 0),
        (None, 1),
        (None, 2),
        (None, 3),
        ("eval", 3),
    ]
    assert lines[0]["loss"] is None
    MetricsFile(path, 0).close()
    assert path.read_text() == ""


# ---------------------------------------------------------------- persistence baseline


def test_lines_that_a_full_disk_does_not_take_are_written_when_there_is_room(tmp_path: Path):
    record = MetricsFile(tmp_path / "metrics.jsonl", 0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        for step in range(1, 11):  # the limit cuts a line in two
            record.write({"step": step, "loss": 0.5})
        with pytest.raises(OSError, match="File too large"):
            record.sync()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "metrics.jsonl").stat().st_size == 100
    record.sync()
    record.close()
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": step, "loss": 0.5} for step in range(1, 11)]


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
