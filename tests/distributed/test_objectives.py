"""Objectives that compare what all ranks read: the same on any number of ranks and at any ZeRO stage."""

import json

import numpy as np
import pytest
import torch
from films import write_film
from ranks import evals_of, steps_of
from safetensors.torch import load_file

from fmriscale.model.encoder import Encoder

pytestmark = pytest.mark.distributed

ALL = (
    "--train.contrastive_weight",
    "0.5",
    "--train.connectivity_weight",
    "2",
    "--train.masked_weight",
    "0.3",
)
ACROSS = ("--train.ntp_weight", "0", "--train.contrastive_weight", "1", "--train.pool", "bins")
ACROSS += ("--model.init_projection", "shared")
PARTS = ("--train.contrastive_weight", "0.5", "--train.max_micro_batch", "2", "--train.pair", "siamese")
FIGURES = ("loss", "grad_norm", "ntp_loss", "masked_loss", "contrastive_loss", "connectivity_loss")
N_STEPS = 6
SETTINGS = {
    "model": {"preset": "tiny", "d_model": 32, "n_layers": 2, "n_heads": 4, "start": "identity"},
    "train": {
        "steps": N_STEPS,
        "global_batch": 16,
        "pool": "mean",
        "warmup_steps": 0,
        "lr": 0.003,
        "schedule": "constant",
        "contrastive_people": 16,
        "contrastive_windows": 5,
        "eval_every": 0,
        "eval_pairs": 48,
        "save_every": 3,
        "keep_last": 9,
    },
    "tracking": {"enabled": False},
}


@pytest.fixture(scope="module")
def runs(sessions, tmp_path_factory: pytest.TempPathFactory):
    """The same runs on two ranks (at every stage), one and four: 7 people, who divide by none of these."""
    folder = tmp_path_factory.mktemp("objectives")
    write_film(folder / "film", n_people=10, n_volumes=120, n_features=12)
    data = {"corpus": str(folder / "film"), "holdout_runs": ["*sub-07*", "*sub-08*", "*sub-09*"]}
    (folder / "recipe.yaml").write_text(json.dumps({"out": "unset", "data": data, **SETTINGS}))

    def line(out: str, *options: str) -> list[str]:
        return ["--config", str(folder / "recipe.yaml"), "--out", str(folder / out), *options]

    stages = {
        f"{name}{n}": line(f"{name}{n}", *options, "--train.zero_stage", str(n))
        for name, options in (("all", ALL), ("across", ACROSS), ("parts", PARTS))
        for n in range(4)
    }
    for name, options in (("all", ALL), ("across", ACROSS)):
        again = (*options, "--train.zero_stage", "2", "--model.input_dropout", "0.2")
        stages[f"{name} whole"] = line(f"{name} whole", *again)
        stages[f"{name} first"] = line(f"{name} resumed", *again, "--train.steps", "3")
        stages[f"{name} second"] = line(f"{name} resumed", *again)
    stages["other group"] = line("all resumed", *ALL, "--train.contrastive_people", "4", "--train.steps", "8")
    others = {
        ranks: {
            f"{name} on {ranks}": line(f"{name} on {ranks}", *options)
            for name, options in (("all", ALL), ("across", ACROSS), ("parts", PARTS))
        }
        for ranks in (1, 4)
    }
    told = sessions((2, list(stages.values())), *((n, list(of.values())) for n, of in others.items()))
    names = [list(stages), *map(list, others.values())]
    codes = {
        name: code for of, got in zip(names, told, strict=True) for name, code in zip(of, got, strict=True)
    }
    return folder, codes


@pytest.mark.parametrize("name", ["all", "across", "parts"])
def test_losses_and_weights_are_the_same_on_1_2_and_4_ranks_and_at_every_stage(runs, name: str):
    folder, codes = runs
    first = steps_of(folder / f"{name} on 1")
    assert len(first) == N_STEPS and first[-1]["grad_norm"] > 0
    expected = load_file(folder / f"{name} on 1/encoder/model.safetensors")
    for other in (f"{name} on 4", *(f"{name}{n}" for n in range(4))):
        assert codes[other] == 0
        for a, b in zip(first, steps_of(folder / other), strict=True):
            found = {key: b[key] for key in FIGURES if key in b}
            assert found == pytest.approx({key: a[key] for key in FIGURES if key in a}, abs=2e-5), other
            assert a.get("contrastive_acc") == b.get("contrastive_acc")
        weights = load_file(folder / other / "encoder/model.safetensors")
        for key, value in expected.items():
            torch.testing.assert_close(weights[key], value, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", ["all", "across"])
def test_a_resumed_run_is_the_uninterrupted_one_to_all_digits(runs, name: str):
    folder, codes = runs
    assert [codes[f"{name} {part}"] for part in ("whole", "first", "second")] == [0, 0, 0]
    assert steps_of(folder / f"{name} resumed") == steps_of(folder / f"{name} whole")
    one, other = (folder / f"{name} {run}/encoder/model.safetensors" for run in ("whole", "resumed"))
    assert one.read_bytes() == other.read_bytes()


def test_another_group_makes_another_run(runs):
    _, codes = runs
    assert "train.contrastive_people was 16, is 4" in codes["other group"]


def test_the_record_has_every_term_and_their_sum(runs):
    folder, _ = runs
    lines = steps_of(folder / "all1") + evals_of(folder / "all1")
    for line in lines:
        terms = 1 * line["ntp_loss"] + 0.3 * line["masked_loss"]
        terms += 0.5 * line["contrastive_loss"] + 2 * line["connectivity_loss"]
        assert line["loss"] == pytest.approx(terms, abs=1e-6)
        assert 0 <= line["contrastive_acc"] <= 1 and "acc_by_kind" in line
    only = steps_of(folder / "across1")[0]
    assert only["loss"] == only["contrastive_loss"] and only["pairs"] == 0 and "acc" not in only
    assert evals_of(folder / "across1")[0].keys() >= {"contrastive_loss", "contrastive_acc"}
    rates = json.loads((folder / "across1/metrics.jsonl").read_text().splitlines()[1])
    assert rates["pairs_per_s"] == 0 and rates["windows_per_s"] > 0


def test_held_out_losses_are_the_same_on_any_number_of_ranks(runs):
    folder, _ = runs
    for name in ("all", "across"):
        told = [evals_of(folder / of)[-1] for of in (f"{name} on 1", f"{name}1", f"{name} on 4")]
        for key in FIGURES:
            values = [line[key] for line in told if key in line]
            assert not values or np.ptp(values) < 1e-4


def test_an_encoder_tells_whose_runs_it_was_trained_on(runs):
    folder, _ = runs
    meta = Encoder.from_pretrained(folder / "across1/encoder").meta
    assert len(meta["train_runs"]) == 7 and not any("sub-08" in key for key in meta["train_runs"])
