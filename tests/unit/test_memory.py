"""What the formulas of memory say, against what torch keeps and allocates."""

import pytest
import torch
from memory import peak_of, saved_bytes

from fmriscale.config import ModelConfig, TrainConfig
from fmriscale.model.activation_memory import activation_bytes
from fmriscale.model.classifier import build
from fmriscale.model.encoder import count_parameters
from fmriscale.model.losses import ntp_loss
from fmriscale.model.presets import resolve_encoder
from fmriscale.training.objective import Objective

B, L, V = 32, 5, 125
NTP = Objective(TrainConfig())
CASES = [
    ("paper", torch.float32, None, ("joint", "cls")),
    ("paper", torch.float32, 0.0, ("joint", "cls")),
    ("paper", torch.float32, None, ("siamese", "mean")),
    ("tiny", torch.float32, None, ("joint", "cls")),
    ("tiny", torch.bfloat16, 0.1, ("joint", "cls")),
    ("tiny", torch.float32, None, ("siamese", "cls")),
    ("tiny", torch.float32, None, ("joint", "mean")),
    ("tiny", torch.float32, None, ("joint", "bins")),
]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("preset", "dtype", "dropout", "way"), CASES)
def test_activations_are_those_that_torch_keeps(
    preset: str, dtype: torch.dtype, dropout, way, recompute: bool
):
    config = resolve_encoder(ModelConfig(preset=preset, n_layers=4, dropout=dropout), {"roi": V}, L)
    model = build(config, 0, *way).to(dtype).train()
    model.encoder.recompute = recompute
    left, right, t_r = torch.randn(B, L, V), torch.randn(B, L, V), torch.full((B,), 2.0)
    label = torch.arange(B) % 2

    def forward() -> torch.Tensor:
        return ntp_loss(model(left, right, t_r), label).mean()

    forward().backward()  # gradients are there before memory is watched
    saved = saved_bytes(forward, model)
    peak = peak_of(lambda: forward().backward())
    told = activation_bytes(
        config,
        B,
        n_features=V,
        length=L,
        itemsize=dtype.itemsize,
        mask_itemsize=dtype.itemsize,
        attention_itemsize=4,
        recompute=recompute,
        alone=way[0] == "siamese",
        every_token=way[1] != "cls",
    )
    assert told.saved == pytest.approx(saved, rel=0.03)
    assert told.total == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize("preset", ["paper", "tiny"])
def test_parameters_are_counted_without_building(preset: str):
    config = resolve_encoder(ModelConfig(preset=preset), {"roi": V}, L)
    for settings in ({}, {"pair": "siamese"}, {"masked_weight": 1.0}):
        objective = Objective(TrainConfig(**settings))
        assert objective.count_parameters(config) == count_parameters(objective.build(config))


@pytest.mark.parametrize(("preset", "millions"), [("base", 85), ("large", 355), ("1b", 1_008), ("7b", 7_050)])
def test_the_large_presets_have_the_size_of_their_names(preset: str, millions: int):
    config = resolve_encoder(ModelConfig(preset=preset), {"roi": 424}, L)
    assert round(NTP.count_parameters(config) / 1e6) == millions
