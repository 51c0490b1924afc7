"""Which runs go to which shard: a function of the recipe and the files, the same on every machine."""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejected, Rejection
from fmriscale.common.workers import map_in_order
from fmriscale.config import CorpusConfig, DatasetConfig
from fmriscale.ingest.clean.confounds import confounds_mistakes
from fmriscale.ingest.find.checks import check_dataset, setting_mistakes
from fmriscale.ingest.find.counts import Counts
from fmriscale.ingest.find.fetch import fetched
from fmriscale.ingest.find.kin import asking, check_kin, tell_kin, with_groups
from fmriscale.ingest.find.names import Tree
from fmriscale.ingest.find.notes import notes
from fmriscale.ingest.find.sources import RunSource, find_runs
from fmriscale.ingest.read.mirror import named_by_url, sweep_scratch

MEMBER_BYTES = 4096
"""Tar headers, padding and JSON of a run, roughly."""


@dataclass(frozen=True)
class Shard:
    """A shard before it is built."""

    name: str
    """Path below the corpus folder."""
    dataset: DatasetConfig
    runs: tuple[RunSource, ...]
    bytes_in: int
    """Size of the sources; the runs of one archive share it."""


class Plan(NamedTuple):
    """What a recipe would build."""

    shards: list[Shard]
    """In corpus order."""
    rejections: list[Rejection]
    """Files that were found but are no usable run."""
    counts: dict[str, Counts]
    """By data set: what became of every scan that was listed."""
    notes: list[str]
    """What was decided and may be wrong, for the user to read."""


def make_plan(config: CorpusConfig) -> Plan:
    """Check the recipe, find all runs and deal them out to shards."""
    sweep_scratch()
    _check_recipe(config)
    plan, tree, column, having = Plan([], [], {}, []), Tree(), config.split.group, tell_kin(config)
    for dataset in sorted(config.datasets, key=lambda d: d.name):
        with named_by_url():
            found = find_runs(asking(dataset, column, having), tree)
        runs = with_groups(found.runs, dataset, column)
        if column is not None and dataset.name not in having:
            plan.notes.append(f"data set '{dataset.name}': no column '{column}': its people stand alone")
        _check_tasks(dataset, runs, found.rejections)
        plan.rejections.extend(found.rejections)
        plan.counts[dataset.name] = found.counts
        plan.notes.extend(f"data set '{dataset.name}': {note}" for note in notes(runs, dataset))
        _tell_space(dataset, runs)
        per_shard = min(config.shard_runs, _runs_per_shard(runs, dataset, config))
        sizes = _sizes(runs)
        for number, first in enumerate(range(0, len(runs), per_shard)):
            name = f"{dataset.name}/{dataset.name}-{number:06d}.tar"
            its_runs = tuple(runs[first : first + per_shard])
            plan.shards.append(Shard(name, dataset, its_runs, round(sum(sizes[run.key] for run in its_runs))))
    check_kin(config, (run for shard in plan.shards for run in shard.runs))
    return plan


def _tell_space(dataset: DatasetConfig, runs: list[RunSource]) -> None:
    """Say it where an atlas taken by name lies in another template than the runs: its file would say so."""
    from fmriscale.ingest.read.features import load_features

    atlas = load_features(dataset.features).space.atlas
    others = sorted({run.entities.get("space", "") for run in runs} - {"", atlas.template if atlas else ""})
    if atlas and others:
        print(
            f"fmriscale: warning: data set '{dataset.name}': {atlas.name} lies in {atlas.template}, runs in "
            f"{', '.join(others)}: regions may be off by millimetres; choose entities: {{space: ...}}, or an "
            "atlas file in that space (TemplateFlow has several)",
            file=sys.stderr,
        )


def shards_of_task(plan: list[Shard], task_id: int, num_tasks: int) -> list[Shard]:
    """Return one task's share of the shards, such that all tasks have about as many bytes to read.

    Every task computes the same shares: the largest shards are dealt out first, each to whoever has least.
    """
    loads, share = [0] * num_tasks, {}
    for shard in sorted(plan, key=lambda s: (-s.bytes_in, s.name)):
        least = loads.index(min(loads))
        loads[least] += shard.bytes_in + 1
        share[shard.name] = least
    return [shard for shard in plan if share[shard.name] == task_id]


