"""Directions that an input projection may start from: known covariances, planted signals, one pass."""

from pathlib import Path

import numpy as np
import pytest
import torch
from factory import write_corpus
from films import N_SHARED, write_film
from scipy.linalg import subspace_angles

from fmriscale.common.errors import UserError
from fmriscale.config import DataConfig, ModelConfig, PairConfig
from fmriscale.corpus.reader import Corpus
from fmriscale.model.directions import Sums, shared_directions, whitening
from fmriscale.model.encoder import build_encoder
from fmriscale.model.presets import resolve_encoder
from fmriscale.training.distributed import World
from fmriscale.training.projection import TrainingRuns, start_projection

CPU = World(0, 1, 0, 1, "python", torch.device("cpu"))


def people(n: int = 4, n_volumes: int = 30, n_features: int = 5) -> list[np.ndarray]:
    return list(np.random.default_rng(0).standard_normal((n, n_volumes, n_features)))


def test_sums_are_the_covariances_within_runs_and_of_all_pairs_of_people():
    runs, times = people(), [np.arange(30), np.arange(5, 35), np.arange(30), np.arange(100, 130)]
    sums = Sums(5)
    sums.add(zip(runs, times, strict=True))
    sums.add([(runs[0][:20] + 3, None)])  # a run of its own
    centred = [x - x.mean(axis=0) for x in (*runs, runs[0][:20])]
    within = sum(x.T @ x for x in centred) / 140
    np.testing.assert_allclose(sums.within_VV, within)
    at = {
        (p, t): x
        for p, (c, of) in enumerate(zip(centred, times, strict=False))
        for t, x in zip(of, c, strict=True)
    }
    pairs = [np.outer(x, y) for (p, t), x in at.items() for (q, u), y in at.items() if t == u and p != q]
    assert sums.parts["n_pairs"][0] == len(pairs)
    np.testing.assert_allclose(sums.between_VV, np.mean(pairs, axis=0), atol=1e-12)
    halves = [Sums(5), Sums(5)]
    halves[0].add(zip(runs, times, strict=True))
    halves[1].add([(runs[0][:20] + 3, None)])
    for name, part in sums.parts.items():
        np.testing.assert_allclose(halves[0].parts[name] + halves[1].parts[name], part)


def test_whitened_volumes_have_unit_covariance_and_lead_with_most_variance():
    rng = np.random.default_rng(0)
    x_TV = rng.standard_normal((500, 8)) @ rng.standard_normal((8, 8))
    sums = Sums(8)
    sums.add([(x_TV, None)])
    y_TD = (x_TV - x_TV.mean(axis=0)) @ whitening(sums, 99, shrinkage=0)
    np.testing.assert_allclose(y_TD.T @ y_TD / 500, np.eye(8), atol=1e-9)
    first_V = whitening(sums, 1, shrinkage=0)[:, 0]
    values, vectors = np.linalg.eigh(sums.within_VV)
    assert abs(first_V @ vectors[:, -1]) == pytest.approx(values[-1] ** -0.5)
    assert whitening(sums, 3).shape == (8, 3) and np.ptp(whitening(sums, 3)) < np.inf


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, np.ndarray]:
    return write_film(tmp_path_factory.mktemp("film") / "film", n_people=10)


def runs_of(corpus: Corpus, **settings) -> TrainingRuns:
    data = DataConfig(corpus=str(corpus.folder), pairs=PairConfig(length=6), **settings)
    return TrainingRuns(corpus, data, 0, np.arange(len(corpus.runs)))


def patterns(runs: TrainingRuns, n_directions: int) -> np.ndarray:
    """What of the features varies with the shared directions, [V, D]."""
    sums = Sums(20)
    for unit in runs.units("toy"):
        sums.add(runs.read(unit))
    return sums.within_VV @ shared_directions(sums, n_directions)


def test_shared_directions_find_the_signals_that_people_share(film):
    corpus, mixing_KV = film
    found = np.cos(subspace_angles(patterns(runs_of(corpus), N_SHARED), mixing_KV.T))
    assert found.min() > 0.8 and found.mean() > 0.95
    shifted = np.cos(
        subspace_angles(patterns(runs_of(corpus, stimulus_clock="shifted"), N_SHARED), mixing_KV.T)
    )
    assert shifted.mean() < 0.8
    order = runs_of(corpus, volume_order="shuffled", access="memory")
    assert np.cos(subspace_angles(patterns(order, N_SHARED), mixing_KV.T)).mean() < 0.8


def test_directions_have_unit_variance_and_become_the_first_columns(film):
    corpus, _ = film
    model = ModelConfig(preset="tiny", d_model=64, n_layers=1, init_projection="shared")
    encoder = build_encoder(resolve_encoder(model, {"toy": 20}, 6), seed=0)
    before = encoder.embedding.weight.detach().clone()
    start_projection(encoder, "whiten", runs_of(corpus), CPU)
    after_VD = encoder.embedding.weight.detach()
    assert torch.equal(after_VD[:, 20:], before[:, 20:])
    assert not torch.isclose(after_VD[:, :20], before[:, :20]).any(dim=0).all()
    x_TV = torch.from_numpy(np.concatenate([corpus.bold(row) for row in range(10)]).astype(np.float32))
    variance_D = (x_TV @ after_VD[:, :20]).var(dim=0)
    assert variance_D.min() > 0.5 and variance_D.max() < 1.1
    start_projection(encoder, "shared", runs_of(corpus), CPU)
    shared_VD = encoder.embedding.weight.detach()[:, :N_SHARED]
    assert 0.8 < (x_TV @ shared_VD).var(dim=0).mean() < 1.2


def test_a_stimulus_that_nobody_shares_and_a_model_without_projection_are_refused(tmp_path: Path):
    corpus = write_corpus(tmp_path / "rest")
    encoder = build_encoder(resolve_encoder(ModelConfig(preset="tiny"), {"toy": 12}, 5), seed=0)
    with pytest.raises(UserError, match=r"init_projection shared needs a stimulus .* whiten"):
        start_projection(encoder, "shared", runs_of(corpus), CPU)
    with pytest.raises(UserError, match=r"model\.init_projection whiten needs a projection, .* tiny"):
        resolve_encoder(ModelConfig(init_projection="whiten"), {"toy": 12}, 5)
