"""Download whole files from servers, and try again: after failed requests for a bounded time."""

import hashlib
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar, cast

from fmriscale.common.errors import DamageError, UserError
from fmriscale.corpus.servers import Entry, RemoteFolder, TransientError, WrongContent

Answer = TypeVar("Answer")
GIVE_UP_AFTER = 300.0  # How long a file may make no progress before it is given up, s
WRONG_FILES = 3  # Whole files with another hash that are fetched before a file is called damaged


class Stopped(Exception):
    """Nobody waits for this file any more."""


class Backoff:
    """Waits between tries, longer from failure to failure, and gives up `give_up_after` s after progress."""

    def __init__(self, what: str, give_up_after: float, stop: threading.Event | None = None) -> None:
        self.what, self.give_up_after = what, give_up_after
        self._stop = stop or threading.Event()
        self._jitter = random.Random()  # its own: the global generator belongs to training
        self.progress()

    def progress(self) -> None:
        """Note that something has come; raise `Stopped` where nobody waits for it any more."""
        self._since, self._delay = time.monotonic(), min(0.5, self.give_up_after / 20)
        if self._stop.is_set():
            raise Stopped

    def retry(self, reason: str, after: float = 0.0) -> None:
        """Wait before the next try, at least as long as the server asks for."""
        delay = max(self._delay, after) * self._jitter.uniform(0.75, 1.0)
        if delay > 2:
            line = f"fmriscale: {self.what}: {reason}; trying again in {delay:.0f} s"
            print(line, file=sys.stderr, flush=True)
        self.wait(delay, reason, "check the server and the network")
        self._delay = min(2 * self._delay, 30.0)

    def ask(self, question: Callable[[], Answer]) -> Answer:
        """Return what a server answers; ask again where that fails."""
        while True:
            try:
                return question()
            except (TransientError, WrongContent) as error:
                self.retry(str(error), getattr(error, "after", 0.0))

    def wait(self, seconds: float, reason: str, remedy: str, error: type[UserError] = DamageError) -> None:
        """Wait, but not beyond the bound."""
        idle = time.monotonic() - self._since
        if idle > self.give_up_after:
            given_up = f"given up after {idle:.0f} s; {remedy}, then start again (the cache stays)"
            raise error(f"{self.what}: {reason}; {given_up}")
        self._stop.wait(min(seconds, self.give_up_after - idle + 0.01))
        if self._stop.is_set():
            raise Stopped


def read_whole(folder: RemoteFolder, name: str, give_up_after: float) -> bytes:
    """Return the content of a small file."""
    backoff = Backoff(f"{folder.shown}/{name}", give_up_after)
    return backoff.ask(lambda: b"".join(folder.blocks(name, 0, None)))


def fetch_shard(
    folder: RemoteFolder,
    name: str,
    part: BinaryIO,
    size: int,
    sha256: str,
    backoff: Backoff,
    listed_in: str = "corpus.json",
) -> None:
    """Fetch what is missing of a file whose size and hash are known, and check all of it."""
    at = f"{folder.shown}/{name}"
    try:
        _fetch(folder, name, part, backoff, size, sha256)
    except WrongContent as error:
        expected = f"{listed_in} says {size} bytes, sha256 {sha256} (fetched {WRONG_FILES} times)"
        raise DamageError(f"{at}: {error}, {expected}; upload it and {listed_in} again") from None
    except FileNotFoundError as error:
        raise DamageError(f"{at}: not on the server ({error}); upload it again") from None
    except PermissionError as error:
        raise DamageError(f"{at}: the server refuses it ({error}); check your access") from None


def fetch_file(folder: RemoteFolder, name: str, part: BinaryIO, backoff: Backoff) -> None:
    """Fetch a file whose hash is unknown; fetch it again if the server has a newer one."""
    try:
        _fetch(folder, name, part, backoff)
    except WrongContent as error:
        raise DamageError(f"{folder.shown}/{name}: {error} (tried {WRONG_FILES} times)") from None


def _fetch(
    folder: RemoteFolder, name: str, part: BinaryIO, backoff: Backoff, size: int = 0, sha256: str = ""
) -> None:
    """Append to `part` what is missing; without a hash, what the server says of the file must not change."""
    entry, n_wrong = Entry(name, size) if sha256 else None, 0
    while True:
        try:
            if not sha256 and (now := folder.look(name)) != entry:
                entry = now
                _empty(part)
            assert entry is not None
            if (position := part.seek(0, os.SEEK_END)) > entry.size:
                position = _empty(part)
            for block in folder.blocks(name, position, entry.size) if position < entry.size else ():
                part.write(block)
                position += len(block)
                backoff.progress()
            if position < entry.size:
                raise TransientError(f"the body ended at byte {position} of {entry.size}")
            part.seek(0)
            if not sha256:
                if folder.look(name) != entry:
                    raise WrongContent("it changes while it is read")
            elif (found := hashlib.file_digest(cast(Any, part), "sha256").hexdigest()) != sha256:
                raise WrongContent(f"sha256 is {found}")
            part.flush()
            return
        except TransientError as error:
            backoff.retry(str(error), error.after)
        except WrongContent as error:
            n_wrong += 1
            _empty(part)
            if n_wrong == WRONG_FILES:
                raise
            backoff.retry(str(error))


def _empty(part: BinaryIO) -> int:
    """Begin a file anew, at byte 0."""
    part.seek(0)
    part.truncate(0)
    return 0
