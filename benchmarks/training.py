"""Steps of the paper model against the published way, torch's own encoder, a bare loop and the machine.

    python benchmarks/training.py [--repeat 5] [--threads N] [--json FILE] [--only NAME ...]

Contenders take turns in one process, medians over --repeat. One thread is timed in CPU-seconds, more in
wall-clock seconds (then the machine must be quiet). Two ranks are two processes of one thread each, against
one of one thread. The checkpoint is of the base preset, written by train.py itself.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from fmriscale.config import ModelConfig, TrainConfig
from fmriscale.model.encoder import build, resolve_encoder
from fmriscale.model.flops import train_flops
from fmriscale.model.objectives import ntp_loss

ROOT = Path(__file__).resolve().parents[1]
FEATURES, LENGTH, BATCH = 417, 5, 256
WIDTH, LAYERS, HEADS = FEATURES + 3, 3, 2
TOKENS = 2 * LENGTH + 2
RATE = 1e-6
"""Learning rate: nothing is learnt by heart, or gradients would become denormal numbers, which are slow."""
ROUND_S = 1.0
"""A contender's turn takes at least so long."""
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


def bare() -> Callable[[], int]:
    """Our model in a plain torch loop."""
    model = build(SHAPE, 0).train()
    left, right, t_r, label = pairs(BATCH)
    return bare_loop(model, lambda: ntp_loss(model(left, right, t_r), label).mean())


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


def in_engine(n_pairs: int = BATCH) -> Callable[[], int]:
    """Our model in the DeepSpeed engine that train.py makes (ZeRO stage 1, float32)."""
    from fmriscale.training import cluster, zero
    from fmriscale.training.schedule import plan_batch

    place = cluster.join()
    plan = plan_batch(n_pairs, n_pairs, place.world_size)
    engine = zero.make_engine(build(SHAPE, 0), TrainConfig(lr=RATE), plan, "fp32", place.device)
    engine.train()
    left, right, t_r, label = pairs(plan.micro)

    def step() -> int:
        engine.backward(ntp_loss(engine(left, right, t_r), label).mean())
        engine.step()
        return n_pairs

    return step


def product(m: int, k: int, n: int) -> Callable[[], int]:
    """A matrix product; its work is counted in operations."""
    a, b, out = torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)

    def step() -> int:
        torch.mm(a, b, out=out)
        return 2 * m * k * n

    return step


# ---------------------------------------------------------------- measuring


