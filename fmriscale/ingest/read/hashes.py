"""Hashes of the files that runs come from; a file that is read from end to end is hashed on the way."""

import hashlib
import io
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from cachetools import LRUCache

from fmriscale.common.files import sha256_file

CACHED_BYTES = 256 * 1024  # Most that is read at once, so that it is still in the cache when it is hashed

_NUMBERS = np.zeros(64)
"""Adding them clears the upper halves of the AVX registers (VZEROUPPER), which decompression leaves in use.
While they are, sha256 takes a third longer (seen on an AMD EPYC with AVX-512)."""

_hashed_while_read: LRUCache[tuple[Path, int], str] = LRUCache(maxsize=4)
"""sha256 of files that were read whole, by path and time of change (ns)."""


class HashedFile(io.FileIO):
    """A file that is hashed while it is read; the hash is noted if all of it was read, front to back."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")
        self._key = path, os.fstat(self.fileno()).st_mtime_ns
        self._digest, self._n_hashed = hashlib.sha256(), 0

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer, and hash the bytes that follow those hashed before."""
        start, part = self.tell(), memoryview(buffer)[:CACHED_BYTES]
        count = super().readinto(part) or 0
        if start == self._n_hashed:
            np.add(_NUMBERS, _NUMBERS, out=_NUMBERS)
            self._digest.update(part[:count])
            self._n_hashed += count
        return count

    def close(self) -> None:
        """Note the hash of a file that was read whole, and close it."""
        if not self.closed and self._n_hashed == os.fstat(self.fileno()).st_size:
            _hashed_while_read[self._key] = self._digest.hexdigest()
        super().close()


def source_hash(*files: Path) -> str:
    """Return the sha256 of the files that hold a run's signals, one after the other."""
    times = tuple(file.stat().st_mtime_ns for file in files)
    known = _hashed_while_read.get((files[0], times[0])) if len(files) == 1 else None
    return known or _hash(files, times)


@lru_cache(maxsize=4)
def _hash(files: tuple[Path, ...], times: tuple[int, ...]) -> str:
    """Hash files as they were at these times; an archive of many runs is hashed once."""
    return sha256_file(*files)
