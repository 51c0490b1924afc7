"""What a rank reads in one micro-step: pairs, and its share of a group of people.

Shapes: P people of a group, W windows of each.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from fmriscale.sampling.batch import Batch
from fmriscale.sampling.groups import GroupBatch, GroupLoader


@dataclass(frozen=True)
class GroupShare:
    """The people of a group that one rank reads: with those of the other ranks, in their order, all."""

    batch: GroupBatch
    n_people: int
    """P of the whole group."""
    n_a_rank: int
    """People of a rank; the last ones may have fewer, or none that counts."""

    @classmethod
    def read(cls, groups: GroupLoader, step: int, rank: int, world_size: int) -> GroupShare:
        """Read a rank's share of the group of a step, counted from 0; never less than one person."""
        n_people = groups.peek(step)[0]
        n_a_rank = -(-n_people // world_size)
        first = min(rank * n_a_rank, n_people - 1)
        return cls(groups.batch(step, slice(first, first + n_a_rank)), n_people, n_a_rank)


def fullest(groups: GroupLoader, n_steps: int = 256) -> int:
    """Return the step, among the first, whose group has most numbers."""
    sizes = [int(np.prod(groups.peek(step))) for step in range(n_steps)]
    return int(np.argmax(sizes))


@dataclass(frozen=True)
class MicroBatch:
    """Pairs, a share of a group, or both."""

    pairs: Batch | None = None
    group: GroupShare | None = None

    def to(self, device: torch.device) -> MicroBatch:
        """Return it with tensors on a device."""
        group = self.group and replace(self.group, batch=self.group.batch.to(device))
        return MicroBatch(self.pairs and self.pairs.to(device), group)

    def tensors(self) -> list[torch.Tensor]:
        """Return all tensors, once they are on a device."""
        values: list[Any] = []
        if self.pairs:
            values += [getattr(self.pairs, field.name) for field in fields(self.pairs)]
            values += self.pairs.masks or []
        if self.group:
            values += [self.group.batch.bold, self.group.batch.t_r]
        return [value for value in values if isinstance(value, torch.Tensor)]

    @property
    def space(self) -> str:
        """Feature space of the pairs, or of the group where there are none."""
        return self.pairs.space if self.pairs else self.group.batch.space if self.group else ""

    @property
    def n_windows(self) -> int:
        """Windows of the whole group."""
        return self.group.n_people * self.group.batch.bold.shape[1] if self.group else 0
