"""Training of one cell: a model, its pairs, its learning curve.

Shapes: B pairs of a step, P pairs in all, N windows, L volumes, V features. Both arms of a fold and seed see
the same pairs in the same order and start from the same (zero) head: only the encoder's first weights differ.
"""

import time

import numpy as np
import torch
import torch.nn.functional as F

from fmriscale.config import StudyConfig
from fmriscale.errors import UserError
from fmriscale.evaluation.baselines import Score, score
from fmriscale.evaluation.cells import Cell
from fmriscale.evaluation.material import Material, units
from fmriscale.evaluation.start import epochs_alone
from fmriscale.model.encoder import PairClassifier
from fmriscale.sampling.labelled import Pairs

TEST_BATCH = 512


def fit(
    config: StudyConfig,
    material: Material,
    cell: Cell,
    model: PairClassifier,
    space: str,
    train: Pairs,
    test: Pairs,
) -> tuple[list[dict[str, float]], Score]:
    """Train a model for all its epochs; return the curve and the score after the last epoch."""
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
    torch.manual_seed(cell.seed)

    def logits(pairs: Pairs, places: np.ndarray) -> torch.Tensor:
        left, right = torch.from_numpy(pairs.left_P[places]), torch.from_numpy(pairs.right_P[places])
        return model(bold_NLV[left], bold_NLV[right], t_r_N[left], space)

    curve: list[dict[str, float]] = []
    tested = Score(0.5, 0.5, {})
    started = time.monotonic()
    for epoch in range(1, settings.epochs + 1):
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
        model.eval()
        with torch.no_grad():
            batches = np.split(np.arange(len(test.same_P)), range(TEST_BATCH, len(test.same_P), TEST_BATCH))
            margin_P = torch.cat([logits(test, places).diff(dim=1)[:, 0] for places in batches])
        tested = score(margin_P.double().cpu().numpy(), 0.0, test.same_P, unit_P)
        if not np.isfinite(losses).all():
            raise UserError(f"{cell.name}: the loss is not finite in epoch {epoch}; lower train.lr")
        curve.append(
            {
                "epoch": epoch,
                "loss": sum(losses) / len(order),
                "accuracy": tested.accuracy,
                "auc": tested.auc,
                "seconds": time.monotonic() - started,
            }
        )
    return curve, tested
