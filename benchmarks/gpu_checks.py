"""Is what a GPU computes right? Each part prints its figures, a JSON object a line; gpu.py runs them.

A part is a function of a `Place`; `pytest -m gpu` calls the same ones.
"""

import argparse
import contextlib
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
FEATURES, LENGTH = 417, 5
"""Of the published model: width 420."""


@dataclass(frozen=True)
class Place:
    """Where a part works: a scratch folder with a corpus in it, on which device, at which size."""

    folder: Path
    device: str
    quick: bool = False

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU."""
        return self.device == "cuda"

    def steps(self, n: int) -> int:
        """Steps of a training; few at toy size."""
        return min(n, 4) if self.quick else n


Figure = dict[str, Any]
Figures = Iterator[Figure]


def figure(name: str, value: Any, limit: str = "", unit: str = "") -> Figure:
    """One figure, with its limit."""
    return {"name": name, "value": value, "limit": limit, "unit": unit}


# ---------------------------------------------------------------- trainings


def train(place: Place, name: str, **settings: Any) -> list[dict[str, Any]]:
    """Train in this process; return the lines of its steps. Raises RuntimeError if it ends with a code."""
    from fmriscale import train as program

    with contextlib.redirect_stdout(io.StringIO()) as log:
        code = program.main(line_of(place, name, **settings))
    if code:
        raise RuntimeError(f"{name} ended with {code}: {log.getvalue()[-500:]}")
    return steps_of(place.folder / name)


def line_of(place: Place, name: str, **settings: Any) -> list[str]:
    """The command line of a training on the corpus of a place."""
    always: dict[str, Any] = {
        "out": place.folder / name,
        "data.corpus": place.folder / "corpus",
        "data.pairs.length": LENGTH,
        "model.preset": "tiny",
        "model.dropout": 0.0,
        "train.global_batch": 64,
        "train.max_micro_batch": 32,
        "train.warmup_steps": 2,
        "train.schedule": "constant",
        "train.lr": 1e-3,
        "train.eval_every": 0,
        "train.eval_pairs": 1,
        "tracking.enabled": "false",
    }
    if place.quick:
        always |= {"model.d_model": 16, "model.n_layers": 1, "model.n_heads": 2, "train.global_batch": 8}
    given = {key.replace("__", "."): value for key, value in settings.items()}
    if place.quick and given.get("model.preset") == "paper":
        del always["model.d_model"]
    return [f"--{key}={value}" for key, value in (always | given).items()]


def steps_of(run: Path) -> list[dict[str, Any]]:
    """The lines of the steps of a run."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "event" not in line]


def gap(some: list[dict], others: list[dict], key: str = "loss") -> float:
    """The largest difference of a figure between the steps of two trainings."""
    if len(some) != len(others):
        return math.inf
    return max(abs(a[key] - b[key]) for a, b in zip(some, others, strict=True))


# ---------------------------------------------------------------- parts


