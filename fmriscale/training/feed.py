"""Micro-batches of one rank as tensors on its device, fetched one ahead by a thread."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from fmriscale.sampling.batch import Batch
from fmriscale.sampling.gather import Allocate
from fmriscale.sampling.loader import NTPLoader
from fmriscale.training import cluster
from fmriscale.training.cluster import Cluster
from fmriscale.training.schedule import BatchPlan

NAMED = 8
"""Pairs of a bad step that are named."""


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
        add_masks: Callable[[Batch, int], Batch],
    ) -> None:
        self.loader, self.plan, self.rank, self.device, self.add_masks = loader, plan, rank, device, add_masks
        self.waited = 0.0
        self._positions = self._plan_positions(first_step)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._next = self._fetch()

    def __next__(self) -> Batch:
        start = time.perf_counter()
        batch = self._next.result()
        self._next = self._fetch()
        micro_batch = batch.to(self.device)
        self.waited += time.perf_counter() - start
        return micro_batch

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _fetch(self) -> Future[Batch]:
        return self._thread.submit(self._read, next(self._positions))

    def _read(self, first: int) -> Batch:
        return self.add_masks(self.loader.batch(first, self.plan.micro), first)

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
    for group, within in (loader.locate(position) for position in bad[:NAMED]):
        draw = group.draw(within, 1)
        sides = ((draw.run_left, draw.start_left), (draw.run_right, draw.start_right))
        names.append(" | ".join(f"{keys.iloc[group.rows[run[0]]]}[{start[0]}]" for run, start in sides))
    return names
