"""The record of B pairs, which is filled on their way: drawn, read, masked, and sent to a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

Record = TypeVar("Record", bound=tuple)


class Masks(NamedTuple):
    """Which volumes of B pairs are masked, at most M of the S = 2 L volumes of a pair."""

    place_BM: Any  # int64: a volume of the pair, 0 to S - 1; all of a pair differ
    source_BM: Any  # int64: the volume of the pair that is shown there; -1 = the mask token
    counts_BM: Any  # bool: to be reconstructed; the others only fill up, and show what they are


class Batch(NamedTuple):
    """B pairs of sequences of L volumes and V features.

    The draw fills the arrays of places, kinds and labels (compiled code takes these and None; a string would
    cost it more than the draw). `to` makes tensors of what is computed with; sequences are tensors from the
    start where `data.access` is device.
    """

    run_left: np.ndarray  # int32 [B], number in the index of windows
    run_right: np.ndarray
    row_left: np.ndarray  # int32 [B], row in the corpus
    row_right: np.ndarray
    start_left: np.ndarray  # int32 [B], first volume
    start_right: np.ndarray
    kind: Any  # int8 [B], 0 for a positive, else 1 + index in `config.KINDS`
    dataset: Any  # int16 [B], index of the left sequence's data set in the loader's `datasets`
    t_r: Any  # float32 [B], repetition time of the left run, s
    label: Any  # int64 [B], 1 where right follows left
    space: Any = None  # feature space of all sequences
    left: Any = None  # float16 [B, L, V]
    right: Any = None  # float16 [B, L, V]; of kind reversed its last volume is first
    masks: Masks | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch with tensors on a device."""
        return sent(self, ("left", "right", "label", "kind", "dataset", "t_r", "masks"), device)


def sent(record: Record, names: Sequence[str], device: torch.device) -> Record:
    """Return a record with tensors of some fields on a device, sent from pinned memory if it is a GPU."""
    import torch

    def move(values: Any) -> Any:
        if values is None or isinstance(values, tuple):
            return values and type(values)(*map(move, values))
        tensor = torch.as_tensor(values)
        if device.type != "cuda" or tensor.device.type == "cuda":
            return tensor
        return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)

    return record._replace(**{name: move(getattr(record, name)) for name in names})  # pyright: ignore