def rates(
    contenders: dict[str, Callable[[], int]], repeat: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Work per second of each contender, all of them once a round."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for step in contenders.values():
        step(), step()
    for _ in range(repeat):
        for name, step in contenders.items():
            begun, work = clock(), 0
            while clock() - begun < ROUND_S:
                work += step()
            found[name].append(work / (clock() - begun))
    return found


def as_rank() -> None:
    """One rank of `ranks`: a batch in all, one thread; rank 0 prints pairs/s."""
    torch.set_num_threads(1)
    step = in_engine()
    for _ in range(3):
        step()
    begun, n_steps = time.perf_counter(), 12
    for _ in range(n_steps):
        step()
    rate = n_steps * BATCH / (time.perf_counter() - begun)
    if os.environ["RANK"] == "0":
        print(json.dumps(rate))
    torch.distributed.destroy_process_group()


def ranks(n: int) -> float:
    """Pairs per wall-clock second of n ranks of one thread."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    place = {"WORLD_SIZE": str(n), "LOCAL_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, __file__, "--as-rank"]
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **place, "RANK": str(r), "LOCAL_RANK": str(r), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for r in range(n)
    ]
    told = [p.communicate(timeout=600)[0] for p in processes]
    if any(p.returncode for p in processes):
        raise RuntimeError(f"{n} ranks ended with {[p.returncode for p in processes]}")
    return float(told[0].strip().splitlines()[-1])


def checkpoint_share() -> tuple[float, str]:
    """Share of training time that checkpoints of the base preset cost at the default interval."""
    sys.path.insert(0, str(ROOT / "tests"))
    from factory import write_corpus

    defaults, batch = TrainConfig(), 16
    with tempfile.TemporaryDirectory(prefix="fmriscale_bench_") as scratch:
        folder = Path(scratch)
        write_corpus(folder / "corpus", n_features=424)
        options = {"out": folder / "run", "data.corpus": folder / "corpus", "model.preset": "base"}
        options |= {"train.global_batch": batch, "train.steps": 3, "train.save_every": 2}
        options |= {"train.eval_every": 0, "tracking.enabled": "false"}
        command = [sys.executable, str(ROOT / "fmriscale/train.py")]
        command += [f"--{key}={value}" for key, value in options.items()]
        # This process may be a rank itself: nothing of that is handed on.
        ours = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        clean = {k: v for k, v in os.environ.items() if k not in ours}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=clean)
        lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    save = next(line for line in lines if line.get("event") == "save")
    step_s = batch / max(line["pairs_per_s"] for line in lines if "event" not in line)
    interval = defaults.save_every * defaults.global_batch / batch * step_s
    told = f"copied in {save['copied']:.1f} s, written in {save['written']:.1f} s beside training"
    return (save["copied"] + save["written"]) / interval, f"{told}; interval {interval:,.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5, help="rounds, of which the median is taken")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of one process")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument(
        "--only", nargs="+", choices=("steps", "ranks", "checkpoint"), help="leave others out"
    )
    parser.add_argument("--as-rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_rank:
        as_rank()
        return
    wanted = options.only or ("steps", "ranks", "checkpoint")
    figures: dict[str, dict] = {}

    def tell(name: str, value: float, unit: str, reference: str, median_of: int = options.repeat) -> None:
        figure = {"value": value, "unit": unit, "median_of": median_of, "reference": reference}
        figures[f"training.{name}"] = figure

    if "steps" in wanted:
        torch.set_num_threads(options.threads)
        clock = time.process_time if options.threads == 1 else time.perf_counter
        steps = {
            "ours, bare loop": bare(),
            "nn.TransformerEncoder": torch_encoder(),
            "authors' way": authors(),
        }
        rows = BATCH * TOKENS
        products = {
            f"product {m} x {k} x {n}": product(m, k, n)
            for m, k, n in (
                (rows, WIDTH, 4 * WIDTH),
                (rows, 4 * WIDTH, WIDTH),
                (1024, 1024, 1024),
                (2048,) * 3,
            )
        }
        found = rates({**steps, **products}, options.repeat, clock)
        # Apart: where DeepSpeed is loaded, anomaly detection takes ten times as long.
        pair = {"bare loop beside it": bare(), "ours, DeepSpeed engine": in_engine()}
        found |= rates(pair, options.repeat, clock)
        middle = {name: statistics.median(values) for name, values in found.items()}
        seconds = "CPU-s" if options.threads == 1 else "s"
        print(f"batch {BATCH}, {options.threads} thread(s), medians of {options.repeat}")
        for name in (*steps, *pair):
            print(f"{name:28}{middle[name]:9.1f} pairs/{seconds}")
        for name in products:
            print(f"{name:28}{middle[name] / 1e9:9.1f} GFLOP/{seconds}")
        ours = middle["ours, bare loop"]
        best = max(max(found[name]) for name in products)
        engine = statistics.median(
            bare_s / engine_s - 1
            for bare_s, engine_s in zip(
                found["bare loop beside it"], found["ours, DeepSpeed engine"], strict=True
            )
        )
        tell("speedup_vs_authors", ours / middle["authors' way"], "x", "25")
        tell("speedup_vs_torch_encoder", ours / middle["nn.TransformerEncoder"], "x", "1.3")
        tell("gemm_fraction", ours * train_flops(SHAPE) / best, "1", "1.0")
        tell("engine_overhead", engine, "1", "0.10")
    if "ranks" in wanted:
        one, two = [], []
        for _ in range(min(3, options.repeat)):
            one.append(ranks(1))
            two.append(ranks(2))
        print(
            f"one rank {statistics.median(one):.1f} pairs/s, two ranks {statistics.median(two):.1f} pairs/s"
        )
        tell("two_rank_speedup", statistics.median(two) / statistics.median(one), "x", "1.8", len(one))
    if "checkpoint" in wanted:
        share, text = checkpoint_share()
        print(f"checkpoint of the base preset: {text}")
        tell("checkpoint_share", share, "1", "0.03", 1)
    print()
    for name, figure in figures.items():
        print(f"{name:36}{figure['value']:9.3f} {figure['unit']:3} (aim: {figure['reference']})")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
