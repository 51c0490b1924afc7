"""What of a pre-trained encoder learns: all of it, nothing, or low-rank additions.

Shapes: a matrix [O, I], rank R.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fmriscale.model.encoder import Block, Encoder


class LowRank(nn.Module):
    """A matrix plus a low-rank product that starts at zero (LoRA; Hu et al. 2021, arXiv:2106.09685).

    The scale that the paper puts before the product is 1: it is one with the learning rate.
    """

    def __init__(self, matrix_OI: Tensor, rank: int) -> None:
        super().__init__()
        n_out, n_in = matrix_OI.shape
        self.up_OR = nn.Parameter(matrix_OI.new_zeros(n_out, rank))
        # Drawn on the CPU, so that the same seed gives the same numbers on every device.
        self.down_RI = nn.Parameter((torch.randn(rank, n_in) * n_in**-0.5).to(matrix_OI))

    def forward(self, matrix_OI: Tensor) -> Tensor:
        """Return the sum."""
        return matrix_OI + self.up_OR @ self.down_RI


def matrices(encoder: Encoder) -> Iterator[tuple[nn.Module, str]]:
    """Yield the modules that hold the attention and feed-forward matrices, with the names of these."""
    for block in encoder.blocks:
        assert isinstance(block, Block)
        yield block.attention, "qkv_weight"
        for module in (block.attention.out, block.up, block.down):
            yield module, "weight"


def add_low_rank(encoder: Encoder, rank: int, seed: int) -> None:
    """Give every attention and feed-forward matrix a low-rank addition; what is computed stays the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module, name in matrices(encoder):
            parametrize.register_parametrization(module, name, LowRank(getattr(module, name), rank))


def merge_low_rank(encoder: Encoder) -> None:
    """Add the additions to their matrices for good; the encoder has its plain parameters again."""
    for module, name in matrices(encoder):
        if parametrize.is_parametrized(module, name):
            parametrize.remove_parametrizations(module, name)


def adapted_parameters(encoder: Encoder, adapt: str) -> list[nn.Parameter]:
    """Return the parameters that learn: all (full), none (probe), or the low-rank additions (lora)."""
    if adapt == "full":
        return list(encoder.parameters())
    added = (module for module in encoder.modules() if isinstance(module, LowRank))
    return [parameter for module in added for parameter in module.parameters()]
