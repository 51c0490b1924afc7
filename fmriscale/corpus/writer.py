"""Write runs into tar shards: the same runs always give the same bytes."""

import contextlib
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike

from fmriscale.common.errors import DamageError
from fmriscale.common.files import fsync_folder
from fmriscale.corpus.reader import MEMBER_HEADER, NPY_HEADER

MAX_KEY = 88  # Longest key: with `.bold.npy` it still fits the 100 characters of a plain tar header


@dataclass(frozen=True)
class EncodedRun:
    """A run ready for a shard."""

    key: str  # Name of the run, unique in the corpus
    row: dict[str, Any]  # Its line of runs.tsv, but for its offset in the shard, the person and the split
    members: dict[str, bytes]  # `bold.npy`, `json`, `mean.npy`, `std.npy`, in this order

    @property
    def size(self) -> int:
        """Bytes it takes in a shard."""
        blocks = (1 - -len(content) // tarfile.BLOCKSIZE for content in self.members.values())
        return sum(blocks) * tarfile.BLOCKSIZE


def npy_header(kind: DTypeLike, shape: tuple[int, ...]) -> bytes:
    """Return the header of a version 1.0 .npy file, 128 bytes."""
    header = io.BytesIO()
    fields = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    if header.tell() != NPY_HEADER or np.dtype(kind).hasobject:
        raise ValueError(f"no .npy header of {NPY_HEADER} bytes for {kind}, shape {shape}")
    return header.getvalue()


def npy_bytes(array: np.ndarray) -> bytes:
    """Return an array as the bytes of a .npy file."""
    return b"".join((npy_header(array.dtype, array.shape), np.ascontiguousarray(array).data))


class ShardWriter:
    """Write one shard to `path`; without `commit` nothing is left. `name`: its path below the corpus."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.rows: list[dict[str, Any]] = []
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self.size = 0  # Bytes written so far

    def __enter__(self) -> "ShardWriter":
        for left in self.path.parent.glob(f".{self.path.name}.*.tmp"):  # of a builder that was killed
            left.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None and not self._file.closed:
            with contextlib.suppress(OSError):  # closing writes what is buffered, and the disk may be full
                self._file.close()
        self._temporary.unlink(missing_ok=True)

    def add(self, run: EncodedRun) -> None:
        """Append a run; the first one creates the file."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._temporary.open("wb")
        offset = self.size + MEMBER_HEADER
        for extension, content in run.members.items():
            member = tarfile.TarInfo(f"{run.key}.{extension}")
            member.size, member.mode = len(content), 0o444
            member.uname = member.gname = "fmriscale"
            self._write(member.tobuf(tarfile.USTAR_FORMAT))
            self._write(content)
            self._write(bytes(-len(content) % tarfile.BLOCKSIZE))
        self.rows.append({**run.row, "shard": self.name, "offset": offset})

    def _write(self, content: bytes) -> None:
        """Write and hash bytes; TarFile would copy them in small pieces."""
        assert self._file is not None
        self._file.write(content)
        self._digest.update(content)
        self.size += len(content)

    def commit(self) -> dict[str, Any] | None:
        """Close, fsync and rename the shard."""
        if self._file is None:
            self.path.unlink(missing_ok=True)
            return None
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._write(bytes(-self.size % tarfile.RECORDSIZE))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self.path)
        fsync_folder(self.path.parent)
        sha256 = self._digest.hexdigest()
        return {"path": self.name, "bytes": self.size, "sha256": sha256, "n_runs": len(self.rows)}


def read_members(shard: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the key of every run of a shard and its members by extension."""
    with tarfile.open(shard, "r:") as tar:
        key, members = "", {}
        for member in tar:
            name, _, extension = member.name.partition(".")
            if not member.isreg():
                raise DamageError(f"{shard}: {member.name} is no file but a link or a device; build it again")
            if name != key and members:
                yield key, members
                members = {}
            content = tar.extractfile(member)
            key, members[extension] = name, b"" if content is None else content.read()
        if members:
            yield key, members
