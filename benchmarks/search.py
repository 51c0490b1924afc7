"""Which pre-training helps on real data? A search on the training sides of folds alone.

    python benchmarks/search.py haxby --corpus corpora/haxby --out runs/search --folds 0 1 2 3 4 5
    python benchmarks/search.py abide --corpus corpora/abide --out runs/search --only base half_same_site
    python benchmarks/search.py alice --corpus corpora/alice --out runs/search
    python benchmarks/search.py haxby --quick --out runs/quick

A cell is one recipe of pre-training in one outer fold. What the outer fold tests is not opened: the training
side is divided once more, an encoder is pre-trained without the inner test side, and both arms are fine-tuned
and tested inside. A cell leaves one JSON file (a second call skips it) and one MLflow run below one study.
Fresh arms are cells too, so that the arms of a fold see the same pairs. The loop of pre-training is plain:
the loader, model and loss of `fmriscale/train.py` on one core, without its engine. With --quick, noise stands
for the corpus of haxby, and little is trained: does it run, not what helps.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from search_targets import TARGETS, Target
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fmriscale.common.files import atomic_write
from fmriscale.config import PretrainConfig, StudyConfig, TrackingConfig
from fmriscale.config.recipe import parse
from fmriscale.corpus.reader import Corpus
from fmriscale.model.classifier import PairClassifier, build
from fmriscale.model.encoder import Encoder
from fmriscale.sampling.batch import Batch
from fmriscale.sampling.loader import NTPLoader
from fmriscale.study.data import Study, open_study
from fmriscale.study.encoders import build_model
from fmriscale.study.fit import fit
from fmriscale.study.folds import Fold, make_folds
from fmriscale.study.jobs import Cell
from fmriscale.study.windows import Windows
from fmriscale.tracking import Tracker
from fmriscale.training.objective import Objective
from fmriscale.training.run import encoder_for
from fmriscale.training.schedule import learning_rate

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
N_HELD_OUT = 1024
"""Pairs of unseen runs on which a pre-training is judged."""
CHANGED: dict[str, list[str]] = {"pretrain": [], "study": []}
"""Changes to the recipes of every cell."""
QUICK = {
    "N_HELD_OUT": 256,
    "CHANGED": {
        "pretrain": ["--train.steps", "2", "--train.global_batch", "8", "--train.max_micro_batch", "8"],
        "study": ["--train.epochs", "2"],
    },
}
QUICK_VARIANTS = ["base", "masked_half", "probe", "fresh_probe"]


def main() -> None:
    """Compute the cells that are not there yet, then print the table of all that are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--corpus")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--folds", type=int, nargs="+", default=[0], help="outer folds whose inside is searched"
    )
    parser.add_argument("--seeds", type=int, default=2, help="seeds of fine-tuning")
    parser.add_argument("--only", nargs="+", help="variants; all when left out")
    parser.add_argument("--json", type=Path, help="write the table to this file")
    parser.add_argument("--quick", action="store_true", help="a toy size, on noise")
    given = parser.parse_args()
    if given.quick and not given.corpus:
        if given.target != "haxby":
            parser.error("--quick makes a corpus of noise for haxby alone; give --corpus")
        given.corpus = write_noise(given.out / "noise")
    if not given.corpus:
        parser.error("give --corpus, or --quick")
    if given.quick:
        globals().update(QUICK)
        given.only, given.seeds = given.only or QUICK_VARIANTS, 1
    torch.set_num_threads(1)
    target, folder = TARGETS[given.target], given.out / given.target
    adapted = [*target.adapt, *(f"fresh_{name}" for name in target.adapt)]
    names = given.only or [*target.variants, *target.amount, *adapted]
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "mlflow_run_id"
    tracker = Tracker(
        TrackingConfig(experiment="search", enabled=not given.quick),
        given.out,
        f"search_{given.target}",
        run_id=note.read_text() if note.exists() else None,
    )
    atomic_write(note, tracker.run_id or "")
    for fold in given.folds:
        for name in ["fresh", *names]:
            file = folder / f"{name}_fold{fold}.json"
            if file.exists():
                continue
            changes = target.variants.get(name, adaptation(target, name))
            run = tracker.child(f"{name}_fold{fold}")
            run.log_params(
                {"variant": name, "fold": fold, "changes": " ".join(changes), "target": given.target}
            )
            found = compute(target, given, name, fold, folder)
            run.log_metrics(numbers(found), step=0)
            run.close()
            atomic_write(file, json.dumps(found, indent=1) + "\n")
            print(json.dumps(numbers(found)), name, fold, flush=True)
    tracker.close()
    table = show(folder)
    if given.json:
        figures = {
            f"search.{name}.{key}": {"value": x} for name, row in table.items() for key, x in row.items()
        }
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


