"""Memory of a rank by ZeRO stage: weights, gradients, optimiser states and DeepSpeed's buffers, bytes."""

from dataclasses import dataclass
from typing import Literal

BUCKET = 500_000_000
"""Most elements that ZeRO reduces in one collective (its buffer is allocated in full)."""
FEWEST_REDUCED, MOST_REDUCED = 25_000_000, 100_000_000
"""Of a bucket on GPUs: small ones are bound by latency, and more than the large ones gains nothing."""
LIVE = 1_000_000_000
"""Most elements of weights that stage 3 gathers ahead (DeepSpeed's stage3_max_live_parameters)."""
MASTER, MOMENTS = 4, 8
"""Bytes an element: float32 weights that ZeRO updates, and AdamW's two moments; checkpoints hold both."""


@dataclass(frozen=True, kw_only=True)
class States:
    """What one rank holds beside activations, bytes on its device."""

    weights: int
    gradients: int
    optimizer: int
    buffers: int
    host: int = 0
    """Offloaded to this rank's host memory or disk."""

    @property
    def total(self) -> int:
        """The peak on the device."""
        return self.weights + self.gradients + self.optimizer + self.buffers


def bucket_size(n_parameters: int, *, on_gpu: bool) -> int:
    """Return how many elements ZeRO reduces in one collective; even, because DeepSpeed refuses others.

    On GPUs an eighth of the model, so that most gradients are summed while the backward pass goes on: one
    bucket for all would be full after the last gradient. On CPUs nothing overlaps, and one call costs least.
    """
    whole = min(BUCKET, n_parameters + n_parameters % 2)
    if not on_gpu:
        return whole
    return min(whole, max(FEWEST_REDUCED, min(MOST_REDUCED, n_parameters // 8 // 2 * 2)))


def itemsize(precision: str) -> int:
    """Return the bytes of a weight, a gradient and an activation."""
    return 4 if precision == "fp32" else 2


def states(
    n_parameters: int,
    stage: int,
    n_ranks: int,
    precision: str,
    *,
    offload: Literal["none", "cpu", "nvme"] = "none",
    overlap: bool = True,
) -> States:
    """Return what a rank holds at its peak, in the backward pass or in the optimiser's step.

    Checked against the allocations of real DeepSpeed steps on 1 and 2 ranks (tests/distributed).
    """
    size = itemsize(precision)
    partition = -(-n_parameters // n_ranks)
    bucket = size * bucket_size(n_parameters, on_gpu=overlap)
    if stage == 0:  # weights are float32 whatever the precision
        weights = gradients = MASTER * n_parameters
        bucket = MASTER * min(BUCKET, n_parameters)
        return States(weights=weights, gradients=gradients, optimizer=MOMENTS * n_parameters, buffers=bucket)
    optimizer = (MASTER + MOMENTS) * partition
    weights = size * (partition if stage == 3 else n_parameters)
    gradients = size * (n_parameters if stage == 1 else partition)
    # The step works on a flat copy of this rank's gradients, in float32.
    step = size * partition * 2 + (MASTER * partition if size < MASTER else 0)
    if stage == 3:
        # One bucket stays, one is being reduced; weights are gathered ahead.
        buffers = 2 * bucket + size * min(LIVE, n_parameters)
        step += bucket
    else:
        buffers = bucket + (bucket if overlap else 0)
    host = 0
    if offload != "none":  # the step is made there too
        host, optimizer, step = optimizer + MASTER * partition, 0, 0
        if stage == 3:
            host, weights = host + weights, 0
    buffers = max(buffers, step - gradients)
    return States(weights=weights, gradients=gradients, optimizer=optimizer, buffers=buffers, host=host)
