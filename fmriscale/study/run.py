"""A job from its pairs to its result."""

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from fmriscale.common.files import expand
from fmriscale.common.version import __version__
from fmriscale.config.recipe import to_dict
from fmriscale.model.classifier import save_classifier
from fmriscale.model.encoder import count_parameters
from fmriscale.model.export import read_meta
from fmriscale.study.baselines import baselines
from fmriscale.study.data import Study
from fmriscale.study.encoders import build_model
from fmriscale.study.fit import fit
from fmriscale.study.folds import Fold
from fmriscale.study.jobs import Baselines, Cell, Final, Job, final_cell, sizes
from fmriscale.study.results import recipe_hash, start_of_cell


@dataclass(frozen=True)
class Runner:
    """Runs the jobs of a study; every worker process has a copy."""

    study: Study

    def run(self, job: Job) -> dict[str, Any]:
        """Compute a job on one thread."""
        torch.set_num_threads(1)
        match job:
            case Cell():
                return run_cell(self.study, job)
            case Baselines():
                return run_baselines(self.study, job)
            case Final():
                return run_final(self.study)


def run_cell(study: Study, cell: Cell) -> dict[str, Any]:
    """Train and test one cell."""
    started, fold = time.monotonic(), study.folds[cell.fold]
    train, test = study.pairs(fold, cell.size, cell.seed)
    fitted = fit(study, cell, *build_model(study, cell), train, test)
    return {
        **asdict(cell),
        "left_out": list(fold.left_out),
        "n_train": len(train),
        "n_test": len(test),
        "n_parameters": count_parameters(fitted.model),
        "n_trained": fitted.n_trained,
        "precision": fitted.precision,
        "seconds": time.monotonic() - started,
        "epochs": fitted.curve,
        "reported": fitted.reported,
        "scores": fitted.score.rows,
        "reversed": {"auc": fitted.reversed.auc, "accuracy": fitted.reversed.accuracy},
    }


def run_baselines(study: Study, job: Baselines) -> dict[str, Any]:
    """Score the baselines of a fold, at the full size."""
    fold = study.folds[job.fold]
    train, test = study.pairs(fold, sizes(study.config)[-1], study.config.seeds[0])
    scores = baselines(
        study.windows, train, test, study.units(fold, test), study.conditions(test), seed=fold.number
    )
    return {
        "fold": job.fold,
        "left_out": list(fold.left_out),
        "n_train": len(train),
        "n_test": len(test),
        "scores": {name: asdict(score) for name, score in scores.items()},
    }


def run_final(study: Study) -> dict[str, Any]:
    """Fit the study's recipe on everybody and keep the model in model/, with what SameLabel needs."""
    cell, folder = final_cell(study.config), expand(study.config.out) / "model"
    rows = np.sort(np.concatenate([study.folds[0].train, study.folds[0].test]))
    # The best epoch would be that which knows the training windows best.
    train = replace(study.config.train, report="last")
    everybody = replace(study, folds=[Fold(0, rows, rows, ())], config=replace(study.config, train=train))
    pairs = everybody.pairs(everybody.folds[0])
    model, space = build_model(everybody, cell)
    fitted = fit(everybody, cell, model, space, *pairs)
    meta = {
        "space": space,
        "feature_spaces": {space: study.space.to_dict()},
        "task": to_dict(study.config.task),
        "labels": list(study.windows.labels),
        "train_runs": study.runs["key"].loc[rows].tolist(),
        "corpus_fingerprint": study.fingerprint,
        "config_hash": recipe_hash(study.config),
        "start": {"arm": cell.arm, "weights_sha256": (start_of_cell(study, cell) or [None])[-1]},
        "fmriscale": __version__,
    }
    save_classifier(folder, fitted.model, meta)
    return {
        "arm": cell.arm,
        "seed": cell.seed,
        "n_train": len(pairs[0]),
        "n_trained": fitted.n_trained,
        "precision": fitted.precision,
        "epochs": fitted.curve,
        "weights_sha256": read_meta(folder)["weights_sha256"],
    }
