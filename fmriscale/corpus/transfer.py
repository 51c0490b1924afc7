"""Bytes of a corpus that lies on a server: HTTP(S) through requests, all else (s3, gs, ...) through fsspec.

A source answers one question: the bytes of a file from a position on. What is worth another try is a
`Fault`, bounded in time by `Patience`; a body that is whole and wrong is `Wrong`, bounded in number.
Passwords and tokens of a URL never reach a message: messages are made of the file's name and of an
operating system's or a server's word, never of an exception's text.
"""

import hashlib
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import quote, urlsplit, urlunsplit

from fmriscale.errors import DamageError, UserError

PATIENCE = 300.0
"""How long a file may make no progress before it is given up, s."""
BLOCK = 1 << 20
"""Most bytes read from a connection at once."""
RANGE = 16 << 20
"""Bytes asked of a store at once, where a request is answered whole."""
TIMEOUT = (10.0, 30.0)
"""How long a server may take to accept a connection and to send the next bytes, s."""
CRAWL = (60.0, 64 << 10)
"""A connection that brings fewer bytes (second) in this time (first, s) is dropped and made again."""
WRONG_BODIES = 3
"""Whole bodies with another hash that are fetched before a file is called damaged."""
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses that pass."""


class Fault(Exception):
    """A transfer broke off and is worth another try; `after` is the wait that the server asks for, s."""

    def __init__(self, what: str, after: float = 0.0) -> None:
        super().__init__(what)
        self.after = after


class Wrong(Exception):
    """What came is not the file that was asked for."""


class Stopped(Exception):
    """Nobody waits for this file any more."""


class Source(Protocol):
    """A folder on a server.

    Attributes
    ----------
    shown : str
        Its URL without password and query.
    """

    shown: str

    def blocks(self, name: str, start: int, stop: int | None) -> Iterator[bytes]:
        """Yield the bytes of a file from `start` on, up to `stop` or its end.

        Raises
        ------
        Fault
            The connection or the server failed.
        Wrong
            The file is shorter than `stop`.
        FileNotFoundError
            There is no such file.
        PermissionError
            The server refuses.
        """
        ...


def is_url(where: str | Path) -> bool:
    """Tell whether a corpus lies on a server.

    Raises
    ------
    UserError
        `pipe:` URLs, which run commands.
    """
    if str(where).startswith("pipe:"):
        raise UserError(
            f"data.corpus '{where}': pipe: URLs run commands and are not read; give https://, s3:// or "
            "another URL that fsspec opens"
        )
    return "://" in str(where)


def open_source(url: str) -> Source:
    """Return the folder at a URL; nothing is fetched yet.

    Parameters
    ----------
    url : str
        `https://host/corpus`, `s3://bucket/corpus`, or what fsspec opens; `$NAME` is an environment variable.

    Raises
    ------
    UserError
        A password or token written out in the URL, an unknown protocol, a package that is missing.
    """
    written = urlsplit(url)
    shown = urlunsplit((written.scheme, written.netloc.rpartition("@")[2], written.path.rstrip("/"), "", ""))
    secrets = f"{written.netloc.rpartition('@')[0]}{written.query}"
    if secrets and "$" not in secrets:
        raise UserError(
            f"{shown}: the URL holds a user name, password or token, which would be kept with the run; put "
            "it into ~/.netrc (https), AWS_* or ~/.aws (s3), or an environment variable (then $NAME here)"
        )
    expanded = os.path.expandvars(url)
    return _Http(expanded, shown) if written.scheme in ("http", "https") else _Store(expanded, shown)


class _Http:
    """A folder behind an HTTP server."""

    def __init__(self, url: str, shown: str) -> None:
        self.shown, self._parts = shown, urlsplit(url)

    def blocks(self, name: str, start: int, stop: int | None) -> Iterator[bytes]:
        import requests
        import urllib3

        path = f"{self._parts.path.rstrip('/')}/{quote(name)}"
        url = urlunsplit(self._parts._replace(path=path, fragment=""))
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        try:
            with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
                self._check(response, start, stop)
                # A server that ignores Range sends the file from its first byte: what is here is skipped.
                skip = start if response.status_code == 200 else 0
                left = None if stop is None else stop - start
                for block in _brisk(response):
                    block, skip = block[skip:], max(0, skip - len(block))
                    if left is not None:
                        block = block[:left]
                        left -= len(block)
                    if block:
                        yield block
                    if left == 0:
                        return
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise UserError(f"{self.shown}: not a URL that can be opened") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            if isinstance(error, (FileNotFoundError, PermissionError)):
                raise
            raise Fault(_reason(error)) from None  # the message of the error may hold the whole URL

    def _check(self, response: Any, start: int, stop: int | None) -> None:
        """Turn statuses into errors."""
        status = response.status_code
        if status in (404, 410):
            raise FileNotFoundError(f"HTTP {status}")
        if status == 416:
            raise Wrong("the file on the server is shorter")
        if status in _AGAIN:
            after = response.headers.get("Retry-After", "")
            raise Fault(f"HTTP {status}", float(after) if after.isdecimal() else 0.0)
        if status not in (200, 206):
            raise PermissionError(f"HTTP {status}")
        told = response.headers.get("Content-Range" if status == 206 else "Content-Length", "")
        if status == 206 and not told.startswith(f"bytes {start}-"):
            raise Fault("the server sent another range than it was asked for")
        whole = told.rpartition("/")[2]
        if stop is not None and whole.isdecimal() and int(whole) < stop:
            raise Wrong(f"the file on the server has {whole} bytes")


def _brisk(response: Any) -> Iterator[bytes]:
    """Yield what a response brings as it comes, and drop a connection that crawls."""
    since, brought = time.monotonic(), 0
    while block := response.raw.read1(BLOCK):
        brought += len(block)
        if (now := time.monotonic()) - since > CRAWL[0]:
            if brought < CRAWL[1]:
                raise Fault(f"{brought} bytes in {now - since:.0f} s")
            since, brought = now, 0
        yield block


class _Store:
    """A folder of any file system of fsspec: every read is one request for a range, so nothing is seeked."""

    def __init__(self, url: str, shown: str) -> None:
        from fsspec.core import url_to_fs

        self.shown = shown
        protocol = urlsplit(url).scheme
        # Retries and their bound are ours: without this, s3 alone may take a quarter of an hour to give up.
        brief = {"connect_timeout": TIMEOUT[0], "read_timeout": TIMEOUT[1], "retries": {"max_attempts": 1}}
        options = {"config_kwargs": brief} if protocol in ("s3", "s3a") else {}
        try:
            self._files, self._root = url_to_fs(url.rstrip("/"), skip_instance_cache=True, **options)
        except ImportError as error:
            extra = "pip install 'fmriscale[s3]'" if protocol in ("s3", "s3a") else str(error)
            raise UserError(f"{shown}: a package for {protocol}:// is missing: {extra}") from None
        except ValueError as error:
            raise UserError(f"{shown}: {error}; give https://, s3:// or another URL of fsspec") from None

    def blocks(self, name: str, start: int, stop: int | None) -> Iterator[bytes]:
        path = f"{self._root}/{name}"
        try:
            if stop is None:
                yield self._files.cat_file(path)
                return
            while start < stop:
                end = min(start + RANGE, stop)
                block = self._files.cat_file(path, start=start, end=end)
                yield block
                if len(block) < end - start:
                    raise Wrong(f"the file on the server ends at byte {start + len(block)}")
                start = end
        except (FileNotFoundError, PermissionError, Wrong):
            raise
        except Exception as error:  # whatever the libraries of a hundred stores raise
            if "Credentials" in type(error).__name__:
                raise PermissionError("no credentials") from None
            raise Fault(_reason(error)) from None


def _reason(error: BaseException) -> str:
    """Say why a connection failed in the words of the operating system, from the innermost cause."""
    words, seen = "", error
    while seen is not None:
        name = "" if isinstance(seen, OSError) and words else type(seen).__name__
        words = getattr(seen, "strerror", None) or name or words
        inner = [a for a in (*seen.args, getattr(seen, "reason", None)) if isinstance(a, BaseException)]
        seen = inner[0] if inner else seen.__cause__ or seen.__context__
    return words


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
        """Wait, but not beyond the bound.

        Raises
        ------
        UserError
            There was no progress for too long: an `error` that says why, and the remedy.
        Stopped
            Nobody waits any more.
        """
        idle = time.monotonic() - self._since
        if idle > self.seconds:
            raise error(
                f"{self.what}: {why}; given up after {idle:.0f} s; {remedy}, then start again (what is in "
                "the cache stays)"
            )
        self._stop.wait(min(seconds, self.seconds - idle + 0.01))
        self.check()


def read_whole(source: Source, name: str, seconds: float) -> bytes:
    """Return a small file of a server.

    Raises
    ------
    DamageError
        The server could not be reached for `seconds`, or broke off every time.
    FileNotFoundError, PermissionError
        There is no such file; the server refuses.
    """
    patience = Patience(f"{source.shown}/{name}", seconds)
    while True:
        try:
            return b"".join(source.blocks(name, 0, None))
        except (Fault, Wrong) as fault:
            patience.fault(str(fault), getattr(fault, "after", 0.0))


def complete(source: Source, name: str, part: BinaryIO, size: int, sha256: str, patience: Patience) -> None:
    """Fetch what is missing of a file, and check all of it.

    Parameters
    ----------
    source : Source
        Where it comes from.
    name : str
        Path of the file below the source.
    part : BinaryIO
        What has come so far, open for reading and writing; it is left complete and flushed.
    size, sha256 : int, str
        What the file must be. The hash covers the seam between tries, so a file that changed on the server
        in between (another ETag) is caught and fetched from its first byte.
    patience : Patience
        Bound of the waits.

    Raises
    ------
    DamageError
        The file is missing, refused or cannot be reached, or its bytes are not those of the manifest.
    Stopped
        Nobody waits for it any more.
    """
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
