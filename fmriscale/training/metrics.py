"""`metrics.jsonl`, and the figures in it: spikes of the loss, rates, memory."""

import contextlib
import json
import math
import os
import resource
import time
from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fmriscale.common.files import atomic_write
from fmriscale.common.trust import parse_json
from fmriscale.model.flops import computed_flops, gpu_model, peak_tflops, train_flops
from fmriscale.model.presets import EncoderConfig
from fmriscale.sampling.batch import Batch
from fmriscale.sampling.groups import GroupBatch
from fmriscale.training.schedule import BatchPlan

SPIKE = 6.0
"""Spike score from which a loss is printed."""
SMALLEST_DEVIATION = 0.02
"""Losses deviate by this share of their median at least: at first they hardly differ."""
MEASURED_S = 0.25
"""Seconds for which a CPU's matrix product is timed: threads start, and others may use the machine."""
RECENT = 128
"""Steps that a loss, and the time of a step, are compared with."""


class MetricsFile:
    """`metrics.jsonl`: one line a step and one an evaluation.

    Lines that a full disk does not take are kept, and written as soon as there is room. Lines after the step
    that training resumes from are removed.
    """

    def __init__(self, path: Path, step: int) -> None:
        kept = []
        self.losses: deque[float] = deque(maxlen=RECENT)
        """The last finite losses of training steps."""
        for text in path.read_text(errors="replace").splitlines() if path.exists() and step > 0 else []:
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a crash has cut the line off
                line = parse_json(text)
                if line["step"] <= step:
                    kept.append(text + "\n")
                    self._remember(line)
        atomic_write(path, "".join(kept))
        self._file = path.open("ab", buffering=0)
        self._unwritten = b""

    def write(self, line: dict[str, Any]) -> None:
        """Append a line; numbers that are not finite become null."""
        line = _finite(line)
        self._unwritten += (json.dumps(line, allow_nan=False) + "\n").encode()
        with contextlib.suppress(OSError):
            self._flush()
        self._remember(line)

    def sync(self) -> None:
        """Force the lines to disk, before a checkpoint that relies on them."""
        self._flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _remember(self, line: dict[str, Any]) -> None:
        if "event" not in line and line.get("loss") is not None:
            self.losses.append(line["loss"])

    def _flush(self) -> None:
        while self._unwritten:
            self._unwritten = self._unwritten[self._file.write(self._unwritten) :]


class Work(NamedTuple):
    """What all ranks read and compute in a step."""

    pairs: int
    windows: int  # of people in a group
    volumes: int
    flops: float  # of the published computation
    computed: float  # that are done: where CLS alone is read, the last block computes no other token


def work_of(
    encoder: EncoderConfig, plan: BatchPlan, batch: Batch | None, group: GroupBatch | None, every_token: bool
) -> Work:
    """Return the work of a step from its first micro-batch; a window is half a pair."""
    parts: list[tuple[float, str, int]] = []
    if batch:
        parts.append((plan.global_batch, batch.space, batch.left.shape[1]))
    if group:
        parts.append((group.n_windows / 2, group.space, group.bold.shape[2]))
    return Work(
        pairs=plan.global_batch if batch else 0,
        windows=group.n_windows if group else 0,
        volumes=int(sum(2 * n * length for n, _, length in parts)),
        flops=sum(n * train_flops(encoder, space, length) for n, space, length in parts),
        computed=sum(
            n * computed_flops(encoder, space, length, every_token=every_token) for n, space, length in parts
        ),
    )


class StepTimer:
    """How fast steps are, and what a device reaches of its peak (operations per second; 0 = unknown)."""

    def __init__(self, world_size: int, peak: float) -> None:
        self.world_size, self.peak = world_size, peak
        self._seconds: deque[float] = deque(maxlen=RECENT)

    def measure(self, seconds: float, waited: float, work: Work) -> dict[str, float]:
        """Return the figures of a step."""
        self._seconds.append(seconds)
        p50, p95 = np.quantile(self._seconds, (0.5, 0.95))
        flops = work.flops / seconds
        figures = {
            "pairs_per_s": work.pairs / seconds,
            **({"windows_per_s": work.windows / seconds} if work.windows else {}),
            "volumes_per_s": work.volumes / seconds,
            "flops_per_s": flops,
            "data_wait_share": waited / seconds,
            "step_p50_s": float(p50),
            "step_p95_s": float(p95),
            "memory_gib": memory_gib(),
        }
        if self.peak:
            figures["mfu"] = work.computed / seconds / (self.peak * self.world_size)
        return figures


def peak_flops(device: torch.device, precision: str) -> float:
    """Return operations per second at best: of a GPU by its maker, of a CPU measured; 0 = unknown."""
    if device.type == "cuda":
        known = gpu_model(torch.cuda.get_device_name(device))
        return 1e12 * peak_tflops(known, precision) if known else 0.0
    n, best = 512, math.inf
    left, right = torch.ones(2, n, n, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    end = time.perf_counter() + MEASURED_S
    while (start := time.perf_counter()) < end:
        torch.mm(left, right)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def memory_gib() -> float:
    """Return the most memory that this rank has held: of its GPU, or of the process."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def spike_score(loss: float, recent: Collection[float]) -> float:
    """Return (loss - median) / (1.4826 x median absolute deviation) against the losses before.

    For normal losses this is in standard deviations, and a few wild ones among the recent change little. 0
    where there are fewer than 32 to compare with, or the loss is not finite.
    """
    if len(recent) < 32 or not math.isfinite(loss):
        return 0.0
    values = np.fromiter(recent, np.float64)
    median = np.median(values)
    deviation = 1.4826 * np.median(np.abs(values - median))
    return float((loss - median) / max(deviation, SMALLEST_DEVIATION * abs(median), 1e-12))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
