"""What is measured and told: sums by kind and data set, `metrics.jsonl`, the console."""

import contextlib
import json
import math
import os
import resource
import time
from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fmriscale.common.files import atomic_write
from fmriscale.common.version import __version__
from fmriscale.config import KINDS, PretrainConfig
from fmriscale.corpus.reader import Corpus
from fmriscale.model.attention import sdpa_backend
from fmriscale.model.flops import GPUS
from fmriscale.model.losses import group_sums
from fmriscale.model.presets import EncoderConfig
from fmriscale.sampling.loader import NTPLoader
from fmriscale.training import cluster
from fmriscale.training.cluster import Cluster
from fmriscale.training.objective import Losses, Objective
from fmriscale.training.schedule import BatchPlan
from fmriscale.training.zero import TORCH_TYPES

KIND_NAMES = ("positive", *KINDS)
PAIRS, LOSS, CORRECT = range(3)
STOP, WRITING = range(2)
MASKED = -2
"""Row of the sums of masked volumes."""
SPIKE = 6.0
"""A loss of this score is told on the console."""
FLAT = 0.02
"""Losses are taken to deviate by this share of their median at least: at first they hardly differ."""
PEAK_S = 0.25
"""A CPU's product is watched for so long: threads start, and others may have the machine for a moment."""
RECENT = 128
"""Steps that a loss, and the time of a step, are compared with."""


class Tally:
    """Sums over pairs, by kind and by data set, in float64; ready to be added over ranks.

    Parameters
    ----------
    datasets : list of str
        Names in the order of their numbers.
    device : torch.device
        Where the pairs are.
    objective : Objective
        What is minimised.
    """

    def __init__(self, datasets: list[str], device: torch.device, objective: Objective) -> None:
        self.datasets, self.objective = datasets, objective
        # One row a kind, one a data set, one for masked volumes, and a last one for what ranks tell each
        # other: how many were asked to stop, and how many still write a checkpoint.
        self.sums = torch.zeros(len(KIND_NAMES) + len(datasets) + 2, 3, dtype=torch.float64, device=device)

    def add(self, losses: Losses, kind_B: torch.Tensor, dataset_B: torch.Tensor) -> None:
        """Add pairs; those of a negative kind and data set only fill up a batch."""
        n, loss_B = len(KIND_NAMES), losses.ntp.detach()
        self.sums[:n] += group_sums(loss_B, losses.correct, kind_B, n)
        self.sums[n:MASKED] += group_sums(loss_B, losses.correct, dataset_B, len(self.datasets))
        if losses.masked is not None:
            one = kind_B.clamp(max=0)
            self.sums[MASKED] += group_sums(losses.masked.detach(), losses.correct, one, 1)[0]

    def exchange(self, *, stop: bool, writing: bool) -> tuple[bool, bool]:
        """Add the sums of all ranks; tell whether any was asked to stop, and whether any still writes."""
        self.sums[-1, STOP], self.sums[-1, WRITING] = float(stop), float(writing)
        cluster.total(self.sums)
        return bool(self.sums[-1, STOP] > 0), bool(self.sums[-1, WRITING] > 0)

    def summary(self) -> dict[str, Any]:
        """Return loss and accuracy, overall and by kind and data set; only groups that had pairs.

        Loss and accuracy are those of NTP; where volumes are masked, `loss` is what is minimised, and
        `ntp_loss` and `masked_loss` are its parts without their weights.
        """
        rows = self.sums.tolist()
        kinds = {k: row for k, row in zip(KIND_NAMES, rows, strict=False) if row[PAIRS]}
        datasets = zip(self.datasets, rows[len(KIND_NAMES) : MASKED], strict=True)
        sets = {d: row for d, row in datasets if row[PAIRS]}
        pairs, loss, correct = (sum(row[i] for row in kinds.values()) for i in range(3))
        losses = {"loss": loss / pairs}
        if self.objective.masked:
            parts = loss / pairs, rows[MASKED][LOSS] / pairs
            losses = {"loss": self.objective.total(*parts), "ntp_loss": parts[0], "masked_loss": parts[1]}
        return {
            "pairs": int(pairs),
            **losses,
            "acc": correct / pairs,
            "loss_by_kind": {k: row[LOSS] / row[PAIRS] for k, row in kinds.items()},
            "acc_by_kind": {k: row[CORRECT] / row[PAIRS] for k, row in kinds.items()},
            "loss_by_dataset": {d: row[LOSS] / row[PAIRS] for d, row in sets.items()},
            "acc_by_dataset": {d: row[CORRECT] / row[PAIRS] for d, row in sets.items()},
        }

    def pairs_by_dataset(self) -> dict[str, int]:
        """Return the number of pairs of each data set."""
        return {d: int(row[PAIRS]) for d, row in zip(self.datasets, self._dataset_rows(), strict=True)}

    def _dataset_rows(self) -> list[list[float]]:
        return self.sums[len(KIND_NAMES) : MASKED].tolist()


