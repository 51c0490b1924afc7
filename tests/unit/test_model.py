import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fmriscale.common.errors import DamageError, UserError
from fmriscale.config import ModelConfig
from fmriscale.model.adapt import adapted_parameters, add_low_rank, merge_low_rank
from fmriscale.model.attention import sdpa_backend
from fmriscale.model.classifier import build
from fmriscale.model.dropout import Dropout
from fmriscale.model.encoder import Encoder, build_encoder, count_parameters, in_space
from fmriscale.model.flops import computed_flops, forward_flops
from fmriscale.model.losses import group_sums, ntp_loss
from fmriscale.model.presets import resolve_encoder, slow_width

V, L, B = 21, 5, 6
PRESETS = ("paper", "tiny")


def encoder_of(preset: str, spaces: dict[str, int] | None = None, **settings) -> Encoder:
    model = ModelConfig(preset=preset, n_layers=2, **settings)
    return build(resolve_encoder(model, spaces or {"roi": V}, L), seed=0).encoder.eval()


def pairs(n_features: int = V, seed: int = 1):
    g = torch.Generator().manual_seed(seed)
    left = torch.randn(B, L, n_features, generator=g).half()
    right = torch.randn(B, L, n_features, generator=g).half()
    return left, right, torch.full((B,), 2.0)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_last_block_for_cls_alone_gives_the_same_cls(preset: str):
    encoder = encoder_of(preset)
    torch.testing.assert_close(
        encoder(*pairs()), encoder(*pairs(), every_token=True)[:, 0], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_the_last_block_for_cls_alone_gives_the_same_gradients(preset: str):
    encoder = encoder_of(preset)
    grads = []
    for whole in (False, True):
        encoder.zero_grad()
        cls = encoder(*pairs(), every_token=whole)
        (cls[:, 0] if whole else cls).square().sum().backward()
        grads.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    assert len(grads[0]) == len(list(encoder.parameters()))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
def test_before_training_the_loss_is_exactly_chance(preset: str):
    model = build(resolve_encoder(ModelConfig(preset=preset), {"roi": V}, L), seed=3)
    loss = ntp_loss(model(*pairs()), torch.tensor([0, 1, 1, 0, 1, 0]))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.full((B,), math.log(2)), rtol=0, atol=1e-7)


@pytest.mark.parametrize("preset", PRESETS)
def test_pairs_do_not_see_each_other_and_order_matters(preset: str):
    encoder = encoder_of(preset)
    left, right, t_r = pairs()
    cls = encoder(left, right, t_r)
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    torch.testing.assert_close(encoder(left[order], right[order], t_r), cls[order])
    torch.testing.assert_close(encoder(left[:1], right[:1], t_r[:1]), cls[:1])
    assert not torch.allclose(encoder(right, left, t_r), cls, atol=1e-3)
    assert not torch.allclose(encoder(left.flip(1), right, t_r), cls, atol=1e-3)


def test_rotary_positions_are_in_seconds_and_learned_ones_are_not():
    left, right, t_r = pairs()
    paper, tiny = encoder_of("paper"), encoder_of("tiny")
    assert torch.equal(paper(left, right, t_r), paper(left, right, t_r / 2))
    assert not torch.allclose(tiny(left, right, t_r), tiny(left, right, t_r / 2), atol=1e-3)
    assert tiny(left[:, :3], right[:, :2], t_r).shape == (B, 128)
    with pytest.raises(ValueError, match="sequences of 5 volumes"):
        paper(left[:, :3], right[:, :3], t_r)


def test_each_feature_space_has_its_own_rows_of_one_weight():
    encoder = encoder_of("tiny", {"cc200": 11, "roi": V})
    before = encoder(*pairs(), space="roi")
    with torch.no_grad():
        encoder.embedding.weight[:11] = 7.0
        encoder.embedding.bias[0] = 7.0
    assert torch.equal(encoder(*pairs(), space="roi"), before)
    encoder(*pairs(), space="roi").sum().backward()
    grad = encoder.embedding.weight.grad
    assert (grad[:11] == 0).all() and (grad[11:] != 0).any()
    with pytest.raises(ValueError, match="one of"):
        encoder(*pairs(), space=None)


