"""Steps of the paper model against the published way, torch's own encoder, a bare loop and the machine.

    python benchmarks/training.py [--threads N] [--rounds 7] [--json FILE] [--only NAME ...] [--quick]

Contenders take short turns, round after round; a figure is the median over rounds of the ratio within a
round, so that a machine that is slow for a while slows both sides of it. One thread is timed in CPU-seconds,
more in wall-clock seconds: these need a quiet machine, and what others used of it is told. Two ranks are
two processes of one thread each, against one of one thread: with as many pairs a rank as the one has (two
ranks make a step of twice the pairs), 256 or 512, and with 256 pairs a step for both. What is told of
checkpoints and of `fmriscale plan` is of runs of train.py (see trained.py). A GPU has gpu.py.
"""

import argparse
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import trained
from busy import Others
from figures import Figures
from torch import nn

from fmriscale.config import ModelConfig, TrainConfig
from fmriscale.model.classifier import build
from fmriscale.model.flops import train_flops
from fmriscale.model.losses import ntp_loss
from fmriscale.model.precision import casting, has_amx
from fmriscale.model.presets import resolve_encoder

FEATURES, LENGTH, BATCH = 417, 5, 256
WIDTH, LAYERS, HEADS = FEATURES + 3, 3, 2
TOKENS = 2 * LENGTH + 2
RATE = 1e-6
"""Learning rate: nothing is learnt by heart, or gradients would become denormal numbers, which are slow."""
TURN_S = 0.4
"""A contender's turn takes at least so long: short, so that those of a round meet the same machine."""
RANK_STEPS = 4
"""Steps of ranks in their turn, after one that is not timed: they have stood still, and caches are cold."""
SIDES = (1024, 2048)
"""Of square matrix products."""
STAGES = (0, 1)
"""Of ZeRO, for two ranks."""
PAIRS = {"": (2, 1), "_512_pairs": (4, 2), "_same_step": (1, 1)}
"""Batches a step of two ranks and of one that are compared."""
QUICK = {"BATCH": 8, "TURN_S": 1e-3, "SIDES": (64,), "STAGES": (1,), "PAIRS": {"": (2, 1)}}
SHAPE = resolve_encoder(ModelConfig(preset="paper"), {"stg": FEATURES}, LENGTH)


# ---------------------------------------------------------------- contenders