def write_noise(folder: Path) -> str:
    """Write twelve runs of one person, with blocks like those of Haxby 2001, if they are not there."""
    sys.path.insert(0, str(ROOT / "tests"))
    from factory import write_corpus  # pyright: ignore[reportMissingImports]

    def blocks(_: int, run: int) -> list[dict[str, Any]]:
        return [
            {"onset": 12.0 + 36 * i, "duration": 22.5, "trial_type": "abcd"[(i + run) % 4]} for i in range(8)
        ]

    if not folder.exists():
        one = {"subjects": 1, "runs": 12, "n_volumes": 121, "t_r": 2.5, "events": blocks}
        write_corpus(folder, datasets={"haxby": one}, n_features=16, space="haxby_slice_530")
    return str(folder)


def compute(target: Target, given: argparse.Namespace, name: str, fold: int, folder: Path) -> dict[str, Any]:
    """Pre-train (or not), probe, fine-tune: everything inside the training side of one outer fold."""
    began = time.process_time()
    options = [
        "--config",
        str(CONFIGS / f"{target.study}.yaml"),
        "--corpus",
        given.corpus,
        "--out",
        str(folder),
    ]
    # None of the encoders of the study itself is needed here.
    none = ["--pretrained", "null", "--controls", "{}"]
    config = parse(StudyConfig, [*options, *none, *CHANGED["study"], *adaptation(target, name)])
    corpus = Corpus.open(given.corpus)
    study, unseen = inside(target, config, fold)
    unseen += beyond(target.amount.get(name, 1.0), study.runs, unseen)
    options = ["--config", str(CONFIGS / f"{target.pretrain}.yaml"), "--data.corpus", given.corpus]
    held_out = ["--data.holdout_runs", json.dumps(unseen), "--out", str(folder / f"{name}_fold{fold}")]
    recipe = parse(
        PretrainConfig, [*options, *held_out, *CHANGED["pretrain"], *target.variants.get(name, [])]
    )
    found: dict[str, Any] = {"variant": name, "fold": fold}
    encoder = Path(recipe.out) / "encoder"
    if name in target.adapt:
        encoder = folder / f"base_fold{fold}" / "encoder"
    elif is_fresh(name):
        write_fresh(encoder, recipe, corpus)
    else:
        found |= pretrain(encoder, recipe, corpus)
    loaded = Encoder.from_pretrained(encoder)
    found["probes"] = probes(loaded, corpus, study.windows, target.probes)
    study = dataclasses.replace(study, config=dataclasses.replace(config, pretrained=str(encoder)))
    arm = "fresh" if is_fresh(name) else "pretrained"
    found["curves"] = {}
    for size in target.sizes:
        curves = []
        for seed in range(given.seeds):
            cell = Cell(arm, 0, seed, size)
            train, test = study.pairs(study.folds[0], size, seed)
            curve = fit(study, cell, *build_model(study, cell), train, test).curve
            curves.append([epoch["auc"] for epoch in curve])
        found["curves"][str(size or "all")] = curves
    found["cpu_seconds"] = time.process_time() - began
    return found


def is_fresh(name: str) -> bool:
    """Tell whether a cell's encoder was never pre-trained."""
    return name.split("_")[0] == "fresh"


def adaptation(target: Target, name: str) -> list[str]:
    """Return what a cell changes in the recipe of the study."""
    return target.adapt.get(name.removeprefix("fresh_"), [])


