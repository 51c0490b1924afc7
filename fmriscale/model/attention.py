"""Self-attention of the stacked encoder: fused projection, torch's scaled dot product.

Shapes: B pairs, T tokens, D width, H heads, K head width, R = K / 2 rotations.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

SHORTEST_PERIOD = 3.0
LONGEST_PERIOD = 300.0
"""Periods of the rotary waves, s: from about one volume to longer than any sequence."""


def rotary_waves(time_BT: Tensor, head_width: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every rotary wave at the time of every token."""
    n = head_width // 2
    ratio = torch.arange(n, device=time_BT.device, dtype=torch.float32) / max(n - 1, 1)
    period_R = SHORTEST_PERIOD * (LONGEST_PERIOD / SHORTEST_PERIOD) ** ratio
    angle_BTR = 2 * math.pi * time_BT.float()[:, :, None] / period_R
    return angle_BTR.cos()[:, :, None], angle_BTR.sin()[:, :, None]


def rotate(x_BTHK: Tensor, cos_BT1R: Tensor, sin_BT1R: Tensor) -> Tensor:
    """Turn each pair of columns of a query or key by the angle of its token."""
    a, b = x_BTHK.float().chunk(2, dim=-1)
    turned = torch.cat((a * cos_BT1R - b * sin_BT1R, b * cos_BT1R + a * sin_BT1R), dim=-1)
    return turned.to(x_BTHK.dtype)


def sdpa_backend(head_width: int, n_tokens: int, dtype: torch.dtype, device: torch.device) -> str:
    """Name the kernel that torch takes for our attention in training: flash, efficient, cudnn or math.

    The query needs a gradient, as in training: some kernels have no backward pass.
    """
    q = torch.empty(1, 1, n_tokens, head_width, dtype=dtype, device=device, requires_grad=True)
    chosen = SDPBackend(torch._fused_sdp_choice(q, q, q))  # pyright: ignore[reportPrivateImportUsage]
    return chosen.name.lower().removesuffix("_attention")


def attend(q_BHSK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
    """Return torch's scaled dot product; on a CPU in float32, whatever the type.

    There its backward pass in bf16 takes three to five times as long as in float32, even with AMX.
    """
    if q_BHSK.device.type != "cpu" or q_BHSK.dtype == torch.float32:
        return F.scaled_dot_product_attention(q_BHSK, k_BHTK, v_BHTK)
    with torch.autocast("cpu", enabled=False):
        y_BHSK = F.scaled_dot_product_attention(q_BHSK.float(), k_BHTK.float(), v_BHTK.float())
    return y_BHSK.to(q_BHSK.dtype)


class Attention(nn.Module):
    """Multi-head self-attention without a mask.

    The query, key and value projections are one parameter of this module, not a sub-module, so that
    ZeRO-3 gathers it once and the last block may use slices of it.
    """

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv_weight = nn.Parameter(torch.empty(3 * d_model, d_model))
        self.qkv_bias = nn.Parameter(torch.zeros(3 * d_model))
        self.out = nn.Linear(d_model, d_model)
        nn.init.xavier_uniform_(self.qkv_weight)

    def forward(
        self, x_BTD: Tensor, waves: tuple[Tensor, Tensor] | None = None, cls_only: bool = False
    ) -> Tensor:
        """Attend from every token, or from the first alone, to all tokens."""
        B, _, D = x_BTD.shape
        weight, bias = self.qkv_weight, self.qkv_bias
        if cls_only and waves is None:
            return self.out(self._attend_from_first(x_BTD, weight, bias))
        if cls_only:
            q_BSD = F.linear(x_BTD[:, :1], weight[:D], bias[:D])
            k_BTD, v_BTD = F.linear(x_BTD, weight[D:], bias[D:]).chunk(2, dim=-1)
        else:
            q_BSD, k_BTD, v_BTD = F.linear(x_BTD, weight, bias).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.n_heads, D // self.n_heads)) for part in (q_BSD, k_BTD, v_BTD))
        if waves is not None:
            cos, sin = waves
            S = q.shape[1]
            q, k = rotate(q, cos[:, :S], sin[:, :S]), rotate(k, cos, sin)
        # Heads stay inside of tokens in memory: the kernel answers in the same layout, and nothing is copied.
        y_BHSK = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.out(y_BHSK.transpose(1, 2).reshape(B, -1, D))

    def _attend_from_first(self, x_BTD: Tensor, weight_3DD: Tensor, bias_3D: Tensor) -> Tensor:
        """Attend from the first token to all, without making their keys and values: a tenth of the work.

        q . (W x) = (W' q) . x for the scores, and the mean of values is the value of the mean token. The
        bias of keys adds the same to all scores of a query, which the softmax does not see.
        """
        B, _, D = x_BTD.shape
        H, K = self.n_heads, D // self.n_heads
        to_q, to_k, to_v = weight_3DD.chunk(3)
        q_HBK = F.linear(x_BTD[:, 0], to_q, bias_3D[:D]).view(B, H, K).transpose(0, 1)
        u_BHD = torch.bmm(q_HBK, to_k.view(H, K, D)).transpose(0, 1)
        score_BHT = torch.bmm(u_BHD, x_BTD.transpose(1, 2)).float() / math.sqrt(K)
        mean_HBD = torch.bmm(score_BHT.softmax(dim=-1).to(x_BTD.dtype), x_BTD).transpose(0, 1)
        y_HBK = torch.bmm(mean_HBD, to_v.view(H, K, D).transpose(1, 2))
        return (y_HBK.transpose(0, 1).reshape(B, D) + bias_3D[2 * D :])[:, None]
