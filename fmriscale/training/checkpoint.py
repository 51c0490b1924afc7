"""Checkpoints that are either whole or not there, written while training goes on.

Each rank copies its parameter slices (see `archive`) and a thread writes the copy into `step_0000500.tmp/`.
When all ranks have written, rank 0 adds `manifest.json` with the state and the sha256 of every file, and only
then renames the folder. The newest folder that agrees with its manifest is resumed. Nothing is pickled, and
any number of ranks at any ZeRO stage can resume.
"""

import json
import re
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
from fmriscale.common.files import atomic_write, fsync_folder, printable, sha256_file
from fmriscale.common.trust import parse_json, understood
from fmriscale.training.archive import ELSEWHERE, Archive, Snapshot
from fmriscale.training.distributed import World, all_gather_object, broadcast_object
from fmriscale.training.slices import EngineState, ParameterSlice

MANIFEST = "manifest.json"
VERSION = 2
_FILE = re.compile(r"rank_\d{5}\.safetensors", re.ASCII)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files agree with its manifest."""

    folder: Path
    state: dict[str, Any]
    """step, samples_seen, world_size, config, data, encoder, mlflow_run_id, seen, ..."""
    files: list[str]
    """Names of the ranks' files, in order of rank."""


class SaveError(UserError):
    """A checkpoint that had to be written was not."""

    agreed = True


@dataclass
class _Pending:
    """A checkpoint that is being written."""

    state: dict[str, Any]
    folder: Path
    """Under its temporary name."""
    file: Future[dict[str, Any]]
    """Size and sha256 of this rank's file."""
    started: float
    copied: float
    """Seconds that the copy took."""


