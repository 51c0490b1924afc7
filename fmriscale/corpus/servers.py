"""Folders on servers: HTTP(S) through requests, everything else (s3, gs, ...) through fsspec.

Messages hold the name of a file and the words of a server or an operating system, never the text of an
exception: that may hold the passwords and tokens of a URL.
"""

import contextlib
import hashlib
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from email.utils import parsedate_to_datetime
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand_variables
from fmriscale.common.trust import is_file_name

BLOCK = 1 << 20  # Most bytes read from a connection at once
RANGE = 16 << 20  # Bytes asked of a store at once, where a request is answered whole
TIMEOUT = (10.0, 30.0)  # How long a server may take to accept a connection and to send the next bytes, s
CRAWL = (60.0, 64 << 10)
"""A connection that brings fewer bytes (second) in this time (first, s) is dropped and made again."""
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that pass
TIMES = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")
"""Where file systems of fsspec say when a file was changed."""


class TransientError(Exception):
    """A request failed and is worth another try; `after` is the wait that the server asks for, s."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class WrongContent(Exception):
    """What came is not the file that was asked for."""


class Entry(NamedTuple):
    """A file or folder on a server; its name is the path below the folder that was opened."""

    name: str
    size: int = 0  # Bytes; 0 for a folder
    time_ns: int = 0
    """When it was changed, with the server's tag of its content in the fraction of the second."""
    is_folder: bool = False


def is_url(where: str | Path) -> bool:
    """Tell whether a corpus lies on a server."""
    if str(where).startswith("pipe:"):
        raise UserError(f"'{where}': pipe: URLs run commands and are not read; give https:// or s3://")
    return "://" in str(where)


def open_folder(url: str) -> "RemoteFolder":
    """Return the folder at a URL; nothing is fetched yet."""
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    shown = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
    secrets = f"{login}{parts.query}"
    if secrets and "$" not in secrets:
        remedy = "put it into ~/.netrc (https), AWS_* or ~/.aws (s3), or a variable ($NAME here)"
        raise UserError(f"{shown}: the URL holds a user name, password or token, which is kept; {remedy}")
    kind = _HttpFolder if parts.scheme in ("http", "https") else _StoreFolder
    return kind(expand_variables(url, shown), shown)


class _HttpFolder:
    """A folder behind an HTTP server; a missing file is a FileNotFoundError, a refusal a PermissionError."""

    is_store = False  # One request lists all files below a folder

    def __init__(self, url: str, shown: str) -> None:
        self.url, self.shown = url, shown  # `shown` has no password and no query

    def blocks(self, name: str, start: int, stop: int | None) -> Iterator[bytes]:
        """Yield the bytes of a file from `start` on, up to `stop` or its end."""
        with self._response("GET", name, start, stop) as response:
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
        """Return size and time of a file as they are now."""
        with self._response("HEAD", name) as response:
            headers = response.headers
            if not headers.get("Content-Length", "").isdecimal():
                raise PermissionError("the server does not tell the size of files")
            when = parsedate_to_datetime(headers["Last-Modified"]) if "Last-Modified" in headers else None
            return Entry(name, int(headers["Content-Length"]), _time_ns(when, headers.get("ETag", "")))

    def entries(self, folder: str, below: bool = False) -> list[Entry]:
        """List a folder, or every file however far below it; a folder that is not there is empty."""
        names = self._links(folder)
        folders = [name.removesuffix("/") for name in names if name.endswith("/")]
        with ThreadPoolExecutor(16) as pool:
            files = list(pool.map(self.look, (name for name in names if not name.endswith("/"))))
        if not below:
            return [Entry(inner, is_folder=True) for inner in folders] + files
        return files + [entry for inner in folders for entry in self.entries(inner, below)]

    def _links(self, folder: str) -> list[str]:
        """Return the files and folders (with a slash) to which the page of a folder links."""
        try:
            with self._response("GET", f"{folder}/" if folder else "") as response:
                page, url = response.content, response.url
        except FileNotFoundError:
            return []
        links = re.findall(rb"""<a\s[^>]*?href\s*=\s*["']([^"'?#]+)["']""", page, re.IGNORECASE)
        paths = {urlsplit(urljoin(url, unescape(link.decode("utf-8", "replace")))).path for link in links}
        start = urlsplit(url).path
        inside = sorted(unquote(path.removeprefix(start)) for path in paths if path.startswith(start))
        if not inside and b"<a" not in page.lower():
            raise PermissionError("the server shows no page of what a folder holds")
        return [f"{folder}/{name}".lstrip("/") for name in inside if is_file_name(name.removesuffix("/"))]

    @contextlib.contextmanager
    def _response(self, method: str, name: str, start: int = 0, stop: int | None = None) -> Iterator[Any]:
        """Send a request; a connection that fails, now or while the body is read, is a transient error."""
        import requests
        import urllib3

        parts, path = urlsplit(self.url), quote(name)
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        options: dict[str, Any] = {"stream": True, "timeout": TIMEOUT, "allow_redirects": True}
        try:
            url = urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{path}", fragment=""))
            with requests.request(method, url, headers=headers, **options) as response:
                _check(response, start, stop)
                yield response
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise UserError(f"{self.shown}: not a URL that can be opened") from error
        except (FileNotFoundError, PermissionError):
            raise
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise TransientError(_reason(error)) from None  # the error's own message may hold the whole URL


