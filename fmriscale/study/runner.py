"""The pieces of a study at work: what a result depends on, where it lies, one piece from start to file."""

import hashlib
import json
import platform
import time
import traceback
from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch

from fmriscale.common.errors import UserError
from fmriscale.common.files import atomic_write, expand, writing_to
from fmriscale.common.version import __version__
from fmriscale.config import StudyConfig
from fmriscale.config.recipe import config_hash, to_dict
from fmriscale.model.classifier import save_classifier
from fmriscale.model.encoder import count_parameters
from fmriscale.model.export import read_meta
from fmriscale.study.baselines import baselines
from fmriscale.study.cells import (
    Baselines,
    Cell,
    Final,
    Piece,
    arms,
    encoder_folder,
    final_cell,
    pieces,
    sizes,
)
from fmriscale.study.fit import fit
from fmriscale.study.folds import Fold
from fmriscale.study.material import Material, conditions, fold_pairs, prepare, units
from fmriscale.study.start import classifier

# ---------------------------------------------------------------- what a result depends on

ELSEWHERE = ("out", "corpus", "jobs", "tracking", "allow_seen_runs", "keep_model")
"""Settings that change no result: places, and how the work is done."""
IN_THE_PIECE = ("pretrained", "controls", "seeds", "train_sizes")
"""Settings of which a piece has its own share."""


def of_results(config: StudyConfig) -> dict[str, Any]:
    """Return the settings that results depend on."""
    return {k: v for k, v in to_dict(config).items() if k not in ELSEWHERE}


def recipe_hash(config: StudyConfig) -> str:
    """Return the first 12 hexadecimal digits of the sha256 of the settings that results depend on."""
    return digest(of_results(config))[:12]


