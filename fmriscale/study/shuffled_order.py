"""The control that is a pre-training of its own: the same recipe on runs whose volumes are in shuffled order.

It sees the same patterns and the same run identities, and nothing of time: what it gives to the fine-tuning
was not learned from what follows what.
"""

import shlex
from pathlib import Path
from typing import Any

from fmriscale.common.files import expand
from fmriscale.config import StudyConfig

ARM = "shuffled_order"
"""Name of the control in `controls`."""
OPTIONS = "--data.volume_order shuffled --data.access memory"
"""What makes a pre-training into its control."""


def is_missing(summary: dict[str, Any]) -> bool:
    """Say whether a study has a pre-trained arm, but none that was pre-trained on shuffled volumes."""
    encoders = summary["provenance"].get("encoders", {})
    orders = [origin.get("volume_order") for by_fold in encoders.values() for origin in by_fold.values()]
    return "pretrained" in summary["arms"] and bool(orders) and "shuffled" not in orders


def commands(config: StudyConfig) -> list[str]:
    """Return the two commands that make the control: its pre-training, and the study with it.

    Of runs/x/encoder the control is runs/x_shuffled/encoder. A pre-training keeps its recipe beside its
    encoder; where it is not there (the encoder was moved), RECIPE stands for it.
    """
    pretrained = Path(config.pretrained or "")
    run, recipe = pretrained.parent, str(pretrained.parent / "config.yaml")
    control = run.parent / f"{run.name or 'pretrain'}_shuffled" / pretrained.name
    if not expand(recipe.replace("{fold}", "0")).exists():
        recipe = "RECIPE"
    train = f"deepspeed fmriscale/train.py --config {_quoted(recipe)} \\\n"
    train += f"  {OPTIONS} --out {_quoted(control.parent)}"
    if "{fold}" in str(pretrained):
        train = f"for fold in {' '.join(map(str, range(config.n_folds)))}; do {train}; done"
    study = shlex.quote(f"{config.out}/config.yaml")
    again = f"fmriscale finetune --config {study} \\\n  --controls.{ARM} {shlex.quote(str(control))}"
    return [train, again]


def _quoted(path: str | Path) -> str:
    """Return a path for a shell, the number of the fold being a variable."""
    text = str(path)
    return '"' + text.replace("{fold}", "${fold}") + '"' if "{fold}" in text else shlex.quote(text)