def test_the_paper_width_is_the_features_three_flags_and_padding():
    config = resolve_encoder(ModelConfig(), {"stg": 417}, 5)
    assert (config.d_model, config.d_ff, config.n_layers, config.n_heads) == (420, 1680, 3, 2)
    n_encoder = sum(p.numel() for p in Encoder(config).parameters())
    assert n_encoder == 6_366_780 + 12 * 420  # as published: three layers and twelve positions
    assert resolve_encoder(ModelConfig(), {"cc200": 200}, 5).d_model == 204


def test_a_wider_paper_model_reads_the_same_volumes_beside_more_zero_columns():
    narrow, wide = (resolve_encoder(ModelConfig(d_model=d), {"stg": 417}, 5) for d in (None, 432))
    assert (wide.d_model, wide.d_ff) == (432, 1728)
    assert slow_width(wide, "bf16") == slow_width(narrow, "fp32") == ""
    assert "row of 840 bytes" in slow_width(narrow, "bf16")
    assert "--model.d_model 432 (12 zero columns" in slow_width(narrow, "bf16")
    tiny = resolve_encoder(ModelConfig(preset="tiny", d_model=100, n_heads=2), {"stg": 417}, 5)
    assert slow_width(tiny, "fp16").endswith("--model.d_model 112 avoids it")
    volumes = torch.randn(2, 3, 5, 417).unbind()
    tokens = [build_encoder(config, 0).embedding for config in (narrow, wide)]
    for embedding in tokens:
        torch.nn.init.zeros_(embedding.positions)
    few, more = (embedding(*volumes, None) for embedding in tokens)
    assert torch.equal(few, more[..., :420]) and not more[..., 420:].any()


def test_raw_tokens_are_flags_then_features_then_zeros():
    encoder = encoder_of("paper", n_heads=5)
    with torch.no_grad():
        encoder.embedding.positions.zero_()
    left, right, _ = pairs()
    tokens = encoder.embedding(left, right, None)
    assert tokens.shape[2] == 25
    assert tokens[0, 0].nonzero().tolist() == [[0]] and tokens[0, L + 1].nonzero().tolist() == [[2]]
    assert torch.equal(tokens[:, 1 : L + 1, 3 : 3 + V], left.float())
    assert torch.equal(tokens[:, L + 2 :, 3 : 3 + V], right.float())
    assert (tokens[:, :, 3 + V :] == 0).all() and (tokens[:, 1 : L + 1, :3] == 0).all()


@pytest.mark.parametrize(
    ("settings", "spaces", "said"),
    [
        ({"preset": "paper", "d_model": 8}, {"a": V}, "Leave model.d_model out"),
        ({"preset": "paper", "d_model": 433}, {"a": V}, "or a larger multiple"),
        ({"preset": "paper"}, {"a": V, "b": V}, "one feature space"),
        ({"preset": "tiny", "d_model": 100, "n_heads": 8}, {"a": V}, "multiple of 16"),
    ],
)
def test_widths_that_cannot_be_are_refused_with_the_remedy(settings, spaces, said):
    with pytest.raises(UserError, match=said):
        resolve_encoder(ModelConfig(**settings), spaces, L)


@pytest.mark.parametrize("preset", PRESETS)
def test_activations_computed_again_give_the_same_loss_and_gradients_to_the_bit(preset: str):
    config = resolve_encoder(ModelConfig(preset=preset, dropout=0.3), {"roi": V}, L)
    model, found = build(config, seed=0), []
    torch.nn.init.normal_(model.head.weight)
    for recompute in (False, True):
        model.encoder.recompute = recompute
        model.zero_grad()
        torch.manual_seed(1)
        loss = ntp_loss(model(*pairs()), torch.tensor([0, 1, 1, 0, 1, 0])).mean()
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters()), torch.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_attention_kernel_has_a_name():
    assert sdpa_backend(64, 12, torch.float32, torch.device("cpu")) == "flash"
    with sdpa_kernel(SDPBackend.MATH):
        assert sdpa_backend(64, 12, torch.float32, torch.device("cpu")) == "math"