def inside(target: Target, config: StudyConfig, fold: int) -> tuple[Study, list[str]]:
    """Return the training side of an outer fold, and the keys of runs that pre-training must not see.

    Its only fold has the number 0: that of the inner division.
    """
    if target.apart:  # the people whom the study tests are in other splits
        whole = open_study(dataclasses.replace(config, splits=["train"]))
        runs = whole.runs
        people = runs.loc[np.unique(whole.windows.run_N)]
        rows = make_folds(people, "subject", round(1 / target.apart))[fold].test
        closed = np.union1d(rows, np.flatnonzero(runs["split"] != "train"))
    else:
        whole = open_study(config)
        runs = whole.runs
        rows, closed = whole.folds[fold].train, whole.folds[fold].test
    inner = make_folds(runs.loc[np.sort(rows)], config.folds_by, target.inner_folds)[0]
    unseen = np.union1d(closed, inner.test)
    keep = np.isin(whole.windows.run_N, rows)
    windows = dataclasses.replace(
        whole.windows,
        **{
            f.name: getattr(whole.windows, f.name)[keep]
            for f in dataclasses.fields(Windows)
            if isinstance(getattr(whole.windows, f.name), np.ndarray)
        },
    )
    only = Fold(0, inner.train, inner.test, inner.left_out)
    keys = runs["key"].iloc[unseen].tolist()
    return dataclasses.replace(whole, config=config, windows=windows, folds=[only]), keys


def beyond(share: float, runs: pd.DataFrame, unseen: list[str]) -> list[str]:
    """Return keys of the runs of all but a share of the people whose runs are not unseen anyway."""
    seen = runs.loc[~runs["key"].isin(unseen)]
    people = np.random.default_rng(0).permutation(sorted(seen["person"].unique()))
    return seen.loc[seen["person"].isin(people[round(share * len(people)) :]), "key"].tolist()


# ---------------------------------------------------------------- pre-training


def pretrain(folder: Path, recipe: PretrainConfig, corpus: Corpus) -> dict[str, Any]:
    """Train on pairs of the training runs and save the encoder; return how well it does on unseen runs."""
    settings = recipe.train
    loader = NTPLoader(corpus, recipe.data, "train", settings.seed, settings.global_batch)
    held_out = NTPLoader(corpus, recipe.data, "eval", settings.seed, settings.global_batch)
    objective = Objective(settings)
    model = objective.build(encoder_for(recipe, loader))
    optimiser = torch.optim.AdamW(
        model.parameters(), betas=settings.betas, weight_decay=settings.weight_decay
    )
    torch.manual_seed(settings.seed + 1)
    for step in range(1, settings.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, settings)
        pairs = micro_batch(objective, loader, (step - 1) * settings.global_batch, settings.global_batch)
        optimiser.zero_grad()
        objective.losses(model, pairs).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
        optimiser.step()
    model.eval()
    with torch.no_grad():
        parts = [micro_batch(objective, held_out, first, 256) for first in range(0, N_HELD_OUT, 256)]
        # Whole volumes, where masked ones were trained on.
        classifier = PairClassifier(model.encoder, pair=settings.pair, pool=settings.pool).eval()
        classifier.head = model.head
        logits = [classifier(p.left, p.right, p.t_r, p.space) for p in parts]
    margin_P = torch.cat(logits).diff(dim=1)[:, 0].numpy()
    label_P = torch.cat([pairs.label for pairs in parts]).numpy()
    write(folder, model.encoder, corpus, loader)
    return {
        "ntp_accuracy": float(((margin_P > 0) == (label_P == 1)).mean()),
        "ntp_auc": float(roc_auc_score(label_P, margin_P)),
    }


def micro_batch(objective: Objective, loader: NTPLoader, first: int, count: int) -> Batch:
    """Return the pairs at some positions, with their masks where the objective has any."""
    batch = loader.batch(first, count)
    # The buffers of a batch are used again.
    kept = batch._replace(left=batch.left.astype("f4"), right=batch.right.astype("f4"))
    return objective.add_masks(kept, first).to(torch.device("cpu"))


def write_fresh(folder: Path, recipe: PretrainConfig, corpus: Corpus) -> None:
    """Save the encoder of a recipe as it is before the first step."""
    loader = NTPLoader(corpus, recipe.data, "train", recipe.train.seed, recipe.train.global_batch)
    write(folder, build(encoder_for(recipe, loader), recipe.train.seed).encoder, corpus, loader)


