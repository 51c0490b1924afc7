"""A study that takes seconds: four people with three runs each, two timbres, and an encoder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from factory import write_corpus

from fmriscale.config import ModelConfig
from fmriscale.corpus.manifest import FeatureSpace
from fmriscale.model.classifier import build
from fmriscale.model.presets import resolve_encoder

V = 12
PATTERN = np.random.default_rng(5).standard_normal((2, V))
TINY = ModelConfig(preset="tiny", d_model=16, n_layers=1, n_heads=2)


def events(subject, run):
    return [{"onset": 20.0 * i, "duration": 4.0, "timbre": "ab"[(i + run) % 2]} for i in range(9)]


def add_timbre(x, record):
    for event in record["events"]:
        start = int(event["onset"] / 2) + 2
        x[start : start + 5] += 1.5 * PATTERN["ab".index(event["timbre"])]
    return x


def write_encoder(folder, seed, model=TINY, **meta):
    encoder = build(resolve_encoder(model, {"toy": V}, 5), seed).encoder
    spaces = {"toy": FeatureSpace("toy", V).to_dict()}
    encoder.save_pretrained(folder, {"feature_spaces": spaces, "train_runs": [], **meta})
    return folder


def write_toy(root: Path) -> Path:
    """Write corpus/ and encoder/; the encoder has the weights that the fresh arm of seed 0 starts from."""
    spec = {"subjects": 4, "runs": 3, "n_volumes": 100, "events": events}
    write_corpus(root / "corpus", datasets={"toy": spec}, n_features=V, signal=add_timbre)
    write_encoder(root / "encoder", seed=0)
    return root


def options(place, out="out", **changed):
    """Return the command line of the study in a folder; `changed` are settings, with __ for dots."""
    chosen = {
        "out": place / out,
        "corpus": place / "corpus",
        "pretrained": place / "encoder",
        "task.label": "timbre",
        "n_folds": 2,
        "train.epochs": 2,
        "train.lr": 0.003,
        "train.batch": 32,
        "jobs": 1,
        "tracking.enabled": False,
    }
    chosen |= {k.replace("__", "."): v for k, v in changed.items()}
    return ["finetune", *(part for k, v in chosen.items() for part in (f"--{k}", str(v)))]


def without_times(path):
    """Return the result of a cell without times, so that the load of the machine does not matter."""
    result = json.loads(path.read_text())
    del result["seconds"]
    for epoch in result["epochs"]:
        del epoch["seconds"]
    return result


def write_arrays(folder: Path, n_people: int, n_volumes: int) -> dict[str, Any]:
    """Write a run [T, V] of noise for each person, and return the data set's part of a recipe."""
    folder.mkdir()
    for subject in range(1, n_people + 1):
        signals = 100 + np.random.default_rng(subject).normal(size=(n_volumes, V))
        np.save(folder / f"sub-{subject:02d}_task-rest.npy", signals)
    features = {"name": "toy", "columns": V}
    return {
        "name": "toy",
        "kind": "arrays",
        "root": folder.name,
        "files": "*.npy",
        "t_r": 2.0,
        "features": features,
    }
