"""The backward pass in float32 and in bf16, against differences of the loss of a float64 model.

A slope along a direction needs no backward pass: (L(w + h d) - L(w - h d)) / 2 h. Directions are drawn from a
standard normal distribution, so that an error of the gradient shows as large as it is, however many weights
there are. Errors are told as shares of the gradient's norm.
"""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fmriscale.config import ModelConfig, TrainConfig
from fmriscale.model import attention
from fmriscale.model.presets import resolve_encoder
from fmriscale.sampling.batch import Batch
from fmriscale.sampling.groups import GroupBatch
from fmriscale.training.feed import Read
from fmriscale.training.objective import Objective

B, L, V, N_DIRECTIONS, STEP = 6, 4, 13, 4, 1e-6
TOLERANCES = {"fp32": 1e-5, "bf16": 0.05}
"""Of the gradient's norm. bf16 keeps 8 bits: each product is wrong by up to 1 in 256."""
CASES: dict[str, tuple[Any, TrainConfig]] = {
    "published": ("paper", TrainConfig(zero_stage=0)),
    "joint, rotary": ("tiny", TrainConfig(zero_stage=0)),
    "siamese, bins": ("tiny", TrainConfig(zero_stage=0, pair="siamese", pool="bins")),
    "masked": ("tiny", TrainConfig(zero_stage=0, ntp_weight=0.5, masked_weight=0.5)),
    "across people": ("tiny", TrainConfig(zero_stage=0, ntp_weight=0, contrastive_weight=1, pool="mean")),
}


def micro_batch(objective: Objective, settings: TrainConfig, dtype: torch.dtype) -> Read:
    g, place = torch.Generator().manual_seed(1), np.zeros(B, np.int32)
    left, right = torch.randn(2, B, L, V, generator=g).half().to(dtype).unbind()
    people = torch.randn(3, 4, L, V, generator=g).half().to(dtype)
    batch = Batch(
        left=left, right=right, label=torch.arange(B) % 2, kind=torch.zeros(B, dtype=torch.int8),
        dataset=torch.zeros(B, dtype=torch.int16), t_r=torch.full((B,), 2.0), run_left=place, run_right=place,
        row_left=place, row_right=place, start_left=place, start_right=place, space="roi",
    )  # fmt: skip
    if not settings.contrastive_weight:
        return objective.add_masks(batch, 0).to(torch.device("cpu")), None
    group = GroupBatch(people, torch.full((3,), 2.0), "roi", "film", np.zeros(3), np.zeros((3, 4)), 3, 3)
    return None, group


def gradient(model: nn.Module, objective: Objective, micro: Read) -> list[torch.Tensor]:
    parameters = list(model.parameters())
    grads = torch.autograd.grad(objective.losses(model, *micro).total, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]


@torch.no_grad()
def slope(model: nn.Module, objective: Objective, micro: Read, direction: list[torch.Tensor]) -> float:
    """Return the central difference of the loss."""
    losses = []
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # attention and losses take at least float32: here all is float64
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        for sign in (1, -1):
            moved = copy.deepcopy(model)
            for parameter, step in zip(moved.parameters(), direction, strict=True):
                parameter += sign * STEP * step
            losses.append(objective.losses(moved, *micro).total.item())
    return (losses[0] - losses[1]) / (2 * STEP)


def errors_of(case: str, precision: str) -> list[float]:
    """Return by how much slopes differ, as shares of the gradient's norm."""
    preset, settings = CASES[case]
    exact, objective = Objective(settings), Objective(settings, precision=precision)
    config = ModelConfig(preset=preset, n_layers=2, n_heads=2, d_model=None if preset == "paper" else 24)
    model = objective.build(resolve_encoder(config, {"roi": V}, L)).eval()
    g = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # heads start at zero, and would let nothing through
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=g)
    found = [x.double() for x in gradient(model, objective, micro_batch(objective, settings, torch.float16))]
    norm = float(torch.stack([x.square().sum() for x in found]).sum().sqrt())
    reference = copy.deepcopy(model).double()
    micro = micro_batch(exact, settings, torch.float64)
    errors = []
    for _ in range(N_DIRECTIONS):
        direction = [torch.randn(x.shape, generator=g).double() for x in found]
        told = sum(float((x * d).sum()) for x, d in zip(found, direction, strict=True))
        errors.append(abs(told - slope(reference, exact, micro, direction)) / norm)
    return errors


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("case", CASES)
def test_slopes_of_the_backward_pass_are_those_of_the_loss(case: str, precision: str):
    errors = errors_of(case, precision)
    assert max(errors) < TOLERANCES[precision]
    assert precision == "fp32" or max(errors) > TOLERANCES["fp32"], "bf16 was not used"


class Wrong(torch.autograd.Function):
    """Attention whose backward pass is a fifth too large."""

    @staticmethod
    def forward(ctx, y):
        return y.view_as(y)

    @staticmethod
    def backward(ctx, grad):
        return 1.2 * grad


def test_a_wrong_backward_pass_would_be_seen(monkeypatch: pytest.MonkeyPatch):
    right = attention.attend
    monkeypatch.setattr(attention, "attend", lambda *qkv: Wrong.apply(right(*qkv)))
    assert max(errors_of("joint, rotary", "bf16")) > TOLERANCES["bf16"]
