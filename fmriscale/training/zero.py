"""DeepSpeed: its configuration is derived from our settings; only `deepspeed_import` touches it otherwise."""

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand
from fmriscale.config import TrainConfig
from fmriscale.model.encoder import Block, count_parameters
from fmriscale.training.deepspeed_import import import_deepspeed
from fmriscale.training.distributed import World
from fmriscale.training.schedule import BatchPlan
from fmriscale.training.state_memory import BUCKET, bucket_size

DERIVED = {
    "train_batch_size": "train.global_batch",
    "train_micro_batch_size_per_gpu": "train.max_micro_batch",
    "gradient_accumulation_steps": "train.max_micro_batch",
    "gradient_clipping": "train.grad_clip",
    "bf16": "train.precision",
    "fp16": "train.precision",
    "torch_autocast": "train.precision",
    "zero_optimization.stage": "train.zero_stage",
    "zero_optimization.offload_optimizer.device": "train.offload",
    "zero_optimization.offload_optimizer.nvme_path": "train.nvme_path",
    "zero_optimization.offload_param.device": "train.offload",
    "zero_optimization.offload_param.nvme_path": "train.nvme_path",
    "activation_checkpointing": "train.activation_checkpointing",
    "compile": "train.compile",
    "optimizer": "train.lr, train.betas and train.weight_decay",
    "scheduler": "train.schedule",
    "checkpoint": "train.save_every",
}
"""Keys of DeepSpeed's configuration that are derived, and the setting that decides each."""
TORCH_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class PlainAdamW(torch.optim.AdamW):
    """AdamW for ZeRO stage 0 that does what the ZeRO optimizers do themselves.

    It clips the gradient norm, and skips the step where that is not finite. The engine reads `overflow` and
    `_global_grad_norm` as it does from its own optimizers.
    """

    overflow = False
    _global_grad_norm = 0.0
    clip = 0.0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Clip and step, or skip."""
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
        self._global_grad_norm = float(norm)
        self.overflow = not math.isfinite(self._global_grad_norm)
        if self.overflow:
            return
        if self.clip > 0:
            torch.nn.utils.clip_grads_with_norm_(params, self.clip, norm)
        super().step(closure)


def deepspeed_config(
    train: TrainConfig, plan: BatchPlan, precision: str, device: str, n_parameters: int
) -> dict[str, Any]:
    """Derive DeepSpeed's configuration, and merge `train.deepspeed` over it."""
    if train.offload == "cpu" and device == "cpu":
        raise UserError(
            "train.offload cpu takes states off a GPU, but this rank has none and they lie in host memory "
            "anyway: set train.offload none, or nvme"
        )
    for key, setting in DERIVED.items():
        value: Any = train.deepspeed
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            raise UserError(f"train.deepspeed.{key}: this is derived; set {setting} instead")
    bucket = bucket_size(n_parameters, on_gpu=device == "cuda")
    derived = {
        "train_batch_size": plan.global_batch,
        "train_micro_batch_size_per_gpu": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        # At stage 0 PlainAdamW clips, because the engine would not report the norm.
        "gradient_clipping": train.grad_clip if train.zero_stage > 0 else 0.0,
        # At stage 0 weights stay float32, and `Objective.losses` computes in bf16.
        "bf16": {"enabled": precision == "bf16" and train.zero_stage > 0},
        "fp16": {"enabled": precision == "fp16"},
        "zero_optimization": {
            "stage": train.zero_stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "overlap_comm": device == "cuda",
            # Below stage 3 DeepSpeed sums the whole bucket either way; False does so in place, which spares a
            # CPU four copies of all gradients.
            **({"reduce_scatter": False} if device == "cpu" and train.zero_stage < 3 else {}),
            **_offload(train),
        },
        # torch's fused AdamW also where the state is offloaded: DeepSpeed's own compiles for minutes.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": sys.maxsize,
    }
    return _merge(derived, train.deepspeed)


