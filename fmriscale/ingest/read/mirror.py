"""Data sets on servers: a folder of placeholders stands for each, so that all else sees files as ever.

    <cache>/sources/<hash of the URL>/url      where it lies
                                      tree/    a placeholder for every file of the folders that were listed
    <cache>/sources/scratch/                   files that a process reads just now, see `fetch.py`

A placeholder has name, size and time of its file, takes no space on the disk, and cannot be read.
"""

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, TypeVar

from filelock import lock_descriptor

from fmriscale.common.errors import UserError
from fmriscale.common.files import atomic_write, expand, writing_to
from fmriscale.corpus.cache import cache_folder
from fmriscale.corpus.servers import Entry, RemoteFolder, TransientError, WrongContent, is_url, open_folder
from fmriscale.corpus.transfer import Backoff

LISTING_PATIENCE = 60.0
"""How long a server may fail to list a folder, s: a wrong URL should be told soon."""
_THREADS = 16
"""Folders that are listed at once."""

Answer = TypeVar("Answer")


def sources_folder() -> Path:
    """Return where placeholders lie."""
    return cache_folder(None).absolute() / "sources"


class Mirror:
    """The placeholders of one folder on a server.

    Attributes
    ----------
    url : str
        As the recipe has it.
    source : RemoteFolder
        The folder on the server.
    folder : Path
        The folder of placeholders.
    """

    def __init__(self, url: str) -> None:
        self.url, self.source = url, open_folder(url)
        base = (
            sources_folder() / hashlib.sha256(os.path.expandvars(url).rstrip("/").encode()).hexdigest()[:16]
        )
        self.folder = base / "tree"
        with writing_to(base):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (base / "url").is_file():
                atomic_write(base / "url", url)

    def name(self, path: Path) -> str:
        """Return the path of a file or folder below the source."""
        below = path.relative_to(self.folder).as_posix()
        return "" if below == "." else below

    def shown(self, path: Path) -> str:
        """Return the URL of a file as messages have it."""
        return f"{self.source.shown}/{self.name(path)}".rstrip("/")

    def renew(self, path: Path) -> set[Path]:
        """Make the placeholders of a folder, of the root's subjects' folders with all that is below them."""
        name = self.name(path)
        entries = self.entries(name)
        self.fill(name, entries)
        subjects = [e.name for e in entries if e.is_folder and e.name.startswith("sub-")]
        if not self.source.is_store:
            return {path}
        with ThreadPoolExecutor(_THREADS) as pool:  # one request lists a thousand files
            return {path}.union(*pool.map(self.renew_below, (path / subject for subject in subjects)))

    def renew_below(self, path: Path) -> set[Path]:
        """Make the placeholders of a folder and of all that is below it; return as `renew`."""
        name, found = self.name(path), dict[str, dict[str, Entry]]()
        for entry in self.entries(name, below=True):
            child = entry
            while child.name != name:
                parent = child.name.rpartition("/")[0]
                found.setdefault(parent, {})[child.name] = child
                child = Entry(parent, is_folder=True)
        for folder in sorted(found) or [name]:
            self.fill(folder, list(found.get(folder, {}).values()))
        return {self.folder / folder for folder in found}

    def entries(self, folder: str, below: bool = False) -> list[Entry]:
        """List a folder on the server."""
        return patiently(self.source, folder, lambda: self.source.entries(folder, below))

    def fill(self, folder: str, entries: list[Entry]) -> None:
        """Make the placeholders in a folder those of what the server lists."""
        here = self.folder / folder
        with writing_to(here):
            here.mkdir(parents=True, exist_ok=True)
            wanted = {Path(entry.name).name: entry for entry in entries}
            there = {entry.name: entry for entry in os.scandir(here)}
            for name in set(there) - set(wanted):
                _remove(here / name)
            with scratch_folder() as new:
                for name, entry in wanted.items():
                    if entry.is_folder:
                        if name in there and not there[name].is_dir():
                            _remove(here / name)
                        (here / name).mkdir(exist_ok=True)
                    elif name not in there or not _stands_for(here / name, entry):
                        _remove(here / name)
                        _placeholder(new / name, entry).replace(here / name)


