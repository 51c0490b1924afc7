"""`fmriscale plan`: what it says must be so."""

import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest
from factory import write_corpus
from web import serving

from fmriscale.cli import run
from fmriscale.config import PretrainConfig
from fmriscale.config.recipe import parse
from fmriscale.corpus.reader import Corpus
from fmriscale.model.flops import train_flops
from fmriscale.sampling.loader import NTPLoader
from fmriscale.training.prediction import GIB, Plan
from fmriscale.training.state_memory import states


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    write_corpus(folder / "corpus")
    settings = {"out": "unset", "data": {"corpus": str(folder / "corpus")}, "model": {"preset": "base"}}
    path = folder / "base.yaml"
    path.write_text(json.dumps(settings))
    return path


def cells(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.strip().startswith(name))
    return line.strip().removeprefix(name).split()


def test_a_large_model_is_planned_without_building_it(recipe: Path, capsys: pytest.CaptureFixture[str]):
    line = "--model.preset 7b --nodes 2 --gpus 8 --train.zero_stage 3 --train.activation_checkpointing true"
    assert run(["plan", "--config", str(recipe), *line.split()]) == 0
    text = capsys.readouterr().out
    n = int(re.search(r"7b: ([\d,]+) parameters", text)[1].replace(",", ""))
    assert n == pytest.approx(7.05e9, rel=0.01)
    gib = n / GIB
    optimiser = [float(c) for c in cells(text, "optimiser states")]
    assert optimiser == pytest.approx([8 * gib, *[12 * gib / 16] * 3], abs=0.01)
    weights = [float(c) for c in cells(text, "parameters")]
    assert weights == pytest.approx([4 * gib, 2 * gib, 2 * gib, 2 * gib / 16], abs=0.01)
    assert cells(text, "fits into 73.6") == ["no", "yes", "yes", "yes"]


def test_a_width_that_is_slow_in_16_bits_is_told_with_the_one_that_is_not(
    recipe: Path, capsys: pytest.CaptureFixture[str]
):
    line = ["plan", "--config", str(recipe), "--model.preset", "paper", "--data.corpus", "not_there"]
    assert run(line) == 0  # 400 features
    text = capsys.readouterr().out
    assert "row of 808 bytes, which is slow in bf16" in text and "--model.d_model 416 (12 zero" in text
    for more in (["--model.d_model", "416"], ["--train.precision", "fp32"]):
        assert run([*line, *more]) == 0
        assert "note " not in capsys.readouterr().out


def test_what_does_not_fit_ends_in_2_and_its_remedy_fits(recipe: Path, capsys: pytest.CaptureFixture[str]):
    line = ["plan", "--config", str(recipe), "--model.preset", "1b", "--gpus", "4", "--gpu-gb", "7"]
    assert run(line) == 2
    remedy = re.search(r"It does not fit. This would: (.+)", capsys.readouterr().out)[1]
    assert run([*line, *shlex.split(remedy)]) == 0
    assert run([*line, "--gpu-gb", "2"]) == 2
    assert "Take more GPUs" in capsys.readouterr().out


@pytest.mark.parametrize("recompute", [False, True])
def test_the_largest_micro_batch_is_the_largest(recipe: Path, recompute: bool):
    more = ["--train.global_batch", "65536", "--train.max_micro_batch", "65536"]
    plan = Plan.of(parse(PretrainConfig, ["--config", str(recipe), *more]), 1, 8 * GIB)
    for stage in range(4):
        most = plan.largest_micro_batch(stage, recompute)
        held = plan.states(stage).total
        assert held + plan.activations(stage, most, recompute) <= plan.usable
        assert held + plan.activations(stage, 2 * most, recompute) > plan.usable


