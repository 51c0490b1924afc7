"""Open what a run reads: pairs, groups of people who share a stimulus, and connectivity."""

import dataclasses
from typing import Any, Literal

import numpy as np
import torch

from fmriscale.common.errors import UserError
from fmriscale.config import DataConfig, PretrainConfig, TrainConfig
from fmriscale.corpus.reader import Corpus
from fmriscale.sampling.groups import GroupLoader
from fmriscale.sampling.loader import NTPLoader
from fmriscale.training.distributed import World
from fmriscale.training.teacher import Teacher


def open_loader(
    corpus: Corpus, config: PretrainConfig, world: World, split: Literal["train", "eval"]
) -> NTPLoader:
    """Open the runs of a split; batches for a GPU lie in pinned memory."""
    settings, data = config.train, config.data if config.train.reads_pairs else described(config.data)
    return NTPLoader(corpus, data, split, settings.seed, settings.global_batch, world.device, _pinned(world))


def described(data: DataConfig) -> DataConfig:
    """Return settings of the data that open runs without reading them."""
    return dataclasses.replace(data, access="mmap", volume_order="recorded", verify=False)


def open_groups(
    corpus: Corpus, config: PretrainConfig, world: World, split: Literal["train", "eval"]
) -> GroupLoader | None:
    """Open the groups of a split; None without a contrastive task, or where held-out people share nothing."""
    settings = config.train
    if settings.contrastive_weight == 0:
        return None
    sizes = settings.contrastive_people, settings.contrastive_windows
    try:
        return GroupLoader(corpus, config.data, split, settings.seed, *sizes, allocate=_pinned(world))
    except UserError:
        if split == "train":
            raise
        return None


def teacher_for(
    loader: NTPLoader, held_out: NTPLoader | None, settings: TrainConfig, world: World
) -> Teacher | None:
    """Return the connectivity of all runs that are read; None where that is no task."""
    if settings.connectivity_weight == 0:
        return None
    training = np.concatenate([group.rows for group in loader.groups])
    others = [group.rows for group in held_out.groups] if held_out else []
    rows = np.unique(np.concatenate([training, *others]))
    return Teacher(loader.corpus, rows, training, world.rank, world.world_size)


def _pinned(world: World) -> Any:
    """Return what makes arrays in pinned memory, where batches go to a GPU."""
    if world.device.type != "cuda":
        return None
    return lambda shape: torch.empty(shape, dtype=torch.float16, pin_memory=True).numpy()
