"""Which runs go to which shard: a function of the recipe and the files, the same on every machine."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand_variables
from fmriscale.common.quarantine import Rejected, Rejection
from fmriscale.common.workers import map_in_order
from fmriscale.config import CorpusConfig, DatasetConfig
from fmriscale.ingest.clean.confounds import confounds_mistakes
from fmriscale.ingest.find.checks import check_dataset, setting_mistakes
from fmriscale.ingest.find.companions import CONFOUNDS_MAY_LACK, entities_of_file
from fmriscale.ingest.find.fetch import fetched
from fmriscale.ingest.find.names import entity_set, split_name
from fmriscale.ingest.find.participants import check_groups, datasets_with_groups
from fmriscale.ingest.find.sources import Counts, FoundRuns, RunSource, find_runs
from fmriscale.ingest.find.tree import Tree
from fmriscale.ingest.read.mirror import named_by_url, sweep_scratch

MEMBER_BYTES = 4096  # Tar headers, padding and JSON of a run, roughly

N_SHOWN = 3  # Examples in a note


@dataclass(frozen=True)
class Shard:
    """A shard before it is built."""

    name: str  # path below the corpus folder
    dataset: DatasetConfig
    runs: tuple[RunSource, ...]
    bytes_in: int  # size of the sources; the runs of one archive share it


class Plan(NamedTuple):
    """What a recipe would build."""

    shards: list[Shard]  # in corpus order
    rejections: list[Rejection]  # files that were found but are no usable run
    counts: dict[str, Counts]  # by data set: what became of every scan that was listed
    notes: list[str]  # what was decided and may be wrong, for the user to read


def make_plan(config: CorpusConfig) -> Plan:
    """Check the recipe, find all runs and distribute them to shards."""
    for dataset in config.datasets:
        expand_variables(dataset.root)  # one that is not set is one mistake, whatever the number of data sets
    sweep_scratch()
    _check_recipe(config)
    plan, tree, with_column = Plan([], [], {}, []), Tree(), datasets_with_groups(config)
    for dataset in sorted(config.datasets, key=lambda d: d.name):
        column = config.split.group if dataset.name in with_column else None
        with named_by_url():
            found = find_runs(dataset, tree, column)
        _check_tasks(dataset, found)
        plan.rejections.extend(found.rejections)
        plan.counts[dataset.name] = found.counts
        dataset_notes = _participant_ids(found.runs, dataset) + _shared_events(found.runs)
        dataset_notes += _other_space(found.runs, dataset)
        if config.split.group is not None and column is None:
            dataset_notes.append(f"no column '{config.split.group}': its people stand alone")
        plan.notes.extend(f"data set '{dataset.name}': {note}" for note in dataset_notes)
        plan.shards.extend(_shards(dataset, found.runs, config))
    check_groups(config, (run for shard in plan.shards for run in shard.runs))
    return plan


def shards_of_task(shards: list[Shard], task_id: int, num_tasks: int) -> list[Shard]:
    """Return one task's share of the shards: the largest come first, each to the task with fewest bytes."""
    bytes_of_task, tasks = [0] * num_tasks, {}
    for shard in sorted(shards, key=lambda s: (-s.bytes_in, s.name)):
        task = bytes_of_task.index(min(bytes_of_task))
        bytes_of_task[task] += shard.bytes_in + 1
        tasks[shard.name] = task
    return [shard for shard in shards if tasks[shard.name] == task_id]


def _check_recipe(config: CorpusConfig) -> None:
    """Refuse what is wrong whatever the files hold."""
    if not config.datasets:
        raise UserError("the recipe lists no data set; give at least one under datasets")
    mistakes = []
    for dataset in config.datasets:
        own = [*_name_mistakes(dataset), *confounds_mistakes(dataset)]
        try:
            check_dataset(dataset)
        except UserError as error:
            own += str(error).split("\n")
        mistakes += [f"data set '{dataset.name}': {mistake}" for mistake in own]
    n_named = Counter(dataset.name for dataset in config.datasets)
    mistakes += [f"data set '{name}' is listed twice; rename one" for name, n in n_named.items() if n > 1]
    _refuse(mistakes)
    _refuse(_feature_mistakes(config))


def _refuse(mistakes: list[str]) -> None:
    if mistakes:
        raise UserError("\n".join(dict.fromkeys(mistakes)))


def _feature_mistakes(config: CorpusConfig) -> list[str]:
    """Return what is wrong with features, whose files are read, and features of one name that differ."""
    from fmriscale.ingest.read.features import load_features  # other refusals do not wait for nibabel

    mistakes, spaces = [], {}
    for dataset in config.datasets:
        try:
            features = load_features(dataset.features)
        except UserError as error:
            mistakes.append(str(error))
            continue
        other, known = spaces.setdefault(features.space.name, (dataset, features))
        if known.definition != features.definition:
            both = f"data set '{dataset.name}' and '{other.name}' define features '{features.space.name}'"
            mistakes.append(f"{both} differently; give them different names or the same files")
    return mistakes


