"""`fmriscale shard`: scans -> a corpus of tar shards.

Plan (which runs go to which shard) -> build what is not there yet, all of it or a task's part -> finish
(shards and manifest put in place) -> closing table.
"""

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from fmriscale.config import CorpusConfig
from fmriscale.corpus.inspect import table
from fmriscale.corpus.lock import FolderLock
from fmriscale.errors import EXIT_OK, EXIT_QUARANTINED, UserError
from fmriscale.files import expand, writing_to
from fmriscale.ingest.estimate import describe
from fmriscale.ingest.finish import finish
from fmriscale.ingest.plan import make_plan, part_of
from fmriscale.ingest.shards import build_shards
from fmriscale.recipe import CommandLine, parse


def main(args: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 3 where runs were quarantined."""
    flags, recipe = _flags(sys.argv[1:] if args is None else args)
    config = parse(CorpusConfig, recipe, prog="fmriscale-shard")
    if flags.plan:
        print(describe(config, flags.num_tasks or 1))
        return EXIT_OK
    again = shlex.join(["fmriscale-shard", *recipe])
    if flags.task_id is not None:
        print(build_part(config, flags.task_id, flags.num_tasks))
        return EXIT_OK
    plan, rejections = make_plan(config)
    with _builder(config) as (folder, lock):
        if not flags.finish:
            build_shards(plan, folder, config.jobs, lock)
        manifest, quarantine = finish(config, plan, rejections, lock, again)
    print(table(manifest, quarantine))
    return EXIT_QUARANTINED if len(quarantine) else EXIT_OK


def build(config: CorpusConfig) -> tuple[dict[str, Any], pd.DataFrame]:
    """Build or complete a corpus.

    Returns
    -------
    dict
        corpus.json as written.
    DataFrame
        quarantine.tsv as written.

    Raises
    ------
    UserError
        The recipe is wrong, or the folder cannot be written; a corpus that was there stays as it was.
    """
    plan, rejections = make_plan(config)
    with _builder(config) as (folder, lock):
        build_shards(plan, folder, config.jobs, lock)
        return finish(config, plan, rejections, lock, "build")


def build_part(config: CorpusConfig, task_id: int, num_tasks: int) -> str:
    """Build one task's part of the shards; return a line that says what was done.

    Raises
    ------
    UserError
        As `build`.
    """
    plan, _ = make_plan(config)
    part = part_of(plan, task_id, num_tasks)
    with _builder(config) as (folder, lock):
        n_built, n_rejected = build_shards(part, folder, config.jobs, lock)
    return (
        f"task {task_id} of {num_tasks}: {len(part)} of {len(plan)} shards, {n_built} built now, "
        f"{n_rejected} runs rejected; --finish writes the manifest when every task is done"
    )


@contextlib.contextmanager
def _builder(config: CorpusConfig) -> Iterator[tuple[Path, FolderLock]]:
    """Open the corpus folder for writing."""
    folder = expand(config.out)
    with writing_to(folder), FolderLock(folder) as lock:
        yield folder, lock


# ---------------------------------------------------------------- command line


def _flags(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Take what says how to run from the command line; the rest is the recipe's.

    Raises
    ------
    UserError
        Flags that make no sense together.
    """
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
    group.add_argument(
        "--task-id",
        type=int,
        metavar="I",
        help="build part I = 0 ... N-1 of the shards; in a Slurm array its task",
    )
    group.add_argument(
        "--num-tasks", type=int, metavar="N", help="number of parts; in a Slurm array its tasks"
    )
    group.add_argument("--finish", action="store_true", help="write the manifest when all parts are built")
    if {"-h", "--help"} & set(args):
        print(parser.format_help())
    flags, recipe = parser.parse_known_args(args)
    if flags.plan + flags.finish + (flags.task_id is not None) > 1:
        raise UserError("give one of --plan, --task-id and --finish")
    if flags.task_id is None and not flags.plan and not flags.finish:
        flags.task_id, flags.num_tasks = _array_task(flags.num_tasks)
    if flags.task_id is not None and flags.num_tasks is None:
        raise UserError("--task-id needs --num-tasks, the number of parts")
    if flags.num_tasks is not None and not 0 <= (flags.task_id or 0) < flags.num_tasks:
        raise UserError(f"--task-id {flags.task_id} of --num-tasks {flags.num_tasks}: ids go from 0 to N-1")
    return flags, recipe


def _array_task(num_tasks: int | None) -> tuple[int | None, int | None]:
    """Return id and number of tasks of the Slurm array that this process is part of, if any."""
    if "SLURM_ARRAY_TASK_ID" not in os.environ:
        if num_tasks is not None:
            raise UserError("--num-tasks needs --task-id (or --plan)")
        return None, None
    names = ("ID", "MIN", "MAX", "COUNT")
    task, low, high, count = (int(os.environ[f"SLURM_ARRAY_TASK_{name}"]) for name in names)
    if high - low + 1 != count:
        raise UserError(
            "the Slurm array has gaps: give a whole range, e.g. --array=0-15; what is built stays"
        )
    return task - low, num_tasks or count