def test_weights_depend_on_the_seed_alone():
    config = resolve_encoder(ModelConfig(preset="tiny"), {"roi": V}, L)
    torch.manual_seed(1)
    first = build(config, seed=5).state_dict()
    state = torch.get_rng_state()
    second = build(config, seed=5).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.values(), second.values(), strict=True))
    other = build(config, seed=6).state_dict()
    assert not torch.equal(first["encoder.embedding.weight"], other["encoder.embedding.weight"])


def test_it_learns_to_tell_whether_right_goes_on_from_left():
    config = resolve_encoder(ModelConfig(preset="paper", n_layers=2, dropout=0.0), {"roi": 9}, 2)
    model = build(config, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    g = torch.Generator().manual_seed(0)
    for _ in range(300):
        left = torch.randn(128, 2, 9, generator=g)
        right = torch.randn(128, 2, 9, generator=g)
        label = torch.arange(128) % 2
        right[label == 1, 0] = left[label == 1, 1]
        loss = ntp_loss(model(left, right, torch.ones(128)), label).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    correct = (model.eval()(left, right, torch.ones(128)).argmax(1) == label).float().mean()
    assert correct > 0.9, float(correct)


@pytest.mark.parametrize("preset", PRESETS)
def test_flops_are_those_that_torch_counts(preset: str):
    config = resolve_encoder(ModelConfig(preset=preset), {"roi": V}, L)
    model = build(config, 0).eval()
    # The counter does not know the fused CPU kernel.
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter, torch.no_grad():
        model.head(model.encoder(*pairs(), every_token=True)[:, 0])
    assert counter.get_total_flops() == B * forward_flops(config)
    with sdpa_kernel(SDPBackend.MATH), counter, torch.no_grad():
        model(*pairs())
    assert counter.get_total_flops() == B * computed_flops(config) / 3


def test_group_sums_count_each_pair_once_and_leave_fillers_out():
    loss = torch.tensor([1.0, 2.0, 4.0, 8.0])
    correct = torch.tensor([True, False, True, True])
    sums = group_sums(loss, correct, torch.tensor([1, 0, 1, -1], dtype=torch.int8), 3)
    assert sums.tolist() == [[1, 2, 0], [2, 5, 2], [0, 0, 0]] and sums.dtype == torch.float64


@pytest.mark.parametrize("preset", PRESETS)
def test_an_exported_encoder_is_read_back_to_the_bit(preset: str, tmp_path: Path):
    encoder = encoder_of(preset)
    meta = {"train_runs": ["a_sub-1"], "t_r": [2.0, 2.0], "step": 7}
    encoder.save_pretrained(tmp_path / "encoder", meta)
    back = Encoder.from_pretrained(tmp_path / "encoder")
    told = back.meta
    assert told == meta and back.config == encoder.config and not back.training
    assert torch.equal(back(*pairs()), encoder(*pairs()))
    assert count_parameters(back) == count_parameters(encoder)
    assert sorted(p.name for p in (tmp_path / "encoder").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_a_damaged_export_is_refused_by_name(tmp_path: Path):
    with pytest.raises(UserError, match=r"no config.json"):
        Encoder.from_pretrained(tmp_path)
    encoder_of("tiny").save_pretrained(tmp_path, {})
    path = tmp_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DamageError, match=r"model.safetensors"):
        Encoder.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(UserError, match="format 99"):
        Encoder.from_pretrained(tmp_path)


def test_dropout_zeroes_its_share_independently_and_keeps_the_mean():
    dropout, x = Dropout(0.1), torch.ones(999, 1001, requires_grad=True)
    assert dropout.eval()(x) is x and Dropout(0.0).train()(x) is x
    torch.manual_seed(0)
    thinned = dropout.train()(x)
    y = thinned.detach()
    assert (y == 0).float().mean() == pytest.approx(0.1, abs=0.002)
    assert y.mean() == pytest.approx(1, abs=0.002) and y.max() == pytest.approx(1 / 0.9, rel=1e-3)
    dropped = (y == 0).float()
    quarter = (dropped.numel() + 3) // 4  # one random number decides an element of each quarter
    for shift in (*range(1, 9), 1001, quarter, 2 * quarter, 3 * quarter):
        together = (dropped * dropped.flatten().roll(shift).view_as(dropped)).mean()
        assert together == pytest.approx(0.01, abs=0.001), shift
    thinned.sum().backward()
    assert torch.equal(x.grad, y)
    torch.manual_seed(0)
    assert torch.equal(dropout(x), y)
    torch.manual_seed(0)
    ones = torch.ones_like(x)
    assert Dropout(0.1, inplace=True).train()(ones) is ones and torch.equal(ones, y)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        Dropout(1.0)


# ---------------------------------------------------------------- for fine-tuning


@pytest.mark.parametrize("preset", PRESETS)
def test_low_rank_additions_start_at_nothing_and_merge_into_what_they_add_to(preset: str):
    encoder = encoder_of(preset)
    names = set(encoder.state_dict())
    before = encoder(*pairs())
    add_low_rank(encoder, rank=2, seed=1)
    assert torch.equal(encoder(*pairs()), before)
    added = adapted_parameters(encoder, "lora")
    assert len(added) == 2 * 2 * 4 and all(p.shape[1 - i % 2] == 2 for i, p in enumerate(added))
    with torch.no_grad():
        for parameter in added:
            parameter += 0.1 * torch.randn_like(parameter)
    changed = encoder(*pairs())
    assert not torch.allclose(changed, before, atol=1e-2)
    merge_low_rank(encoder)
    assert set(encoder.state_dict()) == names
    torch.testing.assert_close(encoder(*pairs()), changed, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_mean_is_over_volumes_and_a_window_is_left_of_a_pair_alone_if_it_can(preset: str):
    encoder = encoder_of(preset)
    left, right, t_r = pairs()
    tokens = encoder(left, right, t_r, every_token=True)
    kept = [i for i in range(2 * L + 2) if i not in (0, L + 1)]
    torch.testing.assert_close(encoder.pooled(left, right, t_r, pool="mean"), tokens[:, kept].mean(dim=1))
    assert torch.equal(encoder.pooled(left, right, t_r), encoder(left, right, t_r))
    alone = left[:, :0] if preset == "tiny" else left
    assert torch.equal(encoder.embed(left, t_r, pool="cls"), encoder(left, alone, t_r))
    tokens = encoder(left, alone, t_r, every_token=True)
    kept = [i for i in range(tokens.shape[1]) if i not in (0, L + 1)]
    torch.testing.assert_close(encoder.embed(left, t_r), tokens[:, kept].mean(dim=1))


def test_an_encoder_for_one_space_of_several_reads_it_alike():
    encoder = encoder_of("tiny", {"roi": V, "atlas": 7})
    with torch.no_grad():
        encoder.embedding.bias.normal_()
    atlas = pairs(7)
    alone = in_space(encoder, "atlas", 7, seed=3).eval()
    assert alone.config.spaces == {"atlas": 7}
    assert torch.equal(alone(*atlas, "atlas"), encoder(*atlas, "atlas"))
    new = in_space(encoder, "other", 7, seed=3).eval()
    assert not torch.allclose(new(*atlas), alone(*atlas), atol=1e-3)
    with pytest.raises(UserError, match="no projection"):
        in_space(encoder_of("paper"), "other", 7, seed=0)
