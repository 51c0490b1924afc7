"""`train.deterministic`: set before CUDA starts, equal bits, and a plain refusal."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from factory import write_corpus

from fmriscale import train
from fmriscale.common.errors import UserError, exit_code_of
from fmriscale.config import SplitConfig
from fmriscale.training import distributed
from fmriscale.training.determinism import NO_FORM, WORKSPACE, deterministic


def refused_by_torch() -> None:
    """An operation that has no deterministic form, on a CPU either."""
    torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)


def line_of(place: Path, out: str, **settings: Any) -> list[str]:
    given = {"out": place / out, "data.corpus": place / "corpus", "tracking.enabled": "false"}
    given |= {"train.steps": 4, "train.global_batch": 16, "train.eval_every": 0, "train.precision": "bf16"}
    given |= {key.replace("__", "."): value for key, value in settings.items()}
    return [f"--{key}={value}" for key, value in given.items()]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("deterministic")
    write_corpus(folder / "corpus", n_features=14, split=SplitConfig(val=0.0, test=0.0))
    return folder


@pytest.mark.parametrize("launched", [False, True])
@pytest.mark.parametrize(("given", "kept"), [(None, ":4096:8"), (":16:8", ":16:8"), (":0:0", ":4096:8")])
def test_all_is_set_before_the_first_cuda_call_and_put_back(place, launched, given, kept, monkeypatch):
    monkeypatch.delenv(WORKSPACE, raising=False)
    if given:
        monkeypatch.setenv(WORKSPACE, given)
    if launched:
        monkeypatch.setenv("RANK", "0")
    seen = []

    def meeting() -> None:  # NCCL and cuBLAS start in it
        seen.append((os.environ.get(WORKSPACE), torch.are_deterministic_algorithms_enabled()))
        assert not torch.cuda.is_initialized()
        raise UserError("far enough")

    monkeypatch.setattr(distributed, "init_distributed", meeting)
    for on in ("true", "false"):
        with pytest.raises(UserError, match="far enough"):
            train.main(line_of(place, "unused", train__deterministic=on))
        assert os.environ.get(WORKSPACE) == given and not torch.are_deterministic_algorithms_enabled()
    assert seen == [(kept, True), (given, False)]


def test_on_a_gpu_attention_takes_the_kernel_whose_backward_pass_adds_in_one_order(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    flash = torch.backends.cuda.flash_sdp_enabled
    with deterministic(True):
        assert torch.backends.cuda.math_sdp_enabled() and not flash()
        assert not (
            torch.backends.cuda.mem_efficient_sdp_enabled() or torch.backends.cuda.cudnn_sdp_enabled()
        )
    assert flash()
    with deterministic(False):
        assert flash()


def test_what_has_no_deterministic_form_is_refused_in_one_line(place, monkeypatch, capsys):
    said = r"no deterministic form of put_ on this device; set train\.deterministic false"
    with pytest.raises(UserError, match=said), deterministic(True):
        refused_by_torch()
    refused_by_torch()
    with pytest.raises(RuntimeError, match="another fault"), deterministic(True):
        raise RuntimeError("another fault")
    with pytest.raises(RuntimeError, match=NO_FORM):
        torch.use_deterministic_algorithms(True)
        try:
            refused_by_torch()
        finally:
            torch.use_deterministic_algorithms(False)

    def with_put(*args: Any) -> torch.Tensor:
        refused_by_torch()
        return args[0]

    monkeypatch.setattr("fmriscale.model.encoder.pool_tokens", with_put)
    line = line_of(place, "refused", train__deterministic="true", train__pool="mean", train__pair="siamese")
    assert exit_code_of(lambda: train.main(line)) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.distributed
def test_the_same_run_twice_is_equal_to_the_bit_and_a_slow_width_is_told(place, capsys):
    found = {}
    for name, on in (("once", "true"), ("twice", "true"), ("without", "false")):
        line = line_of(place, name, train__deterministic=on, model__dropout=0.1, train__masked_weight=0.5)
        assert train.main(line) == 0
        metrics = [json.loads(text) for text in (place / name / "metrics.jsonl").read_text().splitlines()]
        weights = hashlib.sha256((place / name / "encoder/model.safetensors").read_bytes()).hexdigest()
        found[name] = weights, [(x["loss"], x["grad_norm"]) for x in metrics if "event" not in x]
    assert found["once"] == found["twice"] == found["without"] and len(found["once"][1]) == 4
    said = capsys.readouterr().out
    assert "which is slow in bf16" in said and said.count(", deterministic") == 2
