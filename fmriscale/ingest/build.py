"""`fmriscale shard`: scans -> a corpus of tar shards.

Plan (which runs go to which shard) -> build the missing shards, all of them or those of one task -> finish
(shards and manifest put in place) -> closing table.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmriscale.common.array_tasks import add_flags, resolve_task
from fmriscale.common.errors import EXIT_OK, EXIT_QUARANTINED, UserError
from fmriscale.common.files import expand, writing_to
from fmriscale.config import CorpusConfig
from fmriscale.config.recipe import CommandLine, parse
from fmriscale.corpus.building import FolderLock
from fmriscale.corpus.inspect import table
from fmriscale.corpus.manifest import read_manifest
from fmriscale.ingest.plan import Plan, make_plan, recipe_mistakes, shards_of_task

if TYPE_CHECKING:
    import pandas as pd


def main(args: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 3 where runs were quarantined."""
    flags, recipe = _flags(sys.argv[1:] if args is None else args)
    config = parse(CorpusConfig, recipe, prog="fmriscale-shard", mistakes_of=recipe_mistakes)
    if flags.plan:
        from fmriscale.ingest.estimate import describe

        print(describe(config, flags.num_tasks or 1))
        return EXIT_OK
    if flags.task_id is not None:
        print(build_part(config, flags.task_id, flags.num_tasks))
        return EXIT_OK
    manifest, quarantine = build(config, flags.finish, shlex.join(["fmriscale-shard", *recipe]))
    print(table(manifest, quarantine))
    return EXIT_QUARANTINED if len(quarantine) else EXIT_OK


def build(
    config: CorpusConfig, finish_only: bool = False, command: str = "build"
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Build or complete a corpus; return its manifest and quarantine.

    Where `finish_only`, shards that tasks have built are put in place, and one that is missing is a
    `UserError`, which names `command`.
    """
    plan = _plan(config)
    # Imported here: a recipe that is refused does not wait for what reads scans.
    from fmriscale.ingest.finish import finish
    from fmriscale.ingest.shards import build_shards

    with _lock(config) as (folder, lock):
        if dropped := _dropped_datasets(config, folder):
            _warn(
                f"{folder} holds data set {dropped}, which the recipe does not list: it is removed at the end"
            )
        if not finish_only:
            build_shards(plan.shards, config, lock)
        return finish(config, plan, lock, command)


def build_part(config: CorpusConfig, task_id: int, num_tasks: int) -> str:
    """Build one task's share of the shards; return a line that says what was done."""
    shards = _plan(config).shards
    from fmriscale.ingest.shards import build_shards

    share = shards_of_task(shards, task_id, num_tasks)
    with _lock(config) as (_, lock):
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


@contextlib.contextmanager
def _lock(config: CorpusConfig) -> Iterator[tuple[Path, FolderLock]]:
    """Open the corpus folder for writing."""
    folder = expand(config.out)
    with writing_to(folder), FolderLock(folder) as lock:
        yield folder, lock


def _flags(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse the flags that say how to run; return the other arguments, which are the recipe's."""
    parser = CommandLine(
        prog="fmriscale-shard",
        usage="fmriscale-shard --config FILE [--plan | --task-id I --num-tasks N | --finish] [--KEY VALUE]",
        add_help=False,
        allow_abbrev=False,
    )
    group = parser.add_argument_group("how to run (not part of the recipe)")
    group.add_argument(
        "--plan", action="store_true", help="print what would be built, and how long it takes; write nothing"
    )
    add_flags(group, "build part I = 0 ... N-1 of the shards", "write the manifest when all parts are built")
    if {"-h", "--help"} & set(args):
        print(parser.format_help())
    flags, recipe = parser.parse_known_args(args)
    resolve_task(flags, "plan")
    return flags, recipe