def test_epochs_and_days_are_those_of_corpus_and_rate(recipe: Path, capsys: pytest.CaptureFixture[str]):
    line = ["--train.steps", "86400", "--train.global_batch", "100"]
    assert run(["plan", "--config", str(recipe), *line, "--gpus", "2", "--pairs-per-s", "10"]) == 0
    text = capsys.readouterr().out
    config = parse(PretrainConfig, ["--config", str(recipe)])
    loader = NTPLoader(Corpus.open(config.data.corpus), config.data, "train", 0)
    assert f"{86400 * 100 / (2 * loader.n_windows):,.1f} epochs" in text
    assert "20 pairs/s, 86,400 steps in 5.0 days (measured: 10 on one GPU)" in text
    assert run(["plan", "--config", str(recipe), "--data.corpus", "/nowhere"]) == 0
    assert "400 features assumed, epochs unknown" in capsys.readouterr().out


def test_a_gpu_is_as_fast_as_its_peak_or_as_its_kernels_are_launched(recipe: Path):
    def plan(preset: str, micro: int) -> Plan:
        batch = ["--train.global_batch", str(micro), "--train.max_micro_batch", str(micro)]
        line = ["--config", str(recipe), "--model.preset", preset, *batch]
        return Plan.of(parse(PretrainConfig, line), 1, 80 * GIB)

    small = [plan("tiny", n).step_time(4e14, 1) for n in (16, 32)]
    n_operations = 78 * 4 + 302 + 16 * (12 * 4 + 8)
    assert [step.total for step in small] == pytest.approx(2 * [8e-6 * n_operations])
    large = plan("1b", 4096)
    space, _, length = large.sequences[0]
    step = large.step_time(4e14, 1)
    assert step.compute == pytest.approx(4096 * train_flops(large.encoder, space, length) / 4e14)
    assert step.compute > step.launch
    assert step.exchange == 0 and step.total == step.compute + step.update


def test_a_step_on_many_gpus_waits_for_what_they_exchange(recipe: Path):
    def step(n_ranks: int, stage: int, batch: int = 8192):
        line = ["--config", str(recipe), "--model.preset", "base", "--train.zero_stage", str(stage)]
        line += ["--train.global_batch", str(batch), "--train.max_micro_batch", "1024"]
        plan = Plan.of(parse(PretrainConfig, line), n_ranks, 80 * GIB)
        return plan, plan.step_time(4e14, 8)

    plan, alone = step(1, 1)
    assert alone.exchange == 0
    (_, node), (_, nodes) = step(8, 1), step(16, 1)
    assert node.update == pytest.approx(alone.update / 8)
    # Weights once, and the last of eight buckets of gradients: the backward pass hides the others.
    once = 2 * plan.n_parameters * 7 / 8 / 150e9
    assert node.exchange == pytest.approx(once * (1 + 1 / 8))
    assert nodes.exchange > 4 * node.exchange  # over the network
    hardly = step(8, 1, batch=64)[1]
    assert hardly.exchange == pytest.approx(2 * once, rel=0.2)  # nothing to hide behind
    third = step(8, 3)[1]
    assert third.exchange == pytest.approx(once * (2 + 1 / 8)) and third.launch == 4 * node.launch


def test_windows_that_are_read_alone_count_as_half_a_pair_each(recipe: Path):
    def plan(*line: str, ranks: int = 1) -> Plan:
        line = ("--config", str(recipe), "--model.preset", "tiny", "--train.contrastive_weight", "1", *line)
        return Plan.of(parse(PretrainConfig, list(line)), ranks, 8 * GIB)

    pairs, beside, alone = 256, 16 * 20 // 2, ("--train.ntp_weight", "0", "--train.pool", "mean")
    assert plan().pairs_a_step == pairs + beside
    assert plan("--train.connectivity_weight", "1").pairs_a_step == pairs + beside + pairs / 2
    assert plan(*alone).pairs_a_step == beside == plan(*alone, ranks=4).pairs_a_step
    small, large = (
        plan(*alone, "--train.contrastive_people", n).activations(1, 1, False) for n in ("16", "32")
    )
    assert large == pytest.approx(2 * small, rel=1e-3)
    assert plan(*alone, ranks=4).activations(1, 1, False) == pytest.approx(small / 4, rel=1e-3)
    assert plan(*alone).step_time(4e14, 1).compute == pytest.approx(
        160 * train_flops(plan(*alone).encoder, *_sequence(plan(*alone))) / 4e14
    )


