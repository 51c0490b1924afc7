"""What a run is made of: data, batch, encoder and objective, and the DeepSpeed engine that trains them."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand
from fmriscale.common.version import __version__
from fmriscale.config import PretrainConfig
from fmriscale.config.recipe import to_dict
from fmriscale.corpus.reader import Corpus
from fmriscale.model.encoder import count_parameters
from fmriscale.model.presets import EncoderConfig, resolve_encoder
from fmriscale.sampling.groups import GroupLoader
from fmriscale.sampling.loader import NTPLoader, select_runs
from fmriscale.training import zero
from fmriscale.training.data import open_groups, open_loader, teacher_for
from fmriscale.training.distributed import World, agree_on_errors
from fmriscale.training.objective import Objective
from fmriscale.training.precision import pick_precision
from fmriscale.training.projection import TrainingRuns, start_projection
from fmriscale.training.rehearsal import rehearse
from fmriscale.training.schedule import BatchPlan, plan_run
from fmriscale.training.state_memory import states


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as its recipe and corpus define it; nothing here changes while it trains."""

    config: PretrainConfig
    world: World
    corpus: Corpus
    loader: NTPLoader
    """Training pairs; of a run that reads none it tells feature spaces and lengths."""
    held_out: NTPLoader | None
    """Pairs of runs that are only evaluated; None where no run is held out, or no pairs are read."""
    groups: GroupLoader | None
    """Groups of people who share a stimulus; None where there is no contrastive task."""
    held_out_groups: GroupLoader | None
    plan: BatchPlan
    encoder: EncoderConfig
    precision: str
    why_precision: str
    objective: Objective

    @property
    def out(self) -> Path:
        """The run folder."""
        return expand(self.config.out)

    @property
    def run_keys(self) -> list[str]:
        """Keys of the runs that are trained on."""
        keys = dict.fromkeys(self.loader.run_keys if self.config.train.reads_pairs else [])
        return list(keys | dict.fromkeys(self.groups.run_keys if self.groups else []))

    def to_dict(self) -> dict[str, Any]:
        """Return what checkpoints record of a run; `check_resumable` compares it after a restart."""
        return {
            "world_size": self.world.world_size,
            "precision": self.precision,
            "config": to_dict(self.config),
            "data": self.loader.state | ({"groups": self.groups.fingerprint} if self.groups else {}),
            "encoder": self.encoder.to_dict(),
            "corpus_fingerprint": self.corpus.fingerprint,
            "fmriscale": __version__,
        }


def open_run(config: PretrainConfig, world: World) -> Run:
    """Open the corpus, divide the batch among the ranks, and resolve encoder and precision."""
    settings = config.train
    with agree_on_errors():
        plan = plan_run(settings, world.world_size)
        corpus = Corpus.open(config.data.corpus, config.data.cache, config.data.cache_gb)
        loader = open_loader(corpus, config, world, "train")
        has_held_out = len(select_runs(corpus, config.data, "eval")) > 0
        held_out = (
            open_loader(corpus, config, world, "eval") if has_held_out and settings.reads_pairs else None
        )
        encoder = encoder_for(config, loader)
        precision, why = pick_precision(settings, world.device, encoder.d_model)
        return Run(
            config=config,
            world=world,
            corpus=corpus,
            loader=loader,
            held_out=held_out,
            groups=open_groups(corpus, config, world, "train"),
            held_out_groups=open_groups(corpus, config, world, "eval") if has_held_out else None,
            plan=plan,
            encoder=encoder,
            precision=precision,
            why_precision=why,
            objective=Objective(settings, teacher_for(loader, held_out, settings, world), precision),
        )


def encoder_for(config: PretrainConfig, loader: NTPLoader) -> EncoderConfig:
    """Resolve the encoder that reads all feature spaces and sequences of a loader."""
    spaces = {name: space.n_features for name, space in loader.spaces.items()}
    encoder = resolve_encoder(config.model, spaces, loader.length)
    lengths = sorted({group.length for group in loader.groups})
    if encoder.positions == "learned" and len(lengths) > 1:
        raise UserError(
            f"model.preset {encoder.preset} learns a vector for each place of a sequence, but pairs.length "
            f"{config.data.pairs.length} is {', '.join(map(str, lengths))} volumes in these data sets: give "
            "it in volumes, or take preset tiny or base"
        )
    return encoder


def build_engine(run: Run, step: int) -> Any:
    """Build the model, with equal weights on all ranks, in a DeepSpeed engine; seed what follows a step."""
    settings, world = run.config.train, run.world
    with agree_on_errors():
        with zero.zero_init(settings, run.plan, run.precision, world.device):
            model = run.objective.build(run.encoder)
        if step == 0 and (how := run.config.model.init_projection) != "random":
            rows = np.flatnonzero(run.corpus.runs.key.isin(run.run_keys))
            runs = TrainingRuns(run.corpus, run.config.data, settings.seed, rows)
            start_projection(model.encoder, how, runs, world)
        model.encoder.recompute = settings.activation_checkpointing
        engine = zero.make_engine(model, settings, run.plan, run.precision, world)
    if settings.compile:
        model.encoder.compile_blocks()
    torch.manual_seed(settings.seed + 1 + world.rank + step * 1_000_003)  # dropout differs between ranks
    return engine


def rehearse_run(run: Run, engine: Any) -> None:
    """Fail now if a later step would not fit into memory, or cannot be compiled; see `rehearse`."""
    reserved = 0
    if run.plan.gradient_accumulation_steps > 1:  # gradients of earlier micro-batches
        n_parameters = count_parameters(engine.module)
        stage = run.config.train.zero_stage
        reserved = states(n_parameters, stage, run.world.world_size, run.precision).gradients
    with agree_on_errors():
        people = None
        if groups := run.groups:  # the step, among the first, whose group has most numbers
            fullest = max(range(256), key=lambda step: math.prod(groups.peek(step)))
            people = groups.batch(fullest, run.world.rank, run.world.world_size)
        rehearse(engine.module, run.loader, run.plan, run.world.device, reserved, run.objective, people)
