"""One builder a shard: locks that the operating system releases when a process dies, on whatever node.

All locks of a corpus are byte ranges of one file, so a thousand shards need one open file and the whole
corpus can be locked at once. The locks are those of fcntl, which network file systems know too.
"""

import fcntl
import hashlib
import os
import socket
import sys
import time
from pathlib import Path

from fmriscale.common.errors import UserError

PATIENCE = 10.0
"""How long the lock of a whole corpus is waited for, s: others hold it for moments."""


class FolderLock:
    """The locks of a corpus folder that this process holds; one object a process and folder.

    Parameters
    ----------
    folder : Path
        The corpus; its `.build` folder is made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._whole, self._warned = folder, False, False
        self._notes, self._mine = folder / ".build", set[Path]()
        self._notes.mkdir(parents=True, exist_ok=True)
        self._file = (self._notes / "lock").open("a+b")

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        for note in self._mine:
            note.unlink(missing_ok=True)
        self._file.close()  # the locks end with it

    def claim(self, shard: str) -> None:
        """Become the only builder of a shard."""
        if not self._whole and not self._try(_place(shard), 1):
            raise self._held(f"{shard} is being built", [self._note(shard)])
        self._sign(self._note(shard))

    def release(self, shard: str) -> None:
        """Let others build a shard again."""
        self._note(shard).unlink(missing_ok=True)
        if not self._whole:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _place(shard))

    def claim_all(self) -> None:
        """Become the only builder of the corpus; what dead builders noted is removed."""
        end = time.monotonic() + PATIENCE
        while not self._try(0, 0):
            if time.monotonic() > end:
                raise self._held("it is being built", sorted(self._notes.glob("*.builder")))
            time.sleep(0.1)
        self._whole = True
        for note in self._notes.glob("*.builder"):
            note.unlink(missing_ok=True)
        self._sign(self._notes / "corpus.builder")

    def _try(self, start: int, length: int) -> bool:
        """Lock bytes of the file; length 0 = all from start on."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:  # a file system without locks, e.g. Lustre mounted without flock
            if not self._warned:
                warning = f"{self.folder}: {error.strerror}: make sure that no second builder works on it"
                print(f"fmriscale: warning: {warning}", file=sys.stderr)
            self._warned = True
        return True

    def _held(self, what: str, notes: list[Path]) -> UserError:
        """Name who holds a lock, as far as they noted it."""
        who = {note.read_text() for note in notes if note.is_file()} - {_me()}
        by = "; ".join(sorted(who)) or "another process"
        return UserError(f"{self.folder}: {what} by {by}; wait for it or end it, then run this again")

    def _sign(self, note: Path) -> None:
        """Tell others who holds a lock."""
        note.write_text(_me())
        self._mine.add(note)

    def _note(self, shard: str) -> Path:
        return self._notes / f"{Path(shard).stem}.builder"


def _me() -> str:
    """Name this process."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def _place(shard: str) -> int:
    """Return the byte that stands for a shard."""
    return int.from_bytes(hashlib.sha256(shard.encode()).digest()[:7], "big")
