"""Where an arm starts: the pre-trained encoder of a fold, its feature space, and the model of a cell."""

from pathlib import Path
from typing import Any

from fmriscale.config import StudyConfig
from fmriscale.corpus.manifest import FeatureSpace
from fmriscale.errors import UserError
from fmriscale.evaluation.cells import Cell
from fmriscale.evaluation.folds import Fold, refuse_seen_runs
from fmriscale.evaluation.material import Material
from fmriscale.files import expand
from fmriscale.model.encoder import EncoderConfig, PairClassifier, build, resolve_encoder, with_space
from fmriscale.model.export import load_encoder, read_meta


def encoder_folder(config: StudyConfig, fold: int) -> Path:
    """Return the folder of the pre-trained encoder that a fold starts from."""
    return expand((config.pretrained or "").replace("{fold}", str(fold)))


def check_encoder(config: StudyConfig, material: Material, fold: Fold) -> None:
    """Refuse an encoder that cannot read the corpus, or whose pre-training saw the fold's test runs.

    Raises
    ------
    UserError
        Another feature space, another window length where positions are learned, or seen test runs.
    """
    folder = encoder_folder(config, fold.number)
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
        refuse_seen_runs(fold, material.corpus.runs["key"].tolist(), meta.get("train_runs", []), str(folder))


def seen_as(space: FeatureSpace, meta: dict[str, Any]) -> str | None:
    """Return the encoder's name for a feature space: that with the same hash; None if it has none."""
    known = meta.get("feature_spaces", {})
    return next((name for name, content in known.items() if content["sha256"] == space.sha256), None)


def check_unseen(
    config: StudyConfig, space: FeatureSpace, encoder: EncoderConfig, meta: dict[str, Any], folder: Path
) -> None:
    """Refuse a feature space that the encoder has not seen, unless it is to learn it.

    Raises
    ------
    UserError
        `train.projection_epochs` is 0, or the encoder has no projection.
    """
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
    """Build a cell's model and return it with the name of the feature space it is to read.

    The fresh arm has the architecture of the pre-trained encoder, with weights drawn from the seed.
    """
    if config.pretrained is None:
        space = material.space
        resolved = resolve_encoder(config.model, {space.name: space.n_features}, config.task.length)
        return build(resolved, cell.seed), space.name
    folder = encoder_folder(config, cell.fold)
    encoder, meta = load_encoder(folder)
    name = seen_as(material.space, meta)
    if name is None:
        name = f"{material.space.name}_{material.space.sha256[:8]}"
        encoder = with_space(encoder, name, material.space.n_features, cell.seed)
    return (build(encoder.config, cell.seed) if cell.arm == "fresh" else PairClassifier(encoder)), name


def epochs_alone(config: StudyConfig, material: Material, cell: Cell) -> int:
    """Return in how many epochs a cell trains projection and head alone, for a space new to its encoder."""
    if cell.arm == "fresh":
        return 0
    meta = read_meta(encoder_folder(config, cell.fold))["meta"]
    return config.train.projection_epochs if seen_as(material.space, meta) is None else 0
