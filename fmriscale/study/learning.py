"""How encoders learn in a study and in a probe: what of them learns, steps, epochs, and on which device."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from fmriscale.common.errors import UserError
from fmriscale.common.workers import available_cores
from fmriscale.model.adapt import adapted_parameters, add_low_rank
from fmriscale.model.encoder import Encoder

PER_GPU = 4
"""Trainings that share a GPU, where the number of processes is left to us."""


def parameters_that_learn(encoder: Encoder, adapt: str, rank: int, seed: int) -> list[nn.Parameter]:
    """Return the parameters of an encoder that learn; with lora, of additions that it gets now."""
    if adapt == "lora":
        add_low_rank(encoder, rank, seed)
    return adapted_parameters(encoder, adapt)


def let_learn(encoder: Encoder, learning: list[nn.Parameter]) -> None:
    """Have these parameters learn and no others; an encoder of which nothing learns drops nothing out."""
    encoder.requires_grad_(False)
    for parameter in learning:
        parameter.requires_grad_()
    encoder.train(bool(learning))


def optimiser_of(
    encoder: list[nn.Parameter], lr: float, head: nn.Module, head_lr: float, weight_decay: float
) -> torch.optim.AdamW:
    """Return the optimiser of an encoder and its head, each with its learning rate."""
    groups = [{"params": encoder, "lr": lr}, {"params": list(head.parameters()), "lr": head_lr}]
    return torch.optim.AdamW(groups, weight_decay=weight_decay)


def train_epoch(
    n: int, batch: int, seeds: list[int], step: Callable[[np.ndarray], float], name: str
) -> float:
    """Train on each of n places once, in an order of seeds (the last: the epoch); return the mean loss.

    `step` trains on the places that it is given, and returns their mean loss; `name` is the training's.
    """
    epoch, order = seeds[-1], np.random.default_rng(seeds).permutation(n)
    losses = []
    for first in range(0, n, batch):
        places = order[first : first + batch]
        losses.append(step(places) * len(places))
    if not np.isfinite(losses).all():
        raise UserError(f"{name}: the loss is not finite in epoch {epoch}; lower train.lr")
    return sum(losses) / n


def take_step(optimiser: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], loss: Tensor) -> float:
    """Take a step down a loss, with gradients clipped at norm 1; return the loss."""
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()
    return loss.item()


def device_of(worker: int, n_gpus: int) -> torch.device:
    """Return where a worker computes: the workers of a study take turns on the GPUs."""
    return torch.device("cuda", worker % n_gpus) if n_gpus else torch.device("cpu")


def most_processes() -> int:
    """Return how many trainings are run side by side where nobody has said so."""
    n_gpus = torch.cuda.device_count()
    return min(available_cores(), PER_GPU * n_gpus) if n_gpus else available_cores()
