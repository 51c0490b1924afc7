"""In which floating-point type a run computes: what the device has in hardware, unless the recipe says."""

import torch

from fmriscale.common.errors import UserError
from fmriscale.config import TrainConfig

AMX_WIDTH = 192
"""Narrowest model for which bf16 pays on a CPU with AMX: width 128 was slower than float32 (191 ms against
164 for forward and backward), width 204 twice as fast."""


def pick_precision(train: TrainConfig, device: torch.device, d_model: int) -> tuple[str, str]:
    """Resolve `auto` to fp32 or bf16, and say why; refuse what the device cannot do."""
    if train.precision == "auto":
        return _by_hardware(device, d_model)
    if train.precision == "fp16" and device.type == "cpu":
        raise UserError("train.precision fp16 needs a GPU; use fp32 (or auto) on CPU")
    if train.precision == "fp16" and train.zero_stage == 0:
        raise UserError("train.precision fp16 needs train.zero_stage 1, 2 or 3; use 1, or bf16 or fp32")
    return train.precision, "as the recipe says"


def _by_hardware(device: torch.device, d_model: int) -> tuple[str, str]:
    """Return bf16 where matrix units have it, and it pays."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "this GPU has it"
        return "fp32", "this GPU has no bf16"
    if not has_amx():
        return "fp32", "this CPU has no AMX: bf16 would be emulated"
    if d_model < AMX_WIDTH:
        return "fp32", f"this CPU has AMX, which pays from a width of {AMX_WIDTH} on"
    return "bf16", "this CPU has AMX"


def has_amx() -> bool:
    """Return whether this CPU multiplies matrices of bf16 in hardware."""
    return bool(torch.cpu._is_amx_tile_supported())  # torch has no public name for it
