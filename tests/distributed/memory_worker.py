"""One rank that measures DeepSpeed steps. `memory_worker.py OUT` writes the memory of each case."""

import gc
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from memory import peak_of

from fmriscale.config import ModelConfig, TrainConfig
from fmriscale.model.classifier import build
from fmriscale.model.encoder import count_parameters
from fmriscale.model.losses import ntp_loss
from fmriscale.model.presets import resolve_encoder
from fmriscale.training import distributed, zero
from fmriscale.training.schedule import plan_batch

PAUSE_S = 0.005


def held() -> int:
    """Return the bytes of all storages of live tensors."""
    gc.collect()
    tensors = [o for o in gc.get_objects() if isinstance(o, torch.Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def measure(stage: int, precision: str) -> dict[str, int]:
    """Return the most bytes held at a time in a step, and the number of parameters."""
    before = held()
    # With two pairs, activations are small beside weights.
    shape = resolve_encoder(ModelConfig(preset="tiny", d_model=256), {"roi": 64}, 2)
    model, n_pairs = build(shape, 0), 2
    n_parameters = count_parameters(model)
    train = TrainConfig(zero_stage=stage, precision=precision)
    plan = plan_batch(n_pairs * world.world_size, n_pairs, world.world_size)
    engine = zero.make_engine(model, train, plan, precision, world)
    left, right = torch.randn(2, n_pairs, 2, 64).unbind()
    t_r, label = torch.full((n_pairs,), 2.0), torch.arange(n_pairs) % 2

    def step() -> None:
        engine.backward(ntp_loss(engine(left, right, t_r), label).mean())
        engine.step()

    step()
    most = held() - before + peak_of(step)
    engine.destroy()
    return {"most": most, "n_parameters": n_parameters}


def built(stage: int) -> dict[str, int]:
    """Return the most bytes held while a model of eight blocks is built, and the number of parameters."""
    shape = resolve_encoder(ModelConfig(preset="tiny", d_model=256, n_layers=8), {"roi": 64}, 2)
    train, plan = TrainConfig(zero_stage=stage), plan_batch(2, 1, world.world_size)
    models = []

    def work() -> None:
        with zero.zero_init(train, plan, "fp32", world.device):
            models.append(build(shape, 0))

    most = peak_of(work)
    return {"most": most, "n_parameters": count_parameters(models[0])}


def unhurried(exchange: Callable) -> Callable:
    """Return the exchange with a pause after it.

    Its threads release their tensors in the pause, before this thread does: the profiler misses their frees.
    """

    def exchange_and_pause(*args: Any, **kwargs: Any) -> Any:
        done = exchange(*args, **kwargs)
        time.sleep(PAUSE_S)
        return done

    return exchange_and_pause


warnings.filterwarnings("ignore", category=FutureWarning)
for name in ("all_reduce", "all_gather_into_tensor", "broadcast", "reduce_scatter_tensor"):
    setattr(torch.distributed, name, unhurried(getattr(torch.distributed, name)))
torch.distributed.Work.wait = unhurried(torch.distributed.Work.wait)
out = Path(sys.argv[1])
world = distributed.init_distributed()
cases = [(0, "fp32"), (1, "fp32"), (1, "bf16"), (2, "fp32"), (2, "bf16"), (3, "fp32"), (3, "bf16")]
found = {f"{stage} {precision}": measure(stage, precision) for stage, precision in cases}
building = {str(stage): built(stage) for stage in (2, 3)}
if world.is_main:
    out.write_text(json.dumps({"steps": found, "building": building}))
distributed.destroy()
