"""In which floating-point type an encoder computes: what the device has in hardware, and where it pays."""

import contextlib
from collections.abc import Iterable

import torch
from torch import Tensor

AMX_WIDTH = 192
"""Narrowest model for which bf16 pays on a CPU with AMX: width 128 was slower than float32 (191 ms against
164 for forward and backward), width 204 twice as fast."""


def precision_of_hardware(device: torch.device, d_model: int) -> tuple[str, str]:
    """Return bf16 where matrix units have it and it pays, else fp32; and why."""
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


def casting(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Return the context in which float32 weights compute in bf16; in that of fp32 nothing changes."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def joined(left_BLV: Tensor, right_BLV: Tensor, dim: int = 0) -> Tensor:
    """Return two tensors of volumes as one; autocast on a CPU would not join float16, which volumes are."""
    with torch.autocast("cpu", enabled=False):
        return torch.cat((left_BLV, right_BLV), dim)


def describe_precision(device: torch.device, widths: Iterable[int]) -> str:
    """Say on what encoders of these widths compute, in which type, and why."""
    ways = dict.fromkeys(precision_of_hardware(device, width) for width in widths)
    where = "a GPU" if device.type == "cuda" else "CPU"
    return f"encoders compute on {where} in " + ", ".join(f"{kind} ({why})" for kind, why in ways)