def _sequence(plan: Plan) -> tuple[str, int]:
    space, _, length = plan.sequences[0]
    return space, length


def test_host_memory_is_that_of_building_or_of_a_copy_of_a_checkpoint(recipe: Path):
    plans = {}
    for stage in (1, 3):
        line = ["--config", str(recipe), "--train.zero_stage", str(stage)]
        plans[stage] = Plan.of(parse(PretrainConfig, line), 16, 80 * GIB)
    n = plans[1].n_parameters
    assert plans[1].host_memory(8) == 4 * n * 8
    assert plans[3].host_memory(8) == 12 * n * 8 // 16 + 4 * n


def test_states_shrink_with_the_ranks_as_their_stage_says():
    for stage, split in ((0, ""), (1, "o"), (2, "og"), (3, "ogw")):
        one, eight = (states(8_000_000, stage, n, "fp32") for n in (1, 8))
        for letter, name in (("o", "optimizer"), ("g", "gradients"), ("w", "weights")):
            assert getattr(one, name) == getattr(eight, name) * (8 if letter in split else 1)
    offloaded = states(8_000_000, 3, 8, "bf16", offload="cpu")
    assert offloaded.weights == offloaded.optimizer == 0 and offloaded.host == 18_000_000


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--gpus", "two"], "argument --gpus: invalid int value: 'two'"),
        (["--gpus", "0"], "must be above 0"),
        (["--gpu-gb", "0"], "must be above 0"),
        (["--pairs-per-s", "0"], "must be above 0"),
        (["--mfu", "nan"], "finite"),
        (["--mfu", "40"], "a share of the peak"),
        (["--gpus", "3"], "train.global_batch 256 does not divide by 3 ranks"),
        (["--model.presett", "1b"], "did you mean 'model.preset'"),
    ],
)
def test_mistakes_are_named(recipe: Path, options, said: str, capsys: pytest.CaptureFixture[str]):
    assert run(["plan", "--config", str(recipe), *options]) == 2
    assert said in capsys.readouterr().err


def test_a_recipe_of_another_verb_is_told_in_the_name_of_this_one(
    recipe: Path, capsys: pytest.CaptureFixture[str]
):
    other = recipe.with_name("study.yaml")
    other.write_text('{"out": "a", "corpus": "b", "pretrained": null, "seeds": [0]}')
    assert run(["plan", "--config", str(other)]) == 2
    assert "a recipe of fmriscale finetune, not of fmriscale plan" in capsys.readouterr().err


def test_a_corpus_on_a_server_is_planned_like_its_folder(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("FMRISCALE_CACHE", str(recipe.parent / "cache"))
    assert run(["plan", "--config", str(recipe)]) == 0
    here = capsys.readouterr().out
    with serving(recipe.parent / "corpus") as server:
        assert run(["plan", "--config", str(recipe), "--data.corpus", server.url]) == 0
        assert capsys.readouterr().out == here.replace(str(recipe.parent / "corpus"), server.url)


def test_on_cpus_the_rate_is_that_of_this_machine_and_ranks_pay_for_their_exchange(
    recipe: Path, capsys: pytest.CaptureFixture[str]
):
    line = ["plan", "--cpu", "--config", str(recipe), "--model.preset", "tiny", "--gpus", "2"]
    assert run(line) == 0
    text = capsys.readouterr().out
    assert cells(text, "precision") == ["fp32"] * 4
    assert re.search(r"estimated: a rank's matrix product does [1-9][\d,]* GFLOP/s here", text)
    config = parse(PretrainConfig, ["--config", str(recipe), "--model.preset", "tiny"])
    one, two = (Plan.of(config, n, 8 * GIB, "cpu").pairs_per_s_on_cpu(1e11) for n in (1, 2))
    assert 0.5 * one < two < one
    assert Plan.of(config, 1, 8 * GIB, "cpu").pairs_per_s_on_cpu(2e11) < 2 * one  # AdamW is no faster
    every = dataclasses.replace(config, train=dataclasses.replace(config.train, pool="mean"))
    assert Plan.of(every, 1, 8 * GIB, "cpu").pairs_per_s_on_cpu(1e11) < one
