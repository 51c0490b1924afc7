"""A folder of files named by their sha256, shared by processes and corpora, with a limit on its size.

    <sha256>.tar            whole and checked; read-only
    <sha256>.<bytes>.part   on its way, or left by a process that was killed; the next one goes on with it
    manifests/              corpus.json and runs.tsv of corpora on servers
    lock                    held while room is made

Locks are those of `flock`: they belong to an open file, so they exclude threads as well as processes, and
the operating system drops them when a process dies. A part is locked by the one that fills it. A whole file
is locked (shared) by everybody who uses it, and only a file that nobody uses can be locked for deletion.
"""

import contextlib
import errno
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand, fsync_folder
from fmriscale.corpus.transfer import Patience

DEFAULT = "~/.cache/fmriscale"
"""Where the cache lies unless a recipe or FMRISCALE_CACHE says otherwise."""
_POLL = 0.05
"""Time between two looks at what another process does, s."""
_LOCK_SECONDS = 60.0
"""How long the lock of the folder is waited for; it is held for moments."""
_NAME = re.compile(r"[0-9a-f]{64}(?:\.tar|\.(\d+)\.part)")


def cache_folder(cache: str | None) -> Path:
    """Return the folder of the cache: the recipe's, or that of FMRISCALE_CACHE, or the default."""
    return expand(cache or os.environ.get("FMRISCALE_CACHE") or DEFAULT)


@dataclass(frozen=True)
class Item:
    """A file by what it holds: its sha256 in hexadecimal and its size in bytes."""

    sha256: str
    size: int


