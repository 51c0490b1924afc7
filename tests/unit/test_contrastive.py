"""The contrastive task across people: its loss, its gradient over ranks, and that it is learned."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from factory import write_corpus
from films import write_film

from fmriscale.common.errors import UserError
from fmriscale.config import DataConfig, ModelConfig, PairConfig, TrainConfig
from fmriscale.corpus.reader import Corpus
from fmriscale.model.losses import contrastive_loss
from fmriscale.model.presets import resolve_encoder
from fmriscale.model.pretraining import MOST_SCALE
from fmriscale.sampling.groups import GroupLoader
from fmriscale.training.objective import Objective

CPU, SCALE = torch.device("cpu"), torch.tensor([5.0])
ACROSS = TrainConfig(ntp_weight=0, contrastive_weight=1, pool="bins")


def test_the_loss_is_that_of_all_ordered_pairs_of_people_one_by_one():
    z_PWD = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(0))
    loss, correct = contrastive_loss(z_PWD, SCALE)
    losses, right = [], []
    for i, j, w in np.ndindex(3, 3, 4):
        if i == j:
            continue
        similarity_W = 5 * F.cosine_similarity(z_PWD[i, w][None], z_PWD[j])
        losses.append(-similarity_W.log_softmax(dim=0)[w])
        right.append(similarity_W.argmax() == w)
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    torch.testing.assert_close(correct, torch.stack(right).float().mean())


def test_equal_people_are_right_and_equal_windows_at_chance():
    one_WD = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    assert contrastive_loss(one_WD.expand(3, -1, -1), torch.tensor([MOST_SCALE]))[1] == 1
    loss, _ = contrastive_loss(one_WD[:1].expand(3, 4, -1), SCALE)
    assert float(loss) == pytest.approx(np.log(4))


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Corpus:
    return write_film(tmp_path_factory.mktemp("film") / "shared")[0]


def data_of(corpus: Corpus, **settings) -> DataConfig:
    held_out = [f"*sub-{n:02d}*" for n in range(8, 12)]
    pairs = PairConfig(length=6)
    return DataConfig(corpus=str(corpus.folder), holdout_runs=held_out, pairs=pairs, **settings)


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 4, 7])
def test_the_shares_of_ranks_are_the_group(film: Corpus, n_ranks: int):
    groups = GroupLoader(film, data_of(film), "train", 0, n_people=5, n_windows=4)
    whole = groups.batch(3)
    shares = [groups.batch(3, rank, n_ranks) for rank in range(n_ranks)]
    rows = [share.row for share in shares]
    assert all(1 <= len(row) <= shares[0].n_a_rank for row in rows)
    padded = [np.pad(row, (0, shares[0].n_a_rank - len(row)), constant_values=-1) for row in rows]
    assert np.array_equal(np.concatenate(padded)[:5], whole.row)


def accuracy(corpus: Corpus, n_steps: int = 60, **settings) -> float:
    """Train a small encoder across people; return how often the right window is first in held-out ones."""
    data, objective = data_of(corpus, **settings), Objective(ACROSS)
    train = GroupLoader(corpus, data, "train", 0, n_people=8, n_windows=10)
    held_out = GroupLoader(corpus, data, "eval", 0, n_people=8, n_windows=10)
    model_config = ModelConfig(preset="tiny", d_model=32, n_layers=1, start="identity")
    model = objective.build(resolve_encoder(model_config, {"toy": 20}, 6))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(n_steps):
        loss = objective.losses(model, group=train.batch(step).to(CPU)).total
        optimiser.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimiser.step()
    with torch.no_grad():
        groups = [held_out.batch(step).to(CPU) for step in range(held_out.n_groups)]
        told = [objective.losses(model.eval(), group=group) for group in groups]
    return float(np.mean([float(of.contrastive_correct) for of in told]))  # pyright: ignore


def test_people_who_share_a_signal_are_told_apart_in_time_and_others_are_not(film: Corpus, tmp_path: Path):
    assert accuracy(film) > 0.6  # chance: 0.1
    assert accuracy(film, stimulus_clock="shifted") < 0.25
    assert accuracy(write_film(tmp_path / "noise", shared=0.0)[0]) < 0.2


def test_weights_and_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="not all 0"):
        TrainConfig(ntp_weight=0)
    with pytest.raises(ValueError, match="contrastive_people is 1; it must be at least 2"):
        TrainConfig(contrastive_people=1)
    assert not ACROSS.reads_pairs and TrainConfig(contrastive_weight=1).reads_pairs


def test_a_corpus_without_a_stimulus_is_refused_with_the_remedy(tmp_path: Path):
    corpus = write_corpus(tmp_path / "rest")
    with pytest.raises(UserError, match=r"give stimulus .* in the corpus recipe"):
        GroupLoader(corpus, DataConfig(corpus=str(corpus.folder)), "train", 0, 8, 10)