def write(folder: Path, encoder: Encoder, corpus: Corpus, loader: NTPLoader) -> None:
    """Save an encoder with what the fine-tuning asks of it."""
    spaces = {name: space.to_dict() for name, space in loader.spaces.items()}
    encoder.save_pretrained(folder, {"feature_spaces": spaces, "train_runs": list(loader.run_keys)})


# ---------------------------------------------------------------- probes


@torch.no_grad()
def probes(encoder: Encoder, corpus: Corpus, windows: Windows, columns: list[str]) -> dict[str, float]:
    """Tell what a linear classifier reads from the encoder's vectors of single windows.

    Balanced accuracy on groups that it was not fitted on: label, and columns of the participants table, on
    left-out runs (people, where everybody has one run); which run, on every run's second half of windows
    after fitting on the first; and in which half of its run a window is, on left-out runs.
    """
    bold_NLV, t_r_N = torch.from_numpy(windows.bold_NLV).float(), torch.from_numpy(windows.t_r_N)
    space = next(iter(encoder.config.spaces)) if len(encoder.config.spaces) == 1 else None
    vectors = [
        encoder.embed(x, t, space, "mean") for x, t in zip(bold_NLV.split(256), t_r_N.split(256), strict=True)
    ]
    vector_ND = torch.cat(vectors).numpy()
    run_N = windows.run_N
    quarter_N = np.unique(run_N, return_inverse=True)[1] % 4
    late_N = windows.start_N / np.maximum(corpus.runs["n_volumes"].to_numpy()[run_N], 1)
    labels = {"label": windows.label_N}
    for column in columns:
        values = [str(corpus.record(row).get("participant", {}).get(column)) for row in run_N]
        labels[column] = np.unique(values, return_inverse=True)[1]
    found = {name: guessed(vector_ND, label_N, quarter_N) for name, label_N in labels.items()}
    median = np.array([np.median(windows.start_N[run_N == run]) for run in run_N])
    found["run"] = guessed(vector_ND, run_N, (windows.start_N > median).astype(int), only=1)
    found["late_in_run"] = guessed(vector_ND, (late_N > np.median(late_N)).astype(int), quarter_N)
    return found


def guessed(
    vector_ND: np.ndarray, label_N: np.ndarray, group_N: np.ndarray, only: int | None = None
) -> float:
    """Return a linear classifier's balanced accuracy on each group (or one), fitted on the others."""
    truth, guess = [], []
    for group in np.unique(group_N) if only is None else [only]:
        test = group_N == group
        linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
        linear.fit(vector_ND[~test], label_N[~test])
        known = np.isin(label_N[test], label_N[~test])
        truth.append(label_N[test][known])
        guess.append(linear.predict(vector_ND[test][known]))
    return float(balanced_accuracy_score(np.concatenate(truth), np.concatenate(guess)))


# ---------------------------------------------------------------- what is told


def numbers(found: dict[str, Any]) -> dict[str, float]:
    """Return the figures of a cell: NTP, probes, and AUC after the first, the middle and the last epoch."""
    told = {key: found[key] for key in ("ntp_accuracy", "ntp_auc", "cpu_seconds") if key in found}
    told |= {f"probe_{name}": value for name, value in found["probes"].items()}
    for size, curves in found["curves"].items():
        mean = np.mean(curves, axis=0)
        told |= {f"auc_{size}_first": mean[0], f"auc_{size}_last": mean[-1], f"auc_{size}_mean": mean.mean()}
    return {key: round(float(value), 4) for key, value in told.items()}


def show(folder: Path) -> dict[str, dict[str, float]]:
    """Print and return one row a variant: means over the outer folds that have it."""
    table = {}
    found = [json.loads(file.read_text()) for file in sorted(folder.glob("*_fold*.json"))]
    for name in sorted({each["variant"] for each in found}):
        rows = [numbers(each) for each in found if each["variant"] == name]
        mean = {key: round(float(np.mean([row[key] for row in rows])), 3) for key in rows[0]}
        table[name] = mean
        print(
            f"| {name} | {len(rows)} | " + " | ".join(f"{key} {value}" for key, value in mean.items()) + " |"
        )
    return table


if __name__ == "__main__":
    main()
