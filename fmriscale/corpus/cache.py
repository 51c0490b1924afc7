"""A folder of files named by their sha256, shared by processes and corpora, with a limit on its size.

    <sha256>.tar            whole and checked; read-only
    <sha256>.<bytes>.part   on its way, or left by a process that was killed; the next one goes on with it
    manifests/              corpus.json and runs.tsv of corpora on servers
    lock                    held while room is made

Locks belong to an open file, so they exclude threads as well as processes, and the operating system drops
them when a process dies. A part is locked by the one that fills it. A whole file is locked (shared) by
everybody who uses it, and only a file that nobody uses can be locked for deletion.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from filelock import FileLock, Timeout, lock_descriptor

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand, fsync_folder
from fmriscale.corpus.transfer import Backoff

DEFAULT = "~/.cache/fmriscale"  # Where the cache lies unless a recipe or FMRISCALE_CACHE says otherwise
_POLL = 0.05  # Time between two looks at what another process does, s
_LOCK_SECONDS = 60.0  # How long the lock of the folder is waited for; it is held for moments
Download = Callable[[BinaryIO], None]  # Fills the part of a file
_NAME = re.compile(r"[0-9a-f]{64}(?:\.tar|\.(\d+)\.part)")


def cache_folder(cache: str | None) -> Path:
    """Return the folder of the cache: the recipe's, or that of FMRISCALE_CACHE, or the default."""
    return expand(cache or os.environ.get("FMRISCALE_CACHE") or DEFAULT)


class Item(NamedTuple):
    """A file by what it holds."""

    sha256: str  # in hexadecimal
    size: int  # bytes


class Cache:
    """The cache as one process sees it; `limit`: most bytes of its files, parts at their full size."""

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder, self.limit = folder, limit
        self._held: dict[str, BinaryIO] = {}
        with self._locked():  # fails at once where the folder cannot be used
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
            raise UserError(f"{self.path(item)}: {error.strerror}; set another data.cache") from error
        if _share(handle) and (status := os.fstat(handle.fileno())).st_nlink:  # else it is being deleted
            if status.st_size == item.size:
                with contextlib.suppress(OSError):  # another user's file: its owner's processes keep its time
                    os.utime(self.path(item))
                self._held[item.sha256] = handle
                return True
            self.path(item).unlink(missing_ok=True)  # cut short, and not by this cache
        handle.close()
        return False

    def let_go(self, item: Item) -> None:
        """Allow the deletion of a file; what is mapped stays readable."""
        if handle := self._held.pop(item.sha256, None):
            handle.close()

    def fetch(
        self, item: Item, download: Download, backoff: Backoff, spare: Callable[[], bool] = lambda: False
    ) -> None:
        """Bring a file into the cache and hold it, or wait for who does; `spare` lets go of a lesser one."""
        size = -1
        while not self.hold(item):
            part, lack = self.claim(item)
            if part is not None:
                self.bring(item, part, download)
            elif lack:
                if not spare():
                    full = f"no room in {self.folder}: files in use fill its limit, {_gb(self.limit or 0)}"
                    backoff.wait(_POLL, full, f"raise data.cache_gb by at least {_gb(lack)}", UserError)
            else:
                if self.part_size(item) != size:
                    size = self.part_size(item)
                    backoff.progress()
                stuck = f"another thread or process tries to bring it into {self.folder}, but nothing comes"
                backoff.wait(_POLL, stuck, "check the server, the network and that process")

    def claim(self, item: Item) -> tuple[BinaryIO | None, int]:
        """Open the part of a file to fill it, which counts at its full size from then on.

        None where another fills it, or where bytes (second) lack after all that nobody uses was deleted.
        """
        with self._locked():
            if self.path(item).exists():
                return None, 0
            handle = (path := self._part(item)).open("a+b")
            if not lock_descriptor(handle.fileno(), blocking=False):
                handle.close()
                return None, 0
            if lack := self._make_room(item):
                if os.fstat(handle.fileno()).st_size == 0:
                    path.unlink()
                handle.close()
                return None, lack
            return handle, 0

    def bring(self, item: Item, part: BinaryIO, download: Download) -> None:
        """Complete a claimed part and make it the file; what has come stays where that fails."""
        try:
            download(part)
            part.flush()
            os.fsync(part.fileno())
            with self._locked():  # nobody claims the part, or deletes the file before it is held
                part.close()
                self._part(item).chmod(0o444)
                self._part(item).replace(self.path(item))
                self.hold(item)
            fsync_folder(self.folder)
        except OSError as error:
            what = f"{error.strerror} ({_gb(item.size)} to write)"
            remedy = "free some, set data.cache_gb, or choose another data.cache (or FMRISCALE_CACHE)"
            raise UserError(f"{self.folder}: {what}; {remedy}") from error
        finally:
            with contextlib.suppress(OSError):  # what is left in its buffer does not fit the disk either
                part.close()

    def part_size(self, item: Item) -> int:
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
            match = _NAME.fullmatch(entry.name)
            if match and not entry.name.startswith(but.sha256):
                status = entry.stat()
                yield status.st_mtime, Path(entry.path), int(match[1] or status.st_size)

    def _part(self, item: Item) -> Path:
        return self.folder / f"{item.sha256}.{item.size}.part"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the folder: nothing else appears, is renamed or deleted."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / "lock", _LOCK_SECONDS, poll_interval=0.005):
                yield
        except Timeout:
            what = f"held for {_LOCK_SECONDS:.0f} s; is a process stopped that uses it?"
            raise UserError(f"{self.folder}/lock: {what}") from None
        except OSError as error:
            remedy = "set data.cache or FMRISCALE_CACHE to a local disk"
            raise UserError(f"{self.folder}: {error.strerror}: no place for the cache; {remedy}") from error


def _share(handle: BinaryIO) -> bool:
    """Lock an open file together with its other users, if that is possible at once."""
    try:
        import fcntl
    except ImportError:  # Windows deletes no file that is open
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _delete_unused(path: Path) -> bool:
    """Delete a file that no process uses."""
    try:
        with path.open("rb") as handle:
            if not lock_descriptor(handle.fileno(), blocking=False):
                return False
            path.unlink()
    except OSError:  # not ours to delete
        return False
    return True


def _gb(size: float) -> str:
    """Write bytes in GB."""
    return f"{size / 1e9:.3g} GB"
