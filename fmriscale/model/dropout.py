"""Dropout that is cheap on CPU too, where drawing one float an element costs a quarter of the step."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmriscale.common.compiled import njit
from fmriscale.common.randomness import GOLDEN, mix

LEVELS = 2**16
"""The rate is rounded to 1 in this many: each element is decided by 16 random bits."""
_U16, _U32, _U48, _LOW = (np.uint64(n) for n in (16, 32, 48, LEVELS - 1))


class Dropout(nn.Module):
    """Zero elements at random in training and scale up the others, as `torch.nn.Dropout` does.

    Parameters
    ----------
    rate : float
        Share of elements that are zeroed.
    inplace : bool
        What it reads may be overwritten. It is on CPU; torch's way for a GPU is faster without.
    """

    def __init__(self, rate: float, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"a dropout rate lies in [0, 1), got {rate}")
        self.rate, self.inplace = rate, inplace

    def forward(self, x: Tensor) -> Tensor:
        """Return x, thinned where the module is in training mode."""
        if not self.training or self.rate == 0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(x, self.rate)
        scale = _draw_scale(x, round(self.rate * LEVELS))
        return x.mul_(scale) if self.inplace else x * scale


def _draw_scale(x: Tensor, dropped: int) -> Tensor:
    """Return factors for x, 0 for `dropped` in LEVELS of its elements; torch's generator gives the seed."""
    seed = int(torch.empty((), dtype=torch.int64).random_(0, None))
    scale_4N = torch.empty(4, (x.numel() + 3) // 4)
    _fill(scale_4N.numpy(), np.uint64(seed), np.uint64(dropped), np.float32(LEVELS / (LEVELS - dropped)))
    return scale_4N.flatten()[: x.numel()].view(x.shape).to(x.dtype)


@njit(cache=True, error_model="numpy", nogil=True)
def _fill(scale_4N, seed, dropped, kept):
    """Fill with 0 or `kept`: each number of SplitMix64 (Steele et al. 2014, OOPSLA) decides four elements."""
    for i in range(scale_4N.shape[1]):
        z = mix(seed + np.uint64(i + 1) * GOLDEN)
        scale_4N[0, i] = kept if (z & _LOW) >= dropped else np.float32(0)
        scale_4N[1, i] = kept if ((z >> _U16) & _LOW) >= dropped else np.float32(0)
        scale_4N[2, i] = kept if ((z >> _U32) & _LOW) >= dropped else np.float32(0)
        scale_4N[3, i] = kept if (z >> _U48) >= dropped else np.float32(0)
