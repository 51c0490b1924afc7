"""Whole files from servers: faults are tried again, bounded in time by `Patience`, wrong bodies in number."""

import hashlib
import os
import random
import sys
import threading
import time
from typing import Any, BinaryIO

from fmriscale.common.errors import DamageError, UserError
from fmriscale.corpus.servers import BLOCK, Entry, Fault, Source, Wrong

PATIENCE = 300.0
"""How long a file may make no progress before it is given up, s."""
WRONG_BODIES = 3
"""Whole bodies with another hash that are fetched before a file is called damaged."""


class Stopped(Exception):
    """Nobody waits for this file any more."""


class Patience:
    """Waits between tries: longer from fault to fault, short again after progress, and bounded.

    Parameters
    ----------
    what : str
        What is fetched, as messages name it.
    seconds : float
        How long no progress is put up with.
    stop : Event, optional
        Ends a wait at once.
    """

    def __init__(self, what: str, seconds: float, stop: threading.Event | None = None) -> None:
        self.what, self.seconds = what, seconds
        self._stop = stop or threading.Event()
        self._jitter = random.Random()  # its own: the global generator belongs to training
        self.progress()

    def progress(self) -> None:
        """Note that something has come."""
        self._since, self._delay = time.monotonic(), min(0.5, self.seconds / 20)

    def check(self) -> None:
        """Raise `Stopped` where nobody waits any more."""
        if self._stop.is_set():
            raise Stopped

    def fault(self, what: str, after: float = 0.0) -> None:
        """Wait before the next try of a server, where there may be one."""
        delay = max(self._delay, after) * self._jitter.uniform(0.75, 1.0)
        if delay > 2:
            told = f"fmriscale: {self.what}: {what}; trying again in {delay:.0f} s"
            print(told, file=sys.stderr, flush=True)
        self.wait(delay, what, "check the server and the network")
        self._delay = min(2 * self._delay, 30.0)

    def wait(self, seconds: float, why: str, remedy: str, error: type[UserError] = DamageError) -> None:
        """Wait, but not beyond the bound."""
        idle = time.monotonic() - self._since
        if idle > self.seconds:
            raise error(
                f"{self.what}: {why}; given up after {idle:.0f} s; {remedy}, then start again (what is in "
                "the cache stays)"
            )
        self._stop.wait(min(seconds, self.seconds - idle + 0.01))
        self.check()


def read_whole(source: Source, name: str, seconds: float) -> bytes:
    """Return a small file of a server."""
    patience = Patience(f"{source.shown}/{name}", seconds)
    while True:
        try:
            return b"".join(source.blocks(name, 0, None))
        except (Fault, Wrong) as fault:
            patience.fault(str(fault), getattr(fault, "after", 0.0))


def complete(source: Source, name: str, part: BinaryIO, size: int, sha256: str, patience: Patience) -> None:
    """Fetch what is missing of a file, and check all of it."""
    wrong, at = 0, f"{source.shown}/{name}"
    digest, here = _digest(part, size)
    while True:
        try:
            for block in source.blocks(name, here, size) if here < size else ():
                part.write(block)
                digest.update(block)
                here += len(block)
                patience.progress()
                patience.check()
            if here < size:
                raise Fault(f"the body ended at byte {here} of {size}")
            if digest.hexdigest() == sha256:
                part.flush()
                return
            raise Wrong(f"sha256 is {digest.hexdigest()}")
        except Fault as fault:
            patience.fault(str(fault), fault.after)
        except Wrong as found:
            wrong += 1
            digest, here = _empty(part)
            if wrong == WRONG_BODIES:
                raise DamageError(
                    f"{at}: {found}, corpus.json says {size} bytes, sha256 {sha256} (fetched {wrong} times); "
                    "upload the shard again, or the whole corpus if it was sharded anew"
                ) from None
            patience.fault(str(found))
        except FileNotFoundError as error:
            raise DamageError(f"{at}: not on the server ({error}); upload the shard again") from None
        except PermissionError as error:
            raise DamageError(f"{at}: the server refuses it ({error}); check your access") from None


def _digest(part: BinaryIO, size: int) -> tuple[Any, int]:
    """Hash what an earlier try has left, and tell its length; too much of it is none of it."""
    if part.seek(0, os.SEEK_END) > size:
        return _empty(part)
    part.seek(0)
    digest, here = hashlib.sha256(), 0
    while block := part.read(BLOCK):
        digest.update(block)
        here += len(block)
    return digest, here


def _empty(part: BinaryIO) -> tuple[Any, int]:
    """Begin a file anew."""
    part.seek(0)
    part.truncate(0)
    return hashlib.sha256(), 0


def fetch_file(source: Source, name: str, part: BinaryIO, patience: Patience) -> None:
    """Fetch a file whose hash is unknown; fetch it again if the server has a newer one."""
    entry, here, wrong = Entry(""), 0, 0
    while True:
        try:
            if (now := source.look(name)) != entry:
                entry, here = now, 0
                part.seek(0)
                part.truncate(0)
            for block in source.blocks(name, here, entry.size) if here < entry.size else ():
                part.write(block)
                here += len(block)
                patience.progress()
            if here < entry.size:
                raise Fault(f"the body ended at byte {here} of {entry.size}")
            if source.look(name) == entry:
                part.flush()
                return
            raise Wrong("it changes while it is read")
        except Fault as fault:
            patience.fault(str(fault), fault.after)
        except Wrong as found:
            entry, wrong = Entry(""), wrong + 1
            if wrong == WRONG_BODIES:
                raise DamageError(f"{source.shown}/{name}: {found} (tried {wrong} times)") from None
            patience.fault(str(found))
