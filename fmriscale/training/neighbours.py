"""Ranks of one machine exchange tensors through its memory.

Over gloo, through the loopback device, the same takes three to six times as long.
"""

import mmap
import os
import secrets
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

BUFFER = 2**24
"""Bytes that a rank shows the others at a time; it has two such buffers."""
SMALL = 2**16
"""Tensors of fewer bytes are gloo's: the meetings cost as much as the exchange."""


class Neighbours:
    """Exchanges of large tensors between all ranks of a job whose ranks share a machine.

    An exchange goes by turns. In a turn a rank writes into one of its two buffers, meets the others, and
    reads what they wrote. It writes into the same buffer two turns later, when the meeting between has shown
    that all have read it. Ranks meet through gloo, so that one that is gone is noticed there as in any
    exchange.

    Parameters
    ----------
    memory : Tensor of uint8, (ranks, 2, bytes)
        Shared by the ranks.
    """

    def __init__(self, memory: Tensor) -> None:
        self.memory, self.rank, self.n_ranks = memory, dist.get_rank(), len(memory)
        self.others = [rank for rank in range(self.n_ranks) if rank != self.rank]
        self._turn, self._token = 0, torch.zeros(1)

    def take(self, tensor: Tensor, group: dist.ProcessGroup | None) -> bool:
        """Tell whether a tensor is theirs to exchange: large, in host memory and one piece, of all ranks."""
        return (
            tensor.device.type == "cpu"
            and tensor.is_contiguous()
            and tensor.nbytes >= SMALL
            and dist.get_world_size(group) == self.n_ranks
        )

    @torch.no_grad()
    def all_reduce(self, tensor: Tensor) -> None:
        """Sum a tensor over all ranks, in place. Each rank sums a part, and all get the same bits."""
        for flat in tensor.view(-1).split(BUFFER // tensor.itemsize):
            parts = flat.tensor_split(self.n_ranks)
            shown = [buffer.tensor_split(self.n_ranks) for buffer in self._buffers(flat)]
            for rank in self.others:
                shown[self.rank][rank].copy_(parts[rank])
            self._meet()
            for rank in self.others:
                parts[self.rank].add_(shown[rank][self.rank])
            sums = [buffer[: len(part)] for buffer, part in zip(self._buffers(flat), parts, strict=True)]
            sums[self.rank].copy_(parts[self.rank])
            self._meet()
            for rank in self.others:
                parts[rank].copy_(sums[rank])

    @torch.no_grad()
    def all_gather(self, gathered: Tensor, tensor: Tensor) -> None:
        """Collect a tensor of each rank, one after the other; `tensor` may be its own place in `gathered`."""
        places = gathered.view(self.n_ranks, -1)
        if places[self.rank].data_ptr() != tensor.data_ptr():
            places[self.rank].copy_(tensor.view(-1))
        for places_RN in places.split(BUFFER // tensor.itemsize, dim=1):
            shown = self._buffers(places_RN[self.rank])
            shown[self.rank].copy_(places_RN[self.rank])
            self._meet()
            for rank in self.others:
                places_RN[rank].copy_(shown[rank])

    def _buffers(self, like: Tensor) -> list[Tensor]:
        """Return each rank's buffer of this turn, of the type and length of a flat tensor."""
        return [buffer[: like.nbytes].view(like.dtype) for buffer in self.memory[:, self._turn % 2]]

    def _meet(self) -> None:
        dist.all_reduce(self._token)
        self._turn += 1


def share_memory() -> Neighbours | None:
    """Let all ranks of the job see the same memory; all must call this.

    The memory has no name in any folder, so that nothing is left behind however a rank ends.
    """
    n_bytes, name, descriptor = dist.get_world_size() * 2 * BUFFER, f"fmriscale-{secrets.token_hex(8)}", -1
    if dist.get_rank() == 0:
        with suppress(AttributeError, OSError):  # not Linux; no room
            descriptor = os.memfd_create(name)
            os.posix_fallocate(descriptor, 0, n_bytes)
    place = [(f"/proc/{os.getpid()}/fd/{descriptor}", name)]
    dist.broadcast_object_list(place, src=0)
    path, name = place[0]
    memory = None
    with suppress(OSError, ValueError):  # ValueError: the file is shorter than it should be
        if name in str(Path(path).readlink()):  # elsewhere this is nothing, or something else
            theirs = os.open(path, os.O_RDWR)
            try:
                memory = mmap.mmap(theirs, n_bytes)
            finally:
                os.close(theirs)
    shared = torch.tensor(int(memory is not None))
    dist.all_reduce(shared, dist.ReduceOp.MIN)
    if descriptor >= 0:
        os.close(descriptor)
    if not memory or not shared:
        return None
    return Neighbours(torch.frombuffer(memory, dtype=torch.uint8).view(-1, 2, BUFFER))
