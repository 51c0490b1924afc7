"""`fmriscale shard`: plan (which runs go to which shard), build the missing shards, finish (put in place)."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmriscale.common.array_tasks import add_flags, read_flags
from fmriscale.common.console import is_quiet
from fmriscale.common.errors import EXIT_OK, EXIT_QUARANTINED, UserError
from fmriscale.common.files import expand, writing_to
from fmriscale.config import CorpusConfig
from fmriscale.config.command_line import CommandLine
from fmriscale.config.recipe import parse
from fmriscale.corpus.building import FolderLock
from fmriscale.corpus.inspect import result, table
from fmriscale.corpus.manifest import read_manifest
from fmriscale.ingest.plan import Plan, make_plan, recipe_mistakes, shards_of_task

if TYPE_CHECKING:
    import pandas as pd


def parser_of_verb() -> CommandLine:
    """Return the options of the verb."""
    usage = "fmriscale-shard --config FILE [--plan | --task-id I --num-tasks N | --finish] [--KEY VALUE]"
    parser = CommandLine("fmriscale-shard", CorpusConfig, usage=usage)
    add_flags(
        parser,
        part="build part I = 0 ... N-1 of the shards",
        finish="write the manifest when all parts are built",
        plan="print what would be built, and how long it takes; write nothing",
    )
    return parser


def main(args: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 3 where runs were quarantined."""
    flags, recipe = read_flags(parser_of_verb(), sys.argv[1:] if args is None else args, "plan")
    config = parse(CorpusConfig, recipe, prog="fmriscale-shard", mistakes_of=recipe_mistakes)
    if flags.plan:
        from fmriscale.ingest.estimate import describe

        print(describe(config, flags.num_tasks or 1))
        return EXIT_OK
    if flags.task_id is not None:
        print(build_part(config, flags.task_id, flags.num_tasks))
        return EXIT_OK
    manifest, quarantine = build(config, flags.finish, shlex.join(["fmriscale-shard", *recipe]))
    print(result(expand(config.out), manifest, quarantine) if is_quiet() else table(manifest, quarantine))
    return EXIT_QUARANTINED if len(quarantine) else EXIT_OK


def build(
    config: CorpusConfig, finish_only: bool = False, command: str = "build"
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Build or complete a corpus; where `finish_only`, a missing shard is an error that names `command`."""
    plan = _plan(config)
    # Imported here: a recipe that is refused does not wait for what reads scans.
    from fmriscale.ingest.finish import finish
    from fmriscale.ingest.shards import build_shards

    folder = expand(config.out)
    with writing_to(folder), FolderLock(folder) as lock:
        if dropped := _dropped_datasets(config, folder):
            what = f"{folder} holds data set {dropped}, which the recipe does not list"
            _warn(f"{what}: it is removed at the end")
        if not finish_only:
            build_shards(plan.shards, config, lock)
        return finish(config, plan, lock, command)


def build_part(config: CorpusConfig, task_id: int, num_tasks: int) -> str:
    """Build one task's share of the shards; return a line that says what was done."""
    shards = _plan(config).shards
    from fmriscale.ingest.shards import build_shards

    share = shards_of_task(shards, task_id, num_tasks)
    folder = expand(config.out)
    with writing_to(folder), FolderLock(folder) as lock:
        n_built, n_rejected = build_shards(share, config, lock)
    return (
        f"task {task_id} of {num_tasks}: {len(share)} of {len(shards)} shards, {n_built} built now, "
        f"{n_rejected} runs rejected; --finish writes the manifest when every task is done"
    )


def _plan(config: CorpusConfig) -> Plan:
    """Make the plan, and print its notes."""
    plan = make_plan(config)
    for note in plan.notes:
        _warn(note)
    return plan


def _warn(text: str) -> None:
    print(f"fmriscale: warning: {text}", file=sys.stderr)


def _dropped_datasets(config: CorpusConfig, folder: Path) -> str:
    """Name the data sets of a corpus that its recipe does not list any more."""
    try:
        existing = read_manifest(folder)[0]["datasets"]
    except UserError:  # none yet, or one that this build writes anew
        return ""
    return ", ".join(sorted(set(existing) - {dataset.name for dataset in config.datasets}))
