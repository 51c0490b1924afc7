"""Pre-training on one rank of a run: join, resume, step, save, export."""

import contextlib
import dataclasses
import math
import os
import time
from pathlib import Path
from typing import Any, Literal

import torch

from fmriscale.common.errors import EXIT_OK, EXIT_STOPPED, UserError
from fmriscale.common.files import expand, writing_to
from fmriscale.common.version import __version__
from fmriscale.config import PretrainConfig
from fmriscale.config.recipe import config_hash, flatten, parse, save_config, to_dict
from fmriscale.corpus.reader import Corpus
from fmriscale.model.encoder import Encoder
from fmriscale.model.flops import train_flops
from fmriscale.model.presets import EncoderConfig
from fmriscale.sampling.loader import NTPLoader, select_runs
from fmriscale.tracking import Tracker
from fmriscale.training import cluster, zero
from fmriscale.training.checkpoint import Checkpoints, SaveError
from fmriscale.training.cluster import Cluster
from fmriscale.training.continuation import check_resumable, is_finished
from fmriscale.training.evaluation import persistence, shares
from fmriscale.training.feed import Feed, batch_memory, name_bad_pairs
from fmriscale.training.objective import Objective
from fmriscale.training.rehearsal import rehearse
from fmriscale.training.resilience import NonFiniteGuard, StopRequest, Watchdog, note_outcome, time_limit
from fmriscale.training.schedule import BatchPlan, learning_rate, plan_batch
from fmriscale.training.shape import shape_for
from fmriscale.training.state_memory import states
from fmriscale.training.telemetry import (
    SPIKE,
    Pace,
    Record,
    Tally,
    console_line,
    eval_line,
    introduction,
    numbers,
    peak_flops,
    save_line,
    spike_score,
)


def pretrain(args: list[str], begun: float, stop: StopRequest) -> int:
    """Join the other ranks and train; return the exit code."""
    place = cluster.join()
    try:
        with cluster.together():
            config = parse(PretrainConfig, args, prog="train.py")
            out = expand(config.out)
            finished = is_finished(config, out)
        if finished:
            print(f"{finished}; nothing to do\n" * place.leads, end="", flush=True)
            return EXIT_OK
        stop.ends = time_limit(os.environ, config.train.max_minutes, begun)
        turn = place.local_rank / place.local_size
        with contextlib.closing(Watchdog(config.train.hang_minutes, turn)) as watchdog:
            return train(config, out, place, stop, watchdog)
    except UserError as error:
        stop.deafen()
        if not error.agreed:
            cluster.alarm(error)
        if place.leads or not error.agreed:
            raise
        return error.exit_code
    except BaseException as error:
        cluster.alarm(error)
        raise
    finally:
        cluster.leave()
        zero.forget_ranks()


