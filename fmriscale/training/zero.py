"""DeepSpeed: its dictionary is derived from our settings here, and nowhere else is it imported."""

import contextlib
import importlib
import math
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand
from fmriscale.config import TrainConfig
from fmriscale.model.encoder import Block
from fmriscale.training.cluster import Cluster
from fmriscale.training.schedule import BatchPlan
from fmriscale.training.state_memory import BUCKET

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
"""Keys of DeepSpeed's dictionary that are ours, and the setting that decides each."""
TORCH_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class PlainAdamW(torch.optim.AdamW):
    """AdamW for ZeRO stage 0, with what the ZeRO optimizers do themselves.

    It measures and clips the gradient norm, and leaves the weights alone where that is not finite;
    the engine reads `overflow` and `_global_grad_norm` as it does from its own optimizers.
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


def pick_precision(train: TrainConfig, device: torch.device) -> str:
    """Resolve `auto`, and refuse what the device or the ZeRO stage cannot do."""
    precision = train.precision
    if precision == "auto":
        hardware = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if hardware and train.zero_stage > 0 else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise UserError("train.precision fp16 needs a GPU; use fp32 (or auto) on CPU")
    if precision != "fp32" and train.zero_stage == 0:
        raise UserError(f"train.precision {precision} needs train.zero_stage 1, 2 or 3; use 1, or fp32")
    return precision


def deepspeed_dict(
    train: TrainConfig, plan: BatchPlan, precision: str, device: str, n_parameters: int
) -> dict[str, Any]:
    """Derive DeepSpeed's dictionary from our settings."""
    if train.offload == "cpu" and device == "cpu":
        raise UserError(
            "train.offload cpu takes states off a GPU, but this rank has none and they lie in host memory "
            "anyway: set train.offload none, or nvme"
        )
    for key, ours in DERIVED.items():
        inner: Any = train.deepspeed
        for part in key.split("."):
            inner = inner.get(part) if isinstance(inner, dict) else None
        if inner is not None:
            raise UserError(f"train.deepspeed.{key}: this is derived; set {ours} instead")
    bucket = min(BUCKET, n_parameters + n_parameters % 2)  # DeepSpeed takes none that is odd
    derived = {
        "train_batch_size": plan.pairs,
        "train_micro_batch_size_per_gpu": plan.micro,
        "gradient_accumulation_steps": plan.accumulation,
        # At stage 0 PlainAdamW clips: the engine would clip without telling the norm.
        "gradient_clipping": train.grad_clip if train.zero_stage > 0 else 0.0,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16"},
        "zero_optimization": {
            "stage": train.zero_stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "overlap_comm": device == "cuda",
            # Below stage 3 DeepSpeed sums the whole bucket either way. With False it does so in place, which
            # spares a CPU four copies of all gradients.
            **({"reduce_scatter": False} if device == "cpu" and train.zero_stage < 3 else {}),
            **_offload(train),
        },
        # torch's fused AdamW also where the state is offloaded: DeepSpeed's own compiles for minutes.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": sys.maxsize,
    }
    return _merge(derived, train.deepspeed)


@contextlib.contextmanager
def dealt(train: TrainConfig, plan: BatchPlan, precision: str, device: torch.device) -> Iterator[None]:
    """Build a model inside of this: at stage 3 each block is dealt among the ranks before the next is built.

    So no rank ever holds the whole, on its GPU or in host memory. The weights are those of a model that is
    built whole: what is drawn, and in which order, is the same.
    """
    if train.zero_stage < 3:
        yield
        return
    deepspeed = _deepspeed(device)
    deepspeed.init_distributed(torch.distributed.get_backend(), verbose=False)  # it learns of our ranks
    config = deepspeed_dict(train, plan, precision, device.type, BUCKET)
    kind = TORCH_TYPES[precision]
    away = {} if train.offload == "none" else {"remote_device": train.offload, "pin_memory": True}
    swapper = None  # one for all blocks: another would empty the folder that the first writes to

    def deal(_parent: nn.Module, _name: str, module: nn.Module | None) -> None:
        nonlocal swapper
        if isinstance(module, Block):
            module.to(device, kind)
            with _refusals(train):
                swapper = deepspeed.zero.Init(
                    module=module, config_dict_or_path=config, dtype=kind, param_swapper=swapper, **away
                ).param_swapper

    if train.offload == "nvme":
        check_nvme(expand(train.nvme_path or ""))
    handle = register_module_module_registration_hook(deal)
    try:
        yield
    finally:
        handle.remove()


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, those of dealt blocks too."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())