class Cache:
    """The cache as one process sees it.

    Parameters
    ----------
    folder : Path
        Made where it is not there.
    limit : int, optional
        Most bytes of whole files and of parts, counted at their full size; None = no limit.

    Raises
    ------
    UserError
        The folder cannot be made, or its file system has no locks.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder, self.limit = folder, limit
        self._held: dict[str, BinaryIO] = {}
        with self._locked():  # a folder that will not do is told at the start
            pass

    def path(self, item: Item) -> Path:
        """Return where a file lies once it is whole."""
        return self.folder / f"{item.sha256}.tar"

    def held(self, item: Item) -> bool:
        """Tell whether this process holds a file."""
        return item.sha256 in self._held

    def hold(self, item: Item) -> bool:
        """Keep a file from deletion until `let_go` or the end of this process; False: it is not there."""
        if self.held(item):
            return True
        try:
            handle = self.path(item).open("rb")
        except FileNotFoundError:
            return False
        except OSError as error:
            raise UserError(f"{self.path(item)}: {error.strerror}; mend that, or set data.cache") from error
        if _try_lock(handle, fcntl.LOCK_SH):  # else it is being deleted
            status = os.fstat(handle.fileno())
            if status.st_nlink and status.st_size == item.size:
                self._keep(item, handle)
                return True
            if status.st_nlink:  # cut short, and not by this cache
                self.path(item).unlink(missing_ok=True)
        handle.close()
        return False

    def let_go(self, item: Item) -> None:
        """Allow the deletion of a file; what is mapped stays readable."""
        if handle := self._held.pop(item.sha256, None):
            handle.close()

    def claim(self, item: Item) -> tuple[BinaryIO | None, int]:
        """Take it on to bring a file, where there is or can be made room.

        What nobody uses is deleted, the longest unused first, until the file fits. Its part counts as the
        full size from then on.
        """
        with self._locked():
            if self.path(item).exists():
                return None, 0
            handle = (part := self._part(item)).open("a+b")
            if not _try_lock(handle, fcntl.LOCK_EX):
                handle.close()
                return None, 0
            if lack := self._make_room(item):
                if os.fstat(handle.fileno()).st_size == 0:
                    part.unlink()
                handle.close()
                return None, lack
            return handle, 0

    def arrive(self, item: Item, part: BinaryIO) -> None:
        """Make a complete part the file itself, and hold it."""
        part.flush()
        os.fsync(part.fileno())
        os.fchmod(part.fileno(), 0o444)
        with self._locked():  # nobody can delete it before it is held
            self._part(item).replace(self.path(item))
            _try_lock(part, fcntl.LOCK_SH)
        fsync_folder(self.folder)
        self._keep(item, part)

    def bytes_here(self, item: Item) -> int:
        """Return how many bytes of a file on its way have come."""
        try:
            return self._part(item).stat().st_size
        except FileNotFoundError:
            return 0

    def _make_room(self, item: Item) -> int:
        """Delete until a file fits, under the folder's lock; return the bytes that lack."""
        if self.limit is None:
            return 0
        files = sorted(self._files(but=item))
        lack = sum(size for _, _, size in files) + item.size - self.limit
        for _, path, size in files:
            if lack <= 0:
                break
            if _delete_unused(path):
                lack -= size
        return max(0, lack)

    def _files(self, but: Item) -> Iterator[tuple[float, Path, int]]:
        """Yield when each file was last used, its path, and the bytes that it takes or will take."""
        for entry in os.scandir(self.folder):
            found = _NAME.fullmatch(entry.name)
            if found and not entry.name.startswith(but.sha256):
                status = entry.stat()
                yield status.st_mtime, Path(entry.path), int(found[1] or status.st_size)

    def _part(self, item: Item) -> Path:
        return self.folder / f"{item.sha256}.{item.size}.part"

    def _keep(self, item: Item, handle: BinaryIO) -> None:
        """Note that a file is used, and now."""
        with contextlib.suppress(OSError):  # another user's file: its owner's processes keep its time
            os.utime(handle.fileno())
        self._held[item.sha256] = handle

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the folder: nothing else appears, is renamed or deleted."""
        end = time.monotonic() + _LOCK_SECONDS
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "lock").open("a+b") as handle:
                while not _try_lock(handle, fcntl.LOCK_EX):
                    if time.monotonic() > end:
                        what = f"held for {_LOCK_SECONDS:.0f} s; is a process stopped that uses it?"
                        raise UserError(f"{self.folder}/lock: {what}")
                    time.sleep(0.005)
                yield
        except OSError as error:
            raise UserError(
                f"{self.folder}: {error.strerror}; the cache needs a folder that can be written, on a file "
                "system with locks: set data.cache or FMRISCALE_CACHE, best to a local disk"
            ) from error


def fetch(
    cache: Cache,
    item: Item,
    download: Callable[[BinaryIO], None],
    patience: Patience,
    spare: Callable[[], bool] = lambda: False,
) -> None:
    """Bring a file into the cache and hold it, or wait for the process that does."""
    seen = -1
    while not cache.hold(item):
        part, lack = cache.claim(item)
        if part is not None:
            bring(cache, item, part, download)
        elif lack:
            if not spare():
                full = f"no room in {cache.folder}: files in use fill its limit, {_gb(cache.limit or 0)}"
                patience.wait(_POLL, full, f"raise data.cache_gb by at least {_gb(lack)}", UserError)
        else:
            if (here := cache.bytes_here(item)) != seen:
                seen = here
                patience.progress()
            stuck = f"another thread or process tries to bring it into {cache.folder}, but nothing comes"
            patience.wait(_POLL, stuck, "check the server, the network and that process")


def bring(cache: Cache, item: Item, part: BinaryIO, download: Callable[[BinaryIO], None]) -> None:
    """Complete a claimed part and make it the file; what has come stays where that fails."""
    try:
        download(part)
        cache.arrive(item, part)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some, set data.cache_gb, or" if full else "mend that, or"
        raise UserError(
            f"{cache.folder}: {error.strerror} ({_gb(item.size)} to write); {remedy} put the cache elsewhere "
            "(data.cache or FMRISCALE_CACHE)"
        ) from error
    finally:
        if not cache.held(item):
            with contextlib.suppress(OSError):  # what is left in its buffer does not fit the disk either
                part.close()


def _try_lock(handle: BinaryIO, kind: int) -> bool:
    """Lock an open file if that is possible at once."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _delete_unused(path: Path) -> bool:
    """Delete a file that no process uses."""
    try:
        with path.open("rb") as handle:
            if not _try_lock(handle, fcntl.LOCK_EX):
                return False
            path.unlink()
    except OSError:  # not ours to delete
        return False
    return True


def _gb(size: float) -> str:
    """Write bytes in GB."""
    return f"{size / 1e9:.3g} GB"
