"""Data sets on servers: a folder of placeholders stands for each, so that all other code sees files.

    <cache>/sources/<hash of the URL>/url      the URL
                                      tree/    a placeholder for every file of the folders that were listed
    <cache>/sources/scratch/                   files that a process is reading, see `fetch.py`

A placeholder has name, size and time of its file, takes no space on the disk, and cannot be read.
"""

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from fmriscale.common.errors import UserError
from fmriscale.common.files import atomic_write, expand, writing_to
from fmriscale.corpus.cache import cache_folder
from fmriscale.corpus.servers import Entry, is_url, open_folder
from fmriscale.corpus.transfer import Backoff

LISTING_PATIENCE = 60.0  # How long a server may fail to list a folder, s: a wrong URL is reported soon
_THREADS = 16  # Folders that are listed at once


def sources_folder() -> Path:
    """Return the folder of all placeholders."""
    return cache_folder(None).absolute() / "sources"


class Mirror:
    """The placeholders in `folder` of the files on a server below `url`, which the recipe states."""

    def __init__(self, url: str) -> None:
        self.url, self.source = url, open_folder(url)
        name = hashlib.sha256(os.path.expandvars(url).rstrip("/").encode()).hexdigest()[:16]
        base = sources_folder() / name
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
        """Return the URL of a file for messages."""
        return f"{self.source.shown}/{self.name(path)}".rstrip("/")

    def renew(self, path: Path) -> set[Path]:
        """Update the placeholders of a folder, in a store also below its subjects; return what was listed."""
        name = self.name(path)
        entries = self.entries(name)
        self._fill(name, entries)
        if not self.source.is_store:
            return {path}
        subjects = [path / e.name for e in entries if e.is_folder and e.name.startswith("sub-")]
        with ThreadPoolExecutor(_THREADS) as pool:  # one request lists a thousand files
            return {path}.union(*pool.map(self.renew_below, subjects))

    def renew_below(self, path: Path) -> set[Path]:
        """Update the placeholders of a folder and of all below it; return the folders."""
        name = self.name(path)
        folders: dict[str, dict[str, Entry]] = {name: {}}
        for entry in self.entries(name, below=True):
            child = entry
            while child.name != name:
                parent = child.name.rpartition("/")[0]
                folders.setdefault(parent, {})[child.name] = child
                child = Entry(parent, is_folder=True)
        for folder in sorted(folders):
            self._fill(folder, list(folders[folder].values()))
        return {self.folder / folder for folder in folders}

    def entries(self, folder: str, below: bool = False) -> list[Entry]:
        """List a folder on the server; ask until it answers."""
        at = f"{self.source.shown}/{folder}".rstrip("/")
        try:
            return Backoff(at, LISTING_PATIENCE).ask(lambda: self.source.entries(folder, below))
        except PermissionError as error:
            remedy = "check the URL and your access: ~/.netrc for https, AWS_* or ~/.aws for s3"
            raise UserError(f"{at}: the server refuses it ({error}); {remedy}") from None

    def _fill(self, below: str, entries: list[Entry]) -> None:
        """Make the placeholders of a folder agree with what the server lists."""
        folder = self.folder / below
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            listed = {Path(entry.name).name: entry for entry in entries}
            present = {entry.name: entry for entry in os.scandir(folder)}
            for name in set(present) - set(listed):
                _remove(folder / name)
            with scratch_folder() as new:
                for name, entry in listed.items():
                    if entry.is_folder:
                        if name in present and not present[name].is_dir():
                            _remove(folder / name)
                        (folder / name).mkdir(exist_ok=True)
                    elif name not in present or not _stands_for(folder / name, entry):
                        _remove(folder / name)
                        _placeholder(new / name, entry).replace(folder / name)


def is_placeholder(path: Path) -> bool:
    """Return whether a file of a mirror was not fetched."""
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
    """Remove what may not exist, or be removed by another process."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@lru_cache(maxsize=64)
def _mirror(url: str, _sources: Path) -> Mirror:
    return Mirror(url)


def mirror_of(path: Path) -> Mirror | None:
    """Return the mirror that holds a path."""
    sources = sources_folder()
    if not path.is_relative_to(sources):
        return None
    base, *inner = path.relative_to(sources).parts or ("",)
    url = sources / base / "url"
    return _mirror(url.read_text(), sources) if inner[:1] == ["tree"] and url.is_file() else None


def local_path(text: str) -> Path:
    """Return a path of a recipe; for a URL, that of its placeholders. Braces stay to be filled in."""
    if not is_url(text):
        return expand(text)
    fixed, brace, rest = text.partition("{")
    root, _, begun = fixed.rpartition("/") if brace else (text, "", "")
    folder = _mirror(root, sources_folder()).folder
    return folder / f"{begun}{{{rest}" if brace else folder


@contextmanager
def named_by_url() -> Iterator[None]:
    """Name the URL in an error about a placeholder."""
    try:
        yield
    except UserError as error:
        raise type(error)(by_url(str(error))) from error


def by_url(text: str) -> str:
    """Replace folders of placeholders by their URLs wherever a message names them."""

    def url(match: re.Match) -> str:
        mirror = mirror_of(Path(match[0]))
        return match[0] if mirror is None else mirror.source.shown

    return re.sub(rf"{re.escape(str(sources_folder()))}/\w+/tree", url, text)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder for this process alone, and remove it with all that is in it."""
    folder = sources_folder() / "scratch" / uuid.uuid4().hex
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(_lock_of(folder)):  # the lock comes before the folder, and goes after it
        try:
            folder.mkdir()
            yield folder
        finally:
            _clear(folder)


def sweep_scratch() -> None:
    """Remove the folders of processes that died: their locks are free."""
    for lock in (sources_folder() / "scratch").glob("*.lock"):
        with suppress(OSError), FileLock(lock, blocking=False):
            _clear(lock.with_suffix(""))


def _clear(folder: Path) -> None:
    """Remove a folder, then its lock."""
    shutil.rmtree(folder, ignore_errors=True)
    _lock_of(folder).unlink(missing_ok=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(".lock")
