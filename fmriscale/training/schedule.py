"""Pure functions of the plan: learning rate by step, and the division of a global batch."""

import math
from dataclasses import dataclass
from typing import Literal

from fmriscale.common.errors import UserError

DECAY_SHARE = 0.2
"""Share of the steps over which `wsd` decays."""
COSINE_FLOOR = 0.1
"""`cosine` ends at this share of the peak."""


def learning_rate(
    step: int, *, peak: float, steps: int, warmup: int, schedule: Literal["wsd", "cosine", "constant"]
) -> float:
    """Learning rate of a step."""
    if step <= warmup:
        return peak * step / warmup
    if schedule == "cosine":
        along = (step - warmup) / max(1, steps - warmup)
        return peak * (COSINE_FLOOR + (1 - COSINE_FLOOR) * (1 + math.cos(math.pi * along)) / 2)
    if schedule == "wsd":
        decay = max(1, round(steps * DECAY_SHARE))
        return peak * min(1.0, (steps - step + 1) / decay)
    return peak


@dataclass(frozen=True)
class BatchPlan:
    """A global batch of pairs = micro x accumulation x world.

    Attributes
    ----------
    micro : int
        Pairs in one forward pass of one rank.
    accumulation : int
        Forward passes of one rank in a step.
    world : int
        Ranks.
    """

    micro: int
    accumulation: int
    world: int

    @property
    def pairs(self) -> int:
        """Pairs in a step."""
        return self.micro * self.accumulation * self.world

    def first(self, step: int, accumulation: int, rank: int) -> int:
        """Position in the global order of a micro-batch's first pair (steps count from 1)."""
        return (step - 1) * self.pairs + (accumulation * self.world + rank) * self.micro


def plan_batch(global_batch: int, max_micro_batch: int, world: int) -> BatchPlan:
    """Divide a global batch over ranks and accumulation, with micro-batches as large as allowed."""
    if global_batch % world:
        fits = [n for n in range(1, global_batch + 1) if global_batch % n == 0]
        near = sorted(sorted(fits, key=lambda n: abs(n - world))[:4])
        below = global_batch // world * world
        batches = [n for n in (below, below + world) if n > 0]
        raise UserError(
            f"train.global_batch {global_batch} does not divide by {world} ranks: take "
            f"{' or '.join(map(str, batches))}, or {', '.join(map(str, near))} ranks"
        )
    per_rank = global_batch // world
    micro = max(n for n in range(1, min(per_rank, max_micro_batch) + 1) if per_rank % n == 0)
    return BatchPlan(micro, per_rank // micro, world)
