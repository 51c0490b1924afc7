"""Folders that a process needs for a while: those of processes that died are swept up by the next one."""

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

SCRATCH = "scratch"


@contextlib.contextmanager
def scratch_folder(sources: Path) -> Iterator[Path]:
    """Make a folder for this process alone, and remove it with all that is in it."""
    scratch = sources / SCRATCH
    scratch.mkdir(parents=True, exist_ok=True)
    folder, lock = _take(scratch)
    try:
        folder.mkdir()
        yield folder
    finally:
        _clear(folder)
        lock.close()


def sweep(sources: Path) -> None:
    """Remove the folders of processes that died."""
    for path in (sources / SCRATCH).glob("*.lock"):
        with contextlib.suppress(OSError), path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _clear(path.with_suffix(""))


def _take(scratch: Path) -> tuple[Path, BinaryIO]:
    """Lock a name that nobody has; the lock comes before the folder, and goes after it."""
    while True:
        folder = scratch / uuid.uuid4().hex
        lock = _lock_of(folder).open("xb")
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock.fileno()).st_nlink:
            return folder, lock
        lock.close()  # swept up before it was locked


def _clear(folder: Path) -> None:
    """Remove a folder, then its lock."""
    shutil.rmtree(folder, ignore_errors=True)
    _lock_of(folder).unlink(missing_ok=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(".lock")
