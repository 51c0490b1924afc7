"""What were the masked volumes of a pair?

After "Masked Brain Modeling" of the second paper (arXiv:2305.09057). Shapes: B pairs, L volumes a sequence,
S = 2 L of a pair, M masked places, V features, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmriscale.model.embedding import rows_of_spaces
from fmriscale.model.encoder import Encoder
from fmriscale.model.precision import joined
from fmriscale.model.presets import EncoderConfig

MASK_FLAG = 1
"""Column that the published mask token raises, between those of CLS and SEP."""


class Reconstruction(nn.Module):
    """From a token to the volume that it stood for: linear, ReLU, and a linear map per feature space.

    The maps of all spaces are rows of one parameter, as those of the projection are: ZeRO sees one tensor.
    They start at zero: before training every volume is thought to be the mean.
    """

    def __init__(self, spaces: dict[str, int], d_model: int) -> None:
        super().__init__()
        self.rows, n_features = rows_of_spaces(spaces), sum(spaces.values())
        self.hidden = nn.Linear(d_model, d_model)
        self.weight = nn.Parameter(torch.zeros(n_features, d_model))
        self.bias = nn.Parameter(torch.zeros(n_features))

    def forward(self, x_BMD: Tensor, space: str | None) -> Tensor:
        """Return volumes [B, M, V]."""
        rows = self.rows[space if space is not None else next(iter(self.rows))]
        return F.linear(F.relu(self.hidden(x_BMD)), self.weight[rows], self.bias[rows])


def first_mask(config: EncoderConfig) -> nn.Parameter:
    """Return the first token of a masked volume: random, or (learned positions) the published flag."""
    mask = nn.Parameter(torch.randn(config.d_model) * 0.5)
    if config.positions == "learned":
        nn.init.zeros_(mask)
        mask.data[MASK_FLAG] = 1
    return mask


def read_masked(
    encoder: Encoder,
    reconstruct: Reconstruction,
    mask_D: Tensor,
    pairs: tuple[Tensor, Tensor, Tensor, str | None],
    masks: tuple[Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Return all tokens [B, T, D], and the mean squared error over a pair's masked volumes [B].

    At place_BM the volume source_BM of the pair is shown, or the mask where that is -1; counts_BM tells which
    places are to be reconstructed.
    """
    left_BLV, right_BLV, t_r_B, space = pairs
    place_BM, source_BM, counts_BM = masks
    L, V = left_BLV.shape[1:]
    truth_BSV = joined(left_BLV, right_BLV, dim=1)

    def at(places_BM: Tensor) -> Tensor:
        return truth_BSV.gather(1, places_BM[..., None].expand(-1, -1, V))

    hidden_BM = source_BM < 0
    shown_BMV = at(source_BM.clamp(min=0)).masked_fill(hidden_BM[..., None], 0)
    shown_BSV = truth_BSV.scatter(1, place_BM[..., None].expand(-1, -1, V), shown_BMV)
    token_BM = place_BM + 1 + (place_BM >= L)  # after CLS; those of right after SEP too
    masked_BT = torch.zeros(len(left_BLV), 2 * L + 2, dtype=mask_D.dtype, device=mask_D.device)
    masked_BT = masked_BT.scatter(1, token_BM, hidden_BM.to(mask_D.dtype))
    x_BTD = encoder(
        shown_BSV[:, :L],
        shown_BSV[:, L:],
        t_r_B,
        space,
        every_token=True,
        added_BTD=masked_BT[..., None] * mask_D,
    )
    seen_BMD = x_BTD.gather(1, token_BM[..., None].expand(-1, -1, x_BTD.shape[2]))
    error_BMV = reconstruct(seen_BMD, space).float() - at(place_BM).float()
    error_BM = error_BMV.square().mean(dim=2) * counts_BM
    return x_BTD, error_BM.sum(dim=1) / counts_BM.sum(dim=1)
