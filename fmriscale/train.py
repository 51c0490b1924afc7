"""Pre-training: Next Thought Prediction on a corpus, from one CPU to many nodes.

    deepspeed fmriscale/train.py --config configs/pretrain_demo.yaml
    deepspeed --num_accelerators 2 fmriscale/train.py --config configs/pretrain_demo.yaml --train.lr 1e-4
    sbatch slurm/pretrain.sh configs/pretrain_base.yaml

Run again, the same command goes on from the newest checkpoint. Exit code 85: stopped on request and
saved, start me again.
"""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from fmriscale import __version__
from fmriscale.config import PretrainConfig
from fmriscale.corpus.reader import Corpus
from fmriscale.errors import EXIT_OK, EXIT_STOPPED, UserError, end_process, exit_code_of
from fmriscale.files import expand
from fmriscale.model.encoder import Encoder, EncoderConfig, build, count_parameters
from fmriscale.model.export import read_meta, save_encoder
from fmriscale.model.flops import train_flops
from fmriscale.model.objectives import ntp_loss
from fmriscale.recipe import config_hash, flatten, parse, save_config, to_dict
from fmriscale.sampling.loader import NTPLoader, select_runs
from fmriscale.sampling.part import Part
from fmriscale.sampling.persistence import area_under_curve, best_threshold, persistence_score
from fmriscale.training import cluster, zero
from fmriscale.training.checkpoint import Checkpoints, check_resumable, fixed_changes
from fmriscale.training.cluster import Cluster
from fmriscale.training.feed import Feed, MicroBatch, batch_memory, to_device
from fmriscale.training.memory import states
from fmriscale.training.rehearsal import rehearse
from fmriscale.training.resilience import NonFiniteGuard, StopRequest
from fmriscale.training.schedule import BatchPlan, learning_rate, plan_batch
from fmriscale.training.shape import shape_for
from fmriscale.training.telemetry import (
    KIND_NAMES,
    Record,
    Tally,
    console_line,
    eval_line,
    introduction,
    numbers,
)
from fmriscale.training.tracking import Tracker


def main(args: list[str] | None = None) -> int:
    """Train from a command line; return the exit code."""
    config = parse(PretrainConfig, args, prog="train.py")
    out = expand(config.out)
    if is_finished(config, out):
        return EXIT_OK
    stop = StopRequest()
    place = cluster.join()
    try:
        return train(config, out, place, stop)
    finally:
        cluster.leave()


