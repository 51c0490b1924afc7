"""What is minimised: a weighted sum of the losses of up to four tasks.

NTP and the reconstruction of masked volumes are learnt from pairs, one loss each. The contrastive task and
the alignment with connectivity compare all that the ranks read in a step: vectors are gathered, and every
rank computes the whole loss.
Shapes: B pairs, P people of a group, W windows of each, D a vector.
"""

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fmriscale.config import TrainConfig
from fmriscale.model.alignment import alignment_loss
from fmriscale.model.contrastive import contrastive_loss
from fmriscale.model.encoder import count_parameters
from fmriscale.model.losses import ntp_loss
from fmriscale.model.precision import casting
from fmriscale.model.presets import EncoderConfig
from fmriscale.model.pretraining import PretrainingModel, Tasks, build_pretraining
from fmriscale.sampling.batch import Batch
from fmriscale.sampling.groups import GroupBatch
from fmriscale.sampling.masks import draw_masks
from fmriscale.training.distributed import gather_rows, gather_vectors
from fmriscale.training.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Losses of a micro-batch; None where there is no such task, or nothing of it was read."""

    total: Tensor
    """What is minimised, 0-dimensional."""
    pairs: Tensor | None = None
    """Of each pair, with weights [B]."""
    ntp: Tensor | None = None
    """Of each pair [B]."""
    correct: Tensor | None = None
    """Whether NTP's answer is right [B]."""
    masked: Tensor | None = None
    """Mean squared error over the masked volumes of each pair [B]."""
    contrastive: Tensor | None = None
    """Of the group, 0-dimensional: the same on all ranks."""
    contrastive_correct: Tensor | None = None
    """How often the right window came first."""
    connectivity: Tensor | None = None
    """Of the pairs of all ranks, 0-dimensional."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights of the tasks in the sum."""

    ntp: float = 1.0
    masked: float = 0.0
    contrastive: float = 0.0
    connectivity: float = 0.0

    def total(self, **losses: float) -> float:
        """Return the sum from the means of the tasks."""
        return sum(getattr(self, name) * loss for name, loss in losses.items())


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The tasks of a run and their weights."""

    weights: Weights
    tasks: Tasks
    seed: int
    masked_share: float = 0.15
    """Share of the volumes of a pair that are masked."""
    teacher: Teacher | None = None
    """Of connectivity; None where that is no task, or the model is only built."""
    autocast: bool = False
    """Compute in bf16 while weights stay float32: for ZeRO stage 0, where the engine does not keep both."""

    @classmethod
    def of(cls, train: TrainConfig, teacher: Teacher | None = None, precision: str = "fp32") -> "Objective":
        """Read the settings."""
        weights = Weights(
            ntp=train.ntp_weight,
            masked=train.masked_weight,
            contrastive=train.contrastive_weight,
            connectivity=train.connectivity_weight,
        )
        tasks = Tasks(
            classify=weights.ntp + weights.masked > 0,
            masked=weights.masked > 0,
            contrastive=weights.contrastive > 0,
            connectivity=weights.connectivity > 0,
            pair=train.pair,
            pool=train.pool,
        )
        return cls(
            weights=weights,
            tasks=tasks,
            seed=train.seed,
            masked_share=train.masked_share,
            teacher=teacher,
            autocast=precision == "bf16" and train.zero_stage == 0,
        )

    @property
    def reads_pairs(self) -> bool:
        """Whether any task is learnt from pairs."""
        return self.tasks.classify or self.tasks.connectivity

    @property
    def every_token(self) -> bool:
        """Whether the last block computes more than CLS."""
        return self.tasks.pool != "cls" or self.tasks.masked

    def build(self, shape: EncoderConfig) -> PretrainingModel:
        """Build the model, with equal weights on all ranks."""
        return build_pretraining(shape, self.seed, self.tasks)

    def count_parameters(self, shape: EncoderConfig) -> int:
        """Count the parameters of the model, without memory for them."""
        with torch.device("meta"):
            return count_parameters(self.build(shape))

    def add_masks(self, batch: Batch, first: int) -> Batch:
        """Mask volumes of the pairs at positions from `first` on, where that is a task."""
        if not self.tasks.masked:
            return batch
        count, length = batch.left.shape[:2]
        return batch._replace(masks=draw_masks(self.seed, first, count, 2 * length, self.masked_share))

    def losses(
        self, model: Any, batch: Batch | None = None, group: GroupBatch | None = None, n_micro_steps: int = 1
    ) -> Losses:
        """Go forward once. A group is read in one of a step's micro-steps: its loss stands for all of them.

        Every task enters the total whatever its weight: every parameter has a gradient.
        """
        with self._casting((batch or group).t_r):  # pyright: ignore[reportOptionalMemberAccess]
            outputs = model(
                (batch.left, batch.right, batch.t_r, batch.space) if batch else None,
                batch.masks if batch else None,
                (group.bold, group.t_r, group.space) if group else None,
            )
        terms: dict[str, Tensor] = {}
        total = torch.zeros((), device=next(iter(outputs.values())).device)
        if batch and self.tasks.classify:
            terms = self._losses_of_pairs(outputs, batch)
            total = terms["pairs"].mean()
            terms["pairs"] = terms["pairs"].detach()
        if batch and self.tasks.connectivity:
            terms["connectivity"] = self._connectivity(outputs["left"], batch)
            total = total + self.weights.connectivity * terms["connectivity"]
        if group:
            loss, terms["contrastive_correct"] = self._contrastive(outputs["group"], outputs["scale"], group)
            terms["contrastive"] = loss
            total = total + n_micro_steps * self.weights.contrastive * loss
        elif self.tasks.contrastive:
            total = total + 0 * outputs["scale"].sum()
        return Losses(total=total, **terms)

    def _casting(self, like: Tensor) -> contextlib.AbstractContextManager:
        """Return the context in which the model computes, on the device of a tensor."""
        return casting(like.device, "bf16" if self.autocast else "fp32")

    def _losses_of_pairs(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return the losses [B] of NTP and of masked volumes, and their sum by weight."""
        logits_BC = outputs["logits"]
        ntp_B = ntp_loss(logits_BC, batch.label)
        terms = {"ntp": ntp_B, "correct": logits_BC.argmax(dim=1) == batch.label}
        terms["pairs"] = self.weights.ntp * ntp_B
        if self.tasks.masked:
            terms["masked"] = outputs["masked"]
            terms["pairs"] = terms["pairs"] + self.weights.masked * outputs["masked"]
        return terms

    def _connectivity(self, left_BD: Tensor, batch: Batch) -> Tensor:
        """Return the loss of the left sequences of all ranks."""
        assert self.teacher is not None
        teacher_NF = self.teacher.of(gather_rows(batch.row_left))
        return alignment_loss(gather_vectors(left_BD.float()), teacher_NF.to(left_BD.device))

    @staticmethod
    def _contrastive(own_PWD: Tensor, scale: Tensor, group: GroupBatch) -> tuple[Tensor, Tensor]:
        """Return loss and accuracy of the people of all ranks."""
        lacking = group.n_a_rank - len(own_PWD)
        own_PWD = F.pad(own_PWD.float(), (0, 0, 0, 0, 0, lacking))
        return contrastive_loss(gather_vectors(own_PWD)[: group.n_people], scale)
