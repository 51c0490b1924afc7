"""Write runs into tar shards: the same runs always give the same bytes."""

import contextlib
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fmriscale.corpus.manifest import details_hash
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
        `bold.npy`, `json`, `mean.npy`, `std.npy`.
    """

    key: str
    row: dict[str, Any]
    members: dict[str, bytes]


def npy_bytes(array: np.ndarray) -> bytes:
    """Return an array as the bytes of a version 1.0 .npy file with a header of 128 bytes."""
    buffer = io.BytesIO()
    array = np.ascontiguousarray(array)
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    if len(buffer.getbuffer()) != NPY_HEADER + array.nbytes:
        raise ValueError(f"the .npy header of shape {array.shape} is not {NPY_HEADER} bytes long")
    return buffer.getvalue()


def encode_run(
    row: dict[str, Any], record: dict[str, Any], bold: np.ndarray, mean: np.ndarray, std: np.ndarray
) -> EncodedRun:
    """Turn a run into the members of its shard.

    Parameters
    ----------
    row : dict
        Cells of runs.tsv known so far; must have `key`.
    record : dict
        Content of `<key>.json`.
    bold : ndarray [T, V]
        Standardised signals.
    mean, std : ndarray [V]
        What undoes the standardisation.
    """
    data = npy_bytes(bold.astype("<f2"))
    members = {
        "bold.npy": data,
        "json": (json.dumps(record, sort_keys=True, allow_nan=False) + "\n").encode(),
        "mean.npy": npy_bytes(mean.astype("<f4")),
        "std.npy": npy_bytes(std.astype("<f4")),
    }
    row = {
        **row,
        "n_volumes": bold.shape[0],
        "n_features": bold.shape[1],
        "sha256": hashlib.sha256(data).hexdigest(),
        "details": details_hash(members),
    }
    return EncodedRun(row["key"], row, members)


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
        self._tar: Any = None

    def __enter__(self) -> "ShardWriter":
        for left in self.path.parent.glob(f".{self.path.name}.*.tmp"):  # of a builder that was killed
            left.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None and not self._file.closed:
            # Closing writes what is buffered, and the disk may be full.
            for half_written in (self._tar, self._file):
                with contextlib.suppress(OSError):
                    half_written.close()
        self._temporary.unlink(missing_ok=True)

    def add(self, run: EncodedRun) -> None:
        """Append a run; the first one creates the file."""
        if self._tar is None:
            from webdataset.writer import TarWriter  # here: it brings torch, which verifying does without

            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._temporary.open("wb")
            self._tar = TarWriter(
                self._file, mtime=0, user="fmriscale", group="fmriscale", mode=0o444, encoder=False
            )
        offset = self._tar.tarstream.offset + MEMBER_HEADER
        self._tar.write({"__key__": run.key, **run.members})
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
