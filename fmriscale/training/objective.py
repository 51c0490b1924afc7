"""What is minimised: NTP, the reconstruction of masked volumes, or a weighted sum of both."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fmriscale.config import TrainConfig
from fmriscale.model.classifier import PairClassifier, build
from fmriscale.model.encoder import count_parameters
from fmriscale.model.losses import ntp_loss
from fmriscale.model.masked import build_two_tasks
from fmriscale.model.presets import EncoderConfig, PairWay, Pool
from fmriscale.sampling.batch import Batch
from fmriscale.sampling.masks import draw_masks


@dataclass(frozen=True)
class Losses:
    """Losses [B] of the pairs of a batch."""

    total: Tensor
    """What is minimised."""
    ntp: Tensor
    correct: Tensor
    """Whether NTP's answer is right."""
    masked: Tensor | None
    """Mean squared error over the masked volumes; None where none are masked."""


@dataclass(frozen=True)
class Objective:
    """The tasks of a run and their weights."""

    ntp: float
    masked: float
    share: float
    """Share of the volumes of a pair that are masked."""
    seed: int
    pair: PairWay = "joint"
    pool: Pool = "cls"

    @classmethod
    def of(cls, train: TrainConfig) -> "Objective":
        """Read the settings."""
        weights = train.ntp_weight, train.masked_weight, train.masked_share
        return cls(*weights, seed=train.seed, pair=train.pair, pool=train.pool)

    def build(self, shape: EncoderConfig) -> PairClassifier:
        """Build the model, with equal weights on all ranks."""
        if self.masked:
            return build_two_tasks(shape, self.seed, self.pool)
        return build(shape, self.seed, self.pair, self.pool)

    def count_parameters(self, shape: EncoderConfig) -> int:
        """Count the parameters of the model, without memory for them."""
        with torch.device("meta"):
            return count_parameters(self.build(shape))

    def add_masks(self, batch: Batch, first: int) -> Batch:
        """Mask volumes of the pairs at positions from `first` on, where that is a task."""
        if not self.masked:
            return batch
        count, length = batch.left.shape[:2]
        return replace(batch, masks=draw_masks(self.seed, first, count, 2 * length, self.share))

    def losses(self, model: Any, batch: Batch) -> Losses:
        """Go forward. Both tasks enter the total whatever their weight: every parameter has a gradient."""
        inputs = (batch.left, batch.right, batch.t_r, batch.space)
        if not self.masked:
            logits_BC, masked_B = model(*inputs), None
        else:
            logits_BC, masked_B = model(*inputs, batch.masks)
        ntp_B = total_B = ntp_loss(logits_BC, batch.label)
        if masked_B is not None:
            total_B = self.ntp * ntp_B + self.masked * masked_B
        return Losses(total_B, ntp_B, logits_BC.argmax(dim=1) == batch.label, masked_B)

    def total(self, ntp: float, masked: float) -> float:
        """Return what is minimised from the means of the two tasks."""
        return self.ntp * ntp + self.masked * masked
