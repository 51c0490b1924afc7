"""How an encoder starts, what it does not see of its input, and one vector of its tokens."""

from pathlib import Path

import pytest
import torch

from fmriscale import EncoderTransformer
from fmriscale.common.errors import UserError
from fmriscale.config import ModelConfig, TrainConfig
from fmriscale.model.classifier import PairClassifier
from fmriscale.model.encoder import Encoder, build_encoder
from fmriscale.model.pooling import bin_weights, pool_tokens
from fmriscale.model.presets import N_BINS, resolve_encoder

V, L, B = 21, 10, 4


def encoder_of(preset: str = "tiny", length: int = L, **settings) -> Encoder:
    model = ModelConfig(preset=preset, n_layers=2, **settings)
    return build_encoder(resolve_encoder(model, {"roi": V}, length), seed=0).eval()


def windows(length: int = L) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(B, length, V, generator=g).half(), torch.full((B,), 2.0)


def test_bins_of_a_ramp_are_the_means_of_its_fifths():
    tokens_BTD = torch.arange(22.0)[None, :, None].repeat(1, 1, 3)
    tokens_BTD[:, (0, 11)] = 1e6  # CLS and SEP are in no bin
    volumes = torch.tensor([*range(1, 11), *range(12, 22)]).float()
    expected_K = volumes.view(5, 4).mean(dim=1)
    pooled_BKD = pool_tokens(tokens_BTD, 10, "bins").view(1, N_BINS, 3)
    torch.testing.assert_close(pooled_BKD[0], expected_K[:, None].expand(-1, 3))
    assert torch.equal(pool_tokens(tokens_BTD, 10, "cls"), tokens_BTD[:, 0])
    torch.testing.assert_close(pool_tokens(tokens_BTD, 10, "mean")[0, 0], volumes.mean())


@pytest.mark.parametrize("n_volumes", [1, 2, 3, 4, 5, 7, 10, 33])
def test_every_volume_is_in_a_bin_and_no_bin_is_empty(n_volumes: int):
    weight_KS = bin_weights(n_volumes)
    pooling = torch.nn.functional.adaptive_avg_pool1d(torch.eye(n_volumes), N_BINS).T
    torch.testing.assert_close(weight_KS, pooling)
    assert (weight_KS.sum(dim=0) > 0).all()
    torch.testing.assert_close(weight_KS.sum(dim=1), torch.ones(N_BINS))
    if n_volumes <= N_BINS:  # a bin is a volume
        assert ((weight_KS > 0).sum(dim=1) <= 2).all()


@pytest.mark.parametrize("length", [3, 10, 12])
def test_bins_tell_when_and_the_mean_does_not(length: int):
    encoder = encoder_of(start="identity")
    x, t_r = windows(length)
    assert encoder.embed(x, t_r, pool="bins").shape == (B, N_BINS * 128)
    backwards = encoder.embed(x.flip(1), t_r, pool="bins").view(B, N_BINS, -1).flip(1).flatten(1)
    torch.testing.assert_close(backwards, encoder.embed(x, t_r, pool="bins"))
    torch.testing.assert_close(encoder.embed(x.flip(1), t_r, pool="mean"), encoder.embed(x, t_r))


def test_blocks_that_start_as_the_identity_return_their_input_and_learn():
    encoder = encoder_of(start="identity")
    x_BTD = torch.randn(B, 7, 128)
    for block in encoder.blocks:
        assert torch.equal(block(x_BTD), x_BTD)
    x, t_r = windows()
    tokens_BTD = encoder.norm(encoder.embedding(x, x, "roi"))
    assert torch.equal(encoder(x, x, t_r, every_token=True), tokens_BTD)
    other = encoder_of()
    for name, value in encoder.state_dict().items():
        zeroed = "attention.out" in name or "down" in name
        assert torch.equal(value, torch.zeros_like(value) if zeroed else other.state_dict()[name])
    encoder(x, x, t_r).square().sum().backward()
    assert all((block.down.weight.grad != 0).any() for block in encoder.blocks)


def test_the_published_model_cannot_start_as_the_identity():
    with pytest.raises(UserError, match=r"model\.start identity .* take preset tiny"):
        encoder_of("paper", start="identity")


@pytest.mark.parametrize("preset", ["paper", "tiny"])
def test_a_share_of_the_input_is_dropped_in_training_alone(preset: str):
    encoder, plain = encoder_of(preset, input_dropout=0.3, dropout=0.0), encoder_of(preset, dropout=0.0)
    x, t_r = windows()
    assert torch.equal(encoder(x, x, t_r), plain(x, x, t_r))
    ones = torch.ones(B, L, V).half()
    torch.manual_seed(0)
    dropped = encoder.train().dropout_input(ones)
    assert (dropped == 0).float().mean() == pytest.approx(0.3, abs=0.05)
    seen = encoder.embedding(dropped, encoder.dropout_input(ones), None)
    torch.manual_seed(0)
    torch.testing.assert_close(encoder(ones, ones, t_r), _rest(encoder, seen, t_r))


def _rest(encoder: Encoder, tokens_BTD: torch.Tensor, t_r_B: torch.Tensor) -> torch.Tensor:
    """Return the CLS of tokens, past the embedding."""
    twin = encoder_of(encoder.config.preset, dropout=0.0)
    twin.load_state_dict(encoder.state_dict())
    twin.embedding.forward = lambda *_: tokens_BTD
    return twin(torch.zeros(B, L, V), torch.zeros(B, L, V), t_r_B)


def test_an_encoder_remembers_how_it_started_and_old_ones_are_read(tmp_path: Path):
    encoder = encoder_of(start="identity", input_dropout=0.2)
    encoder.save_pretrained(tmp_path / "new", {"t_r": [2.0, 2.0]})
    back = Encoder.from_pretrained(tmp_path / "new")
    assert back.config == encoder.config and back.config.start == "identity"
    x, t_r = windows()
    assert torch.equal(back.embed(x, t_r, pool="bins"), encoder.embed(x, t_r, pool="bins"))
    # What did not exist when an encoder was written is not in its file.
    plain = encoder_of()
    assert not {"start", "input_dropout"} & plain.config.to_dict().keys()
    vectors = EncoderTransformer(tmp_path / "new", pool="bins").fit()
    assert vectors.transform(x.numpy()).shape == (B, 640)
    assert len(vectors.get_feature_names_out()) == 640


@pytest.mark.parametrize("pair", ["joint", "siamese"])
def test_a_head_reads_bins(pair):
    model = PairClassifier(encoder_of(), pair=pair, pool="bins").eval()
    assert model.head.in_features == N_BINS * 128 * (1 if pair == "joint" else 2)
    x, t_r = windows()
    assert model(x, x, t_r).shape == (B, 2)


def test_a_rate_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"model\.input_dropout is 1; give a rate"):
        ModelConfig(input_dropout=1)
    assert TrainConfig(pool="bins").pool == "bins"
