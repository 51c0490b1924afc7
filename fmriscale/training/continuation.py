"""What may change between two lives of a run, and what would make another run of it."""

from pathlib import Path
from typing import Any

from fmriscale.common.errors import UserError
from fmriscale.config import PretrainConfig
from fmriscale.config.recipe import flatten, to_dict
from fmriscale.model.export import read_meta
from fmriscale.sampling.loader import changed_data
from fmriscale.training.checkpoint import Checkpoint

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
)
"""Settings that must not change between two lives of a run (but for those that are `FREE`)."""
FREE = ("data.corpus", "data.cache", "data.cache_gb", "data.access", "data.verify")
"""Settings of the data that change no pair."""
SILENT = ("out", "tracking.", "train.allow_data_change", *FREE)
"""Settings whose change needs no word."""


def check_resumable(checkpoint: Checkpoint, now: dict[str, Any]) -> list[str]:
    """Refuse to go on with a run that has become another one."""
    state, where = checkpoint.state, f"{checkpoint.folder} cannot be resumed"
    found = changes(state["config"], now["config"])
    of_data = {k: v for k, v in found.items() if k.startswith("data.") and k not in FREE}
    if fixed := _fixed({k: v for k, v in found.items() if k not in of_data}):
        raise UserError(f"{where}: {fixed}. Undo that, or choose another `out`")
    other_data = [_was(k, v) for k, v in of_data.items()]
    other_data += [line for line in changed_data(state["data"], now["data"]) if not line.startswith("data.")]
    if other_data and not now["config"]["train"]["allow_data_change"]:
        raise UserError(
            f"{where}: {'; '.join(other_data)}. Undo that, go on with the changed data "
            "(--train.allow_data_change true), or choose another `out`"
        )
    if shape := changes(state["encoder"], now["encoder"]):
        told = "; ".join(_was(f"encoder {k}", v) for k, v in shape.items())
        raise UserError(f"{where}: {told}. Its weights do not fit; undo that, or choose another `out`")
    free = {k: v for k, v in found.items() if not k.startswith(("data.", *SILENT))}
    lines = [f"{k} from {old!r} to {new!r}" for k, (old, new) in free.items()]
    if state["precision"] != now["precision"]:
        lines.append(f"precision from {state['precision']} to {now['precision']}")
    if state["world_size"] != now["world_size"]:
        lines.append(
            f"ranks from {state['world_size']} to {now['world_size']}: the state is dealt anew, the pairs of "
            "every step stay the same, dropout draws other numbers"
        )
    return [f"changed since the checkpoint: {line}" for line in (*lines, *other_data)]


def changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compare two configurations; return {dotted key: (old, new)} of what differs."""
    before, after = flatten(old), flatten(new)
    keys = sorted(before.keys() | after.keys())
    return {k: (before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)}


def is_finished(config: PretrainConfig, out: Path) -> str:
    """Say so if this run has been made already ('' = not); refuse to take another's folder for it."""
    for name, what in (("corpus.json", "a corpus"), ("cells", "a study")):
        if (out / name).exists():
            raise UserError(f"{out}: holds {what}, which a pre-training would spoil; choose another `out`")
    folder = out / "encoder"
    if not (folder / "config.json").exists():
        return ""
    meta = read_meta(folder)["meta"]
    if fixed := fixed_changes(meta["config"], to_dict(config)):
        raise UserError(f"{folder} is the finished encoder of another run: {fixed}. Choose another `out`")
    if meta["step"] < config.train.steps:
        return ""
    return f"{folder} is finished: {meta['step']} steps"


def fixed_changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Name the changes that make another run of a run ('' = none)."""
    return _fixed(changes(old, new))


def _fixed(found: dict[str, tuple[Any, Any]]) -> str:
    return "; ".join(_was(k, v) for k, v in found.items() if k.startswith(FIXED) and k not in FREE)


def _was(key: str, change: tuple[Any, Any]) -> str:
    return f"{key} was {change[0]!r}, is {change[1]!r}"
