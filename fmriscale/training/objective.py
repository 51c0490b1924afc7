"""What is minimised: a weighted sum of the losses of up to four tasks.

NTP and the reconstruction of masked volumes are learnt from pairs, one loss each. The contrastive task and
the alignment with connectivity compare all that the ranks read in a step: vectors are gathered, and every
rank computes the whole loss.
Shapes: B pairs, P people of a group, W windows of each, D a vector.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fmriscale.config import TrainConfig
from fmriscale.model.encoder import count_parameters
from fmriscale.model.losses import alignment_loss, contrastive_loss, ntp_loss
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


class Objective:
    """The tasks of a run and their weights; without a `teacher` of connectivity models are only built."""

    def __init__(self, train: TrainConfig, teacher: Teacher | None = None, precision: str = "fp32") -> None:
        self.train, self.teacher = train, teacher
        # Weights stay float32 at ZeRO stage 0, where the engine does not keep both.
        self.computes_in = precision if train.zero_stage == 0 else "fp32"
        names = ("ntp", "masked", "contrastive", "connectivity")
        self.weights: dict[str, float] = {name: getattr(train, f"{name}_weight") for name in names}
        self.tasks = Tasks(
            classify=train.ntp_weight + train.masked_weight > 0,
            masked=train.masked_weight > 0,
            contrastive=train.contrastive_weight > 0,
            connectivity=train.connectivity_weight > 0,
            pair=train.pair,
            pool=train.pool,
        )

    @property
    def every_token(self) -> bool:
        """Whether the last block computes more than CLS."""
        return self.tasks.pool != "cls" or self.tasks.masked

    def build(self, shape: EncoderConfig) -> PretrainingModel:
        """Build the model, with equal weights on all ranks."""
        return build_pretraining(shape, self.train.seed, self.tasks)

    def count_parameters(self, shape: EncoderConfig) -> int:
        """Count the parameters of the model, without memory for them."""
        with torch.device("meta"):
            return count_parameters(self.build(shape))

    def add_masks(self, batch: Batch, first: int) -> Batch:
        """Mask volumes of the pairs at positions from `first` on, where that is a task."""
        if not self.tasks.masked:
            return batch
        (count, length, _), train = batch.left.shape, self.train
        return batch._replace(masks=draw_masks(train.seed, first, count, 2 * length, train.masked_share))

    def losses(
        self, model: Any, batch: Batch | None = None, group: GroupBatch | None = None, n_micro_steps: int = 1
    ) -> Losses:
        """Go forward once. A group is read in one of a step's micro-steps: its loss stands for all of them.

        Every task enters the total whatever its weight: every parameter has a gradient.
        """
        device = (batch or group).t_r.device  # pyright: ignore[reportOptionalMemberAccess]
        with casting(device, self.computes_in):
            outputs = model(
                (batch.left, batch.right, batch.t_r, batch.space) if batch else None,
                batch.masks if batch else None,
                (group.bold, group.t_r, group.space) if group else None,
            )
        terms: dict[str, Tensor] = {}
        total = torch.zeros((), device=device)
        if batch and self.tasks.classify:
            terms = self._losses_of_pairs(outputs, batch)
            total = terms["pairs"].mean()
            terms["pairs"] = terms["pairs"].detach()
        if batch and self.tasks.connectivity:
            assert self.teacher is not None
            teacher_NF = self.teacher.of(gather_rows(batch.row_left)).to(device)
            terms["connectivity"] = alignment_loss(gather_vectors(outputs["left"].float()), teacher_NF)
            total = total + self.weights["connectivity"] * terms["connectivity"]
        if group:
            own_PWD = outputs["group"].float()
            own_PWD = F.pad(own_PWD, (0, 0, 0, 0, 0, group.n_a_rank - len(own_PWD)))
            people_PWD = gather_vectors(own_PWD)[: group.n_people]
            terms["contrastive"], terms["contrastive_correct"] = contrastive_loss(
                people_PWD, outputs["scale"]
            )
            total = total + n_micro_steps * self.weights["contrastive"] * terms["contrastive"]
        elif self.tasks.contrastive:
            total = total + 0 * outputs["scale"].sum()
        return Losses(total=total, **terms)

    def _losses_of_pairs(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return the losses [B] of NTP and of masked volumes, and their sum by weight."""
        logits_BC = outputs["logits"]
        ntp_B = ntp_loss(logits_BC, batch.label)
        terms = {"ntp": ntp_B, "correct": logits_BC.argmax(dim=1) == batch.label}
        terms["pairs"] = self.weights["ntp"] * ntp_B
        if self.tasks.masked:
            terms["masked"] = outputs["masked"]
            terms["pairs"] = terms["pairs"] + self.weights["masked"] * outputs["masked"]
        return terms