def recipe_mistakes(config: CorpusConfig) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield what is wrong with the settings whatever lies on disk, each with its place in the recipe."""
    for number, dataset in enumerate(config.datasets):
        for text in (*_name_mistakes(dataset), *setting_mistakes(dataset), *confounds_mistakes(dataset)):
            key = re.match(r"[\w.]*", text)
            yield ("datasets", number, *(key[0].split(".") if key else ())), text


def _name_mistakes(dataset: DatasetConfig) -> list[str]:
    """Return names that cannot be those of files."""
    return [
        f"{key} '{name}' must be lower-case letters, digits and underscores"
        for key, name in (("name", dataset.name), ("features.name", dataset.features.name))
        if not re.fullmatch("[a-z0-9][a-z0-9_]*", name)
    ]


def _check_tasks(dataset: DatasetConfig, found: FoundRuns) -> None:
    """Refuse a repetition time of a task that no file has."""
    if not isinstance(dataset.t_r, dict) or not found.runs:
        return
    tasks = sorted({run.entities.get("task", "") for run in found.runs} - {""})
    for task in dataset.t_r:
        if task not in tasks and not any(f"task-{task}_" in r.source for r in found.rejections):
            what = f"data set '{dataset.name}': t_r names task '{task}', which no run has"
            raise UserError(f"{what}; there is {', '.join(tasks) or 'no task'}")


def _shards(dataset: DatasetConfig, runs: list[RunSource], config: CorpusConfig) -> Iterator[Shard]:
    """Cut the runs of a data set into shards."""
    n_of_path = Counter(run.path for run in runs)
    shares = {path: _size(path) / n for path, n in n_of_path.items()}
    per_shard = min(config.shard_runs, _runs_per_shard(runs, dataset, config))
    for number, first in enumerate(range(0, len(runs), per_shard)):
        members = tuple(runs[first : first + per_shard])
        bytes_in = sum(shares[run.path] + (_size(run.right) if run.right else 0) for run in members)
        yield Shard(f"{dataset.name}/{dataset.name}-{number:06d}.tar", dataset, members, round(bytes_in))


def _size(path: Path) -> int:
    """Return the size of a file; 0 where it does not exist."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _runs_per_shard(runs: list[RunSource], dataset: DatasetConfig, config: CorpusConfig) -> int:
    """Return how many runs fill a shard, judged by the first one that can be read."""
    from fmriscale.ingest.read.features import load_features

    n_features = load_features(dataset.features).space.n_features
    results = map_in_order(_n_volumes, ((run, dataset) for run in runs), 1, config.read_timeout)
    for n_volumes in results:
        if isinstance(n_volumes, int):
            results.close()
            bytes_of_run = 2 * n_volumes * n_features + 8 * n_features + MEMBER_BYTES
            return max(1, config.shard_mb * 2**20 // bytes_of_run)
    return max(1, len(runs))


def _n_volumes(run: RunSource, dataset: DatasetConfig) -> int | None:
    """Return how many volumes a run has; None where it cannot be read."""
    from fmriscale.ingest.signals import count_volumes

    try:
        with fetched(run) as local:
            return count_volumes(local, dataset)
    except Rejected as why:
        if why.reason == "unreachable":
            raise UserError(why.detail) from None
        return None


def _participant_ids(runs: list[RunSource], dataset: DatasetConfig) -> list[str]:
    pairs = {run.participant_id: run.entities["sub"] for run in runs if run.participant_id}
    lines = [f"{table_id} is taken for {subject}" for table_id, subject in sorted(pairs.items())]
    start = f"{dataset.participants} writes {len(pairs)} ids otherwise than the runs: "
    return [start + _first(lines)] if lines else []


def _shared_events(runs: list[RunSource]) -> list[str]:
    """Name events that are called as one run is, and by inheritance apply to others too."""
    own = {run.source: entities_of_file(run.path, run.entities) for run in runs}
    own = {source: entity_set(named, without=CONFOUNDS_MAY_LACK) for source, named in own.items()}
    owners = {(run.path.parent, own[run.source]): run for run in runs}
    lines = []
    for run in runs:
        if run.events is None or run.events.parent != run.path.parent:
            continue
        of_events = entity_set(split_name(run.events.name, ".tsv").entities)
        owner = owners.get((run.path.parent, of_events))
        if owner is not None and of_events != own[run.source]:
            lines.append(f"{run.source} takes {run.events.name} as {owner.path.name} does")
    return [f"events apply to {len(lines)} more runs by BIDS inheritance: {_first(lines)}"] if lines else []


def _other_space(runs: list[RunSource], dataset: DatasetConfig) -> list[str]:
    """Name an atlas taken by name that is in another template than the runs."""
    from fmriscale.ingest.read.features import load_features

    atlas = load_features(dataset.features).space.atlas
    others = sorted({run.entities.get("space", "") for run in runs} - {"", atlas.template if atlas else ""})
    if atlas is None or not others:
        return []
    what = f"{atlas.name} lies in {atlas.template}, runs in {', '.join(others)}"
    remedy = "choose entities: {space: ...}, or an atlas file in that space (see TemplateFlow)"
    return [f"{what}: regions may be off by millimetres; {remedy}"]


def _first(lines: list[str]) -> str:
    more = f" and {len(lines) - N_SHOWN} more" if len(lines) > N_SHOWN else ""
    return "; ".join(lines[:N_SHOWN]) + more
