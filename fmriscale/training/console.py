"""Lines of the console: what runs where, steps, evaluations, checkpoints."""

import time
from typing import Any

import torch

from fmriscale.common.version import __version__
from fmriscale.model.attention import sdpa_backend
from fmriscale.model.encoder import count_parameters
from fmriscale.model.presets import slow_width
from fmriscale.sampling.groups import GroupLoader
from fmriscale.training.metrics import SPIKE
from fmriscale.training.run import Run
from fmriscale.training.zero import TORCH_TYPES

MOST_STIMULI = 6
"""Stimuli that are named one by one."""


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
    if keys := [key for of in (run.held_out, run.held_out_groups) if of for key in of.run_keys]:
        held_out = f"{len(set(keys))} runs held out"
    n_parameters = count_parameters(engine.module)
    return [
        f"fmriscale {__version__}, torch {torch.__version__}, started by {world.launcher}",
        f"device   {world.world_size} x {device} ({world.local_size} on this node, "
        f"{torch.get_num_threads()} threads each), ZeRO stage {settings.zero_stage}, "
        f"{run.precision}: {run.why_precision}",
        f"model    {encoder.preset}: {n_parameters:,} parameters, width {encoder.d_model}, "
        f"{encoder.n_layers} layers, {encoder.n_heads} heads, {_computation(run)}",
        *(f"note     {note}" for note in [slow_width(encoder, run.precision)] if note),
        f"corpus   {run.corpus} ({run.corpus.fingerprint[:12]}), {spaces}; {held_out}",
        *(_of_pairs(run) if settings.reads_pairs else []),
        *(_of_groups(run, run.groups) if run.groups else []),
    ]


def _of_pairs(run: Run) -> list[str]:
    """Say what pairs there are."""
    data, n_pairs = run.loader.describe(), run.config.train.steps * run.plan.global_batch
    mixture = ", ".join(f"{name} {share:.1%}" for name, share in data["mixture"].items())
    return [
        f"batch    {run.plan} ranks",
        f"pairs    {data['windows']:,} windows, {data['pairs_per_epoch']:,} pairs an epoch, "
        f"{n_pairs / data['pairs_per_epoch']:.1f} epochs; {mixture}; negatives {', '.join(data['kinds'])}",
        *(f"note     {note}" for note in data["notes"]),
    ]


def _of_groups(run: Run, groups: GroupLoader) -> list[str]:
    """Say who shares what."""
    stimuli = "; ".join(
        f"{name}: {of['people']} people, {of['windows']:,} windows, {of['group'][0]} x {of['group'][1]} "
        f"a step, {of['share']:.1%}"
        for name, of in list(groups.describe().items())[:MOST_STIMULI]
    )
    more = len(groups.describe()) - MOST_STIMULI
    n_epochs = run.config.train.steps / groups.n_groups
    lines = [
        f"groups   {groups.n_groups:,} groups an epoch, {n_epochs:.1f} epochs; {stimuli}"
        + (f"; and {more} stimuli more" if more > 0 else "")
    ]
    if run.held_out_groups is None:
        lines.append(
            "note     no two held-out people share a stimulus: the contrastive task is not evaluated"
        )
    return lines


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
    if train.deterministic:
        text += ", deterministic"
    if train.reads_pairs and (train.pair, train.pool) != ("joint", "cls"):
        text += f", {train.pair} pairs"
    if train.pool != "cls" or (train.reads_pairs and train.pair != "joint"):
        text += f", {train.pool} of tokens"
    tasks = {
        "NTP": train.ntp_weight,
        f"{train.masked_share:.0%} masked volumes": train.masked_weight,
        "contrastive": train.contrastive_weight,
        "connectivity": train.connectivity_weight,
    }
    terms = [f"{name} x {weight:g}" for name, weight in tasks.items() if weight > 0]
    return text if terms == ["NTP x 1"] else f"{text}; {' + '.join(terms)}"


def step_line(line: dict[str, Any], steps: int) -> str:
    """Return a line about a step."""
    windows = f"{line['windows_per_s']:.0f} windows/s " if "windows_per_s" in line else ""
    pairs = f"{line['pairs_per_s']:.0f} pairs/s " if line["pairs_per_s"] else ""
    mfu = f"mfu {line['mfu']:.0%} " if "mfu" in line else ""
    spike = f"spike {line['spike']:.1f} " if line["spike"] >= SPIKE else ""
    return (
        f"{time.strftime('%H:%M:%S')} step {line['step']}/{steps} loss {line['loss']:.4f} "
        f"{spike}{_terms(line)}{_accuracy(line, 3, 2)}lr {line['lr']:.2e} grad {line['grad_norm']:.2f} "
        f"{pairs}{windows}{line['volumes_per_s']:.0f} volumes/s {mfu}"
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
    text = (
        f"{time.strftime('%H:%M:%S')} eval at {line['step']}: loss {line['loss']:.4f} {_terms(line)}"
        f"{_accuracy(line, 4, 3)}"
    ).rstrip()
    if alone := line.get("persistence"):
        text += f"; persistence acc {alone['acc']:.4f} auc {alone['auc']:.4f}"
    return text


def _terms(line: dict[str, Any]) -> str:
    """Write the losses of the tasks beside NTP."""
    names = ("masked", "contrastive", "connectivity")
    text = "".join(f"{n} {line[f'{n}_loss']:.4f} " for n in names if f"{n}_loss" in line)
    return text + (f"right window {line['contrastive_acc']:.3f} " if "contrastive_acc" in line else "")


def _accuracy(line: dict[str, Any], digits: int, by_kind: int) -> str:
    """Write NTP's accuracy, where it is a task."""
    if "acc" not in line:
        return ""
    kinds = " ".join(f"{k} {v:.{by_kind}f}" for k, v in line["acc_by_kind"].items())
    return f"acc {line['acc']:.{digits}f} ({kinds}) "
