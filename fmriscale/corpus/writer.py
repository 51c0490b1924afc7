"""Write runs into tar shards: the same runs always give the same bytes."""

import hashlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fmriscale.corpus.reader import MEMBER_HEADER, NPY_HEADER
from fmriscale.files import atomic_write, fsync_folder, sha256_file

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
    row = {**row, "n_volumes": bold.shape[0], "n_features": bold.shape[1]}
    return EncodedRun(row["key"], {**row, "sha256": hashlib.sha256(data).hexdigest()}, members)


class ShardWriter:
    """Write one shard under a temporary name; `commit` makes it real, leaving without it makes nothing.

    Parameters
    ----------
    corpus : Path
        The corpus folder.
    name : str
        Path of the shard below it.
    """

    def __init__(self, corpus: Path, name: str) -> None:
        self.path = corpus / name
        self.name = name
        self.rows: list[dict[str, Any]] = []
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._file: BinaryIO | None = None
        self._tar: Any = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None and not self._file.closed:
            self._tar.close()
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def add(self, run: EncodedRun) -> None:
        """Append a run; the first one creates the file."""
        if self._tar is None:
            from webdataset.writer import TarWriter  # here: it brings torch, which readers of headers spare

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


def state_path(corpus: Path, shard: str) -> Path:
    """Return where the state of a shard is kept: what it was made from and what became of each run."""
    return corpus / ".build" / f"{Path(shard).stem}.json"


def save_state(corpus: Path, shard: str, state: dict[str, Any]) -> None:
    """Write the state of a finished shard; it comes after the shard itself."""
    atomic_write(state_path(corpus, shard), json.dumps(state, sort_keys=True) + "\n")


def load_state(corpus: Path, shard: str, fingerprint: str) -> dict[str, Any] | None:
    """Return the state of a shard that need not be built again, else None.

    Parameters
    ----------
    corpus : Path
        The corpus folder.
    shard : str
        Path of the shard below it.
    fingerprint : str
        Hash of the shard's inputs and settings as they are now.
    """
    try:
        state = json.loads(state_path(corpus, shard).read_text())
    except (OSError, ValueError):
        return None
    if state.get("fingerprint") != fingerprint:
        return None
    summary, path = state["shard"], corpus / shard
    if summary is not None and not (path.is_file() and path.stat().st_size == summary["bytes"]):
        return None
    return state


def remove_stale(corpus: Path, shards: set[str]) -> None:
    """Remove shards that an earlier recipe made here and the present one does not."""
    for state in sorted((corpus / ".build").glob("*.json")):
        dataset = state.stem.rpartition("-")[0]
        shard = f"{dataset}/{state.stem}.tar"
        if shard not in shards:
            (corpus / shard).unlink(missing_ok=True)
            state.unlink()
            if (corpus / dataset).is_dir() and not any((corpus / dataset).iterdir()):
                (corpus / dataset).rmdir()