class Checkpoints:
    """The checkpoints of a run. All ranks call every method at the same point.

    The `keep_last` newest are kept, those of every `keep_every` steps (0 = none), and the best, which the
    state names.
    """

    def __init__(self, folder: Path, world: World, keep_last: int, keep_every: int = 0) -> None:
        self.folder, self.world = folder, world
        self.keep_last, self.keep_every = keep_last, keep_every
        self.seconds = 0.0
        """Longest time that one took so far, from copy to disk."""
        self._snapshot = Snapshot()
        self._pending: _Pending | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._removal: Future[None] | None = None

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest whole checkpoint, and a line about each that was skipped."""
        if self.world.is_main and self.folder.is_dir():
            for leftover in self.folder.glob("*.tmp"):
                shutil.rmtree(leftover, ignore_errors=True)
        skipped: list[str] = []
        for name in broadcast_object([path.name for path in reversed(self._finished())]):
            folder = self.folder / name
            manifest, problem = broadcast_object(_read_manifest(folder) if self.world.is_main else None)
            if not problem:
                to_check = list(manifest["files"].items())[self.world.rank :: self.world.world_size]
                problems = all_gather_object(_first_difference(folder, to_check))
                problem = next((p for p in problems if p), "")
            if not problem:
                return Checkpoint(folder, manifest["state"], list(manifest["files"])), skipped
            skipped.append(f"checkpoint {folder} is skipped: {problem}")
        if skipped:
            damage = DamageError(
                f"{'; '.join(skipped)}. None is whole: move {self.folder} away to start from the beginning"
            )
            damage.agreed = True
            raise damage
        return None, []

    def load(self, engine: Any, checkpoint: Checkpoint) -> None:
        """Load a checkpoint into the engine, and this rank's random state if the ranks are the same."""
        archive = Archive([checkpoint.folder / name for name in checkpoint.files])
        state = checkpoint.state
        engine_state = EngineState(engine, self.world.rank, self.world.world_size)
        engine_state.replace(archive.fetch, state["adam_step"], state["scaler"])
        engine.global_steps = state["step"]
        if state["world_size"] == self.world.world_size:
            path = checkpoint.folder / _file_name(self.world)
            with understood(path, ELSEWHERE), safe_open(path, framework="pt") as file:
                torch.set_rng_state(file.get_tensor("random/torch"))
                if self.world.device.type == "cuda" and "random/cuda" in file.keys():  # noqa: SIM118
                    torch.cuda.set_rng_state(file.get_tensor("random/cuda"), self.world.device)

    def weights(self, step: int, like: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
        """Read whole weights of the given names and shapes from a checkpoint; only rank 0 calls this."""
        folder = self.folder / f"step_{step:07d}"
        manifest, problem = _read_manifest(folder)
        if problem := problem or _first_difference(folder, list(manifest["files"].items())):
            raise DamageError(f"{folder}: {problem}; encoder/ is written, that of this step is not")
        archive = Archive([folder / name for name in manifest["files"]])
        return {
            name: archive.fetch("weight", ParameterSlice(prefix + name, 0, tensor.numel())).view(tensor.shape)
            for name, tensor in like.items()
        }

    def save(self, engine: Any, state: dict[str, Any]) -> None:
        """Copy what a checkpoint holds; a thread writes it while training goes on."""
        started = time.perf_counter()
        engine_state = EngineState(engine, self.world.rank, self.world.world_size)
        self._snapshot.take(engine_state, _random_state(self.world), self.world.device)
        state = {**state, "adam_step": engine_state.adam_step, "scaler": engine_state.scaler}
        state = json.loads(json.dumps(state))  # a copy: training goes on
        folder = self.folder / f"step_{state['step']:07d}.tmp"
        file = self._thread.submit(self._snapshot.write, folder / _file_name(self.world))
        self._pending = _Pending(state, folder, file, started, time.perf_counter() - started)

    def close(self) -> None:
        """Wait until old checkpoints are removed; one that cannot be is named, and stays."""
        if self._removal and isinstance(failure := self._removal.exception(), OSError):
            reason = f"{failure.strerror} ({failure.filename or self.folder})"
            self.world.print(f"warning: an old checkpoint is not removed: {reason}")

    @property
    def pending(self) -> bool:
        """Whether a checkpoint is copied but not committed: the same on all ranks."""
        return self._pending is not None

    @property
    def writing(self) -> bool:
        """Whether this rank's thread still writes."""
        return self._pending is not None and not self._pending.file.done()

    def commit(self, sync: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Wait until all ranks have written, and rename the folder; return the figures.

        Old checkpoints are removed by the thread of rank 0, while training goes on.
        """
        if not (pending := self._pending):
            raise RuntimeError("no checkpoint is being written")
        self._pending = None
        try:
            written, error = pending.file.result(), ""
        except OSError as failure:
            written, error = {}, _reason(failure, pending)
        ranks = all_gather_object((_file_name(self.world), written, error))
        seconds = time.perf_counter() - pending.started
        error = next((error for *_, error in ranks if error), "")
        final = pending.folder.with_suffix("")
        if self.world.is_main:
            try:
                if not error:
                    sync()
                    self._finish(final, pending, {name: written for name, written, _ in ranks})
            except OSError as failure:
                error = _reason(failure, pending)
            if error:
                shutil.rmtree(pending.folder, ignore_errors=True)
        error, seconds = broadcast_object((error, seconds))
        self.seconds = max(self.seconds, seconds)
        return {
            "step": pending.state["step"],
            "folder": str(final),
            "copied": round(pending.copied, 4),
            "written": round(seconds, 3),
            "bytes": sum(written.get("bytes", 0) for _, written, _ in ranks),
            "error": error,
        }

    def _finish(self, final: Path, pending: _Pending, files: dict[str, dict[str, Any]]) -> None:
        """Write the manifest, rename the folder and let the thread remove old ones, on rank 0."""
        manifest = {"version": VERSION, "state": pending.state, "files": files}
        atomic_write(pending.folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        for damaged in self._finished():
            if damaged.name >= final.name:  # a whole one would have been resumed
                _remove(damaged)
        pending.folder.replace(final)
        fsync_folder(self.folder)
        best = (pending.state.get("best") or {}).get("step")
        self._removal = self._thread.submit(self._remove_old, best)

    def _remove_old(self, best: int | None) -> None:
        """Remove all but the newest checkpoints, those that are kept for good, and the best."""
        for old in self._finished()[: -self.keep_last]:
            step = int(old.name.removeprefix("step_"))
            if step != best and not (self.keep_every and step % self.keep_every == 0):
                _remove(old)

    def _finished(self) -> list[Path]:
        """Return the folders that were committed, oldest first."""
        return sorted(p for p in self.folder.glob("step_*") if p.suffix != ".tmp")


def _file_name(world: World) -> str:
    return f"rank_{world.rank:05d}.safetensors"


def _random_state(world: World) -> dict[str, torch.Tensor]:
    state = {"random/torch": torch.get_rng_state()}
    if world.device.type == "cuda":
        state["random/cuda"] = torch.cuda.get_rng_state(world.device)
    return state


def _reason(failure: OSError, pending: _Pending) -> str:
    return f"{failure.strerror} ({failure.filename or pending.folder})"


def _read_manifest(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the manifest of a checkpoint, and what is wrong with it ('' = nothing)."""
    try:
        manifest = parse_json((folder / MANIFEST).read_text())
        version = manifest["version"] if isinstance(manifest, dict) else None
        if version == VERSION:
            _check_shape(manifest)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return {}, f"{MANIFEST}: {error}"
    if version != VERSION:
        return {}, f"{MANIFEST}: version {version}, this fmriscale reads {VERSION}"
    return manifest, ""


def _check_shape(manifest: dict[str, Any]) -> None:
    """Raise a ValueError (or what Python raises) where a manifest is none, or names a file elsewhere."""
    state, files = manifest["state"], manifest["files"]
    for name, expected in files.items():
        if not _FILE.fullmatch(name):
            raise ValueError(f"{printable(name)[:80]!r} is no file of a checkpoint, and is not read")
        if not isinstance(expected["bytes"], int) or not isinstance(expected["sha256"], str):
            raise ValueError(f"size or sha256 of {name}")
    if not files or not isinstance(state["step"], int) or state["world_size"] != len(files):
        raise ValueError("step or world_size is not that of its files")


def _first_difference(folder: Path, files: list[tuple[str, dict[str, Any]]]) -> str:
    """Say how a checkpoint's files differ from its manifest ('' = not at all)."""
    for name, expected in files:
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {expected['bytes']}"
        if sha256_file(path) != expected["sha256"]:
            return f"{name} has other content than its sha256 tells"
    return ""


def _remove(folder: Path) -> None:
    """Remove a checkpoint, its manifest first: what is half removed is no checkpoint."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
