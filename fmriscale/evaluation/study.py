"""Running cells: what a result depends on, where it lies, and one cell from start to file."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from fmriscale import __version__
from fmriscale.config import StudyConfig
from fmriscale.evaluation.cells import Cell, cells
from fmriscale.evaluation.fit import fit
from fmriscale.evaluation.material import fold_pairs, prepare
from fmriscale.evaluation.start import classifier, encoder_folder
from fmriscale.files import atomic_write, expand
from fmriscale.model.export import read_meta
from fmriscale.recipe import config_hash, to_dict


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
        scores (rows of the `Score` after the last epoch).
    """
    torch.set_num_threads(1)
    material = prepare(config)
    fold = material.folds[cell.fold]
    train, test = fold_pairs(config, material, fold)
    model, space = classifier(config, material, cell)
    fitted = fit(config, material, cell, model, space, train, test)
    result = {
        "hash": cell_hash(config, material.corpus.fingerprint, cell),
        "arm": cell.arm,
        "fold": cell.fold,
        "seed": cell.seed,
        "left_out": list(fold.left_out),
        "n_train": len(train.same_P),
        "n_test": len(test.same_P),
        "epochs": fitted.curve,
        "reported": fitted.reported,
        "n_trained": fitted.n_trained,
        "scores": fitted.score.rows,
        "reversed": {"auc": fitted.reversed.auc, "accuracy": fitted.reversed.accuracy},
    }
    atomic_write(cell_file(config, cell), json.dumps(result, indent=1) + "\n")
    return result
