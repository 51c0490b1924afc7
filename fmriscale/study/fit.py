"""Training of one cell: a model, its pairs, its learning curve.

Shapes: B pairs of a step, P pairs in all, N windows, L volumes, V features. Both arms of a fold and seed see
the same pairs in the same order and start from the same (zero) head: only the encoder's first weights differ.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmriscale.common.workers import worker_number
from fmriscale.model.adapt import merge_low_rank
from fmriscale.model.classifier import PairClassifier, compare
from fmriscale.model.precision import casting, precision_of_hardware
from fmriscale.study.data import Study
from fmriscale.study.encoders import reads_new_space
from fmriscale.study.jobs import Cell
from fmriscale.study.learning import (
    device_of,
    let_learn,
    optimiser_of,
    parameters_that_learn,
    take_step,
    train_epoch,
)
from fmriscale.study.pairs import Pairs
from fmriscale.study.scores import Score, score
from fmriscale.study.windows import Windows

TEST_BATCH = 512


@dataclass(frozen=True)
class Fitted:
    """A trained model, its learning curve and its scores."""

    curve: list[dict[str, float]]
    """Of each epoch: epoch (from 1), loss, accuracy, auc, seconds of training up to its end."""
    reported: int
    """Epoch whose model this is: the last, or the best on the test pairs."""
    score: Score
    """Of that model on the test pairs."""
    reversed: Score
    """Of that model on the same pairs with the volumes of both windows in the opposite order."""
    n_trained: int
    """Parameters that learned."""
    precision: str
    """In which its encoder computed: fp32, or bf16 with float32 weights."""
    model: PairClassifier
    """In evaluation mode."""


def fit(study: Study, cell: Cell, model: PairClassifier, space: str, train: Pairs, test: Pairs) -> Fitted:
    """Train a model for all its epochs and test it after each.

    The head, and a projection for a feature space that the encoder has not seen, learn in every epoch. What
    else of the encoder learns is `train.adapt`, in either arm, after the epochs that are the projection's.
    """
    settings, trainer = study.config.train, Trainer(study, cell, model, space, train, test)
    curve: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    reported, reported_score, seconds = 0, None, 0.0
    for epoch in range(1, settings.epochs + 1):
        started = time.monotonic()
        loss = trainer.train_epoch(epoch)
        seconds += time.monotonic() - started
        tested = trainer.test()
        line = {"epoch": epoch, "loss": loss, "accuracy": tested.accuracy, "auc": tested.auc}
        curve.append({**line, "seconds": seconds})
        if settings.report == "last":
            reported, reported_score = epoch, tested
        elif reported_score is None or tested.accuracy > reported_score.accuracy:
            reported, reported_score = epoch, tested
            best = {name: value.clone() for name, value in model.state_dict().items()}
    assert reported_score is not None
    if best:
        model.load_state_dict(best)
        trainer.reader.frozen = False
    reversed_score = trainer.test(backwards=True)
    merge_low_rank(model.encoder)
    precision = trainer.reader.precision
    return Fitted(curve, reported, reported_score, reversed_score, trainer.n_trained, precision, model)


class Trainer:
    """A model with its optimiser and its pairs."""

    def __init__(
        self, study: Study, cell: Cell, model: PairClassifier, space: str, train: Pairs, test: Pairs
    ) -> None:
        device = device_of(worker_number(), torch.cuda.device_count())
        self.settings, self.cell, self.model = study.config.train, cell, model.to(device)
        self.train_pairs, self.test_pairs, self.device = train, test, device
        self.unit_P, self.condition_P = study.units(study.folds[cell.fold], test), study.conditions(test)
        self.reader = PairReader(model, study.windows, space, device)
        self.projection: list[nn.Parameter] = []
        """Learns in every epoch: that of a feature space that the encoder has not seen."""
        self.n_alone = 0
        """Epochs in which it learns alone."""
        if reads_new_space(study, cell):
            named = model.encoder.embedding.named_parameters()
            self.projection = [value for name, value in named if name in ("weight", "bias")]
            self.n_alone = self.settings.projection_epochs if cell.arm != "fresh" else 0
        settings = self.settings
        self.adapted = parameters_that_learn(model.encoder, settings.adapt, settings.lora_rank, cell.seed)
        encoder, head = list(dict.fromkeys([*self.projection, *self.adapted])), list(model.head.parameters())
        self.n_trained = sum(parameter.numel() for parameter in (*encoder, *head))
        head_lr = settings.head_lr or settings.lr
        self.optimiser = optimiser_of(encoder, settings.lr, model.head, head_lr, settings.weight_decay)
        torch.manual_seed(cell.seed)

    def train_epoch(self, epoch: int) -> float:
        """Train on every pair once, in an order of cell and epoch; return the mean loss."""
        learns = [*self.projection, *(self.adapted if epoch > self.n_alone else [])]
        let_learn(self.model.encoder, learns)
        self.reader.frozen = not learns
        n, seeds = len(self.train_pairs), [self.cell.seed, self.cell.fold, epoch]
        return train_epoch(n, self.settings.batch, seeds, self.train_step, self.cell.name)

    def train_step(self, places: np.ndarray) -> float:
        """Train on some of the pairs; return their mean loss."""
        same_B = torch.from_numpy(self.train_pairs.same_P[places]).to(self.device)
        loss = F.cross_entropy(self.model.head(self.reader.features(self.train_pairs, places)), same_B)
        return take_step(self.optimiser, self.model.parameters(), loss)

    @torch.no_grad()
    def test(self, backwards: bool = False) -> Score:
        """Score the test pairs; backwards: with the volumes of their windows in the opposite order."""
        self.model.eval()
        pairs = self.test_pairs
        logits = [
            self.model.head(self.reader.features(pairs, places, backwards)) for places in in_batches(pairs)
        ]
        margin_P = torch.cat(logits).diff(dim=1)[:, 0].double().cpu().numpy()
        return score(margin_P, 0.0, pairs.same_P, self.unit_P, self.condition_P)


class PairReader:
    """What the head of a model sees of pairs, float32; computed once while the encoder is frozen."""

    def __init__(self, model: PairClassifier, windows: Windows, space: str, device: torch.device) -> None:
        self.model, self.space, self.frozen = model, space, False
        self.bold_NLV = torch.from_numpy(windows.bold_NLV).to(device)
        self.t_r_N = torch.from_numpy(windows.t_r_N).to(device)
        self.precision, _ = precision_of_hardware(device, model.encoder.config.d_model)
        self.tables: dict[tuple[int, bool], Tensor] = {}

    def features(self, pairs: Pairs, places: np.ndarray, backwards: bool = False) -> Tensor:
        """Return what the head sees of some of the pairs, [B, F]; backwards: of windows reversed in time."""
        if not self.frozen:
            self.tables.clear()
            return self._compute(pairs, places, backwards)
        key = (id(pairs), backwards)
        if key not in self.tables:
            with torch.no_grad():
                parts = [self._compute(pairs, part, backwards) for part in in_batches(pairs)]
            self.tables[key] = torch.cat(parts)
        return self.tables[key][torch.from_numpy(places)]

    def _compute(self, pairs: Pairs, places: np.ndarray, backwards: bool) -> Tensor:
        left, right = pairs.left_P[places], pairs.right_P[places]
        encoder, pool = self.model.encoder, self.model.pool
        if self.model.pair == "joint":
            a_BLV, b_BLV = (self._volumes(side, backwards) for side in (left, right))
            t_r_B = self.t_r_N[torch.from_numpy(left)]
            with casting(self.bold_NLV.device, self.precision):
                vectors = encoder.pooled(a_BLV, b_BLV, t_r_B, self.space, pool)
            return vectors.float()
        # A window that is in several pairs of the batch is read once.
        window, place = np.unique(np.concatenate((left, right)), return_inverse=True)
        t_r_B = self.t_r_N[torch.from_numpy(window)]
        with casting(self.bold_NLV.device, self.precision):
            vectors = encoder.embed(self._volumes(window, backwards), t_r_B, self.space, pool)
        return compare(*vectors.float()[torch.from_numpy(place)].chunk(2))

    def _volumes(self, window: np.ndarray, backwards: bool) -> Tensor:
        volumes = self.bold_NLV[torch.from_numpy(window)]
        return volumes.flip(1) if backwards else volumes


def in_batches(pairs: Pairs) -> list[np.ndarray]:
    """Divide the places of pairs into batches for testing."""
    n = len(pairs)
    return np.split(np.arange(n), range(TEST_BATCH, n, TEST_BATCH))