@lru_cache(maxsize=64)
def _mirror(url: str, _: Path) -> Mirror:
    return Mirror(url)


def mirror(url: str) -> Mirror:
    """Return the mirror of a URL."""
    return _mirror(url, sources_folder())


def mirror_of(path: Path) -> Mirror | None:
    """Return the mirror that a path lies in."""
    sources = sources_folder()
    if not path.is_relative_to(sources):
        return None
    base, *inner = path.relative_to(sources).parts or ("",)
    url = sources / base / "url"
    return mirror(url.read_text()) if inner[:1] == ["tree"] and url.is_file() else None


def local_path(text: str, relative_to: Path | None = None) -> Path:
    """Return a path that a recipe gives: of a URL, that of its placeholders; braces stay to be filled in."""
    if not is_url(text):
        return expand(text, relative_to)
    fixed, brace, rest = text.partition("{")
    if not brace:
        return mirror(text).folder
    root, _, begun = fixed.rpartition("/")
    return mirror(root).folder / f"{begun}{{{rest}"


def patiently(source: RemoteFolder, name: str, question: Callable[[], Answer]) -> Answer:
    """Ask a server until it answers."""
    at = f"{source.shown}/{name}".rstrip("/")
    backoff = Backoff(at, LISTING_PATIENCE)
    while True:
        try:
            return question()
        except (TransientError, WrongContent) as error:
            backoff.retry(str(error), getattr(error, "after", 0.0))
        except PermissionError as error:
            raise UserError(
                f"{at}: the server refuses it ({error}); check the URL and your access: ~/.netrc for https, "
                "AWS_* or ~/.aws for s3"
            ) from None


@contextmanager
def named_by_url() -> Iterator[None]:
    """Name the URL in an error about a placeholder."""
    try:
        yield
    except UserError as error:
        raise type(error)(by_url(str(error))) from error


def by_url(text: str) -> str:
    """Put the URL in the place of the folder of placeholders, wherever a message names one."""
    sources = str(sources_folder())
    while sources in text:
        before, _, after = text.partition(f"{sources}/")
        base, _, rest = after.partition("/tree")
        known = mirror_of(Path(sources, base, "tree"))
        if known is None:
            return text
        text = f"{before}{known.source.shown}{rest}"
    return text


def is_placeholder(path: Path) -> bool:
    """Tell a file of a mirror that was not fetched."""
    return path.is_file() and path.stat().st_mode & 0o777 == 0


def _placeholder(path: Path, entry: Entry) -> Path:
    path.touch()
    os.truncate(path, entry.size)
    os.utime(path, ns=(entry.time_ns, entry.time_ns))
    path.chmod(0)
    return path


def _stands_for(path: Path, entry: Entry) -> bool:
    status = path.lstat()
    return (status.st_size, status.st_mtime_ns) == (entry.size, entry.time_ns)


def _remove(path: Path) -> None:
    """Remove what may not be there, or be removed by another process."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# ---------------------------------------------------------------- scratch


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder for this process alone, and remove it with all that is in it."""
    scratch = sources_folder() / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    folder, lock = _take(scratch)
    try:
        folder.mkdir()
        yield folder
    finally:
        _clear(folder)
        lock.close()


def sweep_scratch() -> None:
    """Remove the folders of processes that died."""
    for path in (sources_folder() / "scratch").glob("*.lock"):
        with contextlib.suppress(OSError), path.open("rb") as lock:
            if lock_descriptor(lock.fileno(), blocking=False):
                _clear(path.with_suffix(""))


def _take(scratch: Path) -> tuple[Path, BinaryIO]:
    """Lock a name that nobody has; the lock comes before the folder, and goes after it."""
    while True:
        folder = scratch / uuid.uuid4().hex
        lock = _lock_of(folder).open("xb")
        lock_descriptor(lock.fileno())
        if os.fstat(lock.fileno()).st_nlink:
            return folder, lock
        lock.close()  # swept up before it was locked


def _clear(folder: Path) -> None:
    """Remove a folder, then its lock."""
    shutil.rmtree(folder, ignore_errors=True)
    _lock_of(folder).unlink(missing_ok=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(".lock")
