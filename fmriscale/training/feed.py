"""Micro-batches of one rank as tensors on its device, fetched one ahead by a thread."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fmriscale.sampling.access import Allocate
from fmriscale.sampling.loader import NTPLoader
from fmriscale.sampling.masks import Masks
from fmriscale.sampling.part import Batch
from fmriscale.training import cluster
from fmriscale.training.cluster import Cluster
from fmriscale.training.schedule import BatchPlan

NAMED = 8
"""Pairs of a bad step that are named."""


@dataclass(frozen=True)
class MicroBatch:
    """B pairs on the device: sequences [B, L, V] of one space; label, kind, data set, repetition time [B].

    masks, where volumes are masked: place, source and counts [B, M] as in `sampling.masks.Masks`.
    """

    left: Tensor
    right: Tensor
    label: Tensor
    kind: Tensor
    dataset: Tensor
    t_r: Tensor
    space: str
    masks: tuple[Tensor, Tensor, Tensor] | None = None


def to_device(batch: Batch, device: torch.device, masks: Masks | None = None) -> MicroBatch:
    """Move a batch to the device, from pinned memory where it is a GPU."""

    def move(values: np.ndarray | Tensor) -> Tensor:
        if isinstance(values, Tensor):  # gathered on the device
            return values
        tensor = torch.from_numpy(values)
        if device.type != "cuda":
            return tensor
        return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)

    names = ("left", "right", "label", "kind", "dataset", "t_r")
    moved = {name: move(getattr(batch, name)) for name in names}
    masked = (move(masks.place_BM), move(masks.source_BM), move(masks.counts_BM)) if masks else None
    return MicroBatch(**moved, space=batch.space, masks=masked)


def batch_memory(device: torch.device) -> Allocate | None:
    """Return what makes the arrays of a batch in pinned memory; None where the device is no GPU."""
    if device.type != "cuda":
        return None
    return lambda shape: torch.empty(shape, dtype=torch.float16, pin_memory=True).numpy()


class Feed:
    """Micro-batches of one rank from a step on, in order, without end.

    The loader is a pure function of position: what the thread has fetched too much is forgotten, not lost.

    Attributes
    ----------
    waited : float
        Seconds that the loop has waited for data.
    """

    def __init__(
        self,
        loader: NTPLoader,
        plan: BatchPlan,
        rank: int,
        device: torch.device,
        first_step: int,
        masks: Callable[[Batch, int], Masks | None],
    ) -> None:
        self.loader, self.plan, self.rank, self.device, self.masks = loader, plan, rank, device, masks
        self.waited = 0.0
        self._positions = self._plan_positions(first_step)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._next = self._fetch()

    def __next__(self) -> MicroBatch:
        start = time.perf_counter()
        batch, masks = self._next.result()
        self._next = self._fetch()
        micro_batch = to_device(batch, self.device, masks)
        self.waited += time.perf_counter() - start
        return micro_batch

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _fetch(self) -> Future[tuple[Batch, Masks | None]]:
        return self._thread.submit(self._read, next(self._positions))

    def _read(self, first: int) -> tuple[Batch, Masks | None]:
        batch = self.loader.batch(first, self.plan.micro)
        return batch, self.masks(batch, first)

    def _plan_positions(self, step: int) -> Iterator[int]:
        while True:
            for accumulation in range(self.plan.accumulation):
                yield self.plan.first(step, accumulation, self.rank)
            step += 1


def name_bad_pairs(
    loader: NTPLoader, plan: BatchPlan, place: Cluster, step: int, losses: list[Tensor]
) -> list[str]:
    """Name the pairs of a step whose loss is not finite; all ranks call this."""
    mine = []
    for number, loss_B in enumerate(losses):
        first = plan.first(step, number, place.rank)
        mine += [first + int(i) for i in (~loss_B.isfinite()).nonzero().flatten()]
    bad = sorted(position for rank in cluster.everyones(mine[:NAMED]) for position in rank)
    keys, names = loader.corpus.runs.key, []
    for part, within in (loader.locate(position) for position in bad[:NAMED]):
        draw = part.draw(within, 1)
        sides = ((draw.run_left, draw.start_left), (draw.run_right, draw.start_right))
        names.append(" | ".join(f"{keys.iloc[part.rows[run[0]]]}[{start[0]}]" for run, start in sides))
    return names
