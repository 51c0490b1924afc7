"""From two sequences of volumes to the tokens [CLS, left, SEP, right].

Shapes: B pairs, L volumes a sequence, V features, T = 2 L + 2 tokens, D width.
"""

import itertools

import torch
from torch import Tensor, nn

from fmriscale.model.presets import N_FLAGS


class RawEmbedding(nn.Module):
    """The published embedding: a token is the volume itself, beside flag columns; no projection.

    The width D is V + 3, rounded up with zero columns to a multiple of the number of heads. CLS and
    SEP are one-hot flags; positions are learned and added.
    """

    def __init__(self, n_features: int, length: int, d_model: int) -> None:
        super().__init__()
        self.n_features, self.length = n_features, length
        self.positions = nn.Parameter(torch.randn(2 * length + 2, d_model))

    def forward(self, left_BLV: Tensor, right_BLV: Tensor, space: str | None) -> Tensor:
        """Return tokens [B, T, D] in the dtype of the weights."""
        B, L, V = left_BLV.shape
        if left_BLV.shape[1:] != right_BLV.shape[1:] or self.length != L:
            raise ValueError(
                f"this encoder has learned positions for sequences of {self.length} volumes, got {L}"
            )
        x_BTD = self.positions.new_zeros(B, 2 * L + 2, self.positions.shape[1])
        x_BTD[:, 0, 0] = 1
        x_BTD[:, L + 1, 2] = 1
        x_BTD[:, 1 : L + 1, N_FLAGS : N_FLAGS + V] = left_BLV
        x_BTD[:, L + 2 :, N_FLAGS : N_FLAGS + V] = right_BLV
        return x_BTD + self.positions


class ProjectedEmbedding(nn.Module):
    """A linear projection per feature space, and learned CLS, SEP and segment vectors.

    The projections of all spaces are rows of one parameter: ZeRO sees one tensor, and each step
    gives every row a gradient (zero for the spaces that were not in the batch).
    """

    def __init__(self, spaces: dict[str, int], d_model: int) -> None:
        super().__init__()
        self.rows = rows_of_spaces(spaces)
        self.weight = nn.Parameter(torch.empty(sum(spaces.values()), d_model))
        self.bias = nn.Parameter(torch.zeros(len(spaces), d_model))
        self.marks = nn.Parameter(torch.randn(4, d_model) * 0.5)
        for name, n_features in spaces.items():
            # Standardised features give tokens of unit variance, whatever their number.
            nn.init.normal_(self.weight.data[self.rows[name]], std=n_features**-0.5)

    def rows_of(self, name: str) -> dict[str, Tensor]:
        """Return weight [V, D] and bias [1, D] of a space."""
        place = list(self.rows).index(name)
        weight_VD, bias_1D = self.weight[self.rows[name]], self.bias[place : place + 1]
        return {"weight": weight_VD.detach(), "bias": bias_1D.detach()}

    def forward(self, left_BLV: Tensor, right_BLV: Tensor, space: str | None) -> Tensor:
        """Return tokens [B, T, D] in the dtype of the weights."""
        name = space if space is not None else next(iter(self.rows))
        if name not in self.rows or (space is None and len(self.rows) > 1):
            raise ValueError(f"name the feature space, one of {list(self.rows)} (got {space!r})")
        B, L, _ = left_BLV.shape
        weight_VD = self.weight[self.rows[name]]
        bias_D = self.bias[list(self.rows).index(name)]
        cls_D, sep_D, left_D, right_D = self.marks
        # float16 is left behind first: autocast on a CPU does not know it.
        volumes_BSV = torch.cat([side.to(weight_VD.dtype) for side in (left_BLV, right_BLV)], dim=1)
        x_BVD = volumes_BSV @ weight_VD + bias_D
        return torch.cat(
            (
                cls_D.expand(B, 1, -1),
                x_BVD[:, :L] + left_D,
                sep_D.expand(B, 1, -1),
                x_BVD[:, L:] + right_D,
            ),
            dim=1,
        )


def rows_of_spaces(spaces: dict[str, int]) -> dict[str, slice]:
    """Return where the features of each space lie among those of all spaces."""
    stops = itertools.accumulate(spaces.values())
    return {name: slice(stop - spaces[name], stop) for name, stop in zip(spaces, stops, strict=True)}


def token_times(t_r_B: Tensor, length_left: int, length_right: int) -> Tensor:
    """Time of every token, s: right goes on where left ends, so that a gap cannot be read off.

    CLS lies one volume before left and SEP on the border, half a volume from either side.
    """
    # Made on the device: a copy from the CPU would wait for all that the device still has to do.
    index_T = torch.arange(length_left + length_right + 2, dtype=torch.float32, device=t_r_B.device)
    index_T[length_left + 1] -= 0.5
    index_T[length_left + 2 :] -= 1
    return t_r_B.float()[:, None] * index_T
