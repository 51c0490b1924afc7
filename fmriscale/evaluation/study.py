"""One cell of the study: an arm, a fold and a seed, trained and tested; and what all cells share.

Shapes: B pairs of a step, P pairs in all, N windows, L volumes, V features. Both arms of a fold and seed see
the same pairs in the same order and start from the same (zero) head: only the encoder's first weights differ.
"""

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fmriscale import __version__
from fmriscale.config import StudyConfig
from fmriscale.corpus.manifest import FeatureSpace
from fmriscale.corpus.reader import Corpus
from fmriscale.errors import UserError
from fmriscale.evaluation.baselines import Score, score
from fmriscale.evaluation.folds import Fold, make_folds, refuse_seen_runs
from fmriscale.files import atomic_write, expand
from fmriscale.model.encoder import EncoderConfig, PairClassifier, build, resolve_encoder, with_space
from fmriscale.model.export import load_encoder, read_meta
from fmriscale.recipe import config_hash, to_dict
from fmriscale.sampling.labelled import Pairs, Windows, cut_windows, draw_pairs

TEST_BATCH = 512


@dataclass(frozen=True)
class Material:
    """What every cell of a study is made from."""

    corpus: Corpus
    space: FeatureSpace
    windows: Windows
    folds: list[Fold]


@dataclass(frozen=True)
class Cell:
    """One training of the study."""

    arm: str
    """fresh or pretrained."""
    fold: int
    seed: int

    @property
    def name(self) -> str:
        """Name of the cell's file and MLflow run."""
        return f"{self.arm}_fold{self.fold}_seed{self.seed}"


def cells(config: StudyConfig) -> list[Cell]:
    """Return all cells of a study, seeds outermost so that an early look compares arms."""
    arms = ["fresh"] if config.pretrained is None else ["fresh", "pretrained"]
    folds = range(config.n_folds)
    return [Cell(arm, fold, seed) for seed in config.seeds for fold in folds for arm in arms]


def prepare(config: StudyConfig) -> Material:
    """Open the corpus, cut the windows and make the folds.

    Raises
    ------
    UserError
        No run takes part, or the task or the folds do not suit the corpus.
    """
    corpus = Corpus.open(config.corpus)
    space = corpus.space(config.space)
    unknown = sorted(set(config.datasets or []) - set(corpus.runs["dataset"]))
    if unknown:
        raise UserError(f"{corpus}: no data set {unknown}; it has {sorted(set(corpus.runs['dataset']))}")
    table = corpus.runs
    takes_part = (table["space"] == space.name) & table["split"].isin(config.splits)
    if config.datasets is not None:
        takes_part &= table["dataset"].isin(config.datasets)
    runs = table.loc[takes_part]
    if runs.empty:
        raise UserError(
            f"{corpus}: no run of space '{space.name}' in splits {config.splits} "
            f"and data sets {config.datasets or 'all'}; choose others"
        )
    corpus.want(sorted(set(runs["shard"])))
    windows = cut_windows(corpus, config.task, runs.index.tolist())
    used = table.loc[np.unique(windows.run_N)]
    return Material(corpus, space, windows, make_folds(used, config.folds_by, config.n_folds))


def fold_pairs(config: StudyConfig, material: Material, fold: Fold) -> tuple[Pairs, Pairs]:
    """Return the training and the test pairs of a fold; no pair crosses its border."""
    run_N = material.windows.run_N
    sides = [np.flatnonzero(np.isin(run_N, rows)) for rows in (fold.train, fold.test)]
    try:
        train, test = (
            draw_pairs(material.windows, members, config.task, [fold.number, side])
            for side, members in enumerate(sides)
        )
    except UserError as error:
        raise UserError(f"{material.corpus}, fold {fold.number} without {fold.left_out}: {error}") from None
    return train, test


def units(config: StudyConfig, material: Material, fold: Fold, pairs: Pairs) -> np.ndarray:
    """Return the statistical unit of each pair: its person, or its fold where runs are left out."""
    if config.folds_by == "subject":
        return material.windows.person_N[pairs.left_P]
    return np.full(len(pairs.same_P), f"fold {fold.number}")


# ---------------------------------------------------------------- the encoder


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


# ---------------------------------------------------------------- training