def facts(place: Place) -> Figures:
    """What this machine is, and what its arithmetic and memory do at best."""
    import importlib.metadata as about

    if place.on_gpu:
        properties = torch.cuda.get_device_properties(0)
        yield figure("device", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
        yield figure("cuda", f"{torch.version.cuda}, NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}")
    yield figure("versions", f"torch {torch.__version__}, deepspeed {about.version('deepspeed')}")
    n = 8192 if place.on_gpu else 256
    a, b = torch.randn(2, n, n, device=place.device, dtype=torch.bfloat16)
    yield figure("bf16_product_tflops", 2 * n**3 / seconds_of(lambda: a @ b, place) / 1e12, unit="TFLOP/s")
    source = torch.empty(n * n * 4, device=place.device)
    copied = seconds_of(lambda: source.clone(), place)
    yield figure("copy_gb_per_s", 2 * source.nbytes / copied / 1e9, unit="GB/s")


def seconds_of(work: Callable[[], object], place: Place, n: int = 10) -> float:
    """Seconds that some work takes, the mean of n after three that are not timed."""
    for _ in range(3):
        work()
    wait(place)
    started = time.perf_counter()
    for _ in range(n):
        work()
    wait(place)
    return (time.perf_counter() - started) / n


def wait(place: Place) -> None:
    """Wait for the GPU."""
    if place.on_gpu:
        torch.cuda.synchronize()


def parity(place: Place) -> Figures:
    """Losses and gradient norms of 20 steps in float32, against those of this machine's CPU."""
    cases = {"tiny": {}, "paper": {"model__preset": "paper", "train__zero_stage": 0}}
    for name, settings in cases.items():
        more = settings | {"train__steps": place.steps(20), "train__precision": "fp32"}
        here = train(place, f"{name}_here", **more)
        on_cpu = train_on_cpu(place, f"{name}_cpu", **more)
        yield figure(f"{name}_first_loss_gap", abs(here[0]["loss"] - on_cpu[0]["loss"]), "<= 1e-5")
        yield figure(f"{name}_loss_gap", gap(here, on_cpu), "<= 1e-4")
        norms = max(abs(a["grad_norm"] / b["grad_norm"] - 1) for a, b in zip(here, on_cpu, strict=True))
        yield figure(f"{name}_grad_norm_gap", norms, "<= 1e-3")


def train_on_cpu(place: Place, name: str, **settings: Any) -> list[dict[str, Any]]:
    """Train in another process, which sees no GPU."""
    if not place.on_gpu:
        return train(place, name, **settings)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "fmriscale/train.py"), *line_of(place, name, **settings)]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return steps_of(place.folder / name)


def single_pass(place: Place) -> Figures:
    """One forward and backward pass in each type, against float64 on the CPU; two feature spaces."""
    from fmriscale.config import ModelConfig, TrainConfig
    from fmriscale.model.presets import resolve_encoder
    from fmriscale.training.objective import Objective

    spaces = {"stg": FEATURES, "schaefer400": 400}
    cases = {
        "joint": TrainConfig(),
        "masked": TrainConfig(ntp_weight=0.5, masked_weight=0.5),
        "siamese": TrainConfig(pair="siamese", pool="bins"),
    }
    limits = {"fp32": "<= 1e-5", "bf16": "<= 2e-2"} | ({"tf32": "<= 1e-3"} if place.on_gpu else {})
    shape = resolve_encoder(ModelConfig(preset="tiny", n_layers=2), spaces, LENGTH)
    for name, settings in cases.items():
        objective = Objective(settings)
        model = objective.build(shape).eval()
        for space, n_features in spaces.items():
            exact = loss_and_gradient(objective, model, space, n_features, torch.float64, "cpu")
            for kind, limit in limits.items():
                torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
                dtype = torch.bfloat16 if kind == "bf16" else torch.float32
                found = loss_and_gradient(objective, model, space, n_features, dtype, place.device)
                yield figure(f"{name}_{space}_{kind}", apart(found, exact), limit)


def loss_and_gradient(
    objective: Any, model: Any, space: str, n_features: int, dtype: torch.dtype, device: str
) -> torch.Tensor:
    """The loss and all gradients of a batch, as one vector in float64."""
    import copy

    model = copy.deepcopy(model).to(device, dtype)
    batch = batch_of(objective, n_features, space).to(torch.device(device))
    loss = objective.losses(model, batch).total
    loss.backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat([loss.detach()[None], *gradients]).double().cpu()


def batch_of(objective: Any, n_features: int, space: str, n: int = 16) -> Any:
    """A batch of noise."""
    import numpy as np

    from fmriscale.sampling.batch import Batch

    g = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, n, LENGTH, n_features, generator=g).half()
    place = np.zeros(n, np.int32)
    batch = Batch(
        left=left, right=right, label=torch.arange(n) % 2, kind=torch.zeros(n, dtype=torch.int8),
        dataset=torch.zeros(n, dtype=torch.int16), t_r=torch.full((n,), 2.0), run_left=place,
        run_right=place, row_left=place, row_right=place, start_left=place, start_right=place, space=space,
    )  # fmt: skip
    return objective.add_masks(batch, 0)


def apart(some: torch.Tensor, exact: torch.Tensor) -> float:
    """The relative error of a vector."""
    return float((some - exact).norm() / exact.norm())