def train(config: PretrainConfig, out: Path, place: Cluster, stop: StopRequest, watchdog: Watchdog) -> int:
    """Run the steps that are left of a run, and export the encoder after the last."""
    settings = config.train

    def say(text: str) -> None:
        if place.leads:
            with contextlib.suppress(OSError):  # a log on a full disk, a closed pipe
                print(text, flush=True)

    # The data: which pairs, in which order.
    with cluster.together():
        corpus = Corpus.open(config.data.corpus, config.data.cache, config.data.cache_gb)
        loader = open_loader(corpus, config, place, "train")
        held_out = open_loader(corpus, config, place, "eval") if has_held_out(corpus, config) else None
        plan = plan_batch(settings.global_batch, settings.max_micro_batch, place.world_size)
        shape = shape_for(config, loader)
        precision = zero.pick_precision(settings, place.device)
    objective = Objective.of(settings)

    # Where an earlier life of this run stopped.
    checkpoints = Checkpoints(out / "checkpoints", place, settings.keep_last, settings.keep_every)
    found, notes = checkpoints.newest()
    state: dict[str, Any] = {"step": 0, "seen": dict.fromkeys(loader.datasets, 0), "bad_steps": 0}
    here = {
        "world_size": place.world_size,
        "precision": precision,
        "config": to_dict(config),
        "data": loader.state,
        "encoder": shape.to_dict(),
        "corpus_fingerprint": corpus.fingerprint,
        "fmriscale": __version__,
    }
    if found:
        with cluster.together():
            notes += check_resumable(found, here)
        notes.append(f"resumed from {found.folder}")
        state = {**found.state, "seen": state["seen"] | found.state["seen"]}
    state |= here
    start = state["step"]

    # The model: the same weights on every rank, in a DeepSpeed engine.
    with cluster.together():
        with zero.dealt(settings, plan, precision, place.device):
            model = objective.build(shape)
        n_parameters = zero.count_parameters(model)
        model.encoder.recompute = settings.activation_checkpointing
        engine = zero.make_engine(model, settings, plan, precision, place)
    if settings.compile:
        model.encoder.compile_blocks()
    torch.manual_seed(settings.seed + 1 + place.rank + start * 1_000_003)  # dropout differs between ranks
    if found:
        checkpoints.load(engine, found)

    # What runs where, and a first pass that finds what would fail at step 1.
    for line in introduction(config, place, plan, precision, shape, n_parameters, corpus, loader, held_out):
        say(line)
    for line in notes:
        say(line)
    gradients = states(n_parameters, settings.zero_stage, place.world_size, precision).gradients
    watchdog.beat()
    with cluster.together():
        room = gradients if plan.accumulation > 1 else 0
        rehearse(engine.module, loader, plan, place.device, room, objective)

    # The records: rank 0 alone writes.
    record = tracker = None
    with cluster.together(), writing_to(out):
        if place.leads:
            save_config(config, out / "config.yaml")
            record = Record(out / "metrics.jsonl", start)
    if place.leads:
        tracker = Tracker(config.tracking, out.parent, out.name, run_id=state.get("mlflow_run_id"))
        tracker.log_params(
            flatten(to_dict(config)) | {"world_size": place.world_size, "precision": precision}
        )
    if tracker and tracker.run_id:
        say(f"MLflow   run {tracker.run_id} in {tracker.uri}")
    baseline = persistence(loader, held_out, settings.eval_pairs) if held_out and place.leads else {}

    def look_at_held_out(step: int) -> bool:
        """Evaluate; tell whether a checkpoint of this step would be the best so far."""
        watchdog.beat()
        if held_out is None:
            return False
        tally = evaluate(engine, held_out, plan, place, settings.eval_pairs, objective)
        line = {"event": "eval", "step": step, **tally.summary(), "persistence": baseline}
        if record and tracker:
            record.write(line)
            tracker.log_metrics(numbers(line, "eval/"), step)
            say(eval_line(line))
        best = state.get("best", {"loss": math.inf})["loss"]
        if not settings.keep_best or step == 0 or not line["loss"] < best:
            return False
        state["best"] = {"step": step, "loss": line["loss"]}
        return True

    def save(step: int) -> None:
        """Copy a checkpoint; it is written while training goes on."""
        if checkpoints.pending:
            conclude()
        run_id = cluster.leaders(tracker.run_id if tracker else None)
        state.update(step=step, samples_seen=step * plan.pairs, bad_steps=guard.total, mlflow_run_id=run_id)
        checkpoints.save(engine, state)

    def conclude(must: bool = False) -> None:
        """Make a checkpoint of what was copied, once all ranks have written it."""
        told = checkpoints.commit(record.sync if record else None)
        if record:
            record.write({"event": "save", **told})
        say(save_line(told))
        if not told["error"] and place.leads:
            note_outcome("saved")
        if told["error"] and must:
            why = f"no checkpoint of step {told['step']}: {told['error']}"
            raise SaveError(f"{why}; mend that, then start again")

    guard = NonFiniteGuard(settings.max_bad_steps, state["bad_steps"])
    pace = Pace(plan, peak_flops(place.device, precision) if place.leads else 0.0)
    feed = Feed(loader, plan, place.rank, place.device, start + 1, objective.add_masks)
    ending = "FAILED"
    try:
        if start == 0:
            look_at_held_out(0)

        for step in range(start + 1, settings.steps + 1):
            watchdog.beat()
            begun, waited, last = time.perf_counter(), feed.waited, step == settings.steps

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
            tally, totals = Tally(loader.datasets, place.device, objective), []
            for _ in range(plan.accumulation):
                pairs = next(feed)
                losses = objective.losses(engine, pairs)
                engine.backward(losses.total.mean())
                engine.step()
                totals.append(losses.total.detach())
                tally.add(losses, pairs.kind, pairs.dataset)

            # One exchange a step: the sums of all ranks, whether any was asked to stop, or still writes.
            asked = stop.at_border(checkpoints.seconds)
            stopping, writing = tally.exchange(stop=asked, writing=checkpoints.writing)
            summary = tally.summary()
            for name, count in tally.pairs_by_dataset().items():
                state["seen"][name] += count
            finite = math.isfinite(summary["loss"]) and engine.skipped_steps == bad_before
            bad_pairs = [] if finite else name_bad_pairs(loader, plan, place, step, totals)

            # What rank 0 tells.
            if record and tracker:
                length = pairs.left.shape[1]
                line = {
                    "step": step,
                    **summary,
                    "spike": spike_score(summary["loss"], record.losses),
                    "lr": zero.learning_rate_of(engine),
                    "grad_norm": zero.grad_norm(engine),
                    "finite": finite,
                    **({} if finite else {"bad_pairs": bad_pairs}),
                    "space": pairs.space,
                    "seen": dict(state["seen"]),
                    **pace.measure(
                        time.perf_counter() - begun,
                        feed.waited - waited,
                        length,
                        train_flops(shape, pairs.space, length),
                    ),
                }
                record.write(line)
                if step % settings.log_every == 0 or last or step == start + 1 or line["spike"] >= SPIKE:
                    say(console_line(line, settings.steps))
                    tracker.log_metrics(numbers(line, "train/"), step)
                if not finite:
                    where = "; ".join(bad_pairs) or "in the gradient alone"
                    say(f"step {step}: not finite, the weights are left alone: {where}")
            if guard.note(finite):
                save(step)
                conclude(must=True)
                note_outcome("diverged")
                raise guard.error(step, plan.pairs)

            # Look at held-out runs, save, stop.
            best = (last or is_due(step, settings.eval_every)) and look_at_held_out(step)
            if checkpoints.pending and not writing:
                conclude()
            if last or stopping or best or is_due(step, settings.save_every):
                save(step)
            if stopping and not last:
                conclude(must=True)
                stop.deafen()
                ending = "KILLED"
                note_outcome("stopped")
                say(f"asked to stop ({stop.name or 'another rank'}): saved at step {step}, start me again")
                return EXIT_STOPPED

        if checkpoints.pending:
            conclude(must=True)

        # The end product.
        weights = zero.whole_weights(engine.module.encoder, place.device, keep=place.leads)
        with cluster.together(), writing_to(out):
            if place.leads and record and tracker:
                export(out / "encoder", config, shape, weights, corpus, loader, settings.steps)
                if best := state.get("best"):
                    weights = checkpoints.weights(best["step"], weights, prefix="encoder.")
                    export(out / "encoder_best", config, shape, weights, corpus, loader, best["step"])
                    told = f"best: step {best['step']} with held-out loss {best['loss']:.4f}"
                    say(f"{told}, {out / 'encoder_best'}")
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


