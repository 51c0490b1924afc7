"""Connectivity as a teacher: vectors of runs, the loss, and that it is learned."""

from pathlib import Path

import numpy as np
import pytest
import torch
from factory import write_corpus

from fmriscale.common.errors import UserError
from fmriscale.config import DataConfig, ModelConfig, TrainConfig
from fmriscale.model.losses import alignment_loss
from fmriscale.model.presets import resolve_encoder
from fmriscale.sampling.loader import NTPLoader
from fmriscale.training.objective import Objective
from fmriscale.training.schedule import plan_run
from fmriscale.training.teacher import Teacher, connectivity, fold


def test_connectivity_is_fishers_z_of_the_correlation_of_uncensored_volumes():
    x_TV = np.random.default_rng(0).standard_normal((40, 5)).astype(np.float16)
    x_TV[:, 3] = 0  # a missing feature
    kept = np.r_[0:10, 20:40]
    expected = np.arctanh(np.corrcoef(x_TV[kept][:, [0, 1, 2, 4]].astype(float).T)[0, 1:])
    found = connectivity(iter([x_TV[:10], x_TV[20:]]))
    upper = np.full((5, 5), np.nan)
    upper[np.triu_indices(5, 1)] = found
    np.testing.assert_allclose(upper[0, [1, 2, 4]], expected, rtol=1e-6)
    assert (upper[3, 4], upper[0, 3]) == (0, 0)


def test_folded_vectors_keep_their_inner_products():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 20, 19_900))
    b += a
    folded_a, folded_b = (np.stack([fold(x) for x in of]) for of in (a, b))
    assert folded_a.shape == (20, 4096) and folded_a.dtype == np.float32
    norm = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine, kept = (a * b).sum(axis=1) / norm, (folded_a * folded_b).sum(axis=1) / norm
    assert np.abs(kept - cosine).max() < 4 / np.sqrt(4096)
    np.testing.assert_allclose(fold(a[0] + b[0]), fold(a[0]) + fold(b[0]), atol=1e-4)
    assert np.array_equal(fold(a[0, :9]), a[0, :9].astype(np.float32))


def test_the_loss_is_0_where_windows_are_alike_as_their_runs_and_1_where_that_means_nothing():
    g = torch.Generator().manual_seed(0)
    teacher_BF = torch.nn.functional.normalize(torch.randn(8, 50, generator=g), dim=1)
    rotation = torch.linalg.qr(torch.randn(50, 50, generator=g))[0]
    assert float(alignment_loss(3 * teacher_BF @ rotation, teacher_BF)) == pytest.approx(0, abs=1e-5)
    one_run = teacher_BF[:1].expand(8, -1)
    vectors_BD = torch.randn(8, 16, generator=g, requires_grad=True)
    loss = alignment_loss(vectors_BD, one_run)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1, abs=1e-3) and vectors_BD.grad.isfinite().all()
    loss = alignment_loss(vectors_BD, teacher_BF)
    own, other = (x @ x.T for x in (torch.nn.functional.normalize(vectors_BD, dim=1), teacher_BF))
    centre = torch.eye(8) - 1 / 8
    own, other = centre @ own @ centre, centre @ other @ centre
    torch.testing.assert_close(loss, 1 - (own * other).sum() / (own.norm() * other.norm()))


def two_kinds(x: np.ndarray, record: dict) -> np.ndarray:
    """Give every second person two networks of their own."""
    rng = np.random.default_rng(int(record["subject"]) * 10 + int(record["run"]))
    first, second = rng.standard_normal((2, len(x), 1))
    halves = (slice(0, 6), slice(6, 12)) if int(record["subject"]) % 2 else (slice(0, 12, 2), slice(1, 12, 2))
    for part, signal in zip(halves, (first, second), strict=True):
        x[:, part] += 2 * signal
    return x


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("kinds") / "corpus"
    return write_corpus(folder, datasets={"alpha": {"subjects": 8, "runs": 1}}, signal=two_kinds)


def test_vectors_of_runs_are_centred_on_training_and_have_norm_1(corpus):
    rows, training = np.arange(8), np.arange(6)
    teacher = Teacher(corpus, rows, training)
    vectors = teacher.of(np.array([0, 7, 0, 3]))
    assert vectors.shape == (4, 66) and vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    assert torch.equal(vectors[0], vectors[2])
    z_RF = np.stack([connectivity(iter([corpus.bold(row)])) for row in rows])
    z_RF -= z_RF[training].mean(axis=0)
    np.testing.assert_allclose(vectors[1], z_RF[7] / np.linalg.norm(z_RF[7]), atol=1e-5)
    alike = teacher.of(rows) @ teacher.of(rows).T
    assert alike[0, 2] > 0.9 and alike[0, 1] < -0.5


def test_windows_learn_whose_runs_are_alike(corpus):
    data = DataConfig(corpus=str(corpus.folder), holdout_runs=["*sub-07*", "*sub-08*"])
    train = TrainConfig(ntp_weight=0, connectivity_weight=1, pool="mean", global_batch=32)
    loader = NTPLoader(corpus, data, "train", 0)
    rows = np.arange(8)
    objective = Objective(train, Teacher(corpus, rows, loader.groups[0].rows))
    shape = resolve_encoder(ModelConfig(preset="tiny", d_model=32, n_layers=2), {"toy": 12}, 5)
    model = objective.build(shape)
    assert not hasattr(model, "head")
    optimiser, told = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for step in range(50):
        batch = loader.batch(32 * step, 32).to(torch.device("cpu"))
        losses = objective.losses(model, batch)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        told.append(float(losses.total.detach()))
    assert told[0] > 0.6 and np.mean(told[-5:]) < 0.3
    held_out = NTPLoader(corpus, data, "eval", 0).batch(0, 32).to(torch.device("cpu"))
    with torch.no_grad():
        vectors = model.eval()((held_out.left, held_out.right, held_out.t_r, held_out.space))["left"]
    teacher = objective.teacher.of(held_out.row_left)  # pyright: ignore[reportOptionalMemberAccess]
    assert float(alignment_loss(vectors, teacher)) < 0.5


def test_pairs_that_are_read_in_parts_and_too_many_features_are_refused():
    train = TrainConfig(connectivity_weight=1, global_batch=64, max_micro_batch=8)
    with pytest.raises(UserError, match=r"read in 4 parts: set train\.max_micro_batch to 32 or more"):
        plan_run(train, 2)
    assert plan_run(TrainConfig(connectivity_weight=1, global_batch=64), 2).micro_batch_size == 32


def test_too_many_features_are_refused(tmp_path: Path):
    wide = {"alpha": {"subjects": 2, "runs": 1, "n_volumes": 12}}
    corpus = write_corpus(tmp_path / "wide", datasets=wide, n_features=2049)
    with pytest.raises(UserError, match=r"space toy has 2049: at most 2,048; use parcels"):
        Teacher(corpus, np.arange(2), np.arange(2))
