"""Masked volumes: which are masked, what the encoder sees of them, and that both tasks are learnt."""

from pathlib import Path

import numpy as np
import pytest
import torch
from factory import write_corpus

from fmriscale.common.errors import UserError
from fmriscale.config import DataConfig, ModelConfig, PretrainConfig, TrainConfig
from fmriscale.config.recipe import parse
from fmriscale.model.classifier import build
from fmriscale.model.presets import resolve_encoder
from fmriscale.model.pretraining import Tasks, build_pretraining
from fmriscale.sampling.loader import NTPLoader
from fmriscale.sampling.masks import draw_masks, uniform
from fmriscale.training.objective import Objective

SPACES = {"roi": 21, "atlas": 7}
B, L = 6, 5


def test_masks_are_a_function_of_seed_and_position():
    whole = draw_masks(3, 1000, 64, 10, 0.15)
    for first, count in ((1000, 1), (1017, 30), (1063, 1)):
        part, rows = draw_masks(3, first, count, 10, 0.15), slice(first - 1000, first - 1000 + count)
        for name in ("place_BM", "source_BM", "counts_BM"):
            assert np.array_equal(getattr(part, name), getattr(whole, name)[rows])
    other = draw_masks(4, 1000, 64, 10, 0.15)
    assert (other.place_BM != whole.place_BM).mean() > 0.8


def test_one_or_two_of_ten_are_masked_as_published():
    masks = draw_masks(0, 0, 20_000, 10, 0.15)
    n_B = masks.counts_BM.sum(axis=1)
    assert masks.place_BM.shape == (20_000, 2) and set(n_B.tolist()) == {1, 2}
    assert np.mean(n_B == 2) == pytest.approx(0.5, abs=0.02)
    assert (masks.place_BM[:, 0] != masks.place_BM[:, 1]).all()
    counts = np.bincount(masks.place_BM[masks.counts_BM], minlength=10)
    assert counts / counts.mean() == pytest.approx(1, abs=0.06)
    place, source = masks.place_BM[masks.counts_BM], masks.source_BM[masks.counts_BM]
    assert np.mean(source == -1) == pytest.approx(0.8, abs=0.01)
    assert np.mean(source == place) == pytest.approx(0.11, abs=0.01)  # a tenth of replacements is itself
    filler = ~masks.counts_BM
    assert np.array_equal(masks.source_BM[filler], masks.place_BM[filler])


def test_uniform_numbers_are_uniform_and_unrelated():
    x = uniform(1, 0, 50_000, 4)
    assert x.min() >= 0 and x.max() < 1
    assert np.histogram(x, 20)[0] / 10_000 == pytest.approx(1, abs=0.05)
    assert np.abs(np.corrcoef(x.T) - np.eye(4)).max() < 0.02
    assert abs(np.corrcoef(x[:-1, 0], x[1:, 0])[0, 1]) < 0.02


def pairs(n_features: int):
    g = torch.Generator().manual_seed(1)
    left = torch.randn(B, L, n_features, generator=g).half()
    right = torch.randn(B, L, n_features, generator=g).half()
    return left, right, torch.full((B,), 2.0)


def masks_of(place: int, source: int, counts: bool = True):
    return (
        torch.full((B, 1), place),
        torch.full((B, 1), source),
        torch.full((B, 1), counts),
    )


def model_of(preset: str):
    spaces = SPACES if preset == "tiny" else {"roi": SPACES["roi"]}
    config = resolve_encoder(ModelConfig(preset=preset, n_layers=2), spaces, L)
    model = build_pretraining(config, 0, Tasks(masked=True)).eval()

    def read(left, right, t_r, space, masks):
        told = model((left, right, t_r, space), masks)
        return told["logits"], told["masked"]

    return model, read


