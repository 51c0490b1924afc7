"""A pass without effect before the first step: what does not fit fails now, not hours later."""

import torch
from torch import nn

from fmriscale.common.errors import UserError
from fmriscale.sampling.groups import GroupBatch
from fmriscale.sampling.loader import NTPLoader
from fmriscale.sampling.shape_group import ShapeGroup
from fmriscale.training.determinism import without_form
from fmriscale.training.objective import Objective
from fmriscale.training.schedule import BatchPlan

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""How torch's allocators say it: on a GPU, on Linux and on other systems."""


def rehearse(
    model: nn.Module,
    loader: NTPLoader,
    plan: BatchPlan,
    device: torch.device,
    reserved: int,
    objective: Objective,
    people: GroupBatch | None = None,
) -> None:
    """Go forward and backward once with a full micro-batch of every space and length, beside reserved bytes.

    A share of a group of people is read with each of them.

    Training sees one space a step, and the largest perhaps first after hours. The gradient is taken with
    respect to the volumes: all activations are made and used, a compiled model is compiled and ZeRO-3
    gathers every weight, but no weight gets a gradient, so that the optimiser and ZeRO's hooks notice
    nothing. Random numbers are put back: the steps that follow are the same to the bit.
    """
    gpus = [device] if device.type == "cuda" else []
    model.train()
    for group in loader.groups if objective.train.reads_pairs else [None]:
        what = _words(plan, group, people)
        try:
            with torch.random.fork_rng(devices=gpus):
                memory = torch.empty(reserved, dtype=torch.uint8, device=device)
                batch = None
                if group:
                    batch = objective.add_masks(group.batch(0, plan.micro_batch_size), 0)
                batch, group_of_people = batch and batch.to(device), people and people.to(device)
                volumes = [batch.left, batch.right] if batch else []
                volumes += [group_of_people.bold] if group_of_people else []
                for tensor in volumes:
                    tensor.requires_grad_()
                losses = objective.losses(model, batch, group_of_people)
                torch.autograd.grad(losses.total, volumes, allow_unused=True)
                del memory
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            if any(words in reason for words in OUT_OF_MEMORY):
                raise UserError(
                    f"{what} do not fit into the memory of {device}: lower train.max_micro_batch, set "
                    "train.activation_checkpointing true or a higher train.zero_stage (fmriscale plan says "
                    f"what fits). {reason[:200]}"
                ) from error
            if refusal := without_form(reason):
                raise UserError(refusal) from error
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise UserError(
                    f"train.compile: torch cannot compile the model here ({reason[:200]}); install a C++ "
                    "compiler (on a GPU also Triton), or set train.compile false"
                ) from error
            raise


def _words(plan: BatchPlan, group: ShapeGroup | None, people: GroupBatch | None) -> str:
    """Say what is read at once."""
    words = []
    if group:
        words.append(
            f"{plan.micro_batch_size} pairs of 2 x {group.length} volumes of space {group.space.name}"
        )
    if people:
        n_people, n_windows = people.bold.shape[:2]
        words.append(f"{n_windows} windows of each of {n_people} people (train.contrastive_people)")
    return " and ".join(words)
