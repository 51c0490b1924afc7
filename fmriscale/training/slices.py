"""Which slices of the float32 weights and of AdamW's two moments a rank holds.

DeepSpeed partitions them in another way at each ZeRO stage, and its own checkpoints fit only the stage and
number of ranks that wrote them. As slices of named parameters they fit any.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fmriscale.common.errors import UserError

KINDS = ("weight", "exp_avg", "exp_avg_sq")
"""Of each element: the float32 weight, and the first and second moment of its gradient."""
SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""State of DeepSpeed's loss scaler, which fp16 needs."""


@dataclass(frozen=True)
class ParameterSlice:
    """Elements `start` to `start + size` of a flattened parameter."""

    name: str
    start: int
    size: int


class EngineState:
    """Weights and moments that this rank holds in an engine between two steps, to read and to replace."""

    def __init__(self, engine: Any, rank: int, world_size: int) -> None:
        self._parameters = dict(engine.module.named_parameters())
        self._zero = engine.optimizer
        self._stage = engine.zero_optimization_stage()
        self._rank = rank
        adamw = self._zero.optimizer if self._stage > 0 else self._zero
        self._states: dict[Tensor, dict[str, Any]] = adamw.state
        if self._stage in (1, 2) and not hasattr(self._zero, "single_partition_of_fp32_groups"):
            raise UserError(
                f"train.deepspeed: with these settings DeepSpeed takes its {type(self._zero).__name__}, "
                "whose state fmriscale cannot save; leave data_types.grad_accum_dtype out"
            )
        for number, master in enumerate(self._masters()):
            state = self._states[master]
            if "step" not in state:  # before the first step that was not skipped
                with self._swapped_in(number):
                    state["step"] = torch.zeros((), dtype=torch.float32, device=master.device)
                    state.update({kind: torch.zeros_like(master) for kind in KINDS[1:]})
        self.held = list(self._find())
        self.written = self.held if self._stage > 0 else list(self._divide(world_size))
        """What goes into a checkpoint: every element is written by exactly one rank."""

    @property
    def adam_step(self) -> int:
        """Steps that AdamW has made."""
        return int(self._states[next(self._masters())]["step"])

    @property
    def scaler(self) -> dict[str, float]:
        """State of the loss scaler."""
        scaler = getattr(self._zero, "loss_scaler", None)
        return {name: float(getattr(scaler, name)) for name in SCALER if hasattr(scaler, name)}

    def read(self, part: ParameterSlice, kind: str) -> Tensor:
        """Return the elements of a slice, float32 [size]; copy them before the next call."""
        if self._stage == 3:
            values = self._zero.get_local_fp32_param(self._parameters[part.name], _key(kind))
            return values.flatten()[: part.size]
        return self._view(part, kind)

    @torch.no_grad()
    def replace(
        self, fetch: Callable[[str, ParameterSlice], Tensor], adam_step: int, scaler: dict[str, float]
    ) -> None:
        """Load new values of every slice and update the model's own weights; all ranks call this."""
        if self._stage == 3:
            self._zero.checkpoint_event_prologue()
        for part in self.held:
            for kind in KINDS:
                self._put(part, kind, fetch(kind, part))
        for master in self._masters():
            self._states[master]["step"].fill_(adam_step)
        own = getattr(self._zero, "loss_scaler", None)
        for name in (n for n in scaler if hasattr(own, n)):
            setattr(own, name, type(getattr(own, name))(scaler[name]))
        if self._stage in (1, 2):
            self._zero.update_lp_params()
        if self._stage == 3:
            self._update_model_weights()

    def _masters(self) -> Iterator[Tensor]:
        """Yield the tensors that AdamW updates."""
        if self._stage == 0:
            yield from self._parameters.values()
        elif self._stage == 3:
            yield from self._zero.fp32_partitioned_groups_flat
        else:
            yield from self._zero.single_partition_of_fp32_groups

    def _find(self) -> Iterator[ParameterSlice]:
        for name, parameter in self._parameters.items():
            if self._stage == 0:
                yield ParameterSlice(name, 0, parameter.numel())
            elif self._stage == 3:
                width: int = parameter.ds_tensor.numel()  # equal on all ranks, the last ones are padded
                start = self._rank * width
                if start < parameter.ds_numel:
                    yield ParameterSlice(name, start, min(width, parameter.ds_numel - start))
            elif parameter._hp_mapping is not None:
                address = parameter._hp_mapping.lp_fragment_address
                yield ParameterSlice(name, address.start, address.numel)

    def _divide(self, world_size: int) -> Iterator[ParameterSlice]:
        """Yield an equal share of all elements, where every rank holds everything."""
        total = sum(p.numel() for p in self._parameters.values())
        first, last = total * self._rank // world_size, total * (self._rank + 1) // world_size
        offset = 0
        for name, parameter in self._parameters.items():
            start, stop = max(first - offset, 0), min(last - offset, parameter.numel())
            if start < stop:
                yield ParameterSlice(name, start, stop - start)
            offset += parameter.numel()

    def _view(self, part: ParameterSlice, kind: str) -> Tensor:
        """Return the elements themselves, below stage 3."""
        parameter = self._parameters[part.name]
        if self._stage == 0:
            master, start = parameter, part.start
        else:
            fragment = parameter._hp_mapping
            master = self._zero.single_partition_of_fp32_groups[fragment.param_group_index]
            start = fragment.hp_fragment_address.start
        values = master if kind == "weight" else self._states[master][kind]
        return values.detach().view(-1).narrow(0, start, part.size)

    def _put(self, part: ParameterSlice, kind: str, values: Tensor) -> None:
        if self._stage < 3:
            self._view(part, kind).copy_(values)
            return
        parameter = self._parameters[part.name]
        padded = torch.zeros(parameter.ds_tensor.numel(), dtype=torch.float32)
        padded[: part.size] = values
        self._zero.set_local_hp_param(padded, parameter, _key(kind))

    @contextlib.contextmanager
    def _swapped_in(self, number: int) -> Iterator[None]:
        """Hold a parameter group in memory that offloading keeps on a disk, and write it back."""
        on_disk = self._stage == 3 and self._zero._swappable_optimizer_subgroup(number)
        if on_disk:
            self._zero._optimizer_states_and_gradient_swap_in(number)
        yield
        if on_disk:
            self._zero._optimizer_states_and_gradient_swap_out(number)

    def _update_model_weights(self) -> None:
        """Copy the float32 slices to the weights that compute, as DeepSpeed does after a step at stage 3."""
        zero = self._zero
        for number in range(len(zero.fp16_groups)):
            with self._swapped_in(number):
                zero._reassign_or_swap_out_partitioned_parameters(number)
        if zero.persistent_parameters:
            zero.persistent_parameters[0].partition(zero.persistent_parameters)
        zero.checkpoint_event_epilogue()


def _key(kind: str) -> str | None:
    return None if kind == "weight" else kind
