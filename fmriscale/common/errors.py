"""Errors that a user can fix, and the exit codes that schedulers and scripts rely on."""

import atexit
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

EXIT_OK = 0
EXIT_FAULT = 1  # A fault, with a traceback; or a training that does not converge
EXIT_USAGE = 2  # Usage or configuration: nothing was done
EXIT_QUARANTINED = 3  # Done, but runs were quarantined
EXIT_DAMAGE = 4  # Damage found in a corpus or a checkpoint
EXIT_STOPPED = 85  # Stopped on request and saved: requeue me
EXIT_INTERRUPTED = 130  # Ended by Ctrl-C


OPTIONAL = {"deepspeed": "training needs deepspeed", "mlflow": "this needs mlflow"}
"""Packages that reading a corpus and embedding do without, and what is told where one is missing."""


class UserError(Exception):
    """A mistake that the user can fix: the message names the file, what is wrong and the remedy."""

    exit_code = EXIT_USAGE
    agreed = False  # Raised on every rank at the same point: rank 0 reports it, for all


class DamageError(UserError):
    """A file of a corpus or a checkpoint is not what its manifest says."""

    exit_code = EXIT_DAMAGE


def shown(error: BaseException) -> str:
    """Return the words of an error for a terminal: names from files of others hold no control characters."""
    from fmriscale.common.files import printable  # which imports this module

    return "\n".join(printable(line) for line in str(error).split("\n"))


def exit_code_of(main: Callable[[], int | None]) -> int:
    """Run a main function; a `UserError` becomes one line on stderr and its exit code."""
    try:
        return main() or EXIT_OK
    except UserError as error:
        print(f"fmriscale: error: {shown(error)}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        print(f"fmriscale: error: {OPTIONAL[error.name]}: pip install {error.name}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("fmriscale: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def end_process(code: int) -> NoReturn:
    """End the process with this exit code and no other: a scheduler decides by it whether to requeue.

    Python's own way out frees compiled libraries while their threads run; when one aborts, the code is lost.
    """
    atexit._run_exitfuncs()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a closed pipe cannot change the outcome
            stream.flush()
    os._exit(code)
