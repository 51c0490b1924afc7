"""Controls that are a pre-training of their own: the same recipe without what it should have learned from.

An encoder learned from one person's time has a control that saw the volumes of every run in shuffled order;
one that learned across people has a control in which nobody's clock agrees with another's.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmriscale.common.files import expand
from fmriscale.config import StudyConfig
from fmriscale.corpus.servers import is_url


@dataclass(frozen=True)
class Control:
    """A control that `controls` of a study may name."""

    arm: str
    title: str
    description: str
    setting: str
    """Setting of `data` that makes a pre-training into this control."""
    value: str
    suffix: str
    """Of the run folder, after that of the pre-training."""
    options: str


SHUFFLED_ORDER = Control(
    arm="shuffled_order",
    title="pre-trained, time shuffled",
    description="pre-trained on volumes in shuffled order",
    setting="volume_order",
    value="shuffled",
    suffix="shuffled",
    options="--data.volume_order shuffled --data.access memory",
)
SHIFTED_CLOCK = Control(
    arm="shifted_clock",
    title="pre-trained, clocks shifted",
    description="pre-trained with the clock of every run shifted",
    setting="stimulus_clock",
    value="shifted",
    suffix="shifted",
    options="--data.stimulus_clock shifted",
)
CONTROLS = {control.arm: control for control in (SHUFFLED_ORDER, SHIFTED_CLOCK)}


def origin_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return what controls depend on of the recipe that an encoder was pre-trained with."""
    data, train = config.get("data", {}), config.get("train", {})
    across = data.get("pairs", {}).get("partner") == "other_person" or train.get("contrastive_weight", 0) > 0
    settings = {control.setting: data.get(control.setting) for control in CONTROLS.values()}
    return {**settings, "across_people": across}


def missing_control(summary: dict[str, Any]) -> Control | None:
    """Return the control that the pre-trained arm of a study calls for and that no arm of it is."""
    encoders = summary["provenance"].get("encoders", {})
    origins = [origin for by_fold in encoders.values() for origin in by_fold.values()]
    if "pretrained" not in summary["arms"] or not origins:
        return None
    across = any(origin.get("across_people") for origin in encoders.get("pretrained", {}).values())
    control = SHIFTED_CLOCK if across else SHUFFLED_ORDER
    made = any(origin.get(control.setting) == control.value for origin in origins)
    return None if made else control


def commands(config: StudyConfig, control: Control) -> list[str]:
    """Return the two commands that make a control: its pre-training, and the study with it.

    Of runs/x/encoder the control is runs/x_shuffled/encoder. A pre-training keeps its recipe beside its
    encoder; where it is not there (the encoder was moved), RECIPE stands for it.
    """
    pretrained = Path(config.pretrained or "")
    if is_url(config.pretrained or ""):  # of hf://org/name the control is runs/name_shuffled/encoder
        pretrained = Path("runs", pretrained.name.partition("@")[0], "encoder")
    run, recipe = pretrained.parent, str(pretrained.parent / "config.yaml")
    encoder = run.parent / f"{run.name or 'pretrain'}_{control.suffix}" / pretrained.name
    if not expand(recipe.replace("{fold}", "0")).exists():
        recipe = "RECIPE"
    train = f"deepspeed fmriscale/train.py --config {_quoted(recipe)} \\\n"
    train += f"  {control.options} --out {_quoted(encoder.parent)}"
    if "{fold}" in str(pretrained):
        train = f"for fold in {' '.join(map(str, range(config.n_folds)))}; do {train}; done"
    study = shlex.quote(f"{config.out}/config.yaml")
    again = f"fmriscale finetune --config {study} \\\n  --controls.{control.arm} {shlex.quote(str(encoder))}"
    return [train, again]


def _quoted(path: str | Path) -> str:
    """Return a path for a shell, the number of the fold being a variable."""
    text = str(path)
    return '"' + text.replace("{fold}", "${fold}") + '"' if "{fold}" in text else shlex.quote(text)
