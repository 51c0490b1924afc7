"""Lines of the console: what runs where, steps, evaluations, checkpoints."""

import time
from typing import Any

import torch

from fmriscale.common.version import __version__
from fmriscale.model.attention import sdpa_backend
from fmriscale.training.metrics import SPIKE
from fmriscale.training.run import Run
from fmriscale.training.zero import TORCH_TYPES, count_parameters


def introduction(run: Run, engine: Any) -> list[str]:
    """Return the first lines: what runs where, on what data."""
    world, loader, encoder, settings = run.world, run.loader, run.encoder, run.config.train
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "CPU"
    spaces = ", ".join(
        f"space {group.space.name} of {group.space.n_features} features "
        f"in sequences of {group.length} volumes"
        for group in loader.groups
    )
    held_out = "no run held out, so no evaluation"
    if run.held_out:
        held_out = f"{len(run.held_out.run_keys)} runs held out"
    data, n_parameters = loader.describe(), count_parameters(engine.module)
    mixture = ", ".join(f"{name} {share:.1%}" for name, share in data["mixture"].items())
    return [
        f"fmriscale {__version__}, torch {torch.__version__}, started by {world.launcher}",
        f"device   {world.world_size} x {device} ({world.local_size} on this node, "
        f"{torch.get_num_threads()} threads each), {run.precision}, ZeRO stage {settings.zero_stage}",
        f"model    {encoder.preset}: {n_parameters:,} parameters, width {encoder.d_model}, "
        f"{encoder.n_layers} layers, {encoder.n_heads} heads, {_computation(run)}",
        f"batch    {run.plan} ranks",
        f"corpus   {run.corpus} ({run.corpus.fingerprint[:12]}), {spaces}; {held_out}",
        f"pairs    {data['windows']:,} windows, {data['pairs_per_epoch']:,} pairs an epoch, "
        f"{settings.steps * run.plan.global_batch / data['pairs_per_epoch']:.1f} epochs; {mixture}; "
        f"negatives {', '.join(data['kinds'])}",
        *(f"note     {note}" for note in data["notes"]),
    ]


def _computation(run: Run) -> str:
    """Say how the model is computed, and what beside NTP it learns."""
    train, encoder = run.config.train, run.encoder
    n_tokens, dtype = 2 * run.loader.length + 2, TORCH_TYPES[run.precision]
    kernel = sdpa_backend(encoder.d_model // encoder.n_heads, n_tokens, dtype, run.world.device)
    text = f"attention kernel {kernel}"
    if train.activation_checkpointing:
        text += ", activations computed again"
    if train.compile:
        text += ", blocks compiled"
    if (train.pair, train.pool) != ("joint", "cls"):
        text += f", {train.pair} pairs, {train.pool} of tokens"
    if train.masked_weight > 0:
        masked = f"{train.masked_share:.0%} masked volumes x {train.masked_weight:g}"
        text += f"; NTP x {train.ntp_weight:g} + {masked}"
    return text


def step_line(line: dict[str, Any], steps: int) -> str:
    """Return a line about a step."""
    kinds = " ".join(f"{k} {v:.2f}" for k, v in line["acc_by_kind"].items())
    mfu = f"mfu {line['mfu']:.0%} " if "mfu" in line else ""
    spike = f"spike {line['spike']:.1f} " if line["spike"] >= SPIKE else ""
    return (
        f"{time.strftime('%H:%M:%S')} step {line['step']}/{steps} loss {line['loss']:.4f} "
        f"{spike}{_masked(line)}"
        f"acc {line['acc']:.3f} ({kinds}) lr {line['lr']:.2e} grad {line['grad_norm']:.2f} "
        f"{line['pairs_per_s']:.0f} pairs/s {line['volumes_per_s']:.0f} volumes/s {mfu}"
        f"step {line['step_p50_s']:.3f}/{line['step_p95_s']:.3f} s wait {line['data_wait_share']:.1%} "
        f"mem {line['memory_gib']:.1f} GiB"
    )


def save_line(saved: dict[str, Any]) -> str:
    """Return a line about a checkpoint that was, or was not, written."""
    if saved["error"]:
        return f"warning: no checkpoint of step {saved['step']}: {saved['error']}; those before it are kept"
    return (
        f"saved {saved['folder']}: {saved['bytes'] / 1e6:,.1f} MB, training waited {saved['copied']:.2f} s, "
        f"on disk after {saved['written']:.1f} s"
    )


def eval_line(line: dict[str, Any]) -> str:
    """Return a line about an evaluation."""
    kinds = " ".join(f"{k} {v:.3f}" for k, v in line["acc_by_kind"].items())
    return (
        f"{time.strftime('%H:%M:%S')} eval at {line['step']}: loss {line['loss']:.4f} {_masked(line)}"
        f"acc {line['acc']:.4f} ({kinds}); "
        f"persistence acc {line['persistence']['acc']:.4f} auc {line['persistence']['auc']:.4f}"
    )


def _masked(line: dict[str, Any]) -> str:
    return f"masked {line['masked_loss']:.4f} " if "masked_loss" in line else ""