def train(config: PretrainConfig, out: Path, place: Cluster, stop: StopRequest) -> int:
    """Run the steps that are left of a run, and export the encoder after the last."""
    settings = config.train

    def say(text: str) -> None:
        if place.leads:
            print(text, flush=True)

    # The data: which pairs, in which order.
    corpus = Corpus.open(config.data.corpus, config.data.cache, config.data.cache_gb)
    loader = open_loader(corpus, config, place, "train")
    held_out = open_loader(corpus, config, place, "eval") if has_held_out(corpus, config) else None
    plan = plan_batch(settings.global_batch, settings.max_micro_batch, place.world_size)
    shape = shape_for(config, loader)

    # Where an earlier life of this run stopped.
    checkpoints = Checkpoints(out / "checkpoints", place, settings.keep_last)
    found, notes = checkpoints.newest()
    state: dict[str, Any] = {"step": 0, "seen": dict.fromkeys(loader.datasets, 0), "bad_steps": 0}
    if found:
        notes += check_resumable(found, to_dict(config), place.world_size, loader.state, shape.to_dict())
        notes.append(f"resumed from {found.folder}")
        state = {**found.state, "seen": state["seen"] | found.state["seen"]}
    start = state["step"]

    # The model: the same weights on every rank, in a DeepSpeed engine.
    precision = zero.pick_precision(settings, place.device)
    model = build(shape, settings.seed)
    model.encoder.recompute = settings.activation_checkpointing
    n_parameters = count_parameters(model)
    engine = zero.make_engine(model, settings, plan, precision, place.device)
    if settings.compile:
        model.encoder.compile_blocks()
    torch.manual_seed(settings.seed + 1 + place.rank)  # dropout differs between ranks
    if found:
        checkpoints.load(engine, found)

    # The records: rank 0 alone writes.
    record = tracker = None
    if place.leads:
        save_config(config, out / "config.yaml")
        record = Record(out / "metrics.jsonl", start)
        tracker = Tracker(config.tracking, out.parent, out.name, run_id=state.get("mlflow_run_id"))
        tracker.log_params(
            flatten(to_dict(config)) | {"world_size": place.world_size, "precision": precision}
        )
    for line in introduction(config, place, plan, precision, shape, n_parameters, corpus, loader, held_out):
        say(line)
    for line in notes:
        say(line)
    gradients = states(n_parameters, settings.zero_stage, place.world_size, precision).gradients
    rehearse(engine.module, loader, plan, place.device, room=gradients if plan.accumulation > 1 else 0)
    if tracker and tracker.run_id:
        say(f"MLflow   run {tracker.run_id} in {tracker.uri}")
    baseline = persistence(loader, held_out, settings.eval_pairs) if held_out and place.leads else {}

    def evaluate_and_tell(step: int) -> None:
        if held_out is None:
            return
        tally = evaluate(engine, held_out, plan, place, settings.eval_pairs)
        line = {"event": "eval", "step": step, **tally.summary(), "persistence": baseline}
        if record and tracker:
            record.write(line)
            tracker.log_metrics(numbers(line, "eval/"), step)
            say(eval_line(line))

    def save(step: int) -> None:
        begun = time.perf_counter()
        if record:
            record.sync()
        state.update(
            step=step,
            samples_seen=step * plan.pairs,
            bad_steps=guard.total,
            world_size=place.world_size,
            precision=precision,
            config=to_dict(config),
            data=loader.state,
            encoder=shape.to_dict(),
            corpus_fingerprint=corpus.fingerprint,
            mlflow_run_id=cluster.leaders(tracker.run_id if tracker else None),
            fmriscale=__version__,
        )
        folder = checkpoints.save(engine, state)
        say(f"saved {folder} in {time.perf_counter() - begun:.1f} s")

    guard = NonFiniteGuard(settings.max_bad_steps)
    guard.total = state["bad_steps"]
    feed = Feed(loader, plan, place.rank, place.device, start + 1)
    saved, ending = start, "FAILED"
    try:
        if start == 0:
            evaluate_and_tell(0)

        for step in range(start + 1, settings.steps + 1):
            begun, waited = time.perf_counter(), feed.waited

            # One step: forward and backward for each micro-batch; the engine sums and steps at the last.
            lr = learning_rate(
                step,
                peak=settings.lr,
                steps=settings.steps,
                warmup=settings.warmup_steps,
                schedule=settings.schedule,
            )
            zero.set_learning_rate(engine, lr)
            engine.train()
            bad_before = engine.skipped_steps
            tally = Tally(loader.datasets, place.device)
            for _ in range(plan.accumulation):
                pairs = next(feed)
                loss_B, correct_B = forward(engine, pairs)
                engine.backward(loss_B.mean())
                engine.step()
                tally.add(loss_B.detach(), correct_B, pairs.kind, pairs.dataset)

            # One exchange a step: the sums of all ranks, and whether any was asked to stop.
            tally.sums[-1, 0] = float(bool(stop))
            cluster.total(tally.sums)
            stopping = bool(tally.sums[-1, 0] > 0)
            summary = tally.summary()
            for name, count in tally.pairs_by_dataset().items():
                state["seen"][name] += count

            # What rank 0 tells.
            seconds = time.perf_counter() - begun
            finite = math.isfinite(summary["loss"]) and engine.skipped_steps == bad_before
            line = {
                "step": step,
                **summary,
                "lr": lr,
                "grad_norm": zero.grad_norm(engine),
                "finite": finite,
                "pairs_per_s": plan.pairs / seconds,
                "flops_per_s": plan.pairs / seconds * train_flops(shape, pairs.space, pairs.left.shape[1]),
                "space": pairs.space,
                "data_wait_share": (feed.waited - waited) / seconds,
                "seen": dict(state["seen"]),
            }
            if record and tracker:
                record.write(line)
                if step % settings.log_every == 0 or step == settings.steps or step == start + 1:
                    say(console_line(line, settings.steps))
                    tracker.log_metrics(numbers(line, "train/"), step)
            if not finite:
                say(f"step {step}: loss or gradient is not finite, the weights are left alone")
            guard.check(step, finite, plan.pairs)

            # Look at held-out runs, save, stop.
            if settings.eval_every and step % settings.eval_every == 0 and step < settings.steps:
                evaluate_and_tell(step)
            if step % settings.save_every == 0 or (stopping and step < settings.steps):
                save(step)
                saved = step
            if stopping and step < settings.steps:
                stop.deafen()
                ending = "KILLED"
                say(f"asked to stop ({stop.name or 'another rank'}): saved at step {step}, start me again")
                return EXIT_STOPPED

        # The end product.
        evaluate_and_tell(settings.steps)
        if saved < settings.steps:
            save(settings.steps)
        weights = zero.whole_weights(engine.module.encoder, place.device, keep=place.leads)
        if place.leads and record and tracker:
            export(out, config, shape, weights, corpus, loader)
            for path in (out / "config.yaml", out / "metrics.jsonl", out / "encoder" / "config.json"):
                tracker.log_artifact(path, "encoder" if path.parent.name == "encoder" else None)
            say(f"done: {out / 'encoder'}")
        ending = "FINISHED"
        return EXIT_OK
    finally:
        feed.close()
        if record and tracker:
            record.close()
            tracker.close(ending)


