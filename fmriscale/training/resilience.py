"""Stop requests, hanging ranks and steps that are not finite: what a run notices by itself."""

import contextlib
import faulthandler
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

import psutil

from fmriscale.common.errors import UserError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Requests to stop: from kill and scancel (TERM), and from Slurm before the time limit (USR1, USR2)."""
SAFETY = 20.0
"""Seconds to spare at a time limit if all takes as long as before."""
OUTCOME = "FMRISCALE_OUTCOME"
"""Environment variable: the file in which a batch script reads how its ranks ended."""
STACKS_AT = 0.8
"""Share of the allowed time after which the first rank of a machine writes its stacks."""
STAGGER = 0.1
"""The other ranks do so, and end, up to this share later, so that their stacks do not mix in one log."""


class StopRequest:
    """Remembers that a signal asked the run to stop, that its time is up, or that its launcher is gone.

    A handler only sets a flag, which all ranks agree on at the end of each step: to save in the middle of a
    step, or on one rank alone, would hang the others. A launcher that is killed forwards no signal.
    """

    def __init__(self) -> None:
        self.reason = ""
        """Name of the signal, or why to stop; '' = go on."""
        self.deadline: float | None = None
        """When time is up, s since 1970; None = never."""
        self._last_check = 0.0
        self._longest_step = 0.0
        self._launchers = launchers(os.environ)
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.reason = signal.Signals(number).name

    def check(self, save_seconds: float) -> bool:
        """Return, at the end of a step, whether this rank wants to stop."""
        now = time.time()
        if self._last_check:  # the first interval holds imports and the start of DeepSpeed
            self._longest_step = max(self._longest_step, now - self._last_check)
        self._last_check = now
        if self.deadline is not None and is_late(now, self.deadline, self._longest_step, save_seconds):
            self.reason = self.reason or "time limit"
        if launchers(os.environ) != self._launchers:
            self.reason = self.reason or "the launcher is gone"
        return bool(self.reason)


def ignore_signals() -> None:
    """Ignore further requests to stop, because this process is about to end.

    srun ends the other tasks as soon as one has ended with a code that is not 0. A task that dies of its
    signal would give the job another exit code.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def launchers(env: Mapping[str, str]) -> list[int]:
    """Return the process ids of the launchers above a rank on its machine.

    `deepspeed` starts `deepspeed.launcher.launch`, which starts the ranks; torchrun starts them itself. srun
    ends its tasks, and without a launcher it does not matter who started the run.
    """
    depth = 2 if "CROSS_RANK" in env else int("TORCHELASTIC_RUN_ID" in env)  # deepspeed, torchrun
    return [process.pid for process in psutil.Process().parents()[:depth]] if depth else []


def time_limit(env: Mapping[str, str], max_minutes: float | None, now: float) -> float | None:
    """Return when time is up, s since 1970: at the end of the Slurm job, or after the allowed minutes."""
    limits = [now + 60 * max_minutes] if max_minutes else []
    if env.get("SLURM_JOB_END_TIME", "").isdigit():
        limits.append(float(env["SLURM_JOB_END_TIME"]))
    return min(limits, default=None)


def is_late(now: float, deadline: float, step_seconds: float, save_seconds: float) -> bool:
    """Return whether another step and a save might not fit before the deadline."""
    return now + 2 * step_seconds + 3 * save_seconds + SAFETY >= deadline


class Watchdog:
    """Ends a process that has made no step for too long, after writing the stacks of all its threads.

    A rank that hangs stops the others in their next collective, so every rank writes its stacks, and does so
    before any ends: a launcher then kills them all. No lock can stop the timers, which run outside the
    interpreter. `position` is that of a rank on its machine, 0 to 1: ranks write one after the other.
    """

    def __init__(self, minutes: float, position: float = 0.0) -> None:
        self.seconds = 60 * minutes
        self.delay = STAGGER * position * self.seconds
        faulthandler.register(signal.SIGALRM, file=sys.__stderr__ or 2)
        self.beat()

    def beat(self) -> None:
        """Start both timers anew."""
        signal.setitimer(signal.ITIMER_REAL, STACKS_AT * self.seconds + self.delay)
        faulthandler.dump_traceback_later(self.seconds + self.delay, exit=True, file=sys.__stderr__ or 2)

    def close(self) -> None:
        """Stop both timers."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        faulthandler.unregister(signal.SIGALRM)


class NonFiniteError(UserError):
    """Too many steps in a row without a finite loss and gradient."""

    exit_code = 1
    agreed = True


class NonFiniteGuard:
    """Counts steps that are not finite, whose update the engine skips; `limit` in a row end the run."""

    def __init__(self, limit: int, total: int = 0) -> None:
        self.limit, self.total, self.in_a_row = limit, total, 0

    def count(self, finite: bool) -> bool:
        """Count a step; return whether the limit is reached."""
        self.in_a_row = 0 if finite else self.in_a_row + 1
        self.total += not finite
        return self.in_a_row >= self.limit

    def error(self, step: int, global_batch: int) -> NonFiniteError:
        """Return the error after a step at the limit; it names the steps and the pairs they read."""
        first = step - self.in_a_row + 1
        return NonFiniteError(
            f"steps {first} to {step} had no finite loss or gradient (pairs {(first - 1) * global_batch} "
            f"to {step * global_batch - 1} of the order): lower train.lr, or check the corpus; "
            f"the weights are those of step {first - 1}, and saved"
        )


def write_outcome(word: str) -> None:
    """Write for a batch script what happened last: `saved`, `stopped` or `diverged`.

    The exit code of srun does not tell: it is that of whichever task ended worst.
    """
    if path := os.environ.get(OUTCOME):
        with contextlib.suppress(OSError):
            Path(path).write_text(word + "\n")
