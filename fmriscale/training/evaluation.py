"""Which held-out pairs are evaluated, and how far autocorrelation alone gets on them."""

import math
from typing import Any

import numpy as np
import torch

from fmriscale.sampling.loader import NTPLoader
from fmriscale.sampling.persistence import area_under_curve, best_threshold, persistence_score
from fmriscale.sampling.shape_group import ShapeGroup
from fmriscale.training.telemetry import KIND_NAMES


def shares(loader: NTPLoader, n_pairs: int) -> list[tuple[ShapeGroup, int]]:
    """Divide pairs among the groups of a loader by data sets; no more than an epoch of each."""
    wanted = [math.ceil(n_pairs * len(group.datasets) / len(loader.datasets)) for group in loader.groups]
    return [
        (group, min(n, 2 * int(group.windows.sum()))) for group, n in zip(loader.groups, wanted, strict=True)
    ]


def persistence(loader: NTPLoader, held_out: NTPLoader, n_pairs: int) -> dict[str, Any]:
    """How far autocorrelation alone gets on the held-out pairs; its threshold is from training pairs."""

    def scored(source: NTPLoader) -> tuple[np.ndarray, np.ndarray]:
        batches = [group.batch(0, n) for group, n in shares(source, n_pairs)]
        volumes = [
            (torch.as_tensor(b.left).cpu().numpy(), torch.as_tensor(b.right).cpu().numpy()) for b in batches
        ]
        scores = [persistence_score(left, right) for left, right in volumes]
        return np.concatenate(scores), np.concatenate([batch.kind for batch in batches])

    score, kind = scored(loader)
    threshold = best_threshold(score, kind == 0)
    score, kind = scored(held_out)
    correct = (score > threshold) == (kind == 0)
    return {
        "acc": float(correct.mean()),
        "auc": area_under_curve(score, kind == 0),
        "acc_by_kind": {KIND_NAMES[k]: float(correct[kind == k].mean()) for k in np.unique(kind)},
    }
