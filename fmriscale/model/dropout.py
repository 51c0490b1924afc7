"""Dropout that is cheap on CPU too, where drawing one float an element costs a quarter of the step."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16
"""The rate is rounded to 1 in this many: each element is decided by 16 random bits."""


class Dropout(nn.Module):
    """Zero elements at random in training and scale up the others, as `torch.nn.Dropout` does.

    Parameters
    ----------
    rate : float
        Share of elements that are zeroed.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"a dropout rate lies in [0, 1), got {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return x, thinned where the module is in training mode."""
        if not self.training or self.rate == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.rate)
        dropped = round(self.rate * LEVELS)
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        scale = torch.empty(x.shape, dtype=x.dtype)
        torch.ge(
            bits, dropped - LEVELS // 2, out=scale
        )  # as numbers at once: booleans first take twice as long
        return x * scale.mul_(LEVELS / (LEVELS - dropped))
