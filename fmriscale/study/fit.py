"""Training of one cell: a model, its pairs, its learning curve.

Shapes: B pairs of a step, P pairs in all, N windows, L volumes, V features. Both arms of a fold and seed see
the same pairs in the same order and start from the same (zero) head: only the encoder's first weights differ.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fmriscale.common.errors import UserError
from fmriscale.config import StudyConfig
from fmriscale.model.adapt import add_low_rank, depths, learning, merge_low_rank
from fmriscale.model.classifier import PairClassifier, compare
from fmriscale.study.baselines import Score, score
from fmriscale.study.cells import Cell
from fmriscale.study.material import Material, conditions, units
from fmriscale.study.pairs import Pairs, Windows
from fmriscale.study.start import reads_new_space

TEST_BATCH = 512


@dataclass(frozen=True)
class Fitted:
    """What the training of a cell gave."""

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
    model: PairClassifier
    """In evaluation mode."""


class Reader:
    """What the head of a model sees of pairs.

    Attributes
    ----------
    still : bool
        The encoder does not learn: what it makes of the pairs is computed once.
    """

    def __init__(self, model: PairClassifier, windows: Windows, space: str, device: torch.device) -> None:
        self.model, self.space, self.still = model, space, False
        self.bold_NLV = torch.from_numpy(windows.bold_NLV).to(device)
        self.t_r_N = torch.from_numpy(windows.t_r_N).to(device)
        self.tables: dict[tuple[int, bool], torch.Tensor] = {}

    def features(self, pairs: Pairs, places: np.ndarray, backwards: bool = False) -> torch.Tensor:
        """Return what the head sees of some of the pairs, [B, F]; backwards: of windows reversed in time."""
        if not self.still:
            self.tables.clear()
            return self._compute(pairs, places, backwards)
        key = (id(pairs), backwards)
        if key not in self.tables:
            with torch.no_grad():
                parts = [self._compute(pairs, part, backwards) for part in in_batches(pairs)]
            self.tables[key] = torch.cat(parts)
        return self.tables[key][torch.from_numpy(places)]

    def _compute(self, pairs: Pairs, places: np.ndarray, backwards: bool) -> torch.Tensor:
        left, right = pairs.left_P[places], pairs.right_P[places]
        if self.model.pair == "joint":
            a_BLV, b_BLV = (self._volumes(side, backwards) for side in (left, right))
            t_r_B = self.t_r_N[torch.from_numpy(left)]
            return self.model.encoder.pooled(a_BLV, b_BLV, t_r_B, self.space, self.model.pool)
        # A window that is in several pairs of the batch is read once.
        window, place = np.unique(np.concatenate((left, right)), return_inverse=True)
        volumes, t_r_B = self._volumes(window, backwards), self.t_r_N[torch.from_numpy(window)]
        vectors = self.model.encoder.embed(volumes, t_r_B, self.space, self.model.pool)
        return compare(*vectors[torch.from_numpy(place)].chunk(2))

    def _volumes(self, window: np.ndarray, backwards: bool) -> torch.Tensor:
        volumes = self.bold_NLV[torch.from_numpy(window)]
        return volumes.flip(1) if backwards else volumes


def in_batches(pairs: Pairs) -> list[np.ndarray]:
    """Divide the places of pairs into batches for testing."""
    n = len(pairs.same_P)
    return np.split(np.arange(n), range(TEST_BATCH, n, TEST_BATCH))


def fit(
    config: StudyConfig,
    material: Material,
    cell: Cell,
    model: PairClassifier,
    space: str,
    train: Pairs,
    test: Pairs,
) -> Fitted:
    """Train a model for all its epochs and test it after each.

    The head, and a projection for a feature space that the encoder has not seen, learn in every epoch. What
    else of the encoder learns is `train.adapt`, in either arm, after the epochs that are theirs alone.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings, encoder = config.train, model.encoder
    model.to(device)
    new = []
    n_alone = settings.probe_epochs
    if reads_new_space(config, material, cell):
        new = [p for name, p in encoder.embedding.named_parameters() if name in ("weight", "bias")]
        n_alone = max(n_alone, settings.projection_epochs if cell.arm != "fresh" else 0)
    if settings.adapt == "lora":
        add_low_rank(encoder, settings.lora_rank, cell.seed)
    later = learning(encoder, settings.adapt, settings.last_blocks)
    depth = depths(encoder) | dict.fromkeys(new, 0)
    groups: list[dict[str, Any]] = [
        {"params": [parameter], "lr": settings.lr * settings.layer_decay ** depth[parameter]}
        for parameter in dict.fromkeys([*new, *later])
    ]
    groups.append({"params": list(model.head.parameters()), "lr": settings.head_lr or settings.lr})
    optimiser = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    reader = Reader(model, material.windows, space, device)
    unit_P = units(config, material, material.folds[cell.fold], test)
    condition_P = conditions(config, material, test)
    torch.manual_seed(cell.seed)

    @torch.no_grad()
    def tested(backwards: bool = False) -> Score:
        model.eval()
        logits = [model.head(reader.features(test, places, backwards)) for places in in_batches(test)]
        margin_P = torch.cat(logits).diff(dim=1)[:, 0]
        return score(margin_P.double().cpu().numpy(), 0.0, test.same_P, unit_P, condition_P)

    curve: list[dict[str, float]] = []
    scores: list[Score] = []
    best: dict[str, torch.Tensor] = {}
    seconds = 0.0
    for epoch in range(1, settings.epochs + 1):
        started = time.monotonic()
        moving = [*new, *(later if epoch > n_alone else [])]
        encoder.requires_grad_(False)
        for parameter in moving:
            parameter.requires_grad_()
        encoder.train(bool(moving))
        reader.still = not moving
        order = np.random.default_rng([cell.seed, cell.fold, epoch]).permutation(len(train.same_P))
        losses = []
        for first in range(0, len(order), settings.batch):
            places = order[first : first + settings.batch]
            same_B = torch.from_numpy(train.same_P[places]).to(device)
            loss = F.cross_entropy(model.head(reader.features(train, places)), same_B)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            losses.append(loss.item() * len(places))
        seconds += time.monotonic() - started
        if not np.isfinite(losses).all():
            raise UserError(f"{cell.name}: the loss is not finite in epoch {epoch}; lower train.lr")
        now = tested()
        if settings.report == "best" and all(now.accuracy > earlier.accuracy for earlier in scores):
            best = {name: value.clone() for name, value in model.state_dict().items()}
        scores.append(now)
        curve.append(
            {
                "epoch": epoch,
                "loss": sum(losses) / len(order),
                "accuracy": now.accuracy,
                "auc": now.auc,
                "seconds": seconds,
            }
        )
    reported = settings.epochs
    if settings.report == "best":
        reported = 1 + int(np.argmax([each.accuracy for each in scores]))
        reader.still = False
        model.load_state_dict(best)
    backwards = tested(backwards=True)
    merge_low_rank(encoder)
    n_trained = sum(parameter.numel() for group in groups for parameter in group["params"])
    return Fitted(curve, reported, scores[reported - 1], backwards, n_trained, model)