def _check(response: Any, start: int, stop: int | None) -> None:
    """Turn the status of a response, and a body that is too short, into errors."""
    status, headers = response.status_code, response.headers
    if status in (404, 410):
        raise FileNotFoundError(f"HTTP {status}")
    if status == 416:
        raise WrongContent("the file on the server is shorter")
    if status in TRANSIENT:
        after = headers.get("Retry-After", "")
        raise TransientError(f"HTTP {status}", float(after) if after.isdecimal() else 0.0)
    if status not in (200, 206):
        raise PermissionError(f"HTTP {status}")
    length = headers.get("Content-Range" if status == 206 else "Content-Length", "")
    if status == 206 and not length.startswith(f"bytes {start}-"):
        raise TransientError("the server sent another range than it was asked for")
    whole = length.rpartition("/")[2]
    if stop is not None and whole.isdecimal() and int(whole) < stop:
        raise WrongContent(f"the file on the server has {whole} bytes")


def _brisk(response: Any) -> Iterator[bytes]:
    """Yield what a response brings as it comes, and drop a connection that crawls."""
    since, brought = time.monotonic(), 0
    while block := response.raw.read1(BLOCK):
        brought += len(block)
        if (now := time.monotonic()) - since > CRAWL[0]:
            if brought < CRAWL[1]:
                raise TransientError(f"{brought} bytes in {now - since:.0f} s")
            since, brought = now, 0
        yield block


class _StoreFolder:
    """The same of any file system of fsspec: every read is one request for a range, so nothing is seeked."""

    is_store = True

    def __init__(self, url: str, shown: str) -> None:
        self.url, self.shown = url.rstrip("/"), shown
        self._open(anonymous=False)

    def blocks(self, name: str, start: int, stop: int | None) -> Iterator[bytes]:
        path = f"{self.root}/{name}"
        if stop is None:
            yield self._ask("cat_file", path)
            return
        while start < stop:
            end = min(start + RANGE, stop)
            block = self._ask("cat_file", path, start=start, end=end)
            yield block
            if len(block) < end - start:
                raise WrongContent(f"the file on the server ends at byte {start + len(block)}")
            start = end

    def look(self, name: str) -> Entry:
        return self._entry(self._ask("info", f"{self.root}/{name}"))

    def entries(self, folder: str, below: bool = False) -> list[Entry]:
        path, start = f"{self.root}/{folder}".rstrip("/"), f"{folder}/" if folder else ""
        try:
            infos = self._ask("find" if below else "ls", path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        entries = map(self._entry, infos.values() if below else infos)
        inside = [entry for entry in entries if entry.name.startswith(start)]
        return [e for e in inside if all(map(is_file_name, e.name.removeprefix(start).split("/")))]

    def _open(self, anonymous: bool) -> None:
        from fsspec.core import url_to_fs

        self._anonymous, protocol = anonymous, urlsplit(self.url).scheme
        options: dict[str, Any] = {}
        if protocol in ("s3", "s3a"):
            # Retries and their bound are ours: without this, s3 may take a quarter of an hour to give up.
            brief = {"connect_timeout": TIMEOUT[0], "read_timeout": TIMEOUT[1]}
            options = {"config_kwargs": {**brief, "retries": {"max_attempts": 1}}, "anon": anonymous}
        try:
            self._files, self.root = url_to_fs(self.url, skip_instance_cache=True, **options)
        except ImportError as error:
            remedy = "pip install 'fmriscale[s3]'" if protocol in ("s3", "s3a") else str(error)
            raise UserError(f"{self.shown}: a package for {protocol}:// is missing: {remedy}") from None
        except ValueError as error:
            raise UserError(f"{self.shown}: {error}; give https://, s3:// or another URL of fsspec") from None

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        """Ask the file system anew; without credentials as anybody may, which public buckets allow."""
        anonymous = self._anonymous
        try:
            self._files.invalidate_cache()
            return getattr(self._files, method)(path, **options)
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # whatever the libraries of a hundred stores raise
            if "Credentials" not in type(error).__name__:
                raise TransientError(_reason(error)) from None
            if anonymous or not self.url.startswith("s3"):
                raise PermissionError("no credentials") from None
        self._open(anonymous=True)
        return self._ask(method, path, **options)

    def _entry(self, info: dict[str, Any]) -> Entry:
        name = info["name"].rstrip("/").removeprefix(self.root).lstrip("/")
        if info["type"] == "directory":
            return Entry(name, is_folder=True)
        when = next((info[key] for key in TIMES if info.get(key) is not None), None)
        tag = str(info.get("ETag") or info.get("etag") or "")
        return Entry(name, int(info["size"] or 0), _time_ns(when, tag))


RemoteFolder = _HttpFolder | _StoreFolder


def _time_ns(when: Any, tag: str) -> int:
    """Return a time in ns that differs where time or tag differ."""
    if isinstance(when, datetime):
        when = when.timestamp()
    if not isinstance(when, int | float):
        when, tag = 0, f"{tag}{when or ''}"
    if not tag:
        return int(when * 1_000_000_000)
    return int(when) * 1_000_000_000 + int(hashlib.sha256(tag.encode()).hexdigest(), 16) % 1_000_000_000


def _reason(error: BaseException) -> str:
    """Say why a connection failed in the words of the operating system, from the innermost cause."""
    words, cause = "", error
    while cause is not None:
        name = "" if isinstance(cause, OSError) and words else type(cause).__name__
        words = getattr(cause, "strerror", None) or name or words
        inner = [a for a in (*cause.args, getattr(cause, "reason", None)) if isinstance(a, BaseException)]
        cause = inner[0] if inner else cause.__cause__ or cause.__context__
    return words
