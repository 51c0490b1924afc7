"""Training of one cell: a model, its pairs, its learning curve.

Shapes: B pairs of a step, P pairs in all, N windows, L volumes, V features. Both arms of a fold and seed see
the same pairs in the same order and start from the same (zero) head: only the encoder's first weights differ.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from fmriscale.config import StudyConfig
from fmriscale.errors import UserError
from fmriscale.evaluation.baselines import Score, score
from fmriscale.evaluation.cells import Cell
from fmriscale.evaluation.material import Material, conditions, units
from fmriscale.evaluation.start import epochs_alone
from fmriscale.model.encoder import PairClassifier
from fmriscale.sampling.labelled import Pairs

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

    Raises
    ------
    UserError
        The loss is not finite.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = config.train
    model.to(device)
    n_alone = epochs_alone(config, material, cell)
    groups = [{"params": model.head.parameters(), "lr": settings.head_lr or settings.lr}]
    if n_alone or settings.adapt != "probe":
        groups.append({"params": model.encoder.parameters(), "lr": settings.lr})
    optimiser = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    bold_NLV = torch.from_numpy(material.windows.bold_NLV).to(device)
    t_r_N = torch.from_numpy(material.windows.t_r_N).to(device)
    unit_P = units(config, material, material.folds[cell.fold], test)
    condition_P = conditions(config, material, test)
    torch.manual_seed(cell.seed)

    def logits(pairs: Pairs, places: np.ndarray, backwards: bool = False) -> torch.Tensor:
        left, right = torch.from_numpy(pairs.left_P[places]), torch.from_numpy(pairs.right_P[places])
        sides = bold_NLV[left], bold_NLV[right]
        if backwards:
            sides = sides[0].flip(1), sides[1].flip(1)
        return model(*sides, t_r_N[left], space)

    @torch.no_grad()
    def tested(backwards: bool = False) -> Score:
        model.eval()
        batches = np.split(np.arange(len(test.same_P)), range(TEST_BATCH, len(test.same_P), TEST_BATCH))
        margin_P = torch.cat([logits(test, places, backwards).diff(dim=1)[:, 0] for places in batches])
        return score(margin_P.double().cpu().numpy(), 0.0, test.same_P, unit_P, condition_P)

    curve: list[dict[str, float]] = []
    scores: list[Score] = []
    best: dict[str, torch.Tensor] = {}
    seconds = 0.0
    for epoch in range(1, settings.epochs + 1):
        started = time.monotonic()
        model.train()
        model.encoder.train(settings.adapt != "probe")
        model.encoder.requires_grad_(epoch > n_alone and settings.adapt != "probe")
        if epoch <= n_alone:
            model.encoder.embedding.weight.requires_grad_()
            model.encoder.embedding.bias.requires_grad_()
        order = np.random.default_rng([cell.seed, cell.fold, epoch]).permutation(len(train.same_P))
        losses = []
        for first in range(0, len(order), settings.batch):
            places = order[first : first + settings.batch]
            same_B = torch.from_numpy(train.same_P[places]).to(device)
            loss = F.cross_entropy(logits(train, places), same_B)
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
        model.load_state_dict(best)
    n_trained = sum(p.numel() for group in optimiser.param_groups for p in group["params"])
    return Fitted(curve, reported, scores[reported - 1], tested(backwards=True), n_trained, model)
