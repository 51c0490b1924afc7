"""Which runs go to which shard: a function of the recipe and the files, the same on every machine."""

import re
from dataclasses import dataclass

from fmriscale.config import CorpusConfig, DatasetConfig
from fmriscale.errors import UserError
from fmriscale.ingest.arrays import read_array
from fmriscale.ingest.checks import check_dataset
from fmriscale.ingest.denoise import check_denoise
from fmriscale.ingest.features import Features, load_features
from fmriscale.ingest.names import Tree
from fmriscale.ingest.quality import Rejected, Rejection
from fmriscale.ingest.sources import RunSource, discover
from fmriscale.ingest.volumes import open_image

MEMBER_BYTES = 4096
"""Tar headers, padding and JSON of a run, roughly."""


@dataclass(frozen=True)
class Shard:
    """A shard before it is built."""

    name: str
    """Path below the corpus folder."""
    dataset: DatasetConfig
    runs: tuple[RunSource, ...]


def make_plan(config: CorpusConfig) -> tuple[list[Shard], list[Rejection]]:
    """Check the recipe, find all runs and deal them out to shards.

    Returns
    -------
    list of Shard
        In corpus order.
    list of Rejection
        Files that were found but are no usable run.

    Raises
    ------
    UserError
        Anything in the recipe that is wrong for every run.
    """
    _check_recipe(config)
    plan, rejections, tree = [], [], Tree()
    for dataset in sorted(config.datasets, key=lambda d: d.name):
        runs, rejected = discover(dataset, tree)
        rejections += rejected
        per_shard = _runs_per_shard(runs, dataset, config.shard_mb * 2**20)
        for number, first in enumerate(range(0, len(runs), per_shard)):
            name = f"{dataset.name}/{dataset.name}-{number:06d}.tar"
            plan.append(Shard(name, dataset, tuple(runs[first : first + per_shard])))
    return plan, rejections


def _check_recipe(config: CorpusConfig) -> None:
    """Refuse what is wrong whatever the files hold."""
    if not config.datasets:
        raise UserError("the recipe lists no data set; give at least one under datasets")
    spaces: dict[str, tuple[DatasetConfig, Features]] = {}
    names: set[str] = set()
    for dataset in config.datasets:
        where = f"data set '{dataset.name}'"
        for name in (dataset.name, dataset.features.name):
            if not re.fullmatch("[a-z0-9][a-z0-9_]*", name):
                raise UserError(f"{where}: '{name}' must be lower-case letters, digits and underscores")
        if dataset.name in names:
            raise UserError(f"{where} is listed twice; names must differ")
        names.add(dataset.name)
        check_dataset(dataset)
        check_denoise(dataset)
        features = load_features(dataset.features)
        other, known = spaces.setdefault(features.space.name, (dataset, features))
        if known.definition != features.definition:
            raise UserError(
                f"{where} and '{other.name}' define features '{features.space.name}' differently; "
                "give them different names or the same files"
            )


def _runs_per_shard(runs: list[RunSource], dataset: DatasetConfig, shard_bytes: int) -> int:
    """Return how many runs fill a shard, judged by the first one that can be read."""
    n_features = load_features(dataset.features).space.n_features
    for run in runs:
        try:
            if dataset.kind == "arrays":
                n_volumes = len(read_array(run.path, run.array))
            else:
                n_volumes = open_image(run.path).n_volumes
        except Rejected:
            continue
        return max(1, shard_bytes // (2 * n_volumes * n_features + 8 * n_features + MEMBER_BYTES))
    return max(1, len(runs))
