"""What is pre-trained: an encoder, and beside it what its objectives need.

Shapes: B pairs, L volumes a sequence, V features, D a pooled vector, C = 2 classes, P people of a group,
W windows of each.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fmriscale.model.classifier import compare, zero_head
from fmriscale.model.encoder import Encoder
from fmriscale.model.masked import Reconstruction, first_mask, read_masked
from fmriscale.model.pooling import n_parts, pool_tokens
from fmriscale.model.precision import joined
from fmriscale.model.presets import EncoderConfig, PairWay, Pool

START_SCALE, MOST_SCALE = 10.0, 100.0
"""Of cosine similarities in the contrastive task: the inverse of a temperature, which is learned."""
Pairs = tuple[Tensor, Tensor, Tensor, str]
"""Left and right [B, L, V], repetition times [B] in s, and the feature space."""
Group = tuple[Tensor, Tensor, str]
"""Windows of people [P, W, L, V], repetition times [P] in s, and the feature space."""


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """What a model is built to answer, and how it reads."""

    classify: bool = True
    """Does right follow left?"""
    masked: bool = False
    """What were the masked volumes?"""
    contrastive: bool = False
    """Which window of another person is of the same time?"""
    connectivity: bool = False
    """Whose run is like whose?"""
    pair: PairWay = "joint"
    pool: Pool = "cls"


class PretrainingModel(nn.Module):
    """An encoder with the heads of its tasks; all that a micro-step reads goes through one forward pass."""

    def __init__(self, encoder: Encoder, tasks: Tasks) -> None:
        super().__init__()
        self.encoder, self.tasks = encoder, tasks
        config = encoder.config
        if tasks.classify:
            width = n_parts(tasks.pool) * config.d_model
            self.head = zero_head(width * (1 if tasks.pair == "joint" else 2), 2)
        if tasks.masked:
            self.mask = first_mask(config)
            self.reconstruct = Reconstruction(config.spaces, config.d_model)
        if tasks.contrastive:
            self.log_scale = nn.Parameter(torch.full((1,), math.log(START_SCALE)))

    def forward(
        self,
        pairs: Pairs | None,
        masks: tuple[Tensor, Tensor, Tensor] | None = None,
        group: Group | None = None,
    ) -> dict[str, Tensor]:
        """Return what the losses are made of.

        Of pairs: `logits` [B, C]; with masks `masked`, the mean squared error over a pair's masked volumes
        [B]; `left`, a vector of each left sequence alone [B, D]. Of a group: `group`, a vector of each window
        [P, W, D]. And `scale` [1] of similarities, whether or not there is a group: every parameter is used
        in every micro-step, which ZeRO counts on.
        """
        outputs: dict[str, Tensor] = {}
        if pairs is not None:
            outputs |= self._read_pairs(pairs, masks)
        if group is not None:
            outputs["group"] = self._read_group(*group)
        if self.tasks.contrastive:
            outputs["scale"] = self.log_scale.float().clamp(max=math.log(MOST_SCALE)).exp()
        return outputs

    def _read_pairs(self, pairs: Pairs, masks: tuple[Tensor, Tensor, Tensor] | None) -> dict[str, Tensor]:
        tasks, outputs = self.tasks, {}
        left_BLV, right_BLV, t_r_B, space = pairs
        left_BD = None
        if tasks.masked:
            assert masks is not None
            x_BTD, outputs["masked"] = read_masked(self.encoder, self.reconstruct, self.mask, pairs, masks)
            outputs["logits"] = self.head(pool_tokens(x_BTD, left_BLV.shape[1], tasks.pool))
        elif tasks.classify and tasks.pair == "joint":
            outputs["logits"] = self.head(self.encoder.pooled(*pairs, tasks.pool))
        elif tasks.classify:
            windows_NLV = joined(left_BLV, right_BLV)
            vectors_ND = self.encoder.embed(windows_NLV, t_r_B.repeat(2), space, tasks.pool)
            left_BD, right_BD = vectors_ND.chunk(2)
            outputs["logits"] = self.head(compare(left_BD, right_BD))
        if tasks.connectivity:
            alone = left_BD is None
            outputs["left"] = self.encoder.embed(left_BLV, t_r_B, space, tasks.pool) if alone else left_BD
        return outputs

    def _read_group(self, bold_PWLV: Tensor, t_r_P: Tensor, space: str) -> Tensor:
        n_windows = bold_PWLV.shape[1]
        t_r_N = t_r_P.repeat_interleave(n_windows)
        vectors_ND = self.encoder.embed(bold_PWLV.flatten(0, 1), t_r_N, space, self.tasks.pool)
        return vectors_ND.unflatten(0, (-1, n_windows))


def build_pretraining(config: EncoderConfig, seed: int, tasks: Tasks) -> PretrainingModel:
    """Build a model whose weights depend on the seed alone; those of the encoder on no task."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PretrainingModel(Encoder(config), tasks)
