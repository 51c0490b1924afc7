"""Where an arm starts: the pre-trained encoder of a fold, its feature space, and the model of a cell."""

from pathlib import Path
from typing import Any

from fmriscale.common.errors import UserError
from fmriscale.config import StudyConfig
from fmriscale.corpus.manifest import FeatureSpace
from fmriscale.model.classifier import PairClassifier, build
from fmriscale.model.encoder import Encoder, in_space
from fmriscale.model.export import read_meta
from fmriscale.model.presets import EncoderConfig, resolve_encoder
from fmriscale.study import shuffled_order
from fmriscale.study.cells import Cell, encoder_folder
from fmriscale.study.folds import Fold, refuse_seen_runs
from fmriscale.study.material import Material


def check_encoder(config: StudyConfig, material: Material, fold: Fold, arm: str = "pretrained") -> None:
    """Refuse an encoder that cannot read the corpus, or whose pre-training saw the fold's test runs."""
    folder = encoder_folder(config, arm, fold.number)
    if folder is None:
        return
    if arm == shuffled_order.ARM and not (folder / "config.json").exists():
        make = shuffled_order.commands(config)[0].replace("\\\n ", "")
        raise UserError(f"{folder}: no encoder of this control yet: {make}, or do without: --controls '{{}}'")
    content = read_meta(folder)
    encoder, meta = EncoderConfig(**content["encoder"]), content["meta"]
    if seen_as(material.space, meta) is None:
        check_unseen(config, material.space, encoder, meta, folder)
    if encoder.positions == "learned" and encoder.length != config.task.length:
        raise UserError(
            f"{folder}: its positions are learned for sequences of {encoder.length} volumes, but task.length "
            f"is {config.task.length}; set task.length: {encoder.length}"
        )
    if not config.allow_seen_runs:
        refuse_seen_runs(fold, material.corpus.runs, meta.get("train_runs", []), str(folder))


def seen_as(space: FeatureSpace, meta: dict[str, Any]) -> str | None:
    """Return the encoder's name for a feature space: that with the same hash; None if it has none."""
    known = meta.get("feature_spaces", {})
    return next((name for name, content in known.items() if content["sha256"] == space.sha256), None)


def check_unseen(
    config: StudyConfig, space: FeatureSpace, encoder: EncoderConfig, meta: dict[str, Any], folder: Path
) -> None:
    """Refuse a feature space that the encoder has not seen, unless it is to learn it."""
    known = meta.get("feature_spaces", {})
    has = ", ".join(f"{n} ({c['n_features']} features)" for n, c in known.items()) or "none"
    refusal = (
        f"{folder}: reads feature space(s) {has}, none of them the corpus's '{space.name}' "
        f"({space.n_features} features); pre-train on a corpus with the same features, or set `space`"
    )
    if encoder.positions == "learned":
        raise UserError(refusal)
    if not config.train.projection_epochs:
        raise UserError(f"{refusal}; or let it learn this one: --train.projection_epochs 5")


def classifier(config: StudyConfig, material: Material, cell: Cell) -> tuple[PairClassifier, str]:
    """Build a cell's model, which reads the study's feature space alone, and return it with its name.

    The fresh arm has the architecture of the pre-trained encoder, with weights drawn from the seed.
    """
    folder, space, seed = encoder_folder(config, cell.arm, cell.fold), material.space, cell.seed
    if folder is None:
        name = space.name
        shape = resolve_encoder(config.model, {name: space.n_features}, config.task.length)
        encoder = build(shape, seed).encoder
    else:
        encoder = Encoder.from_pretrained(folder)
        meta = encoder.meta
        name = seen_as(space, meta) or f"{space.name}_{space.sha256[:8]}"
        encoder = in_space(encoder, name, space.n_features, seed)
        if cell.arm == "fresh":
            encoder = build(encoder.config, seed).encoder
    return PairClassifier(encoder, pair=config.train.pair, pool=config.train.pool), name


def reads_new_space(config: StudyConfig, material: Material, cell: Cell) -> bool:
    """Tell whether the encoder that a cell starts from (fresh: is built like) has never seen the space."""
    folder = encoder_folder(config, cell.arm, cell.fold)
    return folder is not None and seen_as(material.space, read_meta(folder)["meta"]) is None
