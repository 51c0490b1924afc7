"""What a corpus keeps in `.build` while it is built: the locks of builders, and what became of each shard.

A new shard waits in `.build` with its state until every shard is there; then all are put in place with
the manifest. Until that moment the corpus that was there before stays whole.
"""

import json
import os
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fmriscale.common.errors import UserError
from fmriscale.common.files import atomic_write, sha256_file

LOCK_TIMEOUT = 10.0
"""How long the lock of a whole corpus is waited for, s: builders of shards hold it for moments."""
RETRIED = ("crashed", "failed", "timed_out", "unreachable", "vanished")
"""Reasons of rejection that may not hold next time: the shard is built again."""


class FolderLock:
    """The locks that this process holds on a corpus folder: on single shards, or on all of it.

    A builder holds the lock of the corpus while it takes that of a shard: who keeps it keeps builders out.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._build = folder, folder / ".build"
        self._build.mkdir(parents=True, exist_ok=True)
        self._corpus = FileLock(self._build / "lock")
        self._shards: dict[str, FileLock] = {}

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._shards):
            self.release(name)
        if self._corpus.is_locked:
            self._note("corpus").unlink(missing_ok=True)
            self._corpus.release(force=True)

    def claim(self, shard: str) -> None:
        """Become the only builder of a shard."""
        if self._corpus.is_locked:
            return
        name = Path(shard).stem
        lock = FileLock(self._build / f"{name}.lock")
        with self._hold_corpus():
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise self._taken(f"{shard} is being built", [self._note(name)]) from None
            self._note(name).write_text(_this_process())
        self._shards[name] = lock

    def release(self, shard: str) -> None:
        """Let others build a shard again; the files of its lock go first, while nobody else has it."""
        if lock := self._shards.pop(name := Path(shard).stem, None):
            self._note(name).unlink(missing_ok=True)
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()

    def claim_all(self) -> None:
        """Become the only builder of the corpus; what dead builders left is removed."""
        self._hold_corpus()
        end = time.monotonic() + LOCK_TIMEOUT
        for path in self._build.glob("*.lock"):
            name = path.stem
            try:
                with FileLock(path).acquire(timeout=max(0.0, end - time.monotonic())):
                    self._note(name).unlink(missing_ok=True)
                    path.unlink(missing_ok=True)
            except Timeout:
                self._corpus.release()
                raise self._taken("it is being built", sorted(self._build.glob("*.builder"))) from None
        self._note("corpus").write_text(_this_process())

    def _hold_corpus(self) -> Any:
        """Take the lock of the whole corpus."""
        try:
            return self._corpus.acquire(timeout=LOCK_TIMEOUT)
        except Timeout:
            raise self._taken("it is being built", [self._note("corpus")]) from None

    def _taken(self, what: str, notes: list[Path]) -> UserError:
        """Name the holders of a lock, as far as they noted it."""
        holders = {note.read_text() for note in notes if note.is_file()} - {_this_process()}
        by = "; ".join(sorted(holders)) or "another process"
        return UserError(f"{self.folder}: {what} by {by}; wait for it or end it, then run this again")

    def _note(self, name: str) -> Path:
        """Return the file that names the holder of a lock."""
        return self._build / f"{name}.builder"


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


@dataclass(frozen=True, kw_only=True)
class ShardState:
    """A finished shard."""

    name: str  # Path of the shard below the corpus
    fingerprint: str  # Hash of its inputs and settings
    shard: dict[str, Any] | None
    """path, bytes, sha256 and n_runs for corpus.json; None where no run is left in it."""
    mtime_ns: int  # Modification time of the file, ns
    rows: list[dict[str, Any]]
    """Lines of runs.tsv of all its sound runs, also of those that were taken out again."""
    excluded: list[str] = field(default_factory=list)  # Keys of the runs that were taken out
    rejections: list[dict[str, Any]]  # Lines of quarantine.tsv
    bytes_in: int  # Size of the sources
    seconds: float  # Time that one process needs for its runs

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
    """Return the file of a shard, new or in its place; None where neither is what the state says."""
    if state.shard is None:
        return None
    for path in (staged_path(corpus, state.name), corpus / state.name):
        if not path.is_file() or path.stat().st_size != state.shard["bytes"]:
            continue
        if path.stat().st_mtime_ns != state.mtime_ns:  # a copied corpus: its content tells
            if sha256_file(path) != state.shard["sha256"]:
                continue
            os.utime(path, ns=(state.mtime_ns, state.mtime_ns))
        return path
    return None
