"""Checkpoints that are either whole or not there, and what may change between two lives of a run.

DeepSpeed writes its files into `step_0000500.tmp/`; ranks hash them, rank 0 writes `manifest.json`
with the state, all is fsynced, and only then is the folder renamed. The newest folder whose manifest
holds wins. DeepSpeed reads its files with pickle: only what the manifest vouches for is ever loaded.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from fmriscale.errors import DamageError, UserError
from fmriscale.files import atomic_write, fsync_folder, sha256_file
from fmriscale.recipe import flatten
from fmriscale.sampling.loader import changed_data
from fmriscale.training import cluster
from fmriscale.training.cluster import Cluster

MANIFEST = "manifest.json"
VERSION = 1

FIXED = ("model.", "data.", "train.global_batch", "train.seed", "train.precision", "train.zero_stage")
"""Settings that must not change between two lives of a run (but for those that are `FREE`)."""
FREE = ("data.corpus", "data.cache", "data.cache_gb", "data.access", "data.verify")
"""Settings of the data that change no pair."""
SILENT = ("out", "tracking.", "train.allow_data_change", *FREE)
"""Settings whose change needs no word."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are what its manifest says.

    Attributes
    ----------
    folder : Path
        Where it lies.
    state : dict
        step, samples_seen, world_size, config, data, encoder, mlflow_run_id, seen, ...
    """

    folder: Path
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of a run. Every method is called by all ranks at the same point.

    Parameters
    ----------
    folder : Path
        `checkpoints/` of the run.
    place : Cluster
        This rank.
    keep_last : int
        Number of checkpoints that are kept.
    """

    def __init__(self, folder: Path, place: Cluster, keep_last: int) -> None:
        self.folder = folder
        self.place = place
        self.keep_last = max(1, keep_last)

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """Find the newest whole checkpoint.

        Returns
        -------
        tuple
            The checkpoint, None where there is none; and a line about each that was skipped.

        Raises
        ------
        DamageError
            There are checkpoints, but none is whole.
        """
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
                return Checkpoint(folder, manifest["state"]), skipped
            skipped.append(f"checkpoint {folder} is skipped: {reason}")
        if skipped:
            raise DamageError(
                f"{'; '.join(skipped)}. None is whole: move {self.folder} away to start from the beginning"
            )
        return None, []

    def save(self, engine: Any, state: dict[str, Any]) -> Path:
        """Write a checkpoint, commit it, and remove those that are no longer kept."""
        final = self.folder / f"step_{state['step']:07d}"
        draft = self.folder / f"{final.name}.tmp"
        if self.place.leads:
            draft.mkdir(parents=True, exist_ok=True)
        cluster.barrier()
        engine.save_checkpoint(str(self.folder), tag=draft.name, save_latest=False)
        save_file(_random_state(self.place), draft / f"random_rank_{self.place.rank:05d}.safetensors")
        cluster.barrier()
        if self.place.leads:
            for script in (*self.folder.glob("zero_to_*.py"), *draft.glob("zero_to_*.py")):
                script.unlink()  # recovery scripts that DeepSpeed copies beside its files
        names = cluster.leaders(sorted(str(p.relative_to(draft)) for p in draft.rglob("*") if p.is_file()))
        mine = {n: _seal(draft / n) for n in names[self.place.rank :: self.place.world_size]}
        files = {n: told for part in cluster.everyones(mine) for n, told in part.items()}
        if self.place.leads:
            manifest = {"version": VERSION, "state": state, "files": dict(sorted(files.items()))}
            atomic_write(draft / MANIFEST, json.dumps(manifest, indent=1) + "\n")
            for damaged in self._finished():
                if damaged.name >= final.name:  # a whole one would have been resumed
                    _remove(damaged)
            draft.replace(final)
            fsync_folder(self.folder)
            for old in self._finished()[: -self.keep_last]:
                _remove(old)
        cluster.barrier()
        return final

    def _finished(self) -> list[Path]:
        """Folders that were committed, oldest first."""
        return sorted(p for p in self.folder.glob("step_*") if p.suffix != ".tmp")

    def load(self, engine: Any, checkpoint: Checkpoint) -> None:
        """Give the engine, and this rank's random numbers, the state of a checkpoint."""
        path, _ = engine.load_checkpoint(str(checkpoint.folder.parent), tag=checkpoint.folder.name)
        if path is None:
            raise DamageError(f"{checkpoint.folder}: DeepSpeed finds nothing to load; move it away")
        random = load_file(checkpoint.folder / f"random_rank_{self.place.rank:05d}.safetensors")
        torch.set_rng_state(random["torch"])
        if self.place.device.type == "cuda":
            torch.cuda.set_rng_state(random["cuda"], self.place.device)


