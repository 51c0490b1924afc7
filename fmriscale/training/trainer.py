"""A run under way: one step, an evaluation, a checkpoint, and the encoder at the end."""

import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fmriscale.common.files import writing_to
from fmriscale.common.version import __version__
from fmriscale.config.recipe import config_hash, to_dict
from fmriscale.model.encoder import Encoder
from fmriscale.training import zero
from fmriscale.training.checkpoint import Checkpoint, Checkpoints, SaveError
from fmriscale.training.distributed import agree_on_errors
from fmriscale.training.evaluation import evaluate
from fmriscale.training.feed import Feed, name_bad_pairs
from fmriscale.training.metrics import work_of
from fmriscale.training.origins import origins
from fmriscale.training.resilience import NonFiniteGuard, StopRequest, write_outcome
from fmriscale.training.run import Run
from fmriscale.training.run_log import RunLog
from fmriscale.training.schedule import learning_rate
from fmriscale.training.tally import Tally


@dataclass
class TrainState:
    """What changes from step to step and a checkpoint holds beside the engine's tensors."""

    step: int = 0
    """The last step that was made."""
    seen: dict[str, int] = dataclasses.field(default_factory=dict)
    """Pairs of each data set so far."""
    bad_steps: int = 0
    """Steps that were not finite."""
    mlflow_run_id: str | None = None
    best: dict[str, Any] | None = None
    """Step and loss of the best evaluation."""

    @classmethod
    def resume(cls, run: Run, checkpoint: Checkpoint | None) -> "TrainState":
        """Return the state of a checkpoint; without one that of the start."""
        state = checkpoint.state if checkpoint else {}
        values = {f.name: state[f.name] for f in dataclasses.fields(cls) if f.name in state}
        return cls(**values | {"seen": dict.fromkeys(run.loader.datasets, 0) | state.get("seen", {})})

    def to_dict(self) -> dict[str, Any]:
        """Return the values for a checkpoint."""
        values = dataclasses.asdict(self)
        return values if self.best else {k: v for k, v in values.items() if k != "best"}