class AuthorsLayer(nn.Module):
    """An encoder layer as published: attention weights are asked for and thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.feed = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, WIDTH))
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attended, _ = self.attention(x, x, x)
        x = self.dropout(self.norms[0](attended + x))
        return self.dropout(self.norms[1](self.feed(x) + x))


class Classifier(nn.Module):
    """Learned positions, some layers, and a head on the first token."""

    def __init__(self, layers: nn.Module, softmax: bool) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(TOKENS, WIDTH))
        self.layers, self.head, self.softmax = layers, nn.Linear(WIDTH, 2), softmax
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.head(self.layers(self.dropout(x + self.positions))[:, 0])
        return logits.softmax(-1) if self.softmax else logits


def authors() -> Callable[[], int]:
    """Batch 1, weights returned, softmax before cross-entropy, Adam, anomaly detection on."""
    model = Classifier(nn.Sequential(*(AuthorsLayer() for _ in range(LAYERS))), softmax=True).train()
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    data = [(torch.randn(1, TOKENS, WIDTH), torch.tensor([label])) for label in (0, 1)]

    def step() -> int:
        x, label = data[0]
        data.reverse()
        with torch.autograd.set_detect_anomaly(True, check_nan=True):
            loss = nn.functional.cross_entropy(model(x), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return 1

    return step


def torch_encoder() -> Callable[[], int]:
    """torch.nn.TransformerEncoder of the same size, batch and optimiser."""
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.1, batch_first=True)
    model = Classifier(nn.TransformerEncoder(layer, LAYERS), softmax=False).train()
    x, label = torch.randn(BATCH, TOKENS, WIDTH), torch.arange(BATCH) % 2
    return bare_loop(model, lambda: ntp_loss(model(x), label).mean())


def pairs(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    left, right = torch.randn(2, n, LENGTH, FEATURES).half().unbind()
    return left, right, torch.full((n,), 2.0), torch.arange(n) % 2


def bare(precision: str = "fp32") -> Callable[[], int]:
    """Our model in a plain torch loop; in bf16 weights stay float32, as at ZeRO stage 0."""
    model = build(SHAPE, 0).train()
    left, right, t_r, label = pairs(BATCH)

    def loss() -> torch.Tensor:
        with casting(left.device, precision):
            return ntp_loss(model(left, right, t_r), label).mean()

    return bare_loop(model, loss)


def bare_loop(model: nn.Module, loss_of: Callable[[], torch.Tensor]) -> Callable[[], int]:
    """Forward, backward, clipping and fused AdamW."""
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, RATE, fused=True)

    def step() -> int:
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return BATCH

    return step


def in_engine(n_pairs: int, stage: int = 1) -> Callable[[], int]:
    """Our model in the DeepSpeed engine that train.py makes (float32); n_pairs is of all ranks together."""
    from fmriscale.training import distributed, zero
    from fmriscale.training.schedule import plan_batch

    world = distributed.init_distributed()
    plan = plan_batch(n_pairs, n_pairs, world.world_size)
    engine = zero.make_engine(build(SHAPE, 0), TrainConfig(lr=RATE, zero_stage=stage), plan, "fp32", world)
    engine.train()
    left, right, t_r, label = pairs(plan.micro_batch_size)

    def step() -> int:
        engine.backward(ntp_loss(engine(left, right, t_r), label).mean())
        engine.step()
        return n_pairs

    return step


def product(m: int, k: int, n: int, dtype: torch.dtype = torch.float32) -> Callable[[], int]:
    """A matrix product; its work is counted in operations."""
    a, b, out = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype), torch.empty(m, n, dtype=dtype)

    def step() -> int:
        torch.mm(a, b, out=out)
        return 2 * m * k * n

    return step


# ---------------------------------------------------------------- measuring


Rounds = dict[str, list[float]]
"""Work per second of each contender in each round."""


def turns(contenders: dict[str, Callable[[], float]], n_rounds: int) -> Rounds:
    """Let every contender take its turn once a round; one round before is not counted."""
    found: Rounds = {name: [] for name in contenders}
    for number in range(n_rounds + 1):
        for name, turn in contenders.items():
            rate = turn()
            if number:
                found[name].append(rate)
    return found


def timed(step: Callable[[], int], clock: Callable[[], float]) -> Callable[[], float]:
    """Make a turn of steps; it returns work per second."""

    def turn() -> float:
        begun, work = clock(), 0
        while clock() - begun < TURN_S:
            work += step()
        return work / (clock() - begun)

    return turn


def ratio(above: list[float], below: list[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile of the ratios of rounds."""
    values = [a / b for a, b in zip(above, below, strict=True)]
    low, middle, high = statistics.quantiles(values, n=4)
    return middle, low, high


def as_rank(stage: int, n_pairs: int) -> None:
    """Be one rank of `Ranks`: some steps of n_pairs in all for every line on stdin; rank 0 prints pairs/s."""
    torch.set_num_threads(1)
    step = in_engine(n_pairs, stage)
    for _ in sys.stdin:
        step()
        torch.distributed.barrier()
        begun = time.perf_counter()
        for _ in range(RANK_STEPS):
            step()
        rate = RANK_STEPS * n_pairs / (time.perf_counter() - begun)
        if os.environ["RANK"] == "0":
            print(json.dumps(rate), flush=True)
    torch.distributed.destroy_process_group()


