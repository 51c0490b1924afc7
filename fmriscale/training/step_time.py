"""How long a step takes on GPUs that are not there: arithmetic, the host that launches kernels, and exchange.

Operations were counted in real steps of preset base: 36 forward and 42 backward a block, 302 others (copies
among them), and 16 a tensor of parameters in the optimiser's step (one rank; ZeRO shares them among the
ranks). On a CPU's core, without arithmetic, such a step took 25 to 32 ms at ZeRO 1, 18 to 22 at stage 0 and
105 at stage 3: 8 microseconds an operation, and at stage 3 about four times as many of them. How fast ranks
exchange is assumed.
"""

from dataclasses import dataclass

from fmriscale.model.presets import EncoderConfig

OPERATION_S = 8e-6
"""Seconds that a host needs to launch an operation; measured on a CPU, and assumed for the host of a GPU."""
OF_BLOCK, OF_REST, OF_TENSOR = 78, 302, 16
WITHOUT_ROTATION = 0.5
"""Share of the operations of a block that learned positions leave."""
AT_STAGE_3 = 4.0
"""Operations at stage 3, where weights are gathered and let go block by block, over those below."""
TENSORS_OF_BLOCK, OTHER_TENSORS = 12, 8
WITHIN_NODE, BETWEEN_NODES = 150e9, 20e9
"""Bytes a second that a GPU exchanges with the others: over NVLink, and over 200 Gbit/s for each GPU."""
OVERLAPPED = 7 / 8
"""Share of the gradients that is summed while the backward pass goes on: all but the last bucket."""


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of a step on one GPU."""

    compute: float
    """Arithmetic, all micro-batches."""
    launch: float
    """The host, while it launches what is computed; the longer of the two counts."""
    update: float
    """The host, in the optimiser's step."""
    exchange: float
    """Gradients and weights that other ranks have, as far as nothing is computed meanwhile."""

    @property
    def total(self) -> float:
        """The whole step."""
        return max(self.compute, self.launch) + self.update + self.exchange

    def __str__(self) -> str:
        parts = {
            "arithmetic": self.compute,
            "launching kernels": self.launch,
            "update": self.update,
            "exchange": self.exchange,
        }
        told = ", ".join(f"{name} {1000 * seconds:,.1f}" for name, seconds in parts.items())
        return f"{1000 * self.total:,.1f} ms: {told} (the longer of the first two counts)"


def step_time(
    encoder: EncoderConfig,
    compute: float,
    n_parameters: int,
    *,
    stage: int,
    n_passes: int,
    n_ranks: int,
    ranks_per_node: int,
    itemsize: int,
) -> StepTime:
    """Estimate a step whose arithmetic takes `compute` seconds in `n_passes` micro-batches."""
    block = OF_BLOCK * (1 if encoder.positions == "rotary" else WITHOUT_ROTATION)
    more = AT_STAGE_3 if stage == 3 else 1.0
    launched = n_passes * (block * encoder.n_layers + OF_REST) * more
    tensors = TENSORS_OF_BLOCK * encoder.n_layers + OTHER_TENSORS
    update = OF_TENSOR * tensors * more / (n_ranks if stage > 0 else 1)
    return StepTime(
        compute=compute,
        launch=OPERATION_S * launched,
        update=OPERATION_S * update,
        exchange=_exchange(n_parameters * itemsize, compute, stage, n_ranks, ranks_per_node),
    )


def _exchange(n_bytes: int, compute: float, stage: int, n_ranks: int, ranks_per_node: int) -> float:
    """Return the seconds of an exchange in rings that nothing hides.

    Gradients are summed once a step, and weights gathered once (at stage 3 twice, for either pass); at stage
    0 the sums go to all ranks, which is as much. Sums hide behind the backward pass, two thirds of the
    arithmetic.
    """
    if n_ranks == 1:
        return 0.0
    rate = BETWEEN_NODES if n_ranks > ranks_per_node else WITHIN_NODE
    once = n_bytes * (n_ranks - 1) / n_ranks / rate
    sums = max((1 - OVERLAPPED) * once, once - OVERLAPPED * compute * 2 / 3)
    return sums + (2 if stage == 3 else 1) * once
