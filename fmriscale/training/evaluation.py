"""Loss and accuracy on held-out pairs and groups, and how far autocorrelation alone gets on them."""

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

AT_ONCE = 512
"""Pairs that are read at a time for persistence."""


@torch.no_grad()
def evaluate(run: Run, engine: Any) -> dict[str, Any]:
    """Return loss and accuracy on fixed pairs and groups of held-out runs; all ranks call this.

    They are the same ones on any number of ranks.

    Every rank makes equally many forward passes; pairs beyond the last fill up and are not counted.
    """
    engine.eval()
    rank, world_size, device = run.world.rank, run.world.world_size, run.world.device
    loader, groups, size = run.held_out, run.held_out_groups, run.plan.micro_batch_size
    tally = Tally(loader.datasets if loader else [], device, run.objective)
    for group, n_pairs in shares(loader, run.config.train.eval_pairs) if loader else ():
        for start in range(rank * size, n_pairs + rank * size, size * world_size):
            batch = run.objective.add_masks(group.batch(start, size), start).to(device)
            tally.add(
                run.objective.losses(engine, batch),
                batch,
                torch.arange(start, start + size, device=device) >= n_pairs,
            )
    for step in range(groups.n_groups) if groups else ():
        assert groups
        tally.add(run.objective.losses(engine, group=groups.batch(step, rank, world_size).to(device)))
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
    """Return persistence score and kind of each pair.

    A part at a time: on a GPU sequences are read into pinned memory, which torch never gives back.
    """
    scores, kinds = [], []
    for group, n in shares(loader, n_pairs):
        for start in range(0, n, AT_ONCE):
            batch = group.batch(start, min(AT_ONCE, n - start))
            left, right = (torch.as_tensor(side).cpu().numpy() for side in (batch.left, batch.right))
            scores.append(persistence_score(left, right))
            kinds.append(batch.kind)
    return np.concatenate(scores), np.concatenate(kinds)