class Record:
    """`metrics.jsonl`: one line a step and one an evaluation; written by rank 0 alone.

    What a full disk does not take is kept, and written as soon as there is room.

    Parameters
    ----------
    path : Path
        The file.
    step : int
        The step that training goes on from; later lines, of a life that was lost, are removed.

    Attributes
    ----------
    losses : deque of float
        The last finite losses of training steps.
    """

    def __init__(self, path: Path, step: int) -> None:
        kept = []
        self.losses: deque[float] = deque(maxlen=RECENT)
        for text in path.read_text().splitlines() if path.exists() else []:
            try:
                line = json.loads(text)
                if line["step"] > step or step == 0:
                    continue
                kept.append(text + "\n")
                self._remember(line)
            except (ValueError, KeyError, TypeError):
                continue  # cut off by a crash in the middle of a line
        atomic_write(path, "".join(kept))
        self._file = path.open("ab", buffering=0)
        self._unwritten = b""

    def write(self, line: dict[str, Any]) -> None:
        """Append a line; numbers that are not finite become null."""
        line = _finite(line)
        self._unwritten += (json.dumps(line, allow_nan=False) + "\n").encode()
        with contextlib.suppress(OSError):
            self._write()
        self._remember(line)

    def _remember(self, line: dict[str, Any]) -> None:
        if "event" not in line and line.get("loss") is not None:
            self.losses.append(line["loss"])

    def _write(self) -> None:
        while self._unwritten:
            self._unwritten = self._unwritten[self._file.write(self._unwritten) :]

    def sync(self) -> None:
        """Force the lines to disk, before a checkpoint that relies on them."""
        self._write()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Pace:
    """How fast steps are, and what the device reaches of its peak.

    Parameters
    ----------
    plan : BatchPlan
        The batch.
    peak : float
        Operations per second of one device at best, 0 = unknown.
    """

    def __init__(self, plan: BatchPlan, peak: float) -> None:
        self.plan, self.peak = plan, peak
        self._seconds: deque[float] = deque(maxlen=RECENT)

    def measure(self, seconds: float, waited: float, length: int, flops: float) -> dict[str, float]:
        """Return the figures of a step."""
        self._seconds.append(seconds)
        p50, p95 = np.quantile(self._seconds, (0.5, 0.95))
        rate = self.plan.pairs / seconds
        figures = {
            "pairs_per_s": rate,
            "volumes_per_s": 2 * length * rate,
            "flops_per_s": rate * flops,
            "data_wait_share": waited / seconds,
            "step_p50_s": float(p50),
            "step_p95_s": float(p95),
            "memory_gib": memory_gib(),
        }
        return figures | ({"mfu": rate * flops / (self.peak * self.plan.world)} if self.peak else {})


def peak_flops(device: torch.device, precision: str) -> float:
    """Operations per second of a device at best: its maker's figure, on a CPU measured; 0 = unknown."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device).replace(" ", "-")
        known = max((model for model in GPUS if model in name), key=len, default="")
        return GPUS[known][1] * (0.5e12 if precision == "fp32" else 1e12) if known else 0.0
    n, best = 512, math.inf
    left, right = torch.ones(2, n, n)
    end = time.perf_counter() + PEAK_S
    while (begun := time.perf_counter()) < end:
        torch.mm(left, right)
        best = min(best, time.perf_counter() - begun)
    return 2 * n**3 / best


def memory_gib() -> float:
    """Most memory that this rank has held: of its GPU, or of the process."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def spike_score(loss: float, recent: Collection[float]) -> float:
    """How far a loss lies above those before it: (loss - median) / (1.4826 x median absolute deviation).

    In units of a standard deviation, were they normal; a few wild losses among the recent ones change
    neither median nor deviation, which is 2 % of the median at least. 0 where there are fewer than 32 to
    compare with, or the loss is not finite.
    """
    if len(recent) < 32 or not math.isfinite(loss):
        return 0.0
    values = np.fromiter(recent, np.float64)
    median = np.median(values)
    deviation = 1.4826 * np.median(np.abs(values - median))
    return float((loss - median) / max(deviation, FLAT * abs(median), 1e-12))


def numbers(summary: dict[str, Any], prefix: str) -> dict[str, float]:
    """Turn nested numbers into MLflow's names: `eval/acc_by_kind.same_run`."""
    found: dict[str, float] = {}
    for key, value in summary.items():
        if isinstance(value, dict):
            found |= numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and math.isfinite(value):
            found[prefix + key] = float(value)
    return found