def forward(model: Any, pairs: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return loss and correctness of each pair."""
    logits_BC = model(pairs.left, pairs.right, pairs.t_r, pairs.space)
    return ntp_loss(logits_BC, pairs.label), logits_BC.argmax(dim=1) == pairs.label


@torch.no_grad()
def evaluate(engine: Any, loader: NTPLoader, plan: BatchPlan, place: Cluster, n_pairs: int) -> Tally:
    """Loss and accuracy on fixed held-out pairs, the same ones on any number of ranks.

    Every rank does equally many forward passes; pairs beyond the last fill up and are not counted.
    """
    engine.eval()
    tally = Tally(loader.datasets, place.device)
    for part, n_part in shares(loader, n_pairs):
        for start in range(0, n_part, plan.micro * place.world_size):
            first = start + place.rank * plan.micro
            pairs = to_device(part.batch(first, plan.micro), place.device)
            filler_B = torch.arange(first, first + plan.micro, device=place.device) >= n_part
            loss_B, correct_B = forward(engine, pairs)
            kind_B, dataset_B = (group.masked_fill(filler_B, -1) for group in (pairs.kind, pairs.dataset))
            tally.add(loss_B, correct_B, kind_B, dataset_B)
    cluster.total(tally.sums)
    return tally


def shares(loader: NTPLoader, n_pairs: int) -> list[tuple[Part, int]]:
    """Divide pairs among the parts of a loader by data sets; no more than an epoch of each."""
    wanted = [math.ceil(n_pairs * len(part.datasets) / len(loader.datasets)) for part in loader.parts]
    return [(part, min(n, 2 * int(part.windows.sum()))) for part, n in zip(loader.parts, wanted, strict=True)]


def persistence(loader: NTPLoader, held_out: NTPLoader, n_pairs: int) -> dict[str, Any]:
    """How far autocorrelation alone gets on the held-out pairs; its threshold is from training pairs."""

    def scored(source: NTPLoader) -> tuple[np.ndarray, np.ndarray]:
        batches = [part.batch(0, n) for part, n in shares(source, n_pairs)]
        volumes = [
            (torch.as_tensor(b.left).cpu().numpy(), torch.as_tensor(b.right).cpu().numpy()) for b in batches
        ]
        scores = [persistence_score(left, right) for left, right in volumes]
        return np.concatenate(scores), np.concatenate([batch.kind for batch in batches])

    score, kind = scored(loader)
    threshold = best_threshold(score, kind == 0)
    score, kind = scored(held_out)
    correct = (score > threshold) == (kind == 0)
    return {
        "acc": float(correct.mean()),
        "auc": area_under_curve(score, kind == 0),
        "acc_by_kind": {KIND_NAMES[k]: float(correct[kind == k].mean()) for k in np.unique(kind)},
    }


def open_loader(
    corpus: Corpus, config: PretrainConfig, place: Cluster, split: Literal["train", "eval"]
) -> NTPLoader:
    """Open the runs of a split."""
    batch = config.train.global_batch
    return NTPLoader(
        corpus, config.data, split, config.train.seed, batch, place.device, batch_memory(place.device)
    )


def has_held_out(corpus: Corpus, config: PretrainConfig) -> bool:
    """Tell whether the corpus has runs to evaluate on."""
    return len(select_runs(corpus, config.data, "eval")) > 0


def export(
    out: Path,
    config: PretrainConfig,
    shape: EncoderConfig,
    weights: dict[str, torch.Tensor],
    corpus: Corpus,
    loader: NTPLoader,
) -> None:
    """Write `encoder/`: weights, and what a study must know about them."""
    encoder = Encoder(shape)
    encoder.load_state_dict(weights)
    t_r = corpus.runs.t_r[corpus.runs.key.isin(loader.run_keys)]
    meta = {
        "feature_spaces": {name: space.to_dict() for name, space in loader.spaces.items()},
        "pairs": dataclasses.asdict(config.data.pairs),
        "t_r": [float(t_r.min()), float(t_r.max())],
        "train_runs": list(loader.run_keys),
        "corpus_fingerprint": corpus.fingerprint,
        "config": to_dict(config),
        "config_hash": config_hash(config),
        "step": config.train.steps,
        "fmriscale": __version__,
    }
    save_encoder(out / "encoder", encoder, meta)


def is_finished(config: PretrainConfig, out: Path) -> bool:
    """Tell whether this run has been made already; refuse to take another's folder for it."""
    folder = out / "encoder"
    if not (folder / "config.json").exists():
        return False
    meta = read_meta(folder)["meta"]
    if fixed := fixed_changes(meta["config"], to_dict(config)):
        raise UserError(f"{folder} is the finished encoder of another run: {fixed}. Choose another `out`")
    if meta["step"] < config.train.steps:
        return False
    print(f"{folder} is finished: {meta['step']} steps; nothing to do")
    return True


if __name__ == "__main__":
    end_process(exit_code_of(main))
