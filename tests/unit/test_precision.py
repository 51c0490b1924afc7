"""In which type training, studies and embedding compute, and that in bf16 weights stay float32."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factory import write_corpus
from toystudy import options, write_toy

from fmriscale import train
from fmriscale.cli import run
from fmriscale.common.errors import UserError
from fmriscale.config import ModelConfig, SplitConfig, StudyConfig, TrainConfig
from fmriscale.config.recipe import parse
from fmriscale.corpus.reader import Corpus
from fmriscale.model import attention, precision
from fmriscale.model.attention import attend
from fmriscale.model.encoder import build_encoder
from fmriscale.model.precision import AMX_WIDTH
from fmriscale.model.presets import resolve_encoder
from fmriscale.model.vectors import window_vectors
from fmriscale.study.data import open_study
from fmriscale.study.encoders import build_model
from fmriscale.study.fit import Fitted, fit
from fmriscale.study.jobs import Cell
from fmriscale.training.precision import pick_precision

CPU = torch.device("cpu")


def test_auto_is_bf16_on_a_cpu_with_amx_from_a_width_on(monkeypatch):
    monkeypatch.setattr(precision, "has_amx", lambda: False)
    assert pick_precision(TrainConfig(), CPU, 1024) == ("fp32", "this CPU has no AMX: bf16 would be emulated")
    monkeypatch.setattr(precision, "has_amx", lambda: True)
    assert pick_precision(TrainConfig(zero_stage=0), CPU, AMX_WIDTH)[0] == "bf16"
    chosen, why = pick_precision(TrainConfig(), CPU, AMX_WIDTH - 1)
    assert chosen == "fp32" and f"{AMX_WIDTH}" in why


def test_what_the_recipe_says_is_done_or_refused():
    assert pick_precision(TrainConfig(precision="bf16", zero_stage=0), CPU, 8)[0] == "bf16"
    assert "TF32" not in pick_precision(TrainConfig(precision="fp32"), CPU, 8)[1]
    assert "TF32" in pick_precision(TrainConfig(precision="fp32"), torch.device("cuda"), 8)[1]
    with pytest.raises(UserError, match="needs a GPU"):
        pick_precision(TrainConfig(precision="fp16"), CPU, 8)
    with pytest.raises(UserError, match=r"needs train\.zero_stage 1, 2 or 3"):
        pick_precision(TrainConfig(precision="fp16", zero_stage=0), torch.device("cuda"), 8)


def test_attention_in_bf16_on_a_cpu_is_that_of_float32(monkeypatch):
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 8, generator=g).bfloat16().requires_grad_() for _ in range(3))
    seen = []
    kernel = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        attention.F, "scaled_dot_product_attention", lambda *a: seen.append(a[0].dtype) or kernel(*a)
    )
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = attend(q, k, v)
        assert y.dtype == torch.bfloat16 and seen.pop() == torch.float32
        expected = kernel(q.float(), k.float(), v.float())
        torch.testing.assert_close(y, expected.bfloat16())
    y.float().square().sum().backward()
    assert q.grad is not None and q.grad.dtype == torch.bfloat16


# ---------------------------------------------------------------- vectors and studies


def force_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this machine decide as one with AMX, from any width on; bf16 is emulated if it has none."""
    monkeypatch.setattr(precision, "has_amx", lambda: True)
    monkeypatch.setattr(precision, "AMX_WIDTH", 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return write_toy(tmp_path_factory.mktemp("study"))


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the root of the mean squared error, beside that of the expected."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(("preset", "pool"), [("paper", "cls"), ("tiny", "mean"), ("tiny", "bins")])
def test_vectors_in_bf16_are_float32_and_those_of_float32_within_a_hundredth(preset, pool, monkeypatch):
    config = ModelConfig(preset=preset, n_layers=2, n_heads=2, d_model=None if preset == "paper" else 64)
    encoder = build_encoder(resolve_encoder(config, {"roi": 21}, 5), 0).eval()
    windows_NLV = np.random.default_rng(0).standard_normal((300, 5, 21)).astype(np.float16)
    monkeypatch.setattr(precision, "has_amx", lambda: False)
    exact = window_vectors(encoder, windows_NLV, 2.0, "roi", pool)
    force_amx(monkeypatch)
    found = window_vectors(encoder, windows_NLV, 2.0, "roi", pool)
    assert found.dtype == exact.dtype == np.float32 and found.shape == exact.shape
    assert 0 < relative(found, exact) < 0.01
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")


def fitted(place: Path, **changed: Any) -> Fitted:
    """Train the pre-trained cell of the first fold of the toy study."""
    config = parse(StudyConfig, options(place, train__epochs=3, **changed)[1:])
    study = open_study(config, Corpus.open(config.corpus))
    cell = Cell("pretrained", fold=0, seed=0)
    return fit(study, cell, *build_model(study, cell), *study.pairs(study.folds[0], None, 0))


@pytest.mark.parametrize("changed", [{}, {"train__adapt": "lora"}, {"train__pair": "siamese"}])
def test_a_fit_in_bf16_learns_the_same(place, changed, monkeypatch):
    monkeypatch.setattr(precision, "has_amx", lambda: False)
    exact = fitted(place, **changed)
    force_amx(monkeypatch)
    found = fitted(place, **changed)
    assert (exact.precision, found.precision) == ("fp32", "bf16")
    losses, expected = ([epoch["loss"] for epoch in f.curve] for f in (found, exact))
    assert losses != expected and losses == pytest.approx(expected, abs=0.01)
    assert expected[-1] < expected[0]
    assert found.score.auc == pytest.approx(exact.score.auc, abs=0.02)
    assert {p.dtype for p in found.model.parameters()} == {torch.float32}


def test_studies_and_embedding_say_in_which_type_they_compute(place, monkeypatch, capsys):
    line = ["embed", str(place / "encoder"), str(place / "corpus"), "--out", str(place / "x.npz")]
    vectors = {}
    for kind, why in (("fp32", "no AMX"), ("bf16", "has AMX")):
        if kind == "bf16":
            force_amx(monkeypatch)
        else:
            monkeypatch.setattr(precision, "has_amx", lambda: False)
        assert run(line) == 0
        said = capsys.readouterr().out
        assert f"compute on CPU in {kind} (this CPU " in said and why in said
        vectors[kind] = np.load(place / "x.npz")["vectors"]
    assert vectors["bf16"].dtype == np.float32
    assert 0 < relative(vectors["bf16"], vectors["fp32"]) < 0.01
    assert run(options(place, train__epochs=1)) == 0
    said = capsys.readouterr().out
    assert "encoders compute on CPU in bf16 (this CPU has AMX)" in said and " s, bf16)" in said
    cells = (place / "out" / "cells").iterdir()
    assert {json.loads(file.read_text())["precision"] for file in cells} == {"bf16"}


# ---------------------------------------------------------------- training


@pytest.mark.distributed
def test_bf16_follows_float32_at_stage_0_and_1(tmp_path: Path):
    """Fifteen steps of all losses stay within what 8 bits of mantissa explain, and differ from float32."""
    corpus = tmp_path / "corpus"
    write_corpus(corpus, split=SplitConfig(val=0.0, test=0.0))
    losses = {}
    for name, stage, chosen in (("fp32", 0, "fp32"), ("bf16", 0, "bf16"), ("bf16_zero1", 1, "bf16")):
        line = ["--out", str(tmp_path / name), "--data.corpus", str(corpus), "--model.preset", "tiny"]
        line += [
            "--model.n_layers",
            "2",
            "--model.d_model",
            "32",
            "--model.dropout",
            "0",
            "--train.steps",
            "15",
        ]
        line += ["--train.global_batch", "16", "--train.eval_every", "0", "--tracking.enabled", "false"]
        line += ["--train.zero_stage", str(stage), "--train.precision", chosen, "--train.warmup_steps", "2"]
        assert train.main(line) == 0
        lines = [json.loads(text) for text in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        losses[name] = torch.tensor([x["loss"] for x in lines if "event" not in x])
    for name in ("bf16", "bf16_zero1"):
        assert not torch.equal(losses[name], losses["fp32"])
        torch.testing.assert_close(losses[name], losses["fp32"], atol=0.02, rtol=0)
