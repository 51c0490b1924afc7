"""Checkpoints that are either whole or not there, written while training goes on.

Each rank copies its pieces (`archive`) and writes the copy into `step_0000500.tmp/` from a thread. At a
step border where all ranks are done, rank 0 writes `manifest.json` with the state and the sha256 of every
file, and only then is the folder renamed. The newest folder whose manifest holds wins. Nothing in it is
pickled, and any number of ranks at any ZeRO stage can go on from it.
"""

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from fmriscale.common.errors import DamageError, UserError
from fmriscale.common.files import atomic_write, fsync_folder, sha256_file
from fmriscale.training import cluster
from fmriscale.training.archive import Archive, Snapshot
from fmriscale.training.cluster import Cluster
from fmriscale.training.pieces import Holdings, Piece

MANIFEST = "manifest.json"
VERSION = 2


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are what its manifest says.

    Attributes
    ----------
    folder : Path
        Where it lies.
    state : dict
        step, samples_seen, world_size, config, data, encoder, mlflow_run_id, seen, ...
    files : list of str
        Names of the ranks' files, in order of rank.
    """

    folder: Path
    state: dict[str, Any]
    files: list[str]


class SaveError(UserError):
    """A checkpoint that had to be written was not."""

    agreed = True


@dataclass
class _Pending:
    """A checkpoint that is being written."""

    state: dict[str, Any]
    draft: Path
    file: Future[dict[str, Any]]
    begun: float
    copied: float


class Checkpoints:
    """The checkpoints of a run. Every method is called by all ranks at the same point.

    Parameters
    ----------
    folder : Path
        `checkpoints/` of the run.
    place : Cluster
        This rank.
    keep_last : int
        This many of the newest stay.
    keep_every : int
        Those of every so many steps stay (0 = none); and the best, which the state names.

    Attributes
    ----------
    seconds : float
        Longest time that one took so far, from copy to disk.
    """

    def __init__(self, folder: Path, place: Cluster, keep_last: int, keep_every: int = 0) -> None:
        self.folder = folder
        self.place = place
        self.keep_last, self.keep_every = keep_last, keep_every
        self.seconds = 0.0
        self._snapshot = Snapshot()
        self._pending: _Pending | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """Find the newest whole checkpoint."""
        if self.place.leads and self.folder.is_dir():
            for leftover in self.folder.glob("*.tmp"):
                shutil.rmtree(leftover, ignore_errors=True)
        names = cluster.leaders([p.name for p in reversed(self._finished())])
        skipped: list[str] = []
        for name in names:
            folder = self.folder / name
            manifest, reason = cluster.leaders(_read_manifest(folder) if self.place.leads else None)
            if not reason:
                share = list(manifest["files"].items())[self.place.rank :: self.place.world_size]
                problems = cluster.everyones(_first_difference(folder, share))
                reason = next((p for p in problems if p), "")
            if not reason:
                return Checkpoint(folder, manifest["state"], list(manifest["files"])), skipped
            skipped.append(f"checkpoint {folder} is skipped: {reason}")
        if skipped:
            damage = DamageError(
                f"{'; '.join(skipped)}. None is whole: move {self.folder} away to start from the beginning"
            )
            damage.agreed = True
            raise damage
        return None, []

    def load(self, engine: Any, checkpoint: Checkpoint) -> None:
        """Give the engine the state of a checkpoint; and this rank its random numbers, where it has any."""
        archive = Archive([checkpoint.folder / name for name in checkpoint.files])
        state = checkpoint.state
        holdings = Holdings(engine, self.place.rank, self.place.world_size)
        holdings.replace(archive.fetch, state["adam_step"], state["scaler"])
        engine.global_steps = state["step"]
        if state["world_size"] == self.place.world_size:
            with safe_open(checkpoint.folder / _file_of(self.place), framework="pt") as file:
                torch.set_rng_state(file.get_tensor("random/torch"))
                if self.place.device.type == "cuda" and "random/cuda" in file.keys():  # noqa: SIM118
                    torch.cuda.set_rng_state(file.get_tensor("random/cuda"), self.place.device)

    def weights(self, step: int, like: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
        """Read the whole weights of these names and shapes from a checkpoint; only rank 0 calls this."""
        folder = self.folder / f"step_{step:07d}"
        manifest, reason = _read_manifest(folder)
        if reason := reason or _first_difference(folder, list(manifest["files"].items())):
            raise DamageError(f"{folder}: {reason}; encoder/ is written, that of this step is not")
        archive = Archive([folder / name for name in manifest["files"]])
        return {
            name: archive.fetch("weight", Piece(prefix + name, 0, tensor.numel())).view(tensor.shape)
            for name, tensor in like.items()
        }

    def save(self, engine: Any, state: dict[str, Any]) -> None:
        """Copy what a checkpoint holds; a thread writes it while training goes on."""
        begun = time.perf_counter()
        holdings = Holdings(engine, self.place.rank, self.place.world_size)
        self._snapshot.take(holdings, _random_state(self.place), self.place.device)
        state = json.loads(json.dumps({**state, "adam_step": holdings.adam_step, "scaler": holdings.scaler}))
        draft = self.folder / f"step_{state['step']:07d}.tmp"
        file = self._thread.submit(self._snapshot.write, draft / _file_of(self.place))
        self._pending = _Pending(state, draft, file, begun, time.perf_counter() - begun)

    @property
    def pending(self) -> bool:
        """Whether a checkpoint is copied but not yet committed: the same on all ranks."""
        return self._pending is not None

    @property
    def writing(self) -> bool:
        """Whether this rank's thread still writes."""
        return self._pending is not None and not self._pending.file.done()

    def commit(self, sync: Callable[[], None] | None = None) -> dict[str, Any]:
        """Wait until all ranks have written, make that a checkpoint, and remove those that need not stay."""
        if not (pending := self._pending):
            raise RuntimeError("no checkpoint is being written")
        self._pending = None
        try:
            told, error = pending.file.result(), ""
        except OSError as failure:
            told, error = {}, f"{failure.strerror} ({failure.filename or pending.draft})"
        ranks = cluster.everyones((_file_of(self.place), told, error))
        written = time.perf_counter() - pending.begun
        error = next((error for *_, error in ranks if error), "")
        final = pending.draft.with_suffix("")
        if self.place.leads:
            try:
                if not error:
                    (sync or (lambda: None))()
                    self._finish(final, pending, {name: told for name, told, _ in ranks})
            except OSError as failure:
                error = f"{failure.strerror} ({failure.filename or pending.draft})"
            if error:
                shutil.rmtree(pending.draft, ignore_errors=True)
        error, written = cluster.leaders((error, written))
        self.seconds = max(self.seconds, written)
        size = sum(told.get("bytes", 0) for _, told, _ in ranks)
        figures = {"copied": round(pending.copied, 4), "written": round(written, 3), "bytes": size}
        return {"step": pending.state["step"], "folder": str(final), **figures, "error": error}

    def _finish(self, final: Path, pending: _Pending, files: dict[str, dict[str, Any]]) -> None:
        """Rank 0: the manifest, the rename, and what goes."""
        manifest = {"version": VERSION, "state": pending.state, "files": files}
        atomic_write(pending.draft / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        for damaged in self._finished():
            if damaged.name >= final.name:  # a whole one would have been resumed
                _remove(damaged)
        pending.draft.replace(final)
        fsync_folder(self.folder)
        best = (pending.state.get("best") or {}).get("step")
        for old in self._finished()[: -self.keep_last]:
            step = int(old.name.removeprefix("step_"))
            if step != best and not (self.keep_every and step % self.keep_every == 0):
                _remove(old)

    def _finished(self) -> list[Path]:
        """Folders that were committed, oldest first."""
        return sorted(p for p in self.folder.glob("step_*") if p.suffix != ".tmp")


def _file_of(place: Cluster) -> str:
    return f"rank_{place.rank:05d}.safetensors"


def _random_state(place: Cluster) -> dict[str, torch.Tensor]:
    state = {"random/torch": torch.get_rng_state()}
    if place.device.type == "cuda":
        state["random/cuda"] = torch.cuda.get_rng_state(place.device)
    return state


def _read_manifest(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the manifest of a checkpoint, and what is wrong with it ('' = nothing)."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        return {}, f"{MANIFEST}: {error}"
    if manifest.get("version") != VERSION:
        return {}, f"{MANIFEST}: version {manifest.get('version')}, this fmriscale reads {VERSION}"
    return manifest, ""


def _first_difference(folder: Path, files: list[tuple[str, dict[str, Any]]]) -> str:
    """Say how a checkpoint's files differ from its manifest ('' = not at all)."""
    for name, told in files:
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != told["bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {told['bytes']}"
        if sha256_file(path) != told["sha256"]:
            return f"{name} has other content than its sha256 tells"
    return ""


def _remove(folder: Path) -> None:
    """Remove a checkpoint, its manifest first: what is half removed is no checkpoint."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
