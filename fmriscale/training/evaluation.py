"""Which held-out pairs are evaluated, and how far autocorrelation alone gets on them."""

import math
from typing import Any

import numpy as np
import torch

from fmriscale.sampling.loader import NTPLoader
from fmriscale.sampling.part import Part
from fmriscale.sampling.persistence import area_under_curve, best_threshold, persistence_score
from fmriscale.training.telemetry import KIND_NAMES


def shares(loader: NTPLoader, n_pairs: int) -> list[tuple[Part, int]]:
    """Divide pairs among the parts of a loader by data sets; no more than an epoch of each."""
    wanted = [math.ceil(n_pairs * len(part.datasets) / len(loader.datasets)) for part in loader.parts]
    return [(part, min(n, 2 * int(part.windows.sum()))) for part, n in zip(loader.parts, wanted, strict=True)]


def persistence(loader: NTPLoader, held_out: NTPLoader, n_pairs: int) -> dict[str, Any]:
    """How far autocorrelation alone gets on the held-out pairs; its threshold is from training pairs."""

    def scored(source: NTPLoader) -> tuple[np.ndarray, np.ndarray]:
        batches = [part.batch(0, n) for part, n in shares(source, n_pairs)]
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