class Ranks:
    """Processes of one thread each that train together, and stand still between their turns."""

    def __init__(self, n: int, stage: int, n_pairs: int) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = str(s.getsockname()[1])
        place = {"WORLD_SIZE": str(n), "LOCAL_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        self.processes = [
            subprocess.Popen(
                [sys.executable, __file__, "--as-rank", str(stage), str(n_pairs)],
                env={**os.environ, **place, "RANK": str(r), "LOCAL_RANK": str(r), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for r in range(n)
        ]

    def turn(self) -> float:
        """Return pairs per wall-clock second."""
        for process in self.processes:
            assert process.stdin
            print("go", file=process.stdin, flush=True)
        stdout = self.processes[0].stdout
        assert stdout
        for line in stdout:  # DeepSpeed prints there too
            if line[:1].isdigit() and line.strip().replace(".", "").isdigit():
                return float(line)
        raise RuntimeError(f"{len(self.processes)} ranks ended before their turn was over")

    def close(self) -> None:
        for process in self.processes:
            process.communicate(timeout=60)


def rates(found: Rounds, unit: str, scale: float = 1.0) -> None:
    for name, values in found.items():
        print(
            f"{name:30}{statistics.median(values) / scale:9.1f} {unit}  ({max(values) / scale:.1f} at best)"
        )


def measure_steps(threads: int, n_rounds: int, figures: Figures) -> None:
    """One process against the authors' way, torch's encoder and the matrix product."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    seconds = "CPU-s" if threads == 1 else "s"
    rows = BATCH * TOKENS
    shapes = ((rows, WIDTH, 4 * WIDTH), (rows, 4 * WIDTH, WIDTH), *((side,) * 3 for side in SIDES))
    ways = {"ours, bare loop": bare(), "nn.TransformerEncoder": torch_encoder(), "authors' way": authors()}
    products = {f"product {m} x {k} x {n}": product(m, k, n) for m, k, n in shapes}
    others = Others()
    found = turns({name: timed(step, clock) for name, step in (ways | products).items()}, n_rounds)
    busy = others.share()
    print(f"batch {BATCH}, {threads} thread(s), medians of {n_rounds} rounds")
    rates({name: found[name] for name in ways}, f"pairs/{seconds}")
    rates({name: found[name] for name in products}, f"GFLOP/{seconds}", 1e9)
    ours = found["ours, bare loop"]
    best = [max(rates) for rates in zip(*(found[name] for name in products), strict=True)]
    done = [rate * train_flops(SHAPE) for rate in ours]
    figures.tell("pairs_per_s", ratio(ours, [1.0] * n_rounds), "pairs/s", "", n_rounds, busy)
    figures.tell("speedup_vs_authors", ratio(ours, found["authors' way"]), "x", ">= 25", n_rounds, busy)
    versus = ratio(ours, found["nn.TransformerEncoder"])
    figures.tell("speedup_vs_torch_encoder", versus, "x", ">= 1.3", n_rounds, busy)
    figures.tell("gemm_fraction", ratio(done, best), "", ">= 1.0", n_rounds, busy)


def measure_engine(threads: int, n_rounds: int, figures: Figures) -> None:
    """The DeepSpeed engine against a bare loop (apart: with DeepSpeed anomaly detection is much slower)."""
    from fmriscale.training import distributed
    from fmriscale.training.deepspeed_import import forget_process_groups

    clock = time.process_time if threads == 1 else time.perf_counter
    pair = {"bare loop beside it": bare(), "ours, DeepSpeed engine": in_engine(BATCH)}
    torch.set_num_threads(threads)  # after joining, which takes all cores
    others = Others()
    found = turns({name: timed(step, clock) for name, step in pair.items()}, n_rounds)
    distributed.destroy()
    forget_process_groups()
    rates(found, f"pairs/{'CPU-s' if threads == 1 else 's'}")
    middle, low, high = ratio(*found.values())
    overhead = (middle - 1, low - 1, high - 1)
    figures.tell("engine_overhead", overhead, "share", "<= 0.10", n_rounds, others.share())


def measure_bf16(threads: int, n_rounds: int, figures: Figures, *, forced: bool) -> None:
    """bf16 beside float32: steps of the paper model, and losses beside those of another seed."""
    if not (forced or has_amx()):
        print("bf16: left out, because this CPU has no AMX and would emulate it")
        return
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    side, others = SIDES[0], Others()
    pair = {"ours, bf16": bare("bf16"), "ours, fp32": bare()}
    best = {f"bf16 product {side} x {side} x {side}": product(side, side, side, torch.bfloat16)}
    found = turns({name: timed(step, clock) for name, step in (pair | best).items()}, n_rounds)
    lowered, exact, products = found.values()
    rates({name: found[name] for name in pair}, f"pairs/{'CPU-s' if threads == 1 else 's'}")
    share = statistics.median(lowered) * train_flops(SHAPE) / statistics.median(products)
    print(f"{share:.0%} of the rate of a square product in bf16")
    figures.tell("bf16_speedup", ratio(lowered, exact), "x", ">= 2.5", n_rounds, others.share())
    others = Others()
    gap, told = trained.loss_gap()
    print(told)
    figures.tell("bf16_loss_gap", gap, "x", "<= 1.0", 1, others.share())


def measure_ranks(n_rounds: int, figures: Figures) -> None:
    """Two ranks of one thread against one, at ZeRO stages 0 and 1."""
    groups: dict[str, Ranks] = {}
    for stage, (two, one) in itertools.product(STAGES, PAIRS.values()):
        for n, k in ((1, one), (2, two)):
            name = f"{n} rank(s), ZeRO {stage}, {k * BATCH} pairs"
            groups[name] = groups.get(name) or Ranks(n, stage, k * BATCH)
    for group in groups.values():  # they start one after the other
        group.turn()
    others = Others([process for group in groups.values() for process in group.processes])
    found = turns({name: group.turn for name, group in groups.items()}, n_rounds)
    busy = others.share()
    for group in groups.values():
        group.close()
    rates(found, "pairs/s")
    for stage, (name, (two, one)) in itertools.product(STAGES, PAIRS.items()):
        above, below = (f"{n} rank(s), ZeRO {stage}, {k * BATCH} pairs" for n, k in ((2, two), (1, one)))
        speedup = ratio(found[above], found[below])
        stage_0 = "_zero0" * (stage == 0)  # 1 is the default
        figures.tell(f"two_rank_speedup{stage_0}{name}", speedup, "x", ">= 1.8", n_rounds, busy)


def main() -> None:
    parts = ("steps", "engine", "ranks", "plan", "checkpoint", "bf16")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="of which medians are taken")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of one process")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="leave others out")
    parser.add_argument("--quick", action="store_true", help="a toy size: does it run, not how fast")
    parser.add_argument("--as-rank", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_rank:
        as_rank(*options.as_rank)
        return
    if options.quick:
        globals().update(QUICK)
        vars(trained).update(trained.QUICK)
        options.rounds, options.threads = 2, 1  # quartiles need two
    figures = Figures(trained.device_name())
    print(f"{figures.device}, torch {torch.__version__}")
    if "steps" in options.only:
        measure_steps(options.threads, options.rounds, figures)
    if "engine" in options.only:
        measure_engine(options.threads, options.rounds, figures)
    if "bf16" in options.only:
        measure_bf16(options.threads, options.rounds, figures, forced=options.quick)
    if "ranks" in options.only:
        measure_ranks(options.rounds, figures)
    if "plan" in options.only:
        trained.measure_plan(figures.tell, lambda: Others().share)
    if "checkpoint" in options.only:
        others = Others()
        share, told = trained.checkpoint_share()
        print(f"checkpoint of the {trained.PRESET} preset: {told}")
        figures.tell("checkpoint_share", share, "share", "<= 0.03", 1, others.share())
    figures.print()
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