def digest(content: Any) -> str:
    """Return the sha256 of JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def piece_hash(config: StudyConfig, corpus_fingerprint: str, piece: Piece) -> str:
    """Return a hash of everything that the result of a piece depends on."""
    settings = {k: v for k, v in of_results(config).items() if k not in IN_THE_PIECE}
    match piece:
        case Cell():
            own = [asdict(piece), start_of(config, piece)]
        case Final():
            cell = final_cell(config)
            own = [piece.name, asdict(cell), start_of(config, cell)]
        case Baselines():
            del settings["model"], settings["train"]
            own = [asdict(piece), sizes(config)[-1], sklearn.__version__]
    versions = [__version__, torch.__version__, np.__version__]
    return digest([settings, own, corpus_fingerprint, versions])


def start_of(config: StudyConfig, cell: Cell) -> list[Any]:
    """Return what the encoder that a cell starts from depends on: architecture, spaces, weights."""
    folder = encoder_folder(config, cell.arm, cell.fold)
    if folder is None:
        return []
    content = read_meta(folder)
    weights = None if cell.arm == "fresh" else content["weights_sha256"]
    return [content["encoder"], content["meta"].get("feature_spaces"), weights]


def study_hash(config: StudyConfig, corpus_fingerprint: str) -> str:
    """Return a hash of everything that a whole study depends on, and of where it is logged."""
    hashes = [piece_hash(config, corpus_fingerprint, piece) for piece in pieces(config)]
    return digest([to_dict(config.tracking), hashes])


def provenance(config: StudyConfig, material: Material) -> dict[str, Any]:
    """Return what a study was made from and with: software, recipe, corpus, encoders; no host, no user."""
    names = ("fmriscale", "torch", "numpy", "scipy", "scikit-learn", "nilearn", "mlflow")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": {"python": platform.python_version(), **{name: version(name) for name in names}},
        "recipe": recipe_hash(config),
        "corpus": {"path": config.corpus, "fingerprint": material.corpus.fingerprint},
        "encoders": {arm: encoders(config, arm) for arm in arms(config) if arm != "fresh"},
    }


def encoders(config: StudyConfig, arm: str) -> dict[str, dict[str, Any]]:
    """Return folder, weights and origin of the encoder that an arm starts from, by fold if folds differ."""
    given = config.controls.get(arm, config.pretrained) or ""
    found = {}
    for fold in range(config.n_folds if "{fold}" in given else 1):
        content = read_meta(encoder_folder(config, arm, fold) or Path())
        meta = content["meta"]
        told = {key: meta.get(key) for key in ("step", "corpus_fingerprint", "config_hash")}
        told["volume_order"] = meta.get("config", {}).get("data", {}).get("volume_order")
        place = given.replace("{fold}", str(fold))
        found[f"fold {fold}" if "{fold}" in given else "every fold"] = {
            "folder": place,
            "weights_sha256": content["weights_sha256"],
            **told,
        }
    return found


# ---------------------------------------------------------------- where it lies


def finished(config: StudyConfig, corpus_fingerprint: str, piece: Piece) -> dict[str, Any] | None:
    """Return the result of a piece if it is there and still valid."""
    try:
        result = json.loads((expand(config.out) / piece.file).read_text())
        known = result["hash"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return result if known == piece_hash(config, corpus_fingerprint, piece) else None


def note_of(config: StudyConfig, piece: Piece) -> Path:
    """Return the file that says why a piece has no result."""
    return expand(config.out) / "failed" / f"{piece.name}.txt"


def complain(config: StudyConfig, fingerprint: str, wanted: Iterable[Piece]) -> str | None:
    """Name the pieces without a result, each with the reason if one is known; None where all are there."""
    missing = [piece for piece in wanted if finished(config, fingerprint, piece) is None]
    if not missing:
        return None
    told = []
    for piece in missing:
        note = note_of(config, piece)
        told.append(f"{piece.name} ({note.read_text().strip()})" if note.exists() else piece.name)
    # Those with a reason are what to mend; of the others the number matters.
    told.sort(key=lambda text: "(" not in text)
    shown = "; ".join(told[:8]) + (f"; and {len(told) - 8} more" if len(told) > 8 else "")
    return f"{len(missing)} of {len(pieces(config))} results are missing, so there is no summary: {shown}"


# ---------------------------------------------------------------- one piece


_open: dict[str, Material] = {}
"""The material that this process has prepared last: one serves all its pieces."""


def opened(config: StudyConfig, fingerprint: str) -> Material:
    """Return the material of a study, prepared once a process."""
    key = f"{config_hash(config)} {fingerprint}"
    if key not in _open:
        _open.clear()
        material = prepare(config)
        if material.corpus.fingerprint != fingerprint:
            raise UserError(f"{config.corpus} has changed while the study ran; run it again")
        _open[key] = material
    return _open[key]


def attempt(config: StudyConfig, fingerprint: str, piece: Piece) -> dict[str, Any] | str:
    """Run a piece; return its result, or the reason why it has none.

    The reason is kept beside the results, so that no later step takes a missing cell for one that never was.
    """
    try:
        with writing_to(expand(config.out)):
            return run_piece(config, opened(config, fingerprint), piece)
    except UserError as error:
        reason = str(error)
    except Exception as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    give_up(config, piece, reason)
    return reason


def give_up(config: StudyConfig, piece: Piece, reason: str) -> None:
    """Keep the reason why a piece has no result."""
    atomic_write(note_of(config, piece), reason + "\n")


def run_piece(config: StudyConfig, material: Material, piece: Piece) -> dict[str, Any]:
    """Compute a piece on one thread, and write its result."""
    torch.set_num_threads(1)
    match piece:
        case Cell():
            content = run_cell(config, material, piece)
        case Baselines():
            content = run_baselines(config, material, piece)
        case Final():
            content = run_final(config, material)
    result = {"hash": piece_hash(config, material.corpus.fingerprint, piece), **content}
    atomic_write(expand(config.out) / piece.file, json.dumps(result, indent=1) + "\n")
    note_of(config, piece).unlink(missing_ok=True)
    return result


def run_cell(config: StudyConfig, material: Material, cell: Cell) -> dict[str, Any]:
    """Train and test one cell."""
    started = time.monotonic()
    fold = material.folds[cell.fold]
    train, test = fold_pairs(config, material, fold, cell.size, cell.seed)
    model, space = classifier(config, material, cell)
    fitted = fit(config, material, cell, model, space, train, test)
    return {
        **asdict(cell),
        "left_out": list(fold.left_out),
        "n_train": len(train.same_P),
        "n_test": len(test.same_P),
        "n_parameters": count_parameters(fitted.model),
        "n_trained": fitted.n_trained,
        "seconds": time.monotonic() - started,
        "epochs": fitted.curve,
        "reported": fitted.reported,
        "scores": fitted.score.rows,
        "reversed": {"auc": fitted.reversed.auc, "accuracy": fitted.reversed.accuracy},
    }


def run_baselines(config: StudyConfig, material: Material, piece: Baselines) -> dict[str, Any]:
    """Score the baselines of a fold, at the full size; return fold, left_out, n_train, n_test and scores."""
    fold = material.folds[piece.fold]
    train, test = fold_pairs(config, material, fold, sizes(config)[-1], config.seeds[0])
    unit_P, condition_P = units(config, material, fold, test), conditions(config, material, test)
    scores = baselines(material.windows, train, test, unit_P, condition_P, seed=fold.number)
    return {
        "fold": piece.fold,
        "left_out": list(fold.left_out),
        "n_train": len(train.same_P),
        "n_test": len(test.same_P),
        "scores": {name: asdict(score) for name, score in scores.items()},
    }


def run_final(config: StudyConfig, material: Material) -> dict[str, Any]:
    """Fit the study's recipe on everybody and keep the model in model/, with what it can be asked."""
    fold = material.folds[0]
    rows = np.sort(np.concatenate([fold.train, fold.test]))
    everybody = replace(material, folds=[Fold(0, rows, rows, ())])
    # The best epoch would be that which knows the training windows best.
    last = replace(config, train=replace(config.train, report="last"))
    cell = final_cell(config)
    train, again = fold_pairs(last, everybody, everybody.folds[0])
    model, space = classifier(last, everybody, cell)
    fitted = fit(last, everybody, cell, model, space, train, again)
    folder = expand(config.out) / "model"
    meta = {
        "space": space,
        "feature_spaces": {space: material.space.to_dict()},
        "task": to_dict(config.task),
        "labels": list(material.windows.labels),
        "train_runs": [material.corpus.runs["key"].iloc[row] for row in rows],
        "corpus_fingerprint": material.corpus.fingerprint,
        "config_hash": recipe_hash(config),
        "start": {"arm": cell.arm, "weights_sha256": (start_of(config, cell) or [None])[-1]},
        "fmriscale": __version__,
    }
    save_classifier(folder, fitted.model, meta)
    return {
        "arm": cell.arm,
        "seed": cell.seed,
        "n_train": len(train.same_P),
        "n_trained": fitted.n_trained,
        "epochs": fitted.curve,
        "weights_sha256": read_meta(folder)["weights_sha256"],
    }
