"""The encoders that the arms start from: whether they suit the study, and the model of a cell."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fmriscale.common.errors import UserError
from fmriscale.corpus.manifest import FeatureSpace
from fmriscale.model.classifier import PairClassifier
from fmriscale.model.encoder import Encoder, build_encoder, in_space
from fmriscale.model.precision import describe_precision
from fmriscale.model.presets import EncoderConfig, resolve_encoder
from fmriscale.study.controls import CONTROLS, commands
from fmriscale.study.data import Study
from fmriscale.study.folds import Fold, refuse_seen_runs
from fmriscale.study.jobs import Cell, arms, encoder_folder


def check_encoder(study: Study, fold: Fold, arm: str) -> None:
    """Refuse an encoder that cannot read the corpus, or whose pre-training saw the fold's test runs."""
    config = study.config
    folder = encoder_folder(config, arm, fold.number)
    if folder is None:
        return
    if arm in CONTROLS and not (folder / "config.json").exists():
        make = commands(config, CONTROLS[arm])[0].replace("\\\n ", "")
        raise UserError(f"{folder}: no encoder of this control yet: {make}, or do without: --controls '{{}}'")
    content = study.metas[folder]
    encoder, meta = EncoderConfig(**content["encoder"]), content["meta"]
    if known_as(study.space, meta) is None:
        check_new_space(study, encoder, meta, folder)
    if encoder.positions == "learned" and encoder.length != config.task.length:
        raise UserError(
            f"{folder}: its positions are learned for sequences of {encoder.length} volumes, but task.length "
            f"is {config.task.length}; set task.length: {encoder.length}"
        )
    if not config.allow_seen_runs:
        refuse_seen_runs(fold, study.runs, meta.get("train_runs", []), str(folder))


def known_as(space: FeatureSpace, meta: dict[str, Any]) -> str | None:
    """Return the encoder's name for a feature space: that with the same hash; None if it has none."""
    known = meta.get("feature_spaces", {})
    return next((name for name, content in known.items() if content["sha256"] == space.sha256), None)


def check_new_space(study: Study, encoder: EncoderConfig, meta: dict[str, Any], folder: Path) -> None:
    """Refuse a feature space that the encoder has not seen, unless it is to learn it."""
    space, known = study.space, meta.get("feature_spaces", {})
    names = ", ".join(f"{name} ({content['n_features']} features)" for name, content in known.items())
    refusal = (
        f"{folder}: reads feature space(s) {names or 'none'}, none of them the corpus's '{space.name}' "
        f"({space.n_features} features); pre-train on a corpus with the same features, or set `space`"
    )
    if encoder.positions == "learned":
        raise UserError(refusal)
    if not study.config.train.projection_epochs:
        raise UserError(f"{refusal}; or let it learn this one: --train.projection_epochs 5")


def build_model(study: Study, cell: Cell) -> tuple[PairClassifier, str]:
    """Build a cell's model, which reads the study's feature space alone, and return it with its name.

    The fresh arm has the architecture of the pre-trained encoder, with weights drawn from the seed.
    """
    config, space = study.config, study.space
    folder, shape = encoder_folder(config, cell.arm, cell.fold), _shape(study, cell.arm, cell.fold)
    if folder is None:
        name = space.name
        encoder = build_encoder(shape, cell.seed)
    else:
        meta = study.metas[folder]["meta"]
        name = known_as(space, meta) or f"{space.name}_{space.sha256[:8]}"
        if cell.arm == "fresh":
            encoder = build_encoder(replace(shape, spaces={name: space.n_features}), cell.seed)
        else:
            encoder = in_space(Encoder.from_pretrained(folder), name, space.n_features, cell.seed)
    return PairClassifier(encoder, pair=config.train.pair, pool=config.train.pool), name


def computation(study: Study) -> str:
    """Say where the cells of a study compute, and in which type: that of pre-training on such hardware."""
    if n_gpus := torch.cuda.device_count():  # which type they have, each cell tells: to ask takes memory
        return f"encoders compute on {n_gpus} GPU(s), in bf16 where they have it"
    widths = [_shape(study, arm, 0).d_model for arm in arms(study.config)]
    return describe_precision(torch.device("cpu"), widths)


def _shape(study: Study, arm: str, fold: int) -> EncoderConfig:
    """Return the architecture of an arm's encoder, with the feature spaces that it has read."""
    folder = encoder_folder(study.config, arm, fold)
    if folder is not None:
        return EncoderConfig(**study.metas[folder]["encoder"])
    spaces = {study.space.name: study.space.n_features}
    return resolve_encoder(study.config.model, spaces, study.config.task.length)


def reads_new_space(study: Study, cell: Cell) -> bool:
    """Tell whether the encoder that a cell starts from (fresh: is built like) has never seen the space."""
    folder = encoder_folder(study.config, cell.arm, cell.fold)
    return folder is not None and known_as(study.space, study.metas[folder]["meta"]) is None
