"""Being stopped and going wrong: requests to stop, and steps that are not finite."""

import signal
from types import FrameType

from fmriscale.errors import UserError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Asked to stop: by kill and scancel (TERM), and by Slurm before the time limit (USR1, USR2)."""


class StopRequest:
    """Remembers that a signal asked us to stop; the loop acts on it at the next step border.

    A handler only sets a flag: a save in the middle of a step, or on one rank alone, would hang the
    others. All ranks agree on the flag in the exchange that ends each step.
    """

    def __init__(self) -> None:
        self.name = ""
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name

    def deafen(self) -> None:
        """Ignore further requests: we are about to end.

        srun ends the other tasks as soon as the first has ended with a code that is not 0; those must not
        be killed on their last steps, or the job would end with their code instead of ours.
        """
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def __bool__(self) -> bool:
        return bool(self.name)


class NonFiniteError(UserError):
    """Too many steps in a row without a finite loss and gradient."""

    exit_code = 1


class NonFiniteGuard:
    """Counts steps whose loss or gradient was not finite (the engine leaves the weights alone there).

    Parameters
    ----------
    limit : int
        This many in a row end the run.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self.in_a_row = 0

    def check(self, step: int, finite: bool, global_batch: int) -> None:
        """Note a step.

        Raises
        ------
        NonFiniteError
            The limit is reached; the message names the steps and the pairs they saw.
        """
        if finite:
            self.in_a_row = 0
            return
        self.total += 1
        self.in_a_row += 1
        if self.in_a_row >= self.limit:
            first = step - self.in_a_row + 1
            raise NonFiniteError(
                f"steps {first} to {step} had no finite loss or gradient (pairs {(first - 1) * global_batch} "
                f"to {step * global_batch - 1} of the order): lower train.lr, or check the corpus; "
                "the last checkpoint is kept"
            )
