"""Figures from runs of train.py itself: the cost of checkpoints, and the rate beside the plan."""

import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fmriscale import cli, train
from fmriscale.config import PretrainConfig, TrainConfig
from fmriscale.config.recipe import parse
from fmriscale.training.prediction import Plan, cpu_flops

ROOT = Path(__file__).resolve().parents[1]
FEATURES = 424
PRESET = "base"
"""Of the model whose checkpoints are timed."""
N_ROUNDS, STEPS = 3, 24
"""Runs that are compared with the plan, and their steps."""
APART = True
"""Every run has processes of its own; at toy size most of its time would be theirs."""
Tell = Callable[[str, tuple[float, float, float] | float, str, str, int, float], None]


@contextlib.contextmanager
def corpus() -> Iterator[Path]:
    """A folder with a corpus of noise in it."""
    sys.path.insert(0, str(ROOT / "tests"))
    from factory import write_corpus  # pyright: ignore[reportMissingImports]

    with tempfile.TemporaryDirectory(prefix="fmriscale_bench_") as scratch:
        datasets = {"noise": {"subjects": 8, "n_volumes": 400}}
        write_corpus(Path(scratch) / "corpus", datasets=datasets, n_features=FEATURES)
        yield Path(scratch)


def run(folder: Path, settings: dict[str, Any], n_ranks: int = 1) -> tuple[list[dict], str]:
    """Train; return the lines of metrics.jsonl and the log."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        log = started(line_of(folder, Path(out), settings), n_ranks)
        text = (Path(out) / "run/metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()], log


def started(line: list[str], n_ranks: int) -> str:
    """Run train.py, in processes of its own if APART; return the log."""
    if not APART and n_ranks == 1:
        with contextlib.redirect_stdout(io.StringIO()) as log:
            code = train.main(line)
        if code:
            raise RuntimeError(f"train.py {' '.join(line)} ended with {code}")
        return log.getvalue()
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={n_ranks}"] if n_ranks > 1 else []
    command = [sys.executable, *launcher, str(ROOT / "fmriscale/train.py"), *line]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}")
    return done.stdout


def line_of(folder: Path, out: Path, settings: dict[str, Any]) -> list[str]:
    """The command line of a run on the corpus of a folder."""
    always = {"out": out / "run", "data.corpus": folder / "corpus", "train.eval_every": 0}
    always |= {"train.eval_pairs": 1, "tracking.enabled": "false"}
    recipe = [f"--config={settings['config']}"] if "config" in settings else []
    given = {key: value for key, value in (always | settings).items() if key != "config"}
    return [*recipe, *(f"--{key}={value}" for key, value in given.items())]


def checkpoint_share() -> tuple[float, str]:
    """Share of training time that checkpoints of a preset cost at the default interval, and more."""
    defaults, batch = TrainConfig(), 16
    settings = {"model.preset": PRESET, "train.global_batch": batch, "train.steps": 3, "train.save_every": 2}
    with corpus() as folder:
        lines, _ = run(folder, settings)
    save = next(line for line in lines if line.get("event") == "save")
    step_s = batch / max(line["pairs_per_s"] for line in lines if "event" not in line)
    interval = defaults.save_every * defaults.global_batch / batch * step_s
    told = f"copied in {save['copied']:.1f} s, written in {save['written']:.1f} s beside training"
    return (save["copied"] + save["written"]) / interval, f"{told}; interval {interval:,.0f} s"


CURVES: dict[str, Any] = {}
"""Settings of the runs whose losses are compared, over those of their recipe; {} = 2,000 steps of ABIDE."""
BLOCK = 50
"""Steps whose losses are averaged before runs are compared."""


def loss_gap() -> tuple[float, str]:
    """How far losses in bf16 are from those in float32, beside how far those of another seed are."""
    runs = {"fp32": {"train.precision": "fp32"}, "bf16": {"train.precision": "bf16"}}
    runs["seed"] = runs["fp32"] | {"train.seed": 1}
    curves = {}
    with corpus() if CURVES else abide() as folder:
        recipe = {} if CURVES else {"config": ROOT / "configs/pretrain_abide.yaml"}
        for name, settings in runs.items():
            lines, _ = run(folder, recipe | CURVES | settings)
            losses = [line["loss"] for line in lines if "event" not in line]
            starts = range(0, len(losses) - BLOCK + 1, BLOCK)
            curves[name] = [statistics.fmean(losses[start : start + BLOCK]) for start in starts]

    def apart(name: str) -> float:
        differences = [a - b for a, b in zip(curves[name], curves["fp32"], strict=True)]
        return statistics.fmean(d * d for d in differences) ** 0.5

    told = f"losses (means of {BLOCK} steps) of bf16 are {apart('bf16'):.5f} from those of fp32, "
    return apart("bf16") / apart("seed"), f"{told}of another seed {apart('seed'):.5f}"


@contextlib.contextmanager
def abide() -> Iterator[Path]:
    """A folder with the corpus of ABIDE in it, which FMRISCALE_DATA must have."""
    with tempfile.TemporaryDirectory(prefix="fmriscale_bench_") as scratch:
        line = ["shard", "--config", str(ROOT / "configs/corpus_abide.yaml"), "--out", f"{scratch}/corpus"]
        with contextlib.redirect_stdout(io.StringIO()):
            code = cli.run(line)
        if code not in (0, 3):  # 3: some scans are quarantined
            raise RuntimeError(
                f"fmriscale {' '.join(line)} ended with {code}; FMRISCALE_DATA must have ABIDE"
            )
        yield Path(scratch)


def device_name() -> str:
    """Model of the processor, and how much of it there is."""
    path = Path("/proc/cpuinfo")
    told = path.read_text().splitlines() if path.exists() else []
    model = next((line.split(": ", 1)[1] for line in told if line.startswith("model name")), "CPU")
    return f"{len(os.sched_getaffinity(0))} x {model}"


def steady(lines: list[dict], key: str) -> float:
    """Median of a figure over the later two thirds of the steps."""
    values = [line[key] for line in lines if "event" not in line and key in line]
    return statistics.median(values[len(values) // 3 :]) if values else 0.0


PLANNED = {
    "paper": ({"model.preset": "paper"}, 1),
    "paper_two_ranks": ({"model.preset": "paper"}, 2),
    "tiny": ({"model.preset": "tiny"}, 1),
}
"""What `fmriscale plan --cpu` is checked on, and on how many ranks."""
SMALL = {"model.preset": "tiny", "train.global_batch": 8}
QUICK = {"PRESET": "tiny", "N_ROUNDS": 1, "STEPS": 3, "APART": False, "PLANNED": {"tiny": (SMALL, 1)}}
QUICK |= {"CURVES": SMALL | {"model.n_layers": 1, "train.steps": 4}, "BLOCK": 2}


def measure_plan(tell: Tell, others: Callable[[], Callable[[], float]]) -> None:
    """Rates of runs of train.py over those that `fmriscale plan --cpu` says, each time anew."""
    with corpus() as folder:
        for name, (settings, n_ranks) in PLANNED.items():
            busy, ratios = others(), []
            more = settings | {"train.steps": STEPS, "train.save_every": STEPS}
            config = parse(PretrainConfig, line_of(folder, folder / "unused", more))
            plan = Plan.of(config, n_ranks, 1, "cpu")
            for _ in range(N_ROUNDS):
                lines, _ = run(folder, more, n_ranks)
                flops = cpu_flops(n_ranks, plan.precision(config.train.zero_stage))
                planned = n_ranks * plan.pairs_per_s_on_cpu(flops)
                found = steady(lines, "pairs_per_s")
                print(f"{name}: {found:,.0f} pairs/s by train.py, {planned:,.0f} planned")
                ratios.append(found / planned)
            spread = statistics.median(ratios), min(ratios), max(ratios)
            tell(f"rate_of_plan_{name}", spread, "x", "0.8-1.25", N_ROUNDS, busy())
