"""What a run on two ranks must keep to, whatever happens to it."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from factory import write_corpus
from mlflow.tracking import MlflowClient
from ranks import evals_of, steps_of

from fmriscale.corpus.reader import Corpus
from fmriscale.model.encoder import Encoder

pytestmark = pytest.mark.distributed

BAD_STEPS = 16

CHAINS = {"1-2-0": (1, 2, 0), "3-3-3": (3, 3, 3), "3-0-1": (3, 0, 1), "0-1-3": (0, 1, 3)}
"""ZeRO stages of three starts of a run: on two ranks, on one, on four."""


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus in which one of eight runs holds a volume that is not a number."""

    folder = tmp_path_factory.mktemp("broken") / "corpus"
    corpus = write_corpus(folder, datasets={"alpha": {"subjects": 4}})
    row = corpus.runs.iloc[3]
    shard = folder / row.shard
    data = bytearray(shard.read_bytes())
    data[int(row.offset) : int(row.offset) + 40 * 2 * 12] = np.full(40 * 12, np.nan, np.float16).tobytes()
    shard.write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def runs(recipe: Path, broken: Path, sessions, tmp_path_factory: pytest.TempPathFactory):
    """All runs of this module, forked from one process: folder and {name: exit code or error}."""
    folder = tmp_path_factory.mktemp("runs")

    def line(out: str, *options: str) -> list[str]:
        return ["--config", str(recipe), "--out", str(folder / out), *options]

    def stage(n: int) -> tuple[str, ...]:
        return ("--train.zero_stage", str(n), "--model.dropout", "0.2")

    def stage_of(n: int) -> tuple[str, ...]:
        return ("--train.zero_stage", str(n), "--train.eval_every", "0")

    def bad(n: int) -> tuple[str, ...]:
        return ("--data.corpus", str(broken), "--train.zero_stage", str(n), "--train.max_bad_steps", "50")

    plan = {}
    for n in range(4):
        plan[f"whole{n}"] = line(f"whole{n}", *stage(n))
        plan[f"first{n}"] = line(f"parts{n}", *stage(n), "--train.steps", "6")
        plan[f"second{n}"] = line(f"parts{n}", *stage(n))
        plan[f"bad{n}"] = line(f"bad{n}", *bad(n), "--train.steps", str(BAD_STEPS))
    plan["again"] = line("again", *stage(3), "--train.activation_checkpointing", "true")
    plan["bf16"] = line("bf16", "--train.precision", "bf16", "--train.zero_stage", "2")
    half = ("--train.precision", "bf16", "--train.zero_stage", "2", "--model.dropout", "0.2")
    plan["half"] = line("half", *half)
    for name, steps in (("half first", "6"), ("half second", "12")):
        plan[name] = line("halves", *half, "--train.steps", steps)
    plan["tiny"] = line("tiny", "--model.preset", "tiny", "--train.zero_stage", "3")
    plan["micro"] = line("micro", "--train.zero_stage", "2", "--train.max_micro_batch", "1")
    plan["macro"] = line("macro", "--train.zero_stage", "2", "--train.max_micro_batch", "64")
    plan["hopeless"] = line(
        "hopeless", *bad(1), "--train.max_bad_steps", "1", "--train.global_batch", "256", "--train.lr", "1"
    )
    plan["best"] = line(
        "best",
        "--train.keep_best",
        "true",
        "--train.eval_every",
        "2",
        "--train.keep_last",
        "1",
        "--train.lr",
        "0.05",
    )
    masked = ("--model.preset", "tiny", "--train.ntp_weight", "0.5", "--train.masked_weight", "1")
    for n in range(4):
        plan[f"masked{n}"] = line(f"masked{n}", *masked, "--train.zero_stage", str(n))
    plan["masked first"] = line("masked parts", *masked, "--train.zero_stage", "2", "--train.steps", "6")
    plan["masked second"] = line("masked parts", *masked, "--train.zero_stage", "2")
    plan["masked micro"] = line("masked micro", *masked, "--train.max_micro_batch", "1")
    for n in (0, 3):
        siamese = ("--model.preset", "tiny", "--train.pair", "siamese", "--train.pool", "mean")
        plan[f"siamese{n}"] = line(f"siamese{n}", *siamese, "--train.zero_stage", str(n))
    plan["other task"] = line("masked parts", "--model.preset", "tiny", "--train.steps", "14")
    for steps in ("4", "8"):
        plan[f"tracked {steps}"] = line("tracked", "--tracking.enabled", "true", "--train.steps", steps)
    plan["seed"] = line("parts2", *stage(2), "--train.seed", "5", "--train.steps", "14")
    plan["gap"] = line("parts2", *stage(2), "--data.pairs.gap", "3", "--train.steps", "14")
    plan["other data"] = line("parts2", *stage(2), "--data.corpus", str(broken), "--train.steps", "14")
    plan["odd batch"] = line("odd", "--train.global_batch", "15")
    plan["raw key"] = line("raw", "--train.deepspeed", json.dumps({"zero_optimization": {"stage": 3}}))
    starts = [
        (
            ranks,
            [
                line(chain, *stage_of(stages[start]), "--train.steps", str(4 * start + 4))
                for chain, stages in CHAINS.items()
            ],
        )
        for start, ranks in enumerate((2, 1, 4))
    ]
    results, *codes = sessions((2, list(plan.values())), *starts)
    assert codes == [[0] * len(CHAINS)] * 3
    return folder, dict(zip(plan, results, strict=True))


