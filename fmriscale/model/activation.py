"""ReLU that makes no second copy of its tensor, neither forward nor backward."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def relu_(x: Tensor) -> Tensor:
    """Overwrite x with its ReLU, and in the backward pass the gradient with what goes on.

    For a result that one layer alone reads: nobody else may hold the gradient that this overwrites. With
    torch's own, which makes a new one, the widest tensor of a block is there twice.
    """
    return F.relu(x, inplace=True) if torch.compiler.is_compiling() else _InPlace.apply(x)  # pyright: ignore


class _InPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        x.relu_()
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward.grad_input(grad, y, 0, grad_input=grad)