def cell_hash(config: StudyConfig, corpus_fingerprint: str, cell: Cell) -> str:
    """Return a hash of everything that a cell's result depends on."""
    settings = to_dict(config)
    for elsewhere in ("out", "corpus", "pretrained", "jobs", "tracking", "seeds", "allow_seen_runs"):
        del settings[elsewhere]
    start: Any = settings["model"]
    if config.pretrained is not None:
        content = read_meta(encoder_folder(config, cell.fold))
        start = content["encoder"]
        if cell.arm == "pretrained":
            start = [start, content["weights_sha256"]]
    content = [settings, start, corpus_fingerprint, cell.name, __version__]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def study_hash(config: StudyConfig, corpus_fingerprint: str) -> str:
    """Return a hash of everything that a whole study depends on."""
    content = [config_hash(config), [cell_hash(config, corpus_fingerprint, cell) for cell in cells(config)]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def cell_file(config: StudyConfig, cell: Cell) -> Path:
    """Return where a cell's result lies."""
    return expand(config.out) / "cells" / f"{cell.name}.json"


def finished(config: StudyConfig, corpus_fingerprint: str, cell: Cell) -> dict[str, Any] | None:
    """Return the result of a cell if it is there and still valid."""
    try:
        result = json.loads(cell_file(config, cell).read_text())
    except (OSError, ValueError):
        return None
    return result if result.get("hash") == cell_hash(config, corpus_fingerprint, cell) else None


def run_cell(config: StudyConfig, cell: Cell) -> dict[str, Any]:
    """Train and test one cell, on one thread, and write its result.

    Returns
    -------
    dict
        hash, arm, fold, seed, left_out, n_train, n_test, epochs (loss, accuracy, auc, seconds of each) and
        by_unit (accuracy of each left-out unit after the last epoch).
    """
    torch.set_num_threads(1)
    material = prepare(config)
    fold = material.folds[cell.fold]
    train, test = fold_pairs(config, material, fold)
    model, space = classifier(config, material, cell)
    epochs, last = fit(config, material, cell, model, space, train, test)
    result = {
        "hash": cell_hash(config, material.corpus.fingerprint, cell),
        "arm": cell.arm,
        "fold": cell.fold,
        "seed": cell.seed,
        "left_out": list(fold.left_out),
        "n_train": len(train.same_P),
        "n_test": len(test.same_P),
        "epochs": epochs,
        "by_unit": last.by_unit,
    }
    atomic_write(cell_file(config, cell), json.dumps(result, indent=1) + "\n")
    return result


def fit(
    config: StudyConfig,
    material: Material,
    cell: Cell,
    model: PairClassifier,
    space: str,
    train: Pairs,
    test: Pairs,
) -> tuple[list[dict[str, float]], Score]:
    """Train a model for all its epochs; return the curve and the score after the last epoch."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = config.train
    model.to(device)
    n_alone = epochs_alone(config, material, cell)
    groups = [{"params": model.head.parameters(), "lr": settings.head_lr or settings.lr}]
    if n_alone or not settings.freeze:
        groups.append({"params": model.encoder.parameters(), "lr": settings.lr})
    optimiser = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    bold_NLV = torch.from_numpy(material.windows.bold_NLV).to(device)
    t_r_N = torch.from_numpy(material.windows.t_r_N).to(device)
    unit_P = units(config, material, material.folds[cell.fold], test)
    torch.manual_seed(cell.seed)

    def logits(pairs: Pairs, places: np.ndarray) -> torch.Tensor:
        left, right = torch.from_numpy(pairs.left_P[places]), torch.from_numpy(pairs.right_P[places])
        return model(bold_NLV[left], bold_NLV[right], t_r_N[left], space)

    curve: list[dict[str, float]] = []
    tested = Score(0.5, 0.5, {})
    started = time.monotonic()
    for epoch in range(1, settings.epochs + 1):
        model.train()
        model.encoder.train(not settings.freeze)
        model.encoder.requires_grad_(epoch > n_alone and not settings.freeze)
        if epoch <= n_alone:
            model.encoder.embedding.weight.requires_grad_()
            model.encoder.embedding.bias.requires_grad_()
        order = np.random.default_rng([cell.seed, cell.fold, epoch]).permutation(len(train.same_P))
        losses = []
        for first in range(0, len(order), settings.batch):
            places = order[first : first + settings.batch]
            same_B = torch.from_numpy(train.same_P[places]).to(device)
            loss = F.cross_entropy(logits(train, places), same_B)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            losses.append(loss.item() * len(places))
        model.eval()
        with torch.no_grad():
            batches = np.split(np.arange(len(test.same_P)), range(TEST_BATCH, len(test.same_P), TEST_BATCH))
            margin_P = torch.cat([logits(test, places).diff(dim=1)[:, 0] for places in batches])
        tested = score(margin_P.double().cpu().numpy(), 0.0, test.same_P, unit_P)
        if not np.isfinite(losses).all():
            raise UserError(f"{cell.name}: the loss is not finite in epoch {epoch}; lower train.lr")
        curve.append(
            {
                "epoch": epoch,
                "loss": sum(losses) / len(order),
                "accuracy": tested.accuracy,
                "auc": tested.auc,
                "seconds": time.monotonic() - started,
            }
        )
    return curve, tested
