"""How fast is a GPU in train.py? Each part prints its figures, a JSON object a line; gpu.py runs them."""

import gzip
import os
import shutil
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_checks import Figures, Place, figure, line_of, main, train

GIB = 2**30
BIG = {"data__pairs__length": 16, "train__precision": "auto"}
RUNS: dict[str, dict[str, Any]] = {
    "base": BIG | {"model__preset": "base", "train__global_batch": 1024, "train__max_micro_batch": 1024},
    "large": BIG | {"model__preset": "large", "train__global_batch": 1024, "train__max_micro_batch": 512},
    "1b": BIG
    | {"model__preset": "1b", "train__global_batch": 512, "train__max_micro_batch": 256}
    | {"train__activation_checkpointing": "true"},
    "paper": {"model__preset": "paper", "train__global_batch": 4096, "train__max_micro_batch": 4096}
    | {"data__access": "device", "train__precision": "auto"},
}
"""What is trained."""
LEAST_MFU = {"base": ">= 0.35", "large": ">= 0.40", "1b": ">= 0.45"}
"""Shares of the peak that must be reached with blocks compiled."""
TOY = {"train__global_batch": 8, "train__max_micro_batch": 8, "model__n_layers": 1, "data__pairs__length": 5}


def speed(place: Place, name: str, compiled: bool) -> Figures:
    """Rate, utilisation, memory against the plan and waiting of one run of train.py."""
    from fmriscale.config import PretrainConfig
    from fmriscale.config.recipe import parse
    from fmriscale.training.prediction import Plan

    settings = RUNS[name] | {"train__compile": str(compiled and place.on_gpu).lower()}
    settings = settings | (TOY if place.quick else {}) | {"train__steps": place.steps(40)}
    if place.quick and name != "paper":
        settings |= {"model__preset": "tiny"}
    if place.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    lines = train(place, f"{name}_{compiled}", **settings)
    later = lines[len(lines) * 3 // 8 :]

    def steady(key: str) -> float:
        return statistics.median(line[key] for line in later)

    least = ">= 600000" if name == "paper" and place.on_gpu else ""
    yield figure("pairs_per_s", steady("pairs_per_s"), least, "pairs/s")
    yield figure("step_ms", 1000 * steady("step_p50_s"), unit="ms")
    yield figure("data_wait_share", steady("data_wait_share"), "<= 0.02" if place.on_gpu else "")
    if "mfu" in lines[-1]:
        yield figure("mfu", steady("mfu"), LEAST_MFU.get(name, "") if compiled and place.on_gpu else "")
    if place.on_gpu:
        config = parse(PretrainConfig, line_of(place, "planned", **settings))
        total = torch.cuda.get_device_properties(0).total_memory
        plan = Plan.of(config, 1, total)
        planned = plan.total(config.train.zero_stage, config.train.activation_checkpointing)
        allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        yield figure("allocated_gib", allocated / GIB, unit="GiB")
        yield figure("allocated_over_plan", allocated / planned, "0.9-1.05")
        yield figure("reserved_over_plan", reserved / planned)


def trace(place: Place) -> Figures:
    """Three steps of base under torch's profiler: operations, waiting of the host, attention's kernel."""
    from torch.profiler import ProfilerActivity, profile

    from fmriscale.config import PretrainConfig
    from fmriscale.config.recipe import parse
    from fmriscale.training import distributed
    from fmriscale.training.checkpoint import Checkpoints
    from fmriscale.training.deepspeed_import import forget_process_groups
    from fmriscale.training.resilience import StopRequest
    from fmriscale.training.run import build_engine, open_run
    from fmriscale.training.trainer import Trainer, TrainState

    settings = RUNS["base"] | {"train__max_micro_batch": 512}
    if place.quick:
        settings |= TOY | {"model__preset": "tiny"}
    world, stop, n_steps = distributed.init_distributed(), StopRequest(), 3
    try:
        run = open_run(parse(PretrainConfig, line_of(place, "traced", **settings)), world)
        run.out.mkdir(parents=True, exist_ok=True)
        engine = build_engine(run, 0)
        state = TrainState.resume(run, None)
        checkpoints = Checkpoints(run.out / "checkpoints", world, 1)
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * place.on_gpu
        with Trainer(run, engine, checkpoints, state) as trainer:
            for step in range(1, 6):
                trainer.train_step(step, stop)
            wait_and = torch.cuda.synchronize if place.on_gpu else (lambda: None)
            wait_and()
            started = time.perf_counter()
            with profile(activities=activities) as found:
                for step in range(6, 6 + n_steps):
                    trainer.train_step(step, stop)
                wait_and()
            seconds = time.perf_counter() - started
    finally:
        distributed.destroy()
        forget_process_groups()
    events = list(found.events())
    names = [event.name for event in events]
    waiting = sum(name in ("cudaStreamSynchronize", "cudaDeviceSynchronize") for name in names) / n_steps
    yield figure("step_ms_profiled", 1000 * seconds / n_steps, unit="ms")
    yield figure("host_waits_a_step", waiting, "<= 3" if place.on_gpu else "")
    yield figure("operations_a_step", sum(name.startswith("aten::") for name in names) / n_steps)
    kernels = {e.name for e in events if str(e.device_type).endswith("CUDA")}
    attention = sorted(name for name in kernels if "flash" in name.lower() or "fmha" in name.lower())
    yield figure("attention_kernel", (attention or ["none of a GPU"])[0][:80])
    if out := os.environ.get("FMRISCALE_TRACE"):
        path = Path(out) / "trace.json"
        found.export_chrome_trace(str(path))
        with path.open("rb") as plain, gzip.open(f"{path}.gz", "wb") as packed:
            shutil.copyfileobj(plain, packed)
        path.unlink()


PARTS = {
    **{f"{name}_compiled": partial(speed, name=name, compiled=True) for name in ("base", "large", "1b")},
    "base": partial(speed, name="base", compiled=False),
    "paper": partial(speed, name="paper", compiled=False),
    "trace": trace,
}

if __name__ == "__main__":
    main(PARTS)