def _check_recipe(config: CorpusConfig) -> None:
    """Refuse what is wrong whatever the files hold."""
    if not config.datasets:
        raise UserError("the recipe lists no data set; give at least one under datasets")
    names: set[str] = set()
    mistakes: list[str] = []
    for dataset in config.datasets:
        alone = (*_name_mistakes(dataset), *confounds_mistakes(dataset))
        mistakes += [f"data set '{dataset.name}': {text}" for text in alone]
        try:
            check_dataset(dataset)
        except UserError as error:
            mistakes.append(str(error))
        if dataset.name in names:
            mistakes.append(f"data set '{dataset.name}' is listed twice; names must differ")
        names.add(dataset.name)
    if mistakes:
        raise UserError("\n".join(dict.fromkeys(mistakes)))
    # Imported here: what is refused above does not wait for nibabel.
    from fmriscale.ingest.read.features import Features, load_features

    spaces: dict[str, tuple[DatasetConfig, Features]] = {}
    for dataset in config.datasets:
        try:
            features = load_features(dataset.features)
        except UserError as error:
            mistakes.append(str(error))
            continue
        other, known = spaces.setdefault(features.space.name, (dataset, features))
        if known.definition != features.definition:
            mistakes.append(
                f"data set '{dataset.name}' and '{other.name}' define features '{features.space.name}' "
                "differently; give them different names or the same files"
            )
    if mistakes:
        raise UserError("\n".join(dict.fromkeys(mistakes)))


def recipe_mistakes(config: CorpusConfig) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield what is wrong with the settings whatever lies on disk, each with its place in the recipe."""
    for number, dataset in enumerate(config.datasets):
        for text in (*_name_mistakes(dataset), *setting_mistakes(dataset), *confounds_mistakes(dataset)):
            key = re.match(r"[\w.]*", text)
            yield ("datasets", number, *(key[0].split(".") if key else ())), text


def _name_mistakes(dataset: DatasetConfig) -> list[str]:
    """Tell names that cannot be those of files."""
    return [
        f"{key} '{name}' must be lower-case letters, digits and underscores"
        for key, name in (("name", dataset.name), ("features.name", dataset.features.name))
        if not re.fullmatch("[a-z0-9][a-z0-9_]*", name)
    ]


def _check_tasks(dataset: DatasetConfig, runs: list[RunSource], rejected: list[Rejection]) -> None:
    """Refuse a repetition time of a task that no file has."""
    if not isinstance(dataset.t_r, dict):
        return
    tasks = sorted({run.entities.get("task", "") for run in runs} - {""})
    for task in dataset.t_r:
        if runs and task not in tasks and not any(f"task-{task}_" in r.source for r in rejected):
            raise UserError(
                f"data set '{dataset.name}': t_r names task '{task}', which no run has; there is "
                f"{', '.join(tasks) or 'no task'}"
            )


def _sizes(runs: list[RunSource]) -> dict[str, float]:
    """Return the bytes to read for each run, by key."""
    sharers = Counter(run.path for run in runs)
    sizes = {path: _size(path) / sharers[path] for path in sharers}
    return {run.key: sizes[run.path] + (_size(run.right) if run.right else 0) for run in runs}


def _size(path: Path) -> int:
    """Return the size of a file; 0 where it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _runs_per_shard(runs: list[RunSource], dataset: DatasetConfig, config: CorpusConfig) -> int:
    """Return how many runs fill a shard, judged by the first one that can be read."""
    from fmriscale.ingest.read.features import load_features

    n_features = load_features(dataset.features).space.n_features
    looks = map_in_order(_volumes, ((run, dataset) for run in runs), 1, config.read_timeout)
    for n_volumes in looks:
        if not isinstance(n_volumes, int):
            continue
        looks.close()
        return max(1, config.shard_mb * 2**20 // (2 * n_volumes * n_features + 8 * n_features + MEMBER_BYTES))
    return max(1, len(runs))


def _volumes(run: RunSource, dataset: DatasetConfig) -> int | None:
    """Return how many volumes a run has; None where it cannot be read."""
    from fmriscale.ingest.signals import count_volumes

    try:
        with fetched(run) as here:
            return count_volumes(here, dataset)
    except Rejected as why:
        if why.reason == "unreachable":
            raise UserError(why.detail) from None
        return None
