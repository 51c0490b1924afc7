"""What a verb says while it works: chatter, which --quiet silences, and progress."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Self, TypeVar

Item = TypeVar("Item")

QUIET = ("-q", "--quiet")
"""The option of every verb that leaves errors, the summary of the quarantine and the result."""
QUIET_HELP = "print errors and the result alone, no progress"
LOG_SECONDS = 30.0  # Time between lines in a log, s


class _Console:
    """The console of this process."""

    quiet = False
    bar: Any = None
    """The bar that stands on the last line of the terminal."""


def set_quiet(quiet: bool) -> None:
    """Leave out chatter and progress from now on, or not."""
    _Console.quiet = quiet


def is_quiet() -> bool:
    """Return whether chatter and progress are left out."""
    return _Console.quiet


def tell(text: str) -> None:
    """Print a line on stdout, above the bar if there is one."""
    if _Console.bar is not None:
        _Console.bar.write(text, file=sys.stdout)
        sys.stdout.flush()
    else:
        print(text, flush=True)


def say(text: str) -> None:
    """Print a line that the result does not need; --quiet leaves it out."""
    if not _Console.quiet:
        tell(text)


def note(text: str) -> None:
    """Print a line on stderr, beside the result; --quiet leaves it out."""
    if not _Console.quiet:
        print(text, file=sys.stderr, flush=True)


class Progress:
    """Count finished items: a bar on a terminal, a line now and then in a log.

    done: items that were finished before.

    log: False where the work prints lines of its own, so that a log needs none of these.
    """

    def __init__(self, total: int, unit: str, done: int = 0, log: bool = True) -> None:
        self.total, self.unit, self.done, self.log = total, unit, done, log
        self.rejected = 0
        """Items that came to nothing."""
        self.note = ""
        """What stands behind the numbers, such as "2 quarantined"."""
        self._last = time.monotonic()
        self._bar: Any = None
        if not _Console.quiet and sys.stderr.isatty() and _Console.bar is None:
            from tqdm import tqdm

            self._bar = _Console.bar = tqdm(total=total, initial=done, unit=f" {unit}", dynamic_ncols=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            _Console.bar = None

    def update(self, count: int = 1) -> None:
        """Count `count` more items as done."""
        self.done += count
        if self._bar is not None:
            self._bar.set_postfix_str(self.note, refresh=False)
            self._bar.update(count)
        elif self.log and time.monotonic() - self._last > LOG_SECONDS:
            self._last = time.monotonic()
            line = f"{self.done} of {self.total} {self.unit}"
            note(", ".join(filter(None, (line, self.note))))


def counted(items: Iterable[Item], total: int, unit: str, log: bool = True) -> Iterator[Item]:
    """Yield items, and show how many of them are done."""
    with Progress(total, unit, log=log) as progress:
        for item in items:
            yield item
            progress.update()