def check_nvme(folder: Path) -> None:
    """See to it that optimiser states and weights can be kept on a disk."""
    from deepspeed.ops.op_builder import AsyncIOBuilder  # pyright: ignore[reportAttributeAccessIssue]

    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"train.nvme_path {folder}: give a folder on a local disk that can be written to")
    if not AsyncIOBuilder().is_compatible():
        raise UserError(
            "train.offload nvme needs DeepSpeed's async_io operator, which cannot be built here: it wants "
            "a C++ compiler and libaio with its header (Debian, Ubuntu: apt install libaio-dev; conda: "
            "libaio); or set train.offload cpu"
        )


def make_engine(model: nn.Module, train: TrainConfig, plan: BatchPlan, precision: str, place: Cluster) -> Any:
    """Wrap a model in a DeepSpeed engine with torch's AdamW; weights must be equal on all ranks."""
    deepspeed = _deepspeed(place.device)
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        if not hasattr(parameter, "ds_id") and train.zero_stage == 3:  # beside dealt blocks: their type
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
    config = deepspeed_dict(train, plan, precision, place.device.type, count_parameters(model))
    with _refusals(train):
        return deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]


@contextlib.contextmanager
def _refusals(train: TrainConfig) -> Iterator[None]:
    """Tell of what DeepSpeed refuses in `train.deepspeed` as a mistake that the user can mend."""
    try:
        yield
    except (ValueError, AssertionError, TypeError) as error:
        if not train.deepspeed:
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"train.deepspeed: DeepSpeed refuses these settings ({reason})") from error


def set_learning_rate(engine: Any, lr: float) -> None:
    """Give every parameter group the learning rate of the step about to be made."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr


def learning_rate_of(engine: Any) -> float:
    """Return the learning rate that the engine has, not the one that it should have."""
    return float(engine.optimizer.param_groups[0]["lr"])


def grad_norm(engine: Any) -> float:
    """Norm of the last step's gradient before clipping; infinite where the step was skipped."""
    return float(engine.get_global_grad_norm() or 0.0)


def whole_weights(module: nn.Module, device: torch.device, keep: bool) -> dict[str, Tensor]:
    """Collect a module's parameters, which ZeRO-3 keeps in pieces; all ranks must call this."""
    gathered = _deepspeed(device).zero.GatheredParameters
    weights = {}
    for name, parameter in module.named_parameters():
        with gathered([parameter], modifier_rank=None):
            if keep:
                weights[name] = parameter.detach().float().cpu().clone()
    return weights


def forget_ranks() -> None:
    """Make DeepSpeed forget the ranks, whom it would look for in a process's next training."""
    if groups := sys.modules.get("deepspeed.utils.groups"):
        importlib.reload(groups)


def _deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed for this device (it takes seconds, so not before it is needed)."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    # It uses names that torch is about to retire, and torch says so at every exchange.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    # Its autotuner, which has no use here, would import MLflow: a quarter of what a rank's start costs.
    with _missing("mlflow"):
        import deepspeed

    # Its shared-memory op is compiled at first use, for a minute, and spins where a rank is gone.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # pyright: ignore
    return deepspeed


@contextlib.contextmanager
def _missing(name: str) -> Iterator[None]:
    """Make a module that nobody has imported yet look as if it were not installed."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        del sys.modules[name]


def _offload(train: TrainConfig) -> dict[str, Any]:
    """Tell DeepSpeed what to keep off the GPU: optimiser states and, where they are in pieces, weights."""
    if train.offload == "none":
        return {}
    place: dict[str, Any] = {"device": train.offload, "pin_memory": True}
    if train.nvme_path and train.offload == "nvme":
        place["nvme_path"] = str(expand(train.nvme_path))
    return {"offload_optimizer": place} | ({"offload_param": place} if train.zero_stage == 3 else {})


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
