"""Hashes of the files that runs come from; a file that is read from end to end is hashed on the way."""

import hashlib
import io
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from cachetools import LRUCache

from fmriscale.common.files import sha256_file

CACHED_BYTES = 256 * 1024
"""Most that is read at once, so that it is still in the cache when it is hashed."""

_on_the_way: LRUCache[tuple[Path, int], str] = LRUCache(maxsize=4)
"""sha256 of files that were read whole, by path and time of change (ns)."""


class HashedFile(io.FileIO):
    """A file that is hashed while it is read, so that its hash needs no second read.

    Only a file that was read from its first byte to its last has its hash noted when it is closed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")
        self._key = path, os.fstat(self.fileno()).st_mtime_ns
        self._digest, self._done = hashlib.sha256(), 0

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer, and hash what follows the bytes that were hashed before."""
        start, part = self.tell(), memoryview(buffer)[:CACHED_BYTES]
        count = super().readinto(part) or 0
        if start == self._done:
            self._digest.update(part[:count])
            self._done += count
        return count

    def close(self) -> None:
        """Note the hash of a file that was read whole, and close it."""
        if not self.closed and self._done == os.fstat(self.fileno()).st_size:
            _on_the_way[self._key] = self._digest.hexdigest()
        super().close()


def source_hash(*files: Path) -> str:
    """Return the sha256 of the files that hold a run's signals, one after the other."""
    times = tuple(file.stat().st_mtime_ns for file in files)
    known = _on_the_way.get((files[0], times[0])) if len(files) == 1 else None
    return known or _hashed(files, times)


@lru_cache(maxsize=4)
def _hashed(files: tuple[Path, ...], times: tuple[int, ...]) -> str:
    """Hash files as they were at these times; an archive of many runs is hashed once."""
    return sha256_file(*files)
