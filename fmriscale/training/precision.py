"""In which floating-point type a run computes: what the device has in hardware, unless the recipe says."""

import torch

from fmriscale.common.errors import UserError
from fmriscale.config import TrainConfig
from fmriscale.model.precision import precision_of_hardware


def pick_precision(train: TrainConfig, device: torch.device, d_model: int) -> tuple[str, str]:
    """Resolve `auto` to fp32 or bf16, and say why; refuse what the device cannot do."""
    if train.precision == "auto":
        return precision_of_hardware(device, d_model)
    if train.precision == "fp16" and device.type == "cpu":
        raise UserError("train.precision fp16 needs a GPU; use fp32 (or auto) on CPU")
    if train.precision == "fp16" and train.zero_stage == 0:
        raise UserError("train.precision fp16 needs train.zero_stage 1, 2 or 3; use 1, or bf16 or fp32")
    in_tf32 = train.precision == "fp32" and device.type == "cuda"
    more = ", with products in TF32 where the GPU has it" if in_tf32 else ""
    return train.precision, f"as the recipe says{more}"
