"""Pre-training on a corpus, by Next Thought Prediction or other objectives, from one CPU to many nodes.

    fmriscale pretrain --config configs/pretrain_demo.yaml
    deepspeed fmriscale/train.py --config configs/pretrain_demo.yaml
    deepspeed --num_accelerators 2 --module fmriscale.train --config recipe.yaml --train.lr 1e-4
    sbatch slurm/pretrain.sh configs/pretrain_base.yaml

Run again, the same command resumes from the newest checkpoint. Exit code 85: stopped on request and saved,
start me again.

This file is the life of a run from top to bottom; every step is one call into `fmriscale/training`.
"""

import sys

if sys.platform != "linux":
    raise SystemExit("fmriscale: error: pre-training runs on Linux alone; all other verbs run here too")

import contextlib
import os
import time
from typing import TYPE_CHECKING

from fmriscale.common.errors import EXIT_OK, EXIT_STOPPED, UserError, end_process, exit_code_of
from fmriscale.common.files import expand
from fmriscale.config import PretrainConfig
from fmriscale.config.command_line import CommandLine
from fmriscale.config.recipe import parse
from fmriscale.corpus.manifest import require_corpus
from fmriscale.corpus.servers import is_url
from fmriscale.training.resilience import StopRequest, Watchdog, ignore_signals, time_limit, write_outcome

if TYPE_CHECKING:
    from fmriscale.training.distributed import World

PROG = "fmriscale pretrain"


def parser_of_verb() -> CommandLine:
    """Return the options of the verb: those of its recipe alone."""
    return CommandLine(PROG, PretrainConfig)


def main(args: list[str] | None = None) -> int:
    """Train from a command line; return the exit code."""
    started, stop = time.time(), StopRequest()
    # Several feature spaces and lengths would leave a GPU's memory in pieces. torch reads this at import.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    args = sys.argv[1:] if args is None else args
    config = None
    # A single process refuses a recipe before torch is imported; ranks meet first, and refuse together.
    alone = not {"RANK", "SLURM_PROCID"} & set(os.environ)
    with contextlib.nullcontext() if alone else contextlib.suppress(UserError):
        config = parse(PretrainConfig, args, prog=PROG)
    if alone and config and not (is_url(config.data.corpus) or (expand(config.out) / "encoder").exists()):
        require_corpus(expand(config.data.corpus))

    from fmriscale.training.determinism import deterministic

    with deterministic(config is not None and config.train.deterministic):
        return meet(args, started, stop)


def meet(args: list[str], started: float, stop: StopRequest) -> int:
    """Connect to the other ranks, and train with them; return the exit code."""
    from fmriscale.training import distributed
    from fmriscale.training.deepspeed_import import forget_process_groups
    from fmriscale.training.resume import is_finished

    world = distributed.init_distributed()
    try:
        with distributed.agree_on_errors():
            config = parse(PretrainConfig, args, prog=PROG)
            finished = is_finished(config, expand(config.out))
        if finished:
            world.print(f"{finished}; nothing to do")
            return EXIT_OK
        stop.deadline = time_limit(os.environ, config.train.max_minutes, started)
        position = world.local_rank / world.local_size
        with contextlib.closing(Watchdog(config.train.hang_minutes, position)) as watchdog:
            return train(config, world, stop, watchdog)
    except UserError as error:
        ignore_signals()
        if not error.agreed:
            distributed.abort(error)
        if world.is_main or not error.agreed:
            raise
        return error.exit_code
    except BaseException as error:
        distributed.abort(error)
        raise
    finally:
        distributed.destroy()
        forget_process_groups()


def train(config: PretrainConfig, world: "World", stop: StopRequest, watchdog: Watchdog) -> int:
    """Make the steps that are left of a run, and export its encoder; return the exit code."""
    from fmriscale.training.checkpoint import Checkpoints
    from fmriscale.training.console import introduction
    from fmriscale.training.resume import find_checkpoint
    from fmriscale.training.run import build_engine, open_run, rehearse_run
    from fmriscale.training.trainer import Trainer, TrainState

    settings = config.train

    # The data: which pairs, in which order, divided among the ranks; and the encoder that reads them.
    run = open_run(config, world)

    # Where an earlier start of this run stopped.
    checkpoints = Checkpoints(run.out / "checkpoints", world, settings.keep_last, settings.keep_every)
    checkpoint, notes = find_checkpoint(run, checkpoints)
    state = TrainState.resume(run, checkpoint)

    # The model: the same weights on every rank, in a DeepSpeed engine.
    engine = build_engine(run, state.step)
    if checkpoint:
        checkpoints.load(engine, checkpoint)
    for line in introduction(run, engine):
        world.say(line)
    for line in notes:
        world.print(line)

    # A pass without effect finds what would fail at a later step.
    watchdog.beat()
    rehearse_run(run, engine)

    with Trainer(run, engine, checkpoints, state) as trainer:
        if state.step == 0:
            watchdog.beat()
            trainer.evaluate()

        for step in range(state.step + 1, settings.steps + 1):
            watchdog.beat()
            last = step == settings.steps
            stopping, writing = trainer.train_step(step, stop)

            best = False
            if last or is_due(step, settings.eval_every):
                watchdog.beat()
                best = trainer.evaluate()

            # A checkpoint is copied at once, and committed after a step at which all ranks have it on disk.
            if not writing:
                trainer.finish_save()
            if last or stopping or best or is_due(step, settings.save_every):
                trainer.save(wait=last or stopping)

            if stopping and not last:
                ignore_signals()
                trainer.status = "KILLED"
                write_outcome("stopped")
                reason = stop.reason or "another rank"
                world.print(f"asked to stop ({reason}): saved at step {step}, start me again")
                return EXIT_STOPPED

        trainer.export()
        trainer.status = "FINISHED"
        return EXIT_OK


def is_due(step: int, every: int) -> bool:
    """Return whether a step is one of every so many (0 = never)."""
    return every > 0 and step % every == 0


if __name__ == "__main__":
    end_process(exit_code_of(main))
