"""Folders on servers: HTTP(S) through requests, all else (s3, gs, ...) through fsspec.

A source answers what a folder holds, what a file is, and its bytes from a position on. What is worth another
try is a `Fault`; a body that is whole and wrong is `Wrong`. Passwords and tokens of a URL never reach a
message: messages are made of the file's name and of an operating system's or a server's word, never of an
exception's text.
"""

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from email.utils import parsedate_to_datetime
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from fmriscale.common.errors import UserError

BLOCK = 1 << 20
"""Most bytes read from a connection at once."""
RANGE = 16 << 20
"""Bytes asked of a store at once, where a request is answered whole."""
TIMEOUT = (10.0, 30.0)
"""How long a server may take to accept a connection and to send the next bytes, s."""
CRAWL = (60.0, 64 << 10)
"""A connection that brings fewer bytes (second) in this time (first, s) is dropped and made again."""
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses that pass."""


class Fault(Exception):
    """A transfer broke off and is worth another try; `after` is the wait that the server asks for, s."""

    def __init__(self, what: str, after: float = 0.0) -> None:
        super().__init__(what)
        self.after = after


class Wrong(Exception):
    """What came is not the file that was asked for."""


class Entry(NamedTuple):
    """A file or folder on a server.

    Attributes
    ----------
    name : str
        Its path below the source.
    size : int
        Bytes; 0 for a folder.
    time_ns : int
        When it was changed, with the server's tag of its content in the fraction of the second.
    is_folder : bool
        Whether it is a folder.
    """

    name: str
    size: int = 0
    time_ns: int = 0
    is_folder: bool = False


class Source(Protocol):
    """A folder on a server.

    Attributes
    ----------
    shown : str
        Its URL without password and query.
    is_store : bool
        One request lists all files below a folder.
    """

    shown: str
    is_store: bool

    def blocks(self, name: str, start: int, stop: int | None) -> Iterator[bytes]:
        """Yield the bytes of a file from `start` on, up to `stop` or its end."""
        ...

    def look(self, name: str) -> Entry:
        """Tell size and time of a file as they are now; raises as `blocks`."""
        ...

    def entries(self, folder: str, below: bool = False) -> list[Entry]:
        """List what a folder holds, or every file however far below it; nothing where it is not there."""
        ...


def is_url(where: str | Path) -> bool:
    """Tell whether a corpus lies on a server."""
    if str(where).startswith("pipe:"):
        raise UserError(
            f"data.corpus '{where}': pipe: URLs run commands and are not read; give https://, s3:// or "
            "another URL that fsspec opens"
        )
    return "://" in str(where)


def open_source(url: str) -> Source:
    """Return the folder at a URL; nothing is fetched yet."""
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

    is_store = False

    def __init__(self, url: str, shown: str) -> None:
        self.shown, self._parts = shown, urlsplit(url)

    def blocks(self, name: str, start: int, stop: int | None) -> Iterator[bytes]:
        with self._asking():
            headers = {"Range": f"bytes={start}-"} if start else {}
            with self._request("GET", name, headers) as response:
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

    def look(self, name: str) -> Entry:
        with self._asking(), self._request("HEAD", name) as response:
            self._check(response, 0, None)
            told = response.headers
            if not told.get("Content-Length", "").isdecimal():
                raise PermissionError("the server does not tell the size of files")
            when = parsedate_to_datetime(told["Last-Modified"]) if "Last-Modified" in told else None
            return Entry(name, int(told["Content-Length"]), _time_ns(when, told.get("ETag", "")))

    def entries(self, folder: str, below: bool = False) -> list[Entry]:
        names, folders = self._links(folder)
        with ThreadPoolExecutor(16) as pool:
            files = list(pool.map(self.look, names))
        if not below:
            return [Entry(inner, is_folder=True) for inner in folders] + files
        return files + [entry for inner in folders for entry in self.entries(inner, below)]

    def _links(self, folder: str) -> tuple[list[str], list[str]]:
        """Return the files and folders to which the page of a folder links."""
        with self._asking():
            try:
                with self._request("GET", f"{folder}/" if folder else "") as response:
                    self._check(response, 0, None)
                    page, here = response.content, urlsplit(response.url).path
            except FileNotFoundError:
                return [], []
        links = re.findall(rb"""<a\s[^>]*?href\s*=\s*["']([^"'?#]+)["']""", page, re.IGNORECASE)
        paths = {
            urlsplit(urljoin(response.url, unescape(link.decode("utf-8", "replace")))).path for link in links
        }
        inside = sorted(unquote(path[len(here) :]) for path in paths if path.startswith(here))
        if not inside and b"<a" not in page.lower():
            raise PermissionError("the server shows no page of what a folder holds")
        names = [f"{folder}/{name}".lstrip("/") for name in inside if _is_name(name.removesuffix("/"))]
        return [n for n in names if not n.endswith("/")], [n[:-1] for n in names if n.endswith("/")]

    def _request(self, method: str, name: str, headers: dict[str, str] | None = None) -> Any:
        import requests

        path = f"{self._parts.path.rstrip('/')}/{quote(name)}"
        url = urlunsplit(self._parts._replace(path=path, fragment=""))
        headers = {"Accept-Encoding": "identity"} | (headers or {})
        options: dict[str, Any] = {"stream": True, "timeout": TIMEOUT, "allow_redirects": True}
        return requests.request(method, url, headers=headers, **options)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn what a connection raises into faults."""
        import requests
        import urllib3

        try:
            yield
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

    is_store = True

    def __init__(self, url: str, shown: str) -> None:
        self.shown, self._url, self._anonymous = shown, url.rstrip("/"), False
        self._open()

    def _open(self) -> None:
        from fsspec.core import url_to_fs

        protocol, options = urlsplit(self._url).scheme, {}
        if protocol in ("s3", "s3a"):
            # Retries and their bound are ours: without this, s3 may take a quarter of an hour to give up.
            brief: dict[str, Any] = {"connect_timeout": TIMEOUT[0], "read_timeout": TIMEOUT[1]}
            brief["retries"] = {"max_attempts": 1}
            options = {"config_kwargs": brief, "anon": self._anonymous}
        try:
            self._files, self.root = url_to_fs(self._url, skip_instance_cache=True, **options)
        except ImportError as error:
            extra = "pip install 'fmriscale[s3]'" if protocol in ("s3", "s3a") else str(error)
            raise UserError(f"{self.shown}: a package for {protocol}:// is missing: {extra}") from None
        except ValueError as error:
            raise UserError(f"{self.shown}: {error}; give https://, s3:// or another URL of fsspec") from None

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """Ask the file system anew; without credentials as anybody may, which public buckets allow."""
        anonymous = self._anonymous
        try:
            self._files.invalidate_cache()
            return getattr(self._files, method)(path, **options)
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # whatever the libraries of a hundred stores raise
            if "Credentials" not in type(error).__name__:
                raise Fault(_reason(error)) from None
            if anonymous or not self._url.startswith("s3"):
                raise PermissionError("no credentials") from None
        self._anonymous = True
        self._open()
        return self.ask(method, path, **options)

    def blocks(self, name: str, start: int, stop: int | None) -> Iterator[bytes]:
        path = f"{self.root}/{name}"
        if stop is None:
            yield self.ask("cat_file", path)
            return
        while start < stop:
            end = min(start + RANGE, stop)
            block = self.ask("cat_file", path, start=start, end=end)
            yield block
            if len(block) < end - start:
                raise Wrong(f"the file on the server ends at byte {start + len(block)}")
            start = end

    def look(self, name: str) -> Entry:
        return self._entry(self.ask("info", f"{self.root}/{name}"))

    def entries(self, folder: str, below: bool = False) -> list[Entry]:
        path = f"{self.root}/{folder}".rstrip("/")
        try:
            if below:
                found = list(self.ask("find", path, detail=True).values())
            else:
                found = self.ask("ls", path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        inside = map(self._entry, found)
        start = f"{folder}/" if folder else ""
        return [
            entry
            for entry in inside
            if entry.name.startswith(start) and all(map(_is_name, entry.name[len(start) :].split("/")))
        ]

    def _entry(self, info: dict[str, Any]) -> Entry:
        name = info["name"].rstrip("/").removeprefix(self.root).lstrip("/")
        if info["type"] == "directory":
            return Entry(name, is_folder=True)
        when = next((info[key] for key in _TIMES if info.get(key) is not None), None)
        return Entry(
            name, int(info["size"] or 0), _time_ns(when, str(info.get("ETag") or info.get("etag") or ""))
        )


_TIMES = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")
"""Where file systems of fsspec tell when a file was changed."""


def _time_ns(when: Any, tag: str) -> int:
    """Return a time in ns that differs where time or tag differ."""
    if isinstance(when, datetime):
        when = when.timestamp()
    if not isinstance(when, int | float):
        when, tag = 0, f"{tag}{when or ''}"
    if not tag:
        return int(when * 1_000_000_000)
    return int(when) * 1_000_000_000 + int(hashlib.sha256(tag.encode()).hexdigest(), 16) % 1_000_000_000


def _is_name(name: str) -> bool:
    """Tell what may be the name of a file here: stores allow keys that no file system has."""
    return name not in ("", ".", "..") and not set(name) & set("/\\\0")


def _reason(error: BaseException) -> str:
    """Say why a connection failed in the words of the operating system, from the innermost cause."""
    words, seen = "", error
    while seen is not None:
        name = "" if isinstance(seen, OSError) and words else type(seen).__name__
        words = getattr(seen, "strerror", None) or name or words
        inner = [a for a in (*seen.args, getattr(seen, "reason", None)) if isinstance(a, BaseException)]
        seen = inner[0] if inner else seen.__cause__ or seen.__context__
    return words
