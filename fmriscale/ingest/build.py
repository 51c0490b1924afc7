"""`fmriscale shard`: scans -> a corpus of tar shards.

Plan (which runs go to which shard) -> build what is not there yet, all of it or a task's part -> finish
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

from fmriscale.common.array_tasks import add_flags, settle
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
    again = shlex.join(["fmriscale-shard", *recipe])
    if flags.task_id is not None:
        print(build_part(config, flags.task_id, flags.num_tasks))
        return EXIT_OK
    plan = _plan(config)
    # Imported here, as in `build`: a recipe that is refused does not wait for what reads scans.
    from fmriscale.ingest.finish import finish
    from fmriscale.ingest.shards import build_shards

    with _builder(config) as (folder, lock):
        if leaving := leavers(config, folder):
            warning = f"{folder} holds data set {', '.join(leaving)}, which the recipe does not list"
            print(f"fmriscale: warning: {warning}: it is removed when this build ends", file=sys.stderr)
        if not flags.finish:
            build_shards(plan.shards, folder, config.jobs, lock, config.read_timeout)
        manifest, quarantine = finish(config, plan.shards, plan.rejections, lock, again)
    print(table(manifest, quarantine))
    return EXIT_QUARANTINED if len(quarantine) else EXIT_OK


def build(config: CorpusConfig) -> tuple[dict[str, Any], pd.DataFrame]:
    """Build or complete a corpus."""
    plan = _plan(config)
    from fmriscale.ingest.finish import finish
    from fmriscale.ingest.shards import build_shards

    with _builder(config) as (folder, lock):
        build_shards(plan.shards, folder, config.jobs, lock, config.read_timeout)
        return finish(config, plan.shards, plan.rejections, lock, "build")


def build_part(config: CorpusConfig, task_id: int, num_tasks: int) -> str:
    """Build one task's part of the shards; return a line that says what was done."""
    plan = _plan(config).shards
    from fmriscale.ingest.shards import build_shards

    part = shards_of_task(plan, task_id, num_tasks)
    with _builder(config) as (folder, lock):
        n_built, n_rejected = build_shards(part, folder, config.jobs, lock, config.read_timeout)
    return (
        f"task {task_id} of {num_tasks}: {len(part)} of {len(plan)} shards, {n_built} built now, "
        f"{n_rejected} runs rejected; --finish writes the manifest when every task is done"
    )


def _plan(config: CorpusConfig) -> Plan:
    """Make the plan, and say what was decided in it."""
    plan = make_plan(config)
    for note in plan.notes:
        print(f"fmriscale: warning: {note}", file=sys.stderr)
    return plan


def leavers(config: CorpusConfig, folder: Path) -> list[str]:
    """Return the data sets of a corpus that its recipe does not list (any more)."""
    try:
        there = read_manifest(folder)[0]["datasets"]
    except UserError:  # none yet, or one that this build writes anew
        return []
    return sorted(set(there) - {dataset.name for dataset in config.datasets})


@contextlib.contextmanager
def _builder(config: CorpusConfig) -> Iterator[tuple[Path, FolderLock]]:
    """Open the corpus folder for writing."""
    folder = expand(config.out)
    with writing_to(folder), FolderLock(folder) as lock:
        yield folder, lock


# ---------------------------------------------------------------- command line


def _flags(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Take what says how to run from the command line; the rest is the recipe's."""
    parser = CommandLine(
        prog="fmriscale-shard",
        usage="fmriscale-shard --config FILE [--plan | --task-id I --num-tasks N | --finish] [--KEY VALUE]",
        add_help=False,
        allow_abbrev=False,
    )
    group = parser.add_argument_group("how to run (not part of the recipe)")
    group.add_argument(
        "--plan", action="store_true", help="tell what would be built, and how long; write nothing"
    )
    add_flags(group, "build part I = 0 ... N-1 of the shards", "write the manifest when all parts are built")
    if {"-h", "--help"} & set(args):
        print(parser.format_help())
    flags, recipe = parser.parse_known_args(args)
    settle(flags, "plan")
    return flags, recipe