def check_resumable(
    checkpoint: Checkpoint,
    config: dict[str, Any],
    world_size: int,
    data: dict[str, Any],
    encoder: dict[str, Any],
) -> list[str]:
    """Refuse to go on with a run that has become another one.

    Parameters
    ----------
    checkpoint : Checkpoint
        What would be resumed.
    config : dict
        The configuration now. With its `train.allow_data_change`, the data may be others.
    world_size : int
        Ranks now.
    data : dict
        The loader's state now.
    encoder : dict
        The resolved encoder now.

    Returns
    -------
    list of str
        A line about each thing that has changed and may.

    Raises
    ------
    UserError
        Another number of ranks, model, batch, seed or data.
    """
    state, where = checkpoint.state, f"{checkpoint.folder} cannot be resumed"
    found = changes(state["config"], config)
    of_data = {k: v for k, v in found.items() if k.startswith("data.") and k not in FREE}
    if fixed := _fixed({k: v for k, v in found.items() if k not in of_data}):
        raise UserError(f"{where}: {fixed}. Undo that, or choose another `out`")
    other_data = [_was(k, v) for k, v in of_data.items()]
    other_data += [line for line in changed_data(state["data"], data) if not line.startswith("data.")]
    if other_data and not config["train"]["allow_data_change"]:
        raise UserError(
            f"{where}: {'; '.join(other_data)}. Undo that, go on with the changed data "
            "(--train.allow_data_change true), or choose another `out`"
        )
    if shape := changes(state["encoder"], encoder):
        told = "; ".join(_was(f"encoder {k}", v) for k, v in shape.items())
        raise UserError(f"{where}: {told}. Its weights do not fit; undo that, or choose another `out`")
    if state["world_size"] != world_size:
        raise UserError(
            f"{checkpoint.folder} was written by {state['world_size']} ranks, now there are {world_size}: "
            f"start {state['world_size']} (deepspeed --num_accelerators {state['world_size']}, or "
            f"sbatch --nodes/--ntasks-per-node to that number), or choose another `out`"
        )
    free = {k: v for k, v in found.items() if not k.startswith(("data.", *SILENT))}
    lines = [f"{k} from {old!r} to {new!r}" for k, (old, new) in free.items()]
    return [f"changed since the checkpoint: {line}" for line in (*lines, *other_data)]


def changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compare two configurations; return {dotted key: (old, new)} of what differs."""
    before, after = flatten(old), flatten(new)
    keys = sorted(before.keys() | after.keys())
    return {k: (before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)}


def fixed_changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Name the changes that make another run of a run ('' = none)."""
    return _fixed(changes(old, new))


def _fixed(found: dict[str, tuple[Any, Any]]) -> str:
    return "; ".join(_was(k, v) for k, v in found.items() if k.startswith(FIXED) and k not in FREE)


def _was(key: str, change: tuple[Any, Any]) -> str:
    return f"{key} was {change[0]!r}, is {change[1]!r}"


def _random_state(place: Cluster) -> dict[str, torch.Tensor]:
    state = {"torch": torch.get_rng_state()}
    if place.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(place.device)
    return state


def _seal(path: Path) -> dict[str, Any]:
    """Force a file to disk and tell its size and hash."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


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
