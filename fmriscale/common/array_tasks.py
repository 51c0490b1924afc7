"""How a verb's work is shared by the tasks of an array: --task-id I --num-tasks N, then --finish."""

import argparse
import os

from fmriscale.common.errors import UserError


def add_flags(parser: argparse.ArgumentParser, part: str, finish: str, **own: str) -> None:
    """Add the options that say how to run; `own`: further flags' help."""
    group = parser.add_argument_group("how to run (not part of the recipe)")
    for name, text in own.items():
        group.add_argument(f"--{name}", action="store_true", help=text)
    group.add_argument("--task-id", type=int, metavar="I", help=f"{part}; in a Slurm array its task")
    n_tasks = "number of parts; in a Slurm array its tasks"
    group.add_argument("--num-tasks", type=int, metavar="N", help=n_tasks)
    group.add_argument("--finish", action="store_true", help=finish)


def read_flags(
    parser: argparse.ArgumentParser, args: list[str], *exclusive: str
) -> tuple[argparse.Namespace, list[str]]:
    """Take what says how to run from a command line or a Slurm array; the rest is the recipe's.

    exclusive: further flags that exclude each other and a task.
    """
    if {"-h", "--help"} & set(args):  # the help on the recipe's keys follows
        print(parser.format_help())
    flags, recipe = parser.parse_known_args(args)
    alone = [*exclusive, "finish"]
    if sum(getattr(flags, name) for name in alone) + (flags.task_id is not None) > 1:
        raise UserError(f"give one of {''.join(f'--{name}, ' for name in exclusive)}--task-id and --finish")
    if flags.task_id is None and not any(getattr(flags, name) for name in alone):
        flags.task_id, flags.num_tasks = _slurm_task(flags.num_tasks, exclusive)
    if flags.task_id is not None and flags.num_tasks is None:
        raise UserError("--task-id needs --num-tasks, the number of parts")
    if flags.num_tasks is not None and not 0 <= (flags.task_id or 0) < flags.num_tasks:
        raise UserError(f"--task-id {flags.task_id} of --num-tasks {flags.num_tasks}: ids go from 0 to N-1")
    return flags, recipe


def _slurm_task(num_tasks: int | None, exclusive: tuple[str, ...]) -> tuple[int | None, int | None]:
    """Return id and number of tasks of the Slurm array that this process is part of, if any."""
    if "SLURM_ARRAY_TASK_ID" not in os.environ:
        if num_tasks is not None:
            others = f" (or {' or '.join(f'--{name}' for name in exclusive)})" if exclusive else ""
            raise UserError(f"--num-tasks needs --task-id{others}")
        return None, None
    names = ("ID", "MIN", "MAX", "COUNT")
    try:
        task, low, high, count = (int(os.environ[f"SLURM_ARRAY_TASK_{name}"]) for name in names)
    except (KeyError, ValueError) as error:
        what = f"SLURM_ARRAY_TASK_ID is set, but not what an array of Slurm sets ({error})"
        raise UserError(f"{what}: unset it, or give --task-id and --num-tasks") from error
    if high - low + 1 != count:
        raise UserError("the Slurm array has gaps: give a whole range, e.g. --array=0-15; what is done stays")
    return task - low, num_tasks or count
