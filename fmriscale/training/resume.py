"""What may change in a run between its starts, and what would make it another run."""

from pathlib import Path
from typing import Any

from fmriscale.common.errors import UserError
from fmriscale.common.out_folder import refuse_other_content
from fmriscale.common.trust import understood
from fmriscale.config import PretrainConfig
from fmriscale.config.recipe import flatten, to_dict
from fmriscale.config.settings import default_at, fields_of, recipe_class
from fmriscale.model.export import read_meta
from fmriscale.sampling.loader import changed_data
from fmriscale.training.checkpoint import Checkpoint, Checkpoints
from fmriscale.training.distributed import agree_on_errors
from fmriscale.training.run import Run

FIXED = (
    "model.",
    "data.",
    "train.global_batch",
    "train.seed",
    "train.precision",
    "train.pair",
    "train.pool",
    "train.ntp_weight",
    "train.masked_",
    "train.contrastive_",
    "train.connectivity_weight",
)
"""Settings that must not change in a run, but for those that are `FREE`."""
FREE = ("data.corpus", "data.cache", "data.cache_gb", "data.access", "data.verify")
"""Settings of the data that change no pair."""
SILENT = ("out", "tracking.", "train.allow_data_change", *FREE)
"""Settings whose change is not worth a line."""


def find_checkpoint(run: Run, checkpoints: Checkpoints) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest whole checkpoint, if it is one of this run, and lines about it."""
    checkpoint, notes = checkpoints.newest()
    if checkpoint:
        with agree_on_errors(), understood(checkpoint.folder, "move it away, or choose another `out`"):
            notes += check_resumable(checkpoint, run.to_dict())
        notes.append(f"resumed from {checkpoint.folder}")
    return checkpoint, notes


def check_resumable(checkpoint: Checkpoint, now: dict[str, Any]) -> list[str]:
    """Refuse to resume a run that has become another one; return a line for each change that is allowed."""
    state, refusal = checkpoint.state, f"{checkpoint.folder} cannot be resumed"
    changed = changes(completed(state["config"]), completed(now["config"]))
    of_data = {k: v for k, v in changed.items() if k.startswith("data.") and k not in FREE}
    if fixed := _fixed({k: v for k, v in changed.items() if k not in of_data}):
        raise UserError(f"{refusal}: {fixed}. Undo that, or choose another `out`")
    data_lines = [_was(k, v) for k, v in of_data.items()]
    data_lines += [line for line in changed_data(state["data"], now["data"]) if not line.startswith("data.")]
    if data_lines and not now["config"]["train"]["allow_data_change"]:
        raise UserError(
            f"{refusal}: {'; '.join(data_lines)}. Undo that, go on with the changed data "
            "(--train.allow_data_change true), or choose another `out`"
        )
    if shape := changes(state["encoder"], now["encoder"]):
        what = "; ".join(_was(f"encoder {k}", v) for k, v in shape.items())
        raise UserError(f"{refusal}: {what}. Its weights do not fit; undo that, or choose another `out`")
    allowed = {k: v for k, v in changed.items() if not k.startswith(("data.", *SILENT))}
    lines = [f"{k} from {old!r} to {new!r}" for k, (old, new) in allowed.items()]
    if state["precision"] != now["precision"]:
        lines.append(f"precision from {state['precision']} to {now['precision']}")
    if state["world_size"] != now["world_size"]:
        lines.append(
            f"ranks from {state['world_size']} to {now['world_size']}: the state is divided anew, the pairs "
            "of every step stay the same, dropout draws other numbers"
        )
    return [f"changed since the checkpoint: {line}" for line in (*lines, *data_lines)]


def completed(config: dict[str, Any], cls: type = PretrainConfig) -> dict[str, Any]:
    """Return a configuration with the defaults of settings that did not exist yet when it was written."""
    whole = dict(config)
    for name, hint in fields_of(cls).items():
        part = recipe_class(hint)
        if part and isinstance(whole.get(name), dict):
            whole[name] = completed(whole[name], part)
        elif name not in whole:
            default = default_at(cls, (name,))
            whole[name] = to_dict(default) if part else default
    return whole


def changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compare two configurations; return {dotted key: (old, new)} of what differs."""
    before, after = flatten(old), flatten(new)
    keys = sorted(before.keys() | after.keys())
    return {k: (before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)}


def is_finished(config: PretrainConfig, out: Path) -> str:
    """Say so if this run is finished ('' = not); refuse the folder of another run, a corpus or a study."""
    refuse_other_content(out, "a pre-training run")
    folder = out / "encoder"
    if not (folder / "config.json").exists():
        return ""
    meta = read_meta(folder)["meta"]
    with understood(folder / "config.json", "choose another `out`"):
        if fixed := _fixed(changes(completed(meta["config"]), to_dict(config))):
            raise UserError(f"{folder} is the finished encoder of another run: {fixed}. Choose another `out`")
        if meta["step"] < config.train.steps:
            return ""
    return f"{folder} is finished: {meta['step']} steps"


def _fixed(changed: dict[str, tuple[Any, Any]]) -> str:
    """Name the changes that make another run ('' = none)."""
    return "; ".join(_was(k, v) for k, v in changed.items() if k.startswith(FIXED) and k not in FREE)


def _was(key: str, change: tuple[Any, Any]) -> str:
    return f"{key} was {change[0]!r}, is {change[1]!r}"
