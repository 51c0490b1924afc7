"""Learning rate of a step, and how the global batch is divided among ranks and micro-batches."""

import math
from dataclasses import dataclass

from fmriscale.common.errors import UserError
from fmriscale.config import TrainConfig

DECAY_SHARE = 0.2
"""Share of the steps over which `wsd` decays."""
COSINE_FLOOR = 0.1
"""`cosine` ends at this share of the peak."""


def learning_rate(step: int, train: TrainConfig) -> float:
    """Return the learning rate of a step, counted from 1."""
    steps, warmup = train.steps, train.warmup_steps
    if step <= warmup:
        return train.lr * step / warmup
    if train.schedule == "cosine":
        progress = (step - warmup) / max(1, steps - warmup)
        return train.lr * (COSINE_FLOOR + (1 - COSINE_FLOOR) * (1 + math.cos(math.pi * progress)) / 2)
    if train.schedule == "wsd":
        decay_steps = max(1, round(steps * DECAY_SHARE))
        return train.lr * min(1.0, (steps - step + 1) / decay_steps)
    return train.lr


@dataclass(frozen=True)
class BatchPlan:
    """A global batch of pairs = micro_batch_size x gradient_accumulation_steps x world_size."""

    micro_batch_size: int
    gradient_accumulation_steps: int
    world_size: int

    @property
    def global_batch(self) -> int:
        """Pairs in a step."""
        return self.micro_batch_size * self.gradient_accumulation_steps * self.world_size

    def position(self, step: int, micro_step: int, rank: int) -> int:
        """Return where a micro-batch begins in the global order of pairs (steps count from 1)."""
        micro_batch = micro_step * self.world_size + rank
        return (step - 1) * self.global_batch + micro_batch * self.micro_batch_size

    def __str__(self) -> str:
        return (
            f"{self.global_batch} pairs = {self.micro_batch_size} x {self.gradient_accumulation_steps} "
            f"accumulated x {self.world_size}"
        )


def plan_run(train: TrainConfig, world_size: int) -> BatchPlan:
    """Divide the batch of a run among ranks; a run that reads no pairs counts one of each rank."""
    if not train.reads_pairs:
        return BatchPlan(1, 1, world_size)
    plan = plan_batch(train.global_batch, train.max_micro_batch, world_size)
    if train.connectivity_weight > 0 and plan.gradient_accumulation_steps > 1:
        raise UserError(
            f"train.connectivity_weight compares all pairs of a step, but these are read in "
            f"{plan.gradient_accumulation_steps} parts: set train.max_micro_batch to "
            f"{train.global_batch // world_size} or more, or lower train.global_batch"
        )
    return plan


def plan_batch(global_batch: int, max_micro_batch: int, world_size: int) -> BatchPlan:
    """Divide a global batch among ranks into the largest micro-batches that are allowed."""
    if global_batch % world_size:
        divisors = [n for n in range(1, global_batch + 1) if global_batch % n == 0]
        nearest = sorted(sorted(divisors, key=lambda n: abs(n - world_size))[:4])
        below = global_batch // world_size * world_size
        batches = [n for n in (below, below + world_size) if n > 0]
        raise UserError(
            f"train.global_batch {global_batch} does not divide by {world_size} ranks: take "
            f"{' or '.join(map(str, batches))}, or {', '.join(map(str, nearest))} ranks"
        )
    per_rank = global_batch // world_size
    micro = max(n for n in range(1, min(per_rank, max_micro_batch) + 1) if per_rank % n == 0)
    return BatchPlan(micro, per_rank // micro, world_size)
