"""In which type a run computes, and that bf16 at ZeRO stage 0 keeps float32 weights."""

import json
from pathlib import Path

import pytest
import torch
from factory import write_corpus

from fmriscale import train
from fmriscale.common.errors import UserError
from fmriscale.config import SplitConfig, TrainConfig
from fmriscale.model import attention
from fmriscale.model.attention import attend
from fmriscale.training import precision
from fmriscale.training.precision import AMX_WIDTH, pick_precision

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
