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


def is_lacking(summary: dict[str, Any]) -> bool:
    """Say whether a study has a pre-trained arm, but none that was pre-trained on shuffled volumes."""
    encoders = summary["provenance"].get("encoders", {})
    orders = [each.get("volume_order") for by_fold in encoders.values() for each in by_fold.values()]
    return "pretrained" in summary["arms"] and bool(orders) and "shuffled" not in orders


def encoder_of(pretrained: str) -> str:
    """Return where the control of an encoder lies: of runs/x/encoder in runs/x_shuffled/encoder."""
    folder = Path(pretrained)
    run = folder.parent
    return str(run.parent / f"{run.name or 'pretrain'}_shuffled" / folder.name)


def commands(config: StudyConfig) -> list[str]:
    """Return the two commands that make the control: its pre-training, and the study with it.

    A pre-training keeps its recipe beside its encoder. Where it is not there (the encoder was moved), RECIPE
    stands for it.
    """
    given = config.pretrained or ""
    run, control = Path(given).parent, encoder_of(given)
    recipe = str(run / "config.yaml")
    if not expand(recipe.replace("{fold}", "0")).exists():
        recipe = "RECIPE"
    out = _word(str(Path(control).parent))
    train = f"deepspeed fmriscale/train.py --config {_word(recipe)} \\\n  {OPTIONS} --out {out}"
    if "{fold}" in given:
        train = f"for fold in {' '.join(map(str, range(config.n_folds)))}; do {train}; done"
    study = f"{config.out}/config.yaml"
    again = f"fmriscale finetune --config {shlex.quote(study)} \\\n  --controls.{ARM} {shlex.quote(control)}"
    return [train, again]


def _word(path: str) -> str:
    """Return a path as a shell reads it, the number of the fold being a variable."""
    if "{fold}" not in path:
        return shlex.quote(path)
    return '"' + path.replace("{fold}", "${fold}") + '"'
