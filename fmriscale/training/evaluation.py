"""Loss and accuracy on held-out pairs, and how far autocorrelation alone gets on them."""

import math
from typing import Any

import numpy as np
import torch

from fmriscale.config import KIND_NAMES, POSITIVE_KINDS
from fmriscale.sampling.loader import NTPLoader
from fmriscale.sampling.persistence import area_under_curve, best_threshold, persistence_score
from fmriscale.sampling.shape_group import ShapeGroup
from fmriscale.training.run import Run
from fmriscale.training.tally import Tally


@torch.no_grad()
def evaluate(run: Run, engine: Any, loader: NTPLoader) -> dict[str, Any]:
    """Return loss and accuracy on fixed pairs, the same ones on any number of ranks; all ranks call this.

    Every rank makes equally many forward passes; pairs beyond the last fill up and are not counted.
    """
    engine.eval()
    rank, world_size, device = run.world.rank, run.world.world_size, run.world.device
    tally = Tally(loader.datasets, device, run.objective)
    size = run.plan.micro_batch_size
    for group, n_pairs in shares(loader, run.config.train.eval_pairs):
        for start in range(rank * size, n_pairs + rank * size, size * world_size):
            batch = run.objective.add_masks(group.batch(start, size), start).to(device)
            losses = run.objective.losses(engine, batch)
            filler_B = torch.arange(start, start + size, device=device) >= n_pairs
            tally.add(losses, batch.kind.masked_fill(filler_B, -1), batch.dataset.masked_fill(filler_B, -1))
    tally.all_reduce()
    return tally.summary()


def shares(loader: NTPLoader, n_pairs: int) -> list[tuple[ShapeGroup, int]]:
    """Divide pairs among the groups of a loader by data sets; no more than an epoch of each."""
    wanted = [math.ceil(n_pairs * len(group.datasets) / len(loader.datasets)) for group in loader.groups]
    return [
        (group, min(n, 2 * int(group.windows.sum()))) for group, n in zip(loader.groups, wanted, strict=True)
    ]


def persistence(loader: NTPLoader, held_out: NTPLoader, n_pairs: int) -> dict[str, Any]:
    """Return how far autocorrelation alone gets on held-out pairs, with a threshold from training pairs."""
    score, kind = _scores(loader, n_pairs)
    threshold = best_threshold(score, np.isin(kind, POSITIVE_KINDS))
    score, kind = _scores(held_out, n_pairs)
    correct = (score > threshold) == np.isin(kind, POSITIVE_KINDS)
    return {
        "acc": float(correct.mean()),
        "auc": area_under_curve(score, np.isin(kind, POSITIVE_KINDS)),
        "acc_by_kind": {KIND_NAMES[k]: float(correct[kind == k].mean()) for k in np.unique(kind)},
    }


def _scores(loader: NTPLoader, n_pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return persistence score and kind of each pair."""
    batches = [group.batch(0, n) for group, n in shares(loader, n_pairs)]
    sides = [(torch.as_tensor(b.left).cpu().numpy(), torch.as_tensor(b.right).cpu().numpy()) for b in batches]
    scores = [persistence_score(left, right) for left, right in sides]
    return np.concatenate(scores), np.concatenate([batch.kind for batch in batches])