@contextlib.contextmanager
def zero_init(train: TrainConfig, plan: BatchPlan, precision: str, device: torch.device) -> Iterator[None]:
    """Build a model in this context: at stage 3 each block is partitioned before the next is built.

    So no rank ever holds the whole model. The weights are those of a model that is built whole, because the
    same random numbers are drawn in the same order.
    """
    if train.zero_stage < 3:
        yield
        return
    deepspeed = import_deepspeed(device)
    deepspeed.init_distributed(torch.distributed.get_backend(), verbose=False)  # takes over our ranks
    config = deepspeed_config(train, plan, precision, device.type, BUCKET)
    dtype = TORCH_TYPES[precision]
    offload = {} if train.offload == "none" else {"remote_device": train.offload, "pin_memory": True}
    swapper = None  # one for all blocks: another would empty the folder that the first writes to

    def partition(_parent: nn.Module, _name: str, module: nn.Module | None) -> None:
        nonlocal swapper
        if isinstance(module, Block):
            module.to(device, dtype)
            with _as_user_error(train):
                swapper = deepspeed.zero.Init(
                    module=module, config_dict_or_path=config, dtype=dtype, param_swapper=swapper, **offload
                ).param_swapper

    if train.offload == "nvme":
        check_nvme(expand(train.nvme_path or ""))
    handle = register_module_module_registration_hook(partition)
    try:
        yield
    finally:
        handle.remove()


def check_nvme(folder: Path) -> None:
    """Refuse a folder, or a machine, on which optimiser states and weights cannot be kept on disk."""
    from deepspeed.ops.op_builder import AsyncIOBuilder  # pyright: ignore[reportAttributeAccessIssue]

    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"train.nvme_path {folder}: give a folder on a local disk that can be written to")
    if not AsyncIOBuilder().is_compatible():
        raise UserError(
            "train.offload nvme needs DeepSpeed's async_io operator, which cannot be built here: it wants "
            "a C++ compiler and libaio with its header (Debian, Ubuntu: apt install libaio-dev; conda: "
            "libaio); or set train.offload cpu"
        )


def make_engine(model: nn.Module, train: TrainConfig, plan: BatchPlan, precision: str, world: World) -> Any:
    """Wrap a model in a DeepSpeed engine with torch's AdamW; weights must be equal on all ranks."""
    deepspeed = import_deepspeed(world.device)
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        if not hasattr(parameter, "ds_id") and train.zero_stage == 3:  # outside the partitioned blocks
            parameter.data = parameter.data.to(TORCH_TYPES[precision])
        decays = len(getattr(parameter, "ds_shape", parameter.shape)) == 2 and name.endswith("weight")
        (matrices if decays else others).append(parameter)
    groups = [{"params": matrices, "weight_decay": train.weight_decay}]
    groups += [{"params": others, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW if train.zero_stage > 0 else PlainAdamW
    # Fused: ten times faster than the default on CPU.
    optimizer = adamw(groups, lr=train.lr, betas=train.betas, fused=True)
    if isinstance(optimizer, PlainAdamW):
        optimizer.clip = train.grad_clip
    config = deepspeed_config(train, plan, precision, world.device.type, count_parameters(model))
    with _as_user_error(train):
        return deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]


@contextlib.contextmanager
def _as_user_error(train: TrainConfig) -> Iterator[None]:
    """Raise what DeepSpeed refuses in `train.deepspeed` as a `UserError`."""
    try:
        yield
    except (ValueError, AssertionError, TypeError) as error:
        if not train.deepspeed:
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"train.deepspeed: DeepSpeed refuses these settings ({reason})") from error


def whole_weights(module: nn.Module, device: torch.device, keep: bool) -> dict[str, Tensor]:
    """Gather a module's parameters, float32 on CPU, where `keep`; all ranks must call this."""
    gathered = import_deepspeed(device).zero.GatheredParameters
    weights = {}
    for name, parameter in module.named_parameters():
        with gathered([parameter], modifier_rank=None):
            if keep:
                weights[name] = parameter.detach().float().cpu().clone()
    return weights


def _offload(train: TrainConfig) -> dict[str, Any]:
    """Return where DeepSpeed keeps optimiser states and, at stage 3, weights."""
    if train.offload == "none":
        return {}
    target: dict[str, Any] = {"device": train.offload, "pin_memory": True}
    if train.nvme_path and train.offload == "nvme":
        target["nvme_path"] = str(expand(train.nvme_path))
    return {"offload_optimizer": target} | ({"offload_param": target} if train.zero_stage == 3 else {})


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
