"""A batch of pairs: the sequences, what is known of them, and where they lie in the corpus."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch


class Draw(NamedTuple):
    """B pairs by their places; runs are numbered as in the index of windows, rows as in the corpus."""

    run_left: np.ndarray  # int32 [B]
    start_left: np.ndarray  # int32 [B]: first volume
    run_right: np.ndarray  # int32 [B]
    start_right: np.ndarray  # int32 [B]: first volume
    kind: np.ndarray  # int8 [B]: 0 for a positive, else the kind of negative
    dataset: np.ndarray  # int16 [B]: data set of the left sequence
    row_left: np.ndarray  # int32 [B]
    row_right: np.ndarray  # int32 [B]
    t_r: np.ndarray  # float32 [B]: repetition time of the left run, s


class Masks(NamedTuple):
    """Which volumes of B pairs are masked, at most M of the S = 2 L volumes of a pair."""

    place_BM: Any  # int64: a volume of the pair, 0 to S - 1; all of a pair differ
    source_BM: Any  # int64: the volume of the pair that is shown there; -1 = the mask token
    counts_BM: Any  # bool: to be reconstructed; the others only fill up, and show what they are


@dataclass(frozen=True)
class Batch:
    """B pairs of sequences of L volumes and V features.

    All but places are numpy arrays at first, and tensors after `to` (left and right from the start where
    `data.access` is device).
    """

    left: Any  # float16 [B, L, V]
    right: Any  # float16 [B, L, V]
    label: Any  # int64 [B], 1 where right follows left
    kind: Any  # int8 [B], 0 for a positive, else 1 + index in `config.KINDS`
    dataset: Any  # int16 [B], index of the left sequence's data set in the loader's `datasets`
    t_r: Any  # float32 [B], repetition time of the left run, s
    run_left: np.ndarray  # int32 [B], row in the corpus
    run_right: np.ndarray
    start_left: np.ndarray  # int32 [B], first volume
    start_right: np.ndarray
    space: str  # feature space of all sequences
    masks: Masks | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch with tensors on a device, sent from pinned memory if it is a GPU."""
        import torch

        def move(values: Any) -> torch.Tensor:
            tensor = torch.as_tensor(values)
            if device.type != "cuda" or tensor.device.type == "cuda":
                return tensor
            return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)

        names = ("left", "right", "label", "kind", "dataset", "t_r")
        moved = {name: move(getattr(self, name)) for name in names}
        return dataclasses.replace(self, **moved, masks=self.masks and Masks(*map(move, self.masks)))