class Trainer:
    """A run under way, as a context: it closes its records, as FAILED unless `status` says otherwise."""

    def __init__(self, run: Run, engine: Any, checkpoints: Checkpoints, state: TrainState) -> None:
        self.run, self.engine, self.checkpoints, self.state = run, engine, checkpoints, state
        self.status = "FAILED"
        self.guard = NonFiniteGuard(run.config.train.max_bad_steps, state.bad_steps)
        self.log = RunLog(run, state.step, state.mlflow_run_id)
        self.state.mlflow_run_id = self.log.mlflow_run_id
        self.feed = Feed(run, state.step + 1)

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_: object) -> None:
        self.feed.close()
        self.checkpoints.close()
        self.log.close(self.status)

    def train_step(self, step: int, stop: StopRequest) -> tuple[bool, bool]:
        """Go forward and backward with each micro-batch; the engine updates the weights at the last.

        Returns whether some rank was asked to stop, and whether some rank still writes a checkpoint.
        """
        run, engine, state = self.run, self.engine, self.state
        started, waited, skipped = time.perf_counter(), self.feed.waited, engine.skipped_steps
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate(step, run.config.train)
        engine.train()
        tally = Tally(run.loader.datasets, run.world.device, run.objective)
        first, of_pairs = None, []
        for _ in range(n_micro_steps := run.plan.gradient_accumulation_steps):
            pairs, people = next(self.feed)
            losses = run.objective.losses(engine, pairs, people, n_micro_steps)
            engine.backward(losses.total)
            engine.step()
            tally.add(losses, pairs)
            first = first or (pairs, people)
            of_pairs.append(losses.pairs)

        stopping, writing = tally.all_reduce(
            stopping=stop.check(self.checkpoints.seconds), writing=self.checkpoints.writing
        )
        summary, state.step = tally.summary(), step
        for name, count in tally.pairs_by_dataset().items():
            state.seen[name] += count
        finite = is_finite(summary["loss"], engine.skipped_steps > skipped, run.precision)
        assert first is not None
        line = {
            "step": step,
            **summary,
            "spike": 0.0,
            "lr": float(engine.optimizer.param_groups[0]["lr"]),
            "grad_norm": float(
                engine.get_global_grad_norm() or 0.0
            ),  # before clipping; infinite where skipped
            "finite": finite,
            **({} if finite else {"bad_pairs": name_bad_pairs(run, step, of_pairs)}),
            "space": (first[0] or first[1]).space,  # pyright: ignore
            "seen": dict(state.seen),
        }
        work = work_of(run.encoder, run.plan, *first, run.objective.every_token)
        self.log.step(line, time.perf_counter() - started, self.feed.waited - waited, work)
        too_many = self.guard.count(finite)
        state.bad_steps = self.guard.total
        if too_many:
            self.save(wait=True)
            write_outcome("diverged")
            raise self.guard.error(step, run.plan.global_batch)
        return stopping, writing

    def evaluate(self) -> bool:
        """Evaluate on held-out runs; return whether to save this step as the best so far."""
        if not (self.run.held_out or self.run.held_out_groups):
            return False
        step, summary = self.state.step, evaluate(self.run, self.engine)
        self.log.evaluation(step, summary)
        best = self.state.best["loss"] if self.state.best else math.inf
        if not self.run.config.train.keep_best or step == 0 or not summary["loss"] < best:
            return False
        self.state.best = {"step": step, "loss": summary["loss"]}
        return True

    def save(self, wait: bool = False) -> None:
        """Copy a checkpoint, which a thread writes while training goes on, or wait until it is written."""
        self.finish_save()
        samples = {"samples_seen": self.state.step * self.run.plan.global_batch}
        self.checkpoints.save(self.engine, self.state.to_dict() | samples | self.run.to_dict())
        if wait:
            self.finish_save(required=True)

    def finish_save(self, required: bool = False) -> None:
        """Commit the checkpoint that was copied, if any, once all ranks have written it."""
        if not self.checkpoints.pending:
            return
        saved = self.checkpoints.commit(self.log.sync)
        self.log.saved(saved)
        if saved["error"] and required:
            raise SaveError(
                f"no checkpoint of step {saved['step']}: {saved['error']}; correct that, then start again"
            )

    def export(self) -> None:
        """Write the encoder of the last step, and that of the best evaluation."""
        run, world = self.run, self.run.world
        folder, steps, best = run.out / "encoder", run.config.train.steps, self.state.best
        weights = zero.whole_weights(self.engine.module.encoder, world.device, keep=world.is_main)
        with agree_on_errors(), writing_to(run.out):
            if world.is_main:
                export_encoder(folder, run, weights, steps)
                if best:
                    weights = self.checkpoints.weights(best["step"], weights, prefix="encoder.")
                    best_folder = run.out / "encoder_best"
                    export_encoder(best_folder, run, weights, best["step"])
                    loss = f"held-out loss {best['loss']:.4f}"
                    world.print(f"best: step {best['step']} with {loss}, {best_folder}")
                self.log.artifacts()
                world.print(f"done: {folder}")


def is_finite(loss: float, skipped: bool, precision: str) -> bool:
    """Return whether a step was sound; where the engine left the update out, a gradient was not finite.

    In fp16 such a step is how the scale of the loss is found, at the start and every 1,000 steps: it counts
    only if the loss itself is not finite. A scale that has nowhere to fall to ends the run.
    """
    return math.isfinite(loss) and (precision == "fp16" or not skipped)


def export_encoder(folder: Path, run: Run, weights: dict[str, torch.Tensor], step: int) -> None:
    """Write the encoder of a step: weights, and what a study must know about them."""
    with torch.device("meta"):  # no second copy of the weights
        encoder = Encoder(run.encoder)
    encoder.load_state_dict(weights, assign=True)
    t_r = run.corpus.runs.t_r[run.corpus.runs.key.isin(run.run_keys)]
    meta = {
        "feature_spaces": {name: space.to_dict() for name, space in run.loader.spaces.items()},
        "pairs": dataclasses.asdict(run.config.data.pairs),
        "t_r": [float(t_r.min()), float(t_r.max())],
        "train_runs": run.run_keys,
        "datasets": origins(run.corpus, run.run_keys),
        "corpus_fingerprint": run.corpus.fingerprint,
        "config": to_dict(run.config),
        "config_hash": config_hash(run.config),
        "step": step,
        "fmriscale": __version__,
    }
    encoder.save_pretrained(folder, meta)
