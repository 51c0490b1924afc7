"""Write runs into tar shards: the same runs always give the same bytes."""

import contextlib
import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fmriscale.corpus.reader import MEMBER_HEADER, NPY_HEADER
from fmriscale.files import fsync_folder, sha256_file

MAX_KEY = 88
"""Longest key: with `.bold.npy` it still fits the 100 characters of a plain tar header."""


@dataclass(frozen=True)
class EncodedRun:
    """A run ready for a shard.

    Attributes
    ----------
    key : str
        Name of the run, unique in the corpus.
    row : dict
        Its line of runs.tsv, but for the place in the shard, the person and the split.
    members : dict of str to bytes
        `bold.npy`, `json`, `mean.npy`, `std.npy`, in this order.
    """

    key: str
    row: dict[str, Any]
    members: dict[str, bytes]

    @property
    def size(self) -> int:
        """Bytes it takes in a shard."""
        blocks = (1 - -len(content) // tarfile.BLOCKSIZE for content in self.members.values())
        return sum(blocks) * tarfile.BLOCKSIZE


def npy_bytes(array: np.ndarray) -> bytes:
    """Return an array as the bytes of a version 1.0 .npy file with a header of 128 bytes."""
    buffer = io.BytesIO()
    array = np.ascontiguousarray(array)
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    if len(buffer.getbuffer()) != NPY_HEADER + array.nbytes:
        raise ValueError(f"the .npy header of shape {array.shape} is not {NPY_HEADER} bytes long")
    return buffer.getvalue()


class ShardWriter:
    """Write one shard; `commit` makes it real, leaving without it makes nothing.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        Its place below the corpus folder, once it is put there.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self.rows: list[dict[str, Any]] = []
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._file: BinaryIO | None = None
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> "ShardWriter":
        for left in self.path.parent.glob(f".{self.path.name}.*.tmp"):  # of a builder that was killed
            left.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None and not self._file.closed:
            # Closing writes what is buffered, and the disk may be full.
            for half_written in (self._tar, self._file):
                with contextlib.suppress(OSError):
                    if half_written is not None:
                        half_written.close()
        self._temporary.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return 0 if self._tar is None else self._tar.offset

    def add(self, run: EncodedRun) -> None:
        """Append a run; the first one creates the file."""
        if self._tar is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._temporary.open("wb")
            self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)
        offset = self._tar.offset + MEMBER_HEADER
        for extension, content in run.members.items():
            member = tarfile.TarInfo(f"{run.key}.{extension}")
            member.size, member.mode = len(content), 0o444
            member.uname = member.gname = "fmriscale"
            self._tar.addfile(member, io.BytesIO(content))
        self.rows.append({**run.row, "shard": self.name, "offset": offset})

    def commit(self) -> dict[str, Any] | None:
        """Close, fsync and rename the shard.

        Returns
        -------
        dict or None
            path, bytes, sha256 and n_runs for corpus.json; None where no run was added.
        """
        if self._tar is None or self._file is None:
            self.path.unlink(missing_ok=True)
            return None
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        summary = {
            "path": self.name,
            "bytes": self._temporary.stat().st_size,
            "sha256": sha256_file(self._temporary),
            "n_runs": len(self.rows),
        }
        self._temporary.replace(self.path)
        fsync_folder(self.path.parent)
        return summary


def read_members(shard: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the key of every run of a shard and its members by extension."""
    with tarfile.open(shard, "r:") as tar:
        key, members = "", {}
        for member in tar:
            name, _, extension = member.name.partition(".")
            if name != key and members:
                yield key, members
                members = {}
            content = tar.extractfile(member)
            key, members[extension] = name, b"" if content is None else content.read()
        if members:
            yield key, members
