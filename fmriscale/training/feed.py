"""Micro-batches of one rank on its device, fetched one ahead by a thread."""

import itertools
import time
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from fmriscale.sampling.batch import Batch
from fmriscale.sampling.groups import GroupBatch
from fmriscale.training.distributed import all_gather_object
from fmriscale.training.run import Run

Read = tuple[Batch | None, GroupBatch | None]
"""What a rank reads in a micro-step: pairs, its share of a group of people, or both."""
MAX_NAMED = 8
"""Pairs of a bad step that are named."""


class Feed:
    """Endless micro-batches of one rank from a step on.

    The loaders are pure functions of position: a batch that was fetched too much is forgotten, not lost.
    The group of a step comes with its first micro-batch.
    """

    def __init__(self, run: Run, first_step: int) -> None:
        self.run = run
        self.waited = 0.0
        """Seconds that the loop has waited for data."""
        n = run.plan.gradient_accumulation_steps
        self._places = ((step, micro_step) for step in itertools.count(first_step) for micro_step in range(n))
        device = run.world.device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        """On which batches are sent to a GPU while it computes."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._next = self._fetch()

    def __next__(self) -> Read:
        start = time.perf_counter()
        read, sent = self._next.result()
        self._next = self._fetch()
        if sent is not None:
            computing = torch.cuda.current_stream(self.run.world.device)
            computing.wait_event(sent)
            pairs, group = read
            for value in (*(pairs or ()), *((pairs and pairs.masks) or ()), *(group or ())):
                if isinstance(value, Tensor):  # its memory is free again when all computed with it is done
                    value.record_stream(computing)
        self.waited += time.perf_counter() - start
        return read

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _fetch(self) -> Future[tuple[Read, torch.cuda.Event | None]]:
        return self._thread.submit(self._send, *next(self._places))

    def _send(self, step: int, micro_step: int) -> tuple[Read, torch.cuda.Event | None]:
        """Return a micro-batch on the device, and the event after which all of it is there."""
        if self._stream is None:
            return self._read(step, micro_step), None
        with torch.cuda.device(self._stream.device), torch.cuda.stream(self._stream):
            sent = torch.cuda.Event()
            read = self._read(step, micro_step)
            sent.record(self._stream)
            return read, sent

    def _read(self, step: int, micro_step: int) -> Read:
        run, pairs, group = self.run, None, None
        if run.config.train.reads_pairs:
            position = run.plan.position(step, micro_step, run.world.rank)
            pairs = run.loader.batch(position, run.plan.micro_batch_size)
            pairs = run.objective.add_masks(pairs, position).to(run.world.device)
        if run.groups and micro_step == 0:
            group = run.groups.batch(step - 1, run.world.rank, run.world.world_size).to(run.world.device)
        return pairs, group


def name_bad_pairs(run: Run, step: int, losses: list[Tensor | None]) -> list[str]:
    """Name the pairs of a step whose loss [B] is not finite; all ranks call this."""
    mine = []
    for micro_step, loss_B in enumerate(losses):
        if loss_B is None:
            continue
        first = run.plan.position(step, micro_step, run.world.rank)
        mine += [first + int(i) for i in (~loss_B.isfinite()).nonzero().flatten()]
    bad = sorted(position for rank in all_gather_object(mine[:MAX_NAMED]) for position in rank)
    keys, names = run.corpus.runs.key, []
    for group, within in (run.loader.locate(position) for position in bad[:MAX_NAMED]):
        pair = group.draw(within, 1)
        sides = ((pair.row_left, pair.start_left), (pair.row_right, pair.start_right))
        names.append(" | ".join(f"{keys.iloc[row[0]]}[{start[0]}]" for row, start in sides))
    return names