def stages(place: Place) -> Figures:
    """The same losses at all ZeRO stages, with states offloaded or activations recomputed; fp16 ends well."""
    steps = place.steps(12)
    exact = train(place, "fp32_0", train__zero_stage=0, train__precision="fp32", train__steps=steps)
    for stage in (1, 2, 3):
        found = train(
            place, f"fp32_{stage}", train__zero_stage=stage, train__precision="fp32", train__steps=steps
        )
        yield figure(f"fp32_stage_{stage}_gap", gap(found, exact), "<= 1e-6")
    again = train(
        *(place, "recomputed"),
        **{"train__activation_checkpointing": "true", "train__precision": "fp32", "train__steps": steps},
    )
    yield figure("recomputed_gap", gap(again, exact), "<= 1e-6")
    lowered = [
        train(place, f"bf16_{n}", train__zero_stage=n, train__precision="bf16", train__steps=steps)
        for n in (0, 1, 2, 3)
    ]
    yield figure("bf16_stages_gap", max(gap(lowered[1], other) for other in lowered[2:]), "<= 1e-3")
    yield figure("bf16_autocast_gap", gap(lowered[0], lowered[1]), "<= 1e-2")
    yield figure("bf16_fp32_gap", gap(lowered[1], exact), "<= 2e-2")
    if not place.on_gpu:
        return
    for stage in (1, 3):
        found = train(
            *(place, f"offloaded_{stage}"),
            **{"train__zero_stage": stage, "train__precision": "fp32", "train__steps": steps},
            **{"train__offload": "cpu"},
        )
        yield figure(f"offloaded_stage_{stage}_gap", gap(found, exact), "<= 1e-4")
    half = train(place, "fp16", train__zero_stage=1, train__precision="fp16", train__steps=steps)
    yield figure("fp16_bad_steps", float(sum(not line["finite"] for line in half)), "<= 0")
    yield figure("fp16_fp32_gap", gap(half, exact), "<= 5e-2")


def resume(place: Place) -> Figures:
    """Six steps and six more are twelve; across stages; and after TERM."""
    settings = {"model__dropout": 0.1, "train__save_every": 2, "train__deterministic": "true"}
    half, whole = (2, 4) if place.quick else (6, 12)
    for stage in (1, 3):
        at_once = train(place, f"whole_{stage}", train__zero_stage=stage, train__steps=whole, **settings)
        train(place, f"halves_{stage}", train__zero_stage=stage, train__steps=half, **settings)
        in_two = train(place, f"halves_{stage}", train__zero_stage=stage, train__steps=whole, **settings)
        yield figure(f"stage_{stage}_gap", gap(in_two, at_once), "<= 0")
    exact = settings | {"train__precision": "fp32"}
    train(place, "moved", train__zero_stage=3, train__steps=half, **exact)
    moved = train(place, "moved", train__zero_stage=1, train__steps=whole, **exact)
    yield figure("stage_3_to_1_steps", float(len(moved)), f">= {whole}")
    if not place.quick:
        yield figure("term_exit_code", float(stopped(place)), "85-85")


def stopped(place: Place) -> int:
    """Start a long training, send TERM once it makes steps, and return its exit code."""
    line = line_of(place, "stopped", train__steps=10**6, train__save_every=10**5)
    command = [sys.executable, str(ROOT / "fmriscale/train.py"), *line]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    metrics = place.folder / "stopped/metrics.jsonl"
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if metrics.exists() and metrics.stat().st_size:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    return process.wait(timeout=120)


def batches(place: Place) -> Figures:
    """The same batches by every way of reading, and from the feed while the GPU is held back."""
    from fmriscale.config import PretrainConfig
    from fmriscale.config.recipe import parse
    from fmriscale.training import distributed
    from fmriscale.training.deepspeed_import import forget_process_groups
    from fmriscale.training.feed import Feed
    from fmriscale.training.run import open_run

    world = distributed.init_distributed()
    try:
        runs = {}
        for access in ("mmap", "memory", "device"):
            line = line_of(place, "unused", data__access=access)
            runs[access] = open_run(parse(PretrainConfig, line), world)
        differing = 0
        for position in range(0, 50 * 32, 32):
            read = [run.loader.batch(position, 32).to(torch.device("cpu")) for run in runs.values()]
            for name in ("left", "right", "label", "kind", "t_r"):
                values = [getattr(batch, name).cpu() for batch in read]
                differing += not all(torch.equal(values[0], value) for value in values[1:])
        yield figure("access_differences", float(differing), "<= 0")
        for access, run in runs.items():
            yield figure(f"feed_races_{access}", float(races(run, Feed(run, 1), place)), "<= 0")
    finally:
        distributed.destroy()
        forget_process_groups()