@pytest.mark.parametrize("preset", ["paper", "tiny"])
def test_the_encoder_sees_what_was_said_and_has_the_weights_that_it_has_alone(preset: str):
    model, read = model_of(preset)
    alone = build(model.encoder.config, 0)
    for name, value in alone.encoder.state_dict().items():
        assert torch.equal(value, model.encoder.state_dict()[name])
    with torch.no_grad():
        model.head.weight.normal_()
    left, right, t_r = pairs(21)
    # Left as it is: NTP sees the pair as ever, and every volume is thought to be the mean, so that the
    # error is the volume's own mean square.
    for place in (2, 7):
        logits, error = read(left, right, t_r, "roi", masks_of(place, place))
        torch.testing.assert_close(logits, model.head(model.encoder(left, right, t_r, "roi")))
        volume = torch.cat((left, right), dim=1)[:, place].float()
        torch.testing.assert_close(error, volume.square().mean(dim=1))
        # Replaced by another volume of the pair.
        logits, _ = read(left, right, t_r, "roi", masks_of(place, 4))
        both = torch.cat((left, right), dim=1).clone()
        both[:, place] = both[:, 4]
        torch.testing.assert_close(logits, model.head(model.encoder(both[:, :L], both[:, L:], t_r, "roi")))
        # Under the mask token what was there cannot be seen.
        logits, _ = read(left, right, t_r, "roi", masks_of(place, -1))
        both[:, place] = 7.0
        other, _ = read(both[:, :L], both[:, L:], t_r, "roi", masks_of(place, -1))
        unmasked, _ = read(left, right, t_r, "roi", masks_of(place, place))
        assert torch.equal(logits, other) or torch.allclose(logits, other)
        assert not torch.allclose(logits, unmasked, atol=1e-3)


def test_only_masked_places_count_and_every_parameter_has_a_gradient():
    model, read = model_of("tiny")
    model.train()
    left, right, t_r = pairs(21)
    place, source, counts = (
        torch.cat(x, dim=1) for x in zip(masks_of(2, -1), masks_of(8, 8, False), strict=True)
    )
    _, error = read(left, right, t_r, "roi", (place, source, counts))
    torch.testing.assert_close(error, left[:, 2].float().square().mean(dim=1))
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        model.zero_grad()
        logits, error = read(left, right, t_r, "roi", (place, source, counts))
        (weights[0] * logits.square().mean() + weights[1] * error.mean()).backward()
        assert all(p.grad is not None for p in model.parameters())


def test_masked_volumes_are_learnt_alone_and_beside_ntp(tmp_path: Path):
    """Six latent signals that move slowly: a masked volume can be read off its neighbours."""
    mixing = np.random.default_rng(2).standard_normal((6, 12))

    def signal(x, record):
        latent = np.cumsum(np.random.default_rng(int(record["subject"])).standard_normal((len(x), 6)), axis=0)
        return 0.1 * x + latent @ mixing

    corpus = write_corpus(tmp_path / "corpus", signal=signal)
    loader = NTPLoader(corpus, DataConfig(corpus=str(corpus.folder)), "train", 0)
    shape = resolve_encoder(ModelConfig(preset="tiny", d_model=32, n_layers=2), {"toy": 12}, L)
    for weights, pool in (((0.5, 1.0), "mean"), ((0.0, 1.0), "cls")):
        objective = Objective(TrainConfig(ntp_weight=weights[0], masked_weight=weights[1], pool=pool))
        model = objective.build(shape)
        optimiser = torch.optim.AdamW(model.parameters(), lr=0.003, weight_decay=0.01)
        told = []
        for step in range(60):
            pairs = objective.add_masks(loader.batch(32 * step, 32), 32 * step).to(torch.device("cpu"))
            losses = objective.losses(model, pairs)
            assert losses.ntp is not None and losses.masked is not None
            optimiser.zero_grad()
            losses.total.backward()
            optimiser.step()
            told.append((float(losses.ntp.mean().detach()), float(losses.masked.mean().detach())))
        assert told[0][0] == pytest.approx(np.log(2), abs=1e-6) and 0.7 < told[0][1] < 1.3
        assert np.mean(told[-5:], axis=0)[1] < 0.5
        moved = abs(told[-1][0] - np.log(2)) > 1e-4
        assert moved == (weights[0] > 0)


def test_weights_that_mean_nothing_are_refused():
    for ntp, masked, said in (
        (0.0, 0.0, "not all 0"),
        (0.5, 0.0, "nothing else is learnt"),
        (-1.0, 2.0, "0 or"),
    ):
        with pytest.raises(ValueError, match=said):
            TrainConfig(ntp_weight=ntp, masked_weight=masked)
    with pytest.raises(UserError, match="masked_share"):
        parse(PretrainConfig, ["--out", "x", "--data.corpus", "x", "--train.masked_share", "0"])
    assert Objective(TrainConfig()).add_masks(None, 0) is None  # pyright: ignore[reportArgumentType]
