"""What became of each shard: kept beside the corpus, so that only what is missing is built.

A new shard waits in `.build` with its state until every shard is there; then all are put in place with
the manifest. Until that moment the corpus that was there before stays whole.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fmriscale.common.files import atomic_write, sha256_file

RETRIED = ("crashed", "failed", "timed_out", "unreachable", "vanished")
"""Reasons of rejection that may not hold next time: the shard is built again."""


@dataclass(frozen=True, kw_only=True)
class ShardState:
    """A finished shard.

    Attributes
    ----------
    name : str
        Path of the shard below the corpus.
    fingerprint : str
        Hash of its inputs and settings.
    shard : dict or None
        path, bytes, sha256 and n_runs for corpus.json; None where no run is left in it.
    mtime_ns : int
        Modification time of the file, ns.
    rows : list of dict
        Lines of runs.tsv of all its sound runs, also of those that were taken out again.
    excluded : list of str
        Keys of the runs that were taken out.
    rejections : list of dict
        Lines of quarantine.tsv.
    bytes_in : int
        Size of the sources.
    seconds : float
        Time that one process needs for its runs.
    """

    name: str
    fingerprint: str
    shard: dict[str, Any] | None
    mtime_ns: int
    rows: list[dict[str, Any]]
    excluded: list[str] = field(default_factory=list)
    rejections: list[dict[str, Any]]
    bytes_in: int
    seconds: float

    def runs(self) -> list[dict[str, Any]]:
        """Return the rows of the runs that are in the shard."""
        return [row for row in self.rows if row["key"] not in self.excluded]

    def final(self) -> bool:
        """Say whether another try could not give more runs."""
        return not any(r["reason"] in RETRIED for r in self.rejections)


def staged_path(corpus: Path, shard: str) -> Path:
    """Return where a new shard waits for its manifest."""
    return corpus / ".build" / Path(shard).name


def state_path(corpus: Path, shard: str) -> Path:
    """Return where the state of a shard is kept."""
    return corpus / ".build" / f"{Path(shard).stem}.json"


def save_state(corpus: Path, state: ShardState) -> None:
    """Write the state of a finished shard; it comes after the shard itself."""
    atomic_write(state_path(corpus, state.name), json.dumps(asdict(state), sort_keys=True) + "\n")


def read_state(corpus: Path, shard: str) -> ShardState | None:
    """Return the last state of a shard, whatever it was made from; None where there is none."""
    try:
        return ShardState(**json.loads(state_path(corpus, shard).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def load_state(corpus: Path, shard: str, fingerprint: str) -> ShardState | None:
    """Return the state of a shard that need not be built again, else None."""
    state = read_state(corpus, shard)
    if state is None or state.fingerprint != fingerprint:
        return None
    return state if state.shard is None or locate(corpus, state) else None


def locate(corpus: Path, state: ShardState) -> Path | None:
    """Return the file of a shard, new or in its place; None where neither is what the state says.

    The time tells whether a file is the one that was written; where it does not (a copied corpus), the
    content does, and the time is set right.
    """
    if state.shard is None:
        return None
    for path in (staged_path(corpus, state.name), corpus / state.name):
        if not path.is_file() or path.stat().st_size != state.shard["bytes"]:
            continue
        if path.stat().st_mtime_ns != state.mtime_ns:
            if sha256_file(path) != state.shard["sha256"]:
                continue
            os.utime(path, ns=(state.mtime_ns, state.mtime_ns))
        return path
    return None