def races(run: Any, feed: Any, place: Place) -> int:
    """Micro-batches of a feed that are not what its positions say, with the GPU behind the host."""
    n_steps, per_step = place.steps(100), run.plan.gradient_accumulation_steps
    kept = []
    for _ in range(n_steps * per_step):
        if place.on_gpu:
            torch.cuda._sleep(2_000_000)  # about a millisecond
        pairs, _ = next(feed)
        kept.append((pairs.left.clone(), pairs.label.clone()))
    feed.close()
    wrong = 0
    for i, (left, label) in enumerate(kept):
        position = run.plan.position(1 + i // per_step, i % per_step, 0)
        expected = run.loader.batch(position, run.plan.micro_batch_size).to(torch.device("cpu"))
        wrong += not (
            torch.equal(left.cpu(), expected.left.cpu()) and torch.equal(label.cpu(), expected.label.cpu())
        )
    return wrong


def faults(place: Place) -> Figures:
    """Too large a batch is refused, a step that is not finite skipped, and a low-rank study runs."""
    from toystudy import options, write_toy

    from fmriscale import cli
    from fmriscale import train as program
    from fmriscale.common.errors import exit_code_of

    if place.on_gpu:
        large = {"train__global_batch": 10**7, "train__max_micro_batch": 10**7, "model__preset": "base"}
        code = exit_code_of(lambda: program.main(line_of(place, "too_large", **large)))
        yield figure("out_of_memory_code", float(code), "2-2")
        torch.cuda.empty_cache()
    wild = {"train__lr": 1e30, "train__grad_clip": 0, "train__max_bad_steps": 3, "train__precision": "bf16"}
    code = exit_code_of(lambda: program.main(line_of(place, "wild", **wild, train__steps=50)))
    yield figure("diverged_code", float(code), "1-1")
    write_toy(place.folder / "toy")
    with contextlib.redirect_stdout(io.StringIO()):
        code = cli.run(options(place.folder / "toy", train__adapt="lora"))
    yield figure("low_rank_study_code", float(code), "0-0")


def curve(place: Place) -> Figures:
    """The loss of 300 steps in bf16 and in float32 (TF32)."""
    steps = place.steps(300)
    ends = {}
    for precision in ("fp32", "bf16"):
        lines = train(place, f"curve_{precision}", train__precision=precision, train__steps=steps)
        last = [line["loss"] for line in lines[-50:]]
        ends[precision] = sum(last) / len(last)
        yield figure(f"{precision}_last_50", ends[precision])
    yield figure("bf16_gap", abs(ends["bf16"] - ends["fp32"]), "<= 0.01")


PARTS: dict[str, Callable[[Place], Figures]] = {
    part.__name__: part for part in (facts, parity, single_pass, stages, resume, batches, faults, curve)
}


@contextlib.contextmanager
def place_of(device: str, quick: bool) -> Iterator[Place]:
    """A scratch folder with a corpus of noise in it."""
    from factory import write_corpus

    folder = Path(tempfile.mkdtemp(prefix="fmriscale_gpu_"))
    try:
        size = {"subjects": 4, "n_volumes": 120} if quick else {"subjects": 8, "n_volumes": 400}
        write_corpus(folder / "corpus", datasets={"noise": size}, n_features=24 if quick else FEATURES)
        yield Place(folder, device, quick)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(parts: dict[str, Callable[[Place], Figures]]) -> None:
    """Run parts, and print their figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", nargs="+", choices=parts)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="where a trace goes")
    given = parser.parse_args()
    os.environ["FMRISCALE_TRACE"] = str(given.out or "")
    with place_of(given.device, given.quick) as place:
        for name in given.part:
            for found in parts[name](place):
                print(json.dumps({"part": name, **found}), flush=True)


if __name__ == "__main__":
    main(PARTS)