def is_due(step: int, every: int) -> bool:
    """Tell whether something that is done every so many steps (0 = never) is done at this one."""
    return every > 0 and step % every == 0


@torch.no_grad()
def evaluate(
    engine: Any, loader: NTPLoader, plan: BatchPlan, place: Cluster, n_pairs: int, objective: Objective
) -> Tally:
    """Loss and accuracy on fixed held-out pairs, the same ones on any number of ranks.

    Every rank does equally many forward passes; pairs beyond the last fill up and are not counted.
    """
    engine.eval()
    tally = Tally(loader.datasets, place.device, objective)
    for group, n_group in shares(loader, n_pairs):
        for start in range(0, n_group, plan.micro * place.world_size):
            first = start + place.rank * plan.micro
            pairs = objective.add_masks(group.batch(first, plan.micro), first).to(place.device)
            filler_B = torch.arange(first, first + plan.micro, device=place.device) >= n_group
            losses = objective.losses(engine, pairs)
            kind_B, dataset_B = (code.masked_fill(filler_B, -1) for code in (pairs.kind, pairs.dataset))
            tally.add(losses, kind_B, dataset_B)
    cluster.total(tally.sums)
    return tally


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
    folder: Path,
    config: PretrainConfig,
    shape: EncoderConfig,
    weights: dict[str, torch.Tensor],
    corpus: Corpus,
    loader: NTPLoader,
    step: int,
) -> None:
    """Write the encoder of a step: weights, and what a study must know about them."""
    with torch.device("meta"):  # no second copy of the weights
        encoder = Encoder(shape)
    encoder.load_state_dict(weights, assign=True)
    t_r = corpus.runs.t_r[corpus.runs.key.isin(loader.run_keys)]
    meta = {
        "feature_spaces": {name: space.to_dict() for name, space in loader.spaces.items()},
        "pairs": dataclasses.asdict(config.data.pairs),
        "t_r": [float(t_r.min()), float(t_r.max())],
        "train_runs": list(loader.run_keys),
        "corpus_fingerprint": corpus.fingerprint,
        "config": to_dict(config),
        "config_hash": config_hash(config),
        "step": step,
        "fmriscale": __version__,
    }
    encoder.save_pretrained(folder, meta)