@pytest.mark.parametrize("stage", range(4))
def test_a_resumed_run_is_the_uninterrupted_one_to_all_digits(runs, stage: int):
    folder, codes = runs
    assert [codes[f"{part}{stage}"] for part in ("whole", "first", "second")] == [0, 0, 0]
    whole, parts = steps_of(folder / f"whole{stage}"), steps_of(folder / f"parts{stage}")
    assert [x["step"] for x in whole] == list(range(1, 13))
    assert parts == whole
    one, other = (folder / f"{run}{stage}/encoder/model.safetensors" for run in ("whole", "parts"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("chain", CHAINS)
def test_a_run_goes_on_with_other_ranks_and_stages_within_1e_5(runs, chain: str):
    folder, _ = runs
    whole, parts = steps_of(folder / "macro"), steps_of(folder / chain)
    assert [x["step"] for x in parts] == list(range(1, 13))
    assert [(x["pairs"], x["seen"]) for x in parts] == [(x["pairs"], x["seen"]) for x in whole]
    assert [x["loss"] for x in parts] == pytest.approx([x["loss"] for x in whole], abs=1e-5)
    assert [x["grad_norm"] for x in parts] == pytest.approx([x["grad_norm"] for x in whole], abs=1e-4)
    manifest = json.loads((folder / chain / "checkpoints/step_0000008/manifest.json").read_text())
    assert manifest["state"]["world_size"] == 1 and len(manifest["files"]) == 1
    assert (
        json.loads((folder / chain / "checkpoints/step_0000012/manifest.json").read_text())["state"][
            "adam_step"
        ]
        == 12
    )


@pytest.mark.parametrize("stage", range(4))
def test_steps_that_are_not_finite_leave_the_weights_alone_and_are_counted_and_named(
    runs, broken: Path, stage: int
):
    folder, codes = runs
    assert codes[f"bad{stage}"] == 0
    steps = steps_of(folder / f"bad{stage}")
    bad = [x["step"] for x in steps if not x["finite"]]
    assert 3 < len(bad) < BAD_STEPS - 3 and all(x["loss"] is None for x in steps if x["step"] in bad)
    assert all(math.isfinite(x["loss"]) and math.isfinite(x["grad_norm"]) for x in steps if x["finite"])
    assert bad == [x["step"] for x in steps_of(folder / "bad0") if not x["finite"]]
    encoder = Encoder.from_pretrained(folder / f"bad{stage}/encoder")
    assert all(p.isfinite().all() for p in encoder.parameters())
    manifest = json.loads((folder / f"bad{stage}/checkpoints/step_{BAD_STEPS:07d}/manifest.json").read_text())
    assert manifest["state"]["bad_steps"] == len(bad)
    assert manifest["state"]["adam_step"] == BAD_STEPS - len(bad)
    key = Corpus.open(broken).runs.key.iloc[3]
    named = [pair for x in steps if not x["finite"] for pair in x["bad_pairs"]]
    assert len(named) >= len(bad) and all(key in pair for pair in named)
    assert [x["lr"] for x in steps] == [min(step, 2) / 2 * 0.003 for step in range(1, BAD_STEPS + 1)]


def test_too_many_of_them_end_the_run_and_name_the_pairs(runs):
    _, codes = runs
    assert (
        codes["hopeless"].startswith("1: steps 1 to 1 had no finite loss")
        and "pairs 0 to 255" in codes["hopeless"]
    )


def test_activations_computed_again_do_not_change_the_run(runs):
    folder, codes = runs
    assert codes["again"] == 0 and steps_of(folder / "again") == steps_of(folder / "whole3")


def test_a_run_that_gave_up_has_left_a_checkpoint_of_its_last_good_weights(runs):
    folder, _ = runs
    manifest = json.loads((folder / "hopeless/checkpoints/step_0000001/manifest.json").read_text())
    assert manifest["state"]["adam_step"] == 0 and manifest["state"]["bad_steps"] == 1


def test_the_best_by_validation_is_kept_and_becomes_an_encoder(runs):
    folder, codes = runs
    assert codes["best"] == 0
    losses = {x["step"]: x["loss"] for x in evals_of(folder / "best") if x["step"] > 0}
    best = min(losses, key=lambda step: losses[step])
    kept = sorted(p.name for p in (folder / "best/checkpoints").iterdir())
    assert kept == sorted({f"step_{best:07d}", "step_0000012"})
    meta = Encoder.from_pretrained(folder / "best/encoder_best").meta
    assert meta["step"] == best


def test_a_restart_continues_the_mlflow_run(runs):
    folder, codes = runs
    assert codes["tracked 4"] == codes["tracked 8"] == 0
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert run.info.status == "FINISHED"
    told = client.get_metric_history(run.info.run_id, "train/loss")
    assert [metric.step for metric in told] == [1, 4, 5, 8]


def test_accumulation_does_not_change_the_run(runs):
    folder, codes = runs
    assert codes["micro"] == codes["macro"] == 0
    micro, macro = (
        [(x["loss"], x["grad_norm"]) for x in steps_of(folder / run)] for run in ("micro", "macro")
    )
    for a, b in zip(micro, macro, strict=True):
        assert a == pytest.approx(b, abs=1e-6)


def test_masked_volumes_are_the_same_at_every_zero_stage_and_however_a_step_is_divided(runs):
    folder, codes = runs
    assert {codes[name] for name in codes if name.startswith("masked")} == {0}
    first = steps_of(folder / "masked0")
    assert first[0]["ntp_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert 0.8 < first[0]["masked_loss"] < 1.3
    for name in ("masked1", "masked2", "masked3", "masked micro"):
        for line, other in zip(first, steps_of(folder / name), strict=True):
            for figure in ("loss", "ntp_loss", "masked_loss"):
                assert line[figure] == pytest.approx(other[figure], abs=1e-5)
            assert line["loss"] == pytest.approx(0.5 * line["ntp_loss"] + line["masked_loss"])
    assert steps_of(folder / "masked parts") == steps_of(folder / "masked2")
    assert all("masked_loss" in line for line in evals_of(folder / "masked0"))
    encoder = Encoder.from_pretrained(folder / "masked3/encoder")
    meta = encoder.meta
    of_sets = meta["datasets"].values()
    assert sum(own["n_runs"] for own in of_sets) == len(meta["train_runs"])
    assert {own["licence"] for own in of_sets} == {"unknown"} and all(own["hours"] > 0 for own in of_sets)
    assert meta["config"]["train"]["masked_weight"] == 1 and encoder.config.preset == "tiny"


def test_sequences_that_are_read_one_at_a_time_train_at_the_first_and_last_stage(runs):
    folder, codes = runs
    assert codes["siamese0"] == codes["siamese3"] == 0
    first, other = steps_of(folder / "siamese0"), steps_of(folder / "siamese3")
    assert first[0]["loss"] == pytest.approx(math.log(2), abs=1e-6) and first[1]["grad_norm"] > 0
    assert [x["loss"] for x in first] == pytest.approx([x["loss"] for x in other], abs=1e-5)


def test_bf16_and_the_scaled_preset_train(runs):
    folder, codes = runs
    assert codes["bf16"] == codes["tiny"] == 0
    for run in ("bf16", "tiny"):
        assert all(x["finite"] for x in steps_of(folder / run))
    manifest = json.loads((folder / "bf16/checkpoints/step_0000012/manifest.json").read_text())
    assert manifest["state"]["precision"] == "bf16"


def test_a_resumed_run_in_bf16_is_the_uninterrupted_one_to_all_digits(runs):
    folder, codes = runs
    assert [codes[name] for name in ("half", "half first", "half second")] == [0, 0, 0]
    assert steps_of(folder / "halves") == steps_of(folder / "half")
    weights = [(folder / run / "encoder/model.safetensors").read_bytes() for run in ("half", "halves")]
    assert weights[0] == weights[1]


def test_evaluation_starts_at_chance_and_counts_each_held_out_pair_once(runs):
    folder, _ = runs
    first, *_, last = evals_of(folder / "whole1")
    assert first["step"] == 0 and last["step"] == 12 and first["pairs"] == last["pairs"] == 26
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert set(first["acc_by_kind"]) == {"positive", "same_run", "same_subject"}
    assert set(first["acc_by_dataset"]) == {"alpha", "beta"}
    assert first["persistence"]["auc"] > 0.9  # AR(1) noise with 0.8: the baseline must see it


def test_the_record_holds_what_was_seen(runs):
    folder, _ = runs
    steps = steps_of(folder / "parts2")
    assert [sum(x["seen"].values()) for x in steps] == [16 * (i + 1) for i in range(12)]
    assert all(x["pairs"] == 16 for x in steps)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("seed", "train.seed was 0, is 5"),
        ("gap", "data.pairs.gap was 0, is 3"),
        ("other task", "train.masked_weight was 1.0, is 0.0"),
        ("other data", "data set alpha "),
        ("odd batch", "train.global_batch 15 does not divide by 2 ranks: take 14 or 16"),
        ("raw key", "train.deepspeed.zero_optimization.stage: this is derived; set train.zero_stage"),
    ],
)
def test_a_run_that_cannot_be_is_refused_with_the_remedy(runs, name: str, said: str):
    _, codes = runs
    assert isinstance(codes[name], str) and codes[name].startswith("2: ") and said in codes[name]


def test_old_checkpoints_go_and_nothing_is_pickled(runs):
    folder, _ = runs
    kept = sorted(p.name for p in (folder / "parts1/checkpoints").iterdir())
    assert kept == ["step_0000006", "step_0000012"]
    names = {p.name for p in (folder / "parts1/checkpoints/step_0000012").iterdir()}
    assert names == {"manifest.json", "rank_00000.safetensors", "rank_00001.safetensors"}
