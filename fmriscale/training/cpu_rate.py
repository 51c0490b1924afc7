"""How fast ranks on CPUs will train, from the speed of the machine's matrix product.

Beside its matrix products a step has work that grows with the width of tokens, not with its square (norms,
residuals, dropout, rotations, attention's inner sums), AdamW, which grows with the weights alone, and the
exchange between ranks. What these cost was measured on one core of a Xeon (AVX-512): presets paper and tiny,
and rotary models of width 256, 384 and 768, all within 7 % of what is said here.
"""

import os

import torch

from fmriscale.model.flops import computed_flops
from fmriscale.model.presets import EncoderConfig
from fmriscale.training.schedule import BatchPlan
from fmriscale.training.telemetry import peak_flops

NARROW = 180
"""A model of this width spends as long beside its matrix products as in them."""
UPDATE_S = 2e-9
"""Seconds a weight of clipping and AdamW, on one core."""
EXCHANGE_S = 5e-9
"""Seconds a weight of the gradients and weights that ranks exchange over gloo."""


def product_flops(ranks_a_node: int) -> float:
    """Measure the matrix product of a rank's share of this machine's cores, operations per second."""
    before = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:  # as cluster.join has it
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks_a_node))
    try:
        return peak_flops(torch.device("cpu"), "fp32")
    finally:
        torch.set_num_threads(before)


def cpu_pairs_per_s(
    shape: EncoderConfig,
    batch: BatchPlan,
    n_parameters: int,
    flops: float,
    *,
    space: str | None = None,
    length: int | None = None,
    every_token: bool = False,
    recompute: bool = False,
    stage: int = 1,
) -> float:
    """Estimate the rate of one rank."""
    work = computed_flops(shape, space, length, every_token=every_token) * (4 / 3 if recompute else 1)
    pairs_s = batch.micro * batch.accumulation * work / flops * (1 + NARROW / shape.d_model)
    update_s = UPDATE_S * n_parameters / (batch.world if stage > 0 else 1)
    exchange_s = EXCHANGE_S * n_parameters if batch.world > 1 else 0.0
    return batch.micro * batch.accumulation / (pairs_s + update_s + exchange_s)
