"""Being stopped, going wrong and hanging: what a run must notice by itself."""

import contextlib
import faulthandler
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from fmriscale.common.errors import UserError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Asked to stop: by kill and scancel (TERM), and by Slurm before the time limit (USR1, USR2)."""
SAFETY = 20.0
"""Seconds that are left at a time limit when all has gone as it did before."""
OUTCOME = "FMRISCALE_OUTCOME"
"""Environment variable with the file in which a batch script learns how its ranks ended."""
TOLD = 0.8
"""The first rank of a machine that hangs tells where it stands after this share of the time that it may."""
TURNS = 0.1
"""The others do so, and end, up to this share of it later, so that in one log no stack runs into another."""


class StopRequest:
    """Remembers that a signal asked us to stop, or that time is up; the loop acts at the next step border.

    A handler only sets a flag: a save in the middle of a step, or on one rank alone, would hang the
    others. All ranks agree on the flag in the exchange that ends each step. A launcher that dies by a signal
    hands none on, and its ranks would train on, unseen; so they look after it.

    Attributes
    ----------
    ends : float or None
        When time is up, s since 1970; None = never.
    """

    def __init__(self) -> None:
        self.name = ""
        self.ends: float | None = None
        self._border = 0.0
        self._stretch = 0.0
        self._launchers = ancestors(launcher_depth(os.environ))
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name

    def at_border(self, save_seconds: float) -> bool:
        """Tell, at the border of a step, whether to stop there."""
        now = time.time()
        if self._border:  # the first stretch holds imports and the start of DeepSpeed
            self._stretch = max(self._stretch, now - self._border)
        self._border = now
        if self.ends is not None and is_late(now, self.ends, self._stretch, save_seconds):
            self.name = self.name or "time limit"
        if ancestors(len(self._launchers)) != self._launchers:
            self.name = self.name or "the launcher is gone"
        return bool(self)

    def deafen(self) -> None:
        """Ignore further requests: we are about to end.

        srun ends the other tasks as soon as the first has ended with a code that is not 0; those must not
        be killed on their last steps, or the job would end with their code instead of ours.
        """
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def __bool__(self) -> bool:
        return bool(self.name)


def launcher_depth(env: Mapping[str, str]) -> int:
    """Return how many processes of a launcher stand above a rank on its machine: those that we look after.

    `deepspeed` starts `deepspeed.launcher.launch`, and that the ranks; torchrun starts them itself. srun
    ends its tasks, and without a launcher it is no matter to a run which process started it.
    """
    if "CROSS_RANK" in env:  # set by deepspeed.launcher.launch alone
        return 2
    return 1 if "TORCHELASTIC_RUN_ID" in env else 0


def ancestors(n: int) -> tuple[int, ...]:
    """Return the process ids of the parent, its parent, and so on; 0 where one is gone."""
    pid, found = os.getpid(), []
    for _ in range(n):
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # no such process, or a system without /proc
            pid = 0
        found.append(pid)
    return tuple(found)


def time_limit(env: Mapping[str, str], max_minutes: float | None, now: float) -> float | None:
    """Return when time is up, s since 1970: at the end of the Slurm job, or after the minutes allowed."""
    ends = [now + 60 * max_minutes] if max_minutes else []
    if env.get("SLURM_JOB_END_TIME", "").isdigit():
        ends.append(float(env["SLURM_JOB_END_TIME"]))
    return min(ends, default=None)


def is_late(now: float, ends: float, stretch: float, save_seconds: float) -> bool:
    """Tell whether another stretch and a save might not fit before the end."""
    return now + 2 * stretch + 3 * save_seconds + SAFETY >= ends


class Watchdog:
    """Ends a process that has made no step for too long, after writing the stacks of all its threads.

    A rank that hangs stops all others in their next exchange, so each of them tells where it stands. It does
    so some time before it ends, since a launcher kills all ranks as soon as one has ended; one that was
    stopped does so as soon as it is woken. Both timers run outside the interpreter: neither a lock nor a
    library that holds it can keep them from firing.

    Parameters
    ----------
    minutes : float
        Longest time without a beat.
    turn : float
        Place of this rank among those of its machine, from 0 to 1: they tell one after the other.
    """

    def __init__(self, minutes: float, turn: float = 0.0) -> None:
        self.seconds = 60 * minutes
        self.later = TURNS * turn * self.seconds
        faulthandler.register(signal.SIGALRM, file=sys.__stderr__ or 2)
        self.beat()

    def beat(self) -> None:
        """Say that we are alive."""
        signal.setitimer(signal.ITIMER_REAL, TOLD * self.seconds + self.later)
        faulthandler.dump_traceback_later(self.seconds + self.later, exit=True, file=sys.__stderr__ or 2)

    def close(self) -> None:
        """Watch no longer."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        faulthandler.unregister(signal.SIGALRM)


class NonFiniteError(UserError):
    """Too many steps in a row without a finite loss and gradient."""

    exit_code = 1
    agreed = True


class NonFiniteGuard:
    """Counts steps whose loss or gradient was not finite (the engine leaves the weights alone there).

    Parameters
    ----------
    limit : int
        This many in a row end the run.
    total : int
        Those of earlier lives.
    """

    def __init__(self, limit: int, total: int = 0) -> None:
        self.limit = limit
        self.total = total
        self.in_a_row = 0

    def note(self, finite: bool) -> bool:
        """Note a step; tell whether the limit is reached."""
        self.in_a_row = 0 if finite else self.in_a_row + 1
        self.total += not finite
        return self.in_a_row >= self.limit

    def error(self, step: int, global_batch: int) -> NonFiniteError:
        """Return what to raise after a step at the limit; it names the steps and the pairs they saw."""
        first = step - self.in_a_row + 1
        return NonFiniteError(
            f"steps {first} to {step} had no finite loss or gradient (pairs {(first - 1) * global_batch} "
            f"to {step * global_batch - 1} of the order): lower train.lr, or check the corpus; "
            f"the weights are those of step {first - 1}, and saved"
        )


def note_outcome(word: str) -> None:
    """Tell a batch script what has happened last: `saved`, `stopped` or `diverged`.

    The exit code of srun is not enough: it is that of whichever task ended worst.
    """
    if path := os.environ.get(OUTCOME):
        with contextlib.suppress(OSError):  # on a full disk the exit code must do
            Path(path).write_text(word + "\n")