def introduction(
    config: PretrainConfig,
    place: Cluster,
    plan: BatchPlan,
    precision: str,
    shape: EncoderConfig,
    n_parameters: int,
    corpus: Corpus,
    loader: NTPLoader,
    held_out: NTPLoader | None,
) -> list[str]:
    """What runs where, on what: the first lines of the log."""
    device = torch.cuda.get_device_name(place.device) if place.device.type == "cuda" else "CPU"
    told = loader.describe()
    mixture = ", ".join(f"{name} {share:.1%}" for name, share in told["mixture"].items())
    spaces = ", ".join(
        f"space {group.space.name} of {group.space.n_features} features "
        f"in sequences of {group.length} volumes"
        for group in loader.groups
    )
    d_head, dtype = shape.d_model // shape.n_heads, TORCH_TYPES[precision]
    kernel = sdpa_backend(d_head, 2 * loader.length + 2, dtype, place.device)
    ways = [", activations computed again"] * config.train.activation_checkpointing
    ways += [", blocks compiled"] * config.train.compile
    objective = config.train
    if (objective.pair, objective.pool) != ("joint", "cls"):
        ways += [f", {objective.pair} pairs, {objective.pool} of tokens"]
    ways += [
        f"; NTP x {objective.ntp_weight:g} + {objective.masked_share:.0%} masked volumes x "
        f"{objective.masked_weight:g}"
    ] * (objective.masked_weight > 0)
    held = f"{len(held_out.run_keys)} runs held out" if held_out else "no run held out, so no evaluation"
    lines = [
        f"fmriscale {__version__}, torch {torch.__version__}, started by {place.launcher}",
        f"device   {place.world_size} x {device} ({place.local_size} on this node, "
        f"{torch.get_num_threads()} threads each), {precision}, ZeRO stage {config.train.zero_stage}",
        f"model    {shape.preset}: {n_parameters:,} parameters, width {shape.d_model}, {shape.n_layers} "
        f"layers, {shape.n_heads} heads, attention kernel {kernel}{''.join(ways)}",
        f"batch    {plan.pairs} pairs = {plan.micro} x {plan.accumulation} accumulated x {plan.world} ranks",
        f"corpus   {corpus} ({corpus.fingerprint[:12]}), {spaces}; {held}",
        f"pairs    {told['windows']:,} windows, {told['pairs_per_epoch']:,} pairs an epoch, "
        f"{config.train.steps * plan.pairs / told['pairs_per_epoch']:.1f} epochs; {mixture}; "
        f"negatives {', '.join(told['kinds'])}",
    ]
    return lines + [f"note     {note}" for note in told["notes"]]


def console_line(line: dict[str, Any], steps: int) -> str:
    """One readable line about a step."""
    kinds = " ".join(f"{k} {v:.2f}" for k, v in line["acc_by_kind"].items())
    mfu = f"mfu {line['mfu']:.0%} " if "mfu" in line else ""
    masked = f"masked {line['masked_loss']:.4f} " if "masked_loss" in line else ""
    spike = f"spike {line['spike']:.1f} " if line["spike"] >= SPIKE else ""
    return (
        f"{time.strftime('%H:%M:%S')} step {line['step']}/{steps} loss {line['loss']:.4f} {spike}{masked}"
        f"acc {line['acc']:.3f} ({kinds}) lr {line['lr']:.2e} grad {line['grad_norm']:.2f} "
        f"{line['pairs_per_s']:.0f} pairs/s {line['volumes_per_s']:.0f} volumes/s {mfu}"
        f"step {line['step_p50_s']:.3f}/{line['step_p95_s']:.3f} s wait {line['data_wait_share']:.1%} "
        f"mem {line['memory_gib']:.1f} GiB"
    )


def save_line(told: dict[str, Any]) -> str:
    """One readable line about a checkpoint that was, or was not, written."""
    if told["error"]:
        return f"warning: no checkpoint of step {told['step']}: {told['error']}; those before it are kept"
    return (
        f"saved {told['folder']}: {told['bytes'] / 1e6:,.1f} MB, training waited {told['copied']:.2f} s, "
        f"on disk after {told['written']:.1f} s"
    )


def eval_line(line: dict[str, Any]) -> str:
    """One readable line about an evaluation."""
    kinds = " ".join(f"{k} {v:.3f}" for k, v in line["acc_by_kind"].items())
    masked = f"masked {line['masked_loss']:.4f} " if "masked_loss" in line else ""
    return (
        f"{time.strftime('%H:%M:%S')} eval at {line['step']}: loss {line['loss']:.4f} {masked}"
        f"acc {line['acc']:.4f} ({kinds}); "
        f"persistence acc {line['persistence']['acc']:.4f} auc {line['persistence']['auc']:.4f}"
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
