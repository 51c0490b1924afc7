"""A finished study without hours of training: its cells and baselines have chosen accuracies."""

from pathlib import Path

import numpy as np
from factory import write_corpus

from fmriscale.config import FinetuneTrainConfig, StudyConfig, TaskConfig
from fmriscale.simulate.design import cell_of
from fmriscale.study.controls import commands, missing_control
from fmriscale.study.data import open_study
from fmriscale.study.design import describe
from fmriscale.study.jobs import cells
from fmriscale.study.scores import Score
from fmriscale.study.summary import summarise

CROSS_RUN = {
    **{"pretrained": 0.62, "fresh": 0.57, "shuffled_order": 0.565, "category": 0.60, "pair_logistic": 0.56},
    **{"run_means": 0.51, "persistence": 0.50, "correlation": 0.54, "same_run": 0.50, "shuffled": 0.50},
}
PAPER = {
    **{"pretrained": 0.86, "fresh": 0.81, "shuffled_order": 0.85, "category": 0.88, "pair_logistic": 0.9},
    **{"run_means": 0.93, "persistence": 0.7, "correlation": 0.84, "same_run": 1.0, "shuffled": 0.50},
}
"""True accuracy of arms, control and baselines."""
N_PEOPLE, N_PAIRS = 17, 168


def config(folder: Path, **changed) -> StudyConfig:
    """Return the settings of a study of the timbre design."""
    task = {"label": "timbre", "condition": "condition", "delay": 0.0, **changed.pop("task", {})}
    settings = {
        **{"out": str(folder / "study"), "corpus": str(folder / "corpus"), "pretrained": "runs/ntp/encoder"},
        **{"controls": {"shuffled_order": "other"}, "seeds": [0, 1, 2], "n_folds": 4},
        **{"train_sizes": [1, 2, 4, 8, 12], "train": FinetuneTrainConfig(epochs=20)},
    }
    return StudyConfig(**{**settings, **changed, "task": TaskConfig(**task)})


def events(subject, run):
    """Return events of the timbre experiment: every run holds one condition and one timbre."""
    condition, timbre = cell_of(subject, run)
    return [
        {"onset": 16 + 22.0 * i, "duration": 4.0, "timbre": timbre, "condition": condition} for i in range(21)
    ]


def design(settings: StudyConfig):
    """Describe the design of 17 subjects x 8 runs under the protocol of a study."""
    folder = Path(settings.corpus)
    if not folder.exists():
        spec = {"subjects": N_PEOPLE, "runs": 8, "n_volumes": 240, "events": events}
        write_corpus(folder, datasets={"timbre": spec}, n_features=4)
    study = open_study(settings)
    return describe(study, [study.pairs(fold) for fold in study.folds])


def summary(settings: StudyConfig, truth=CROSS_RUN, conditions=("heard", "imagined", "heard to imagined")):
    """Summarise a study whose cells score about as `truth` says; subjects differ equally in every arm."""
    rng = np.random.default_rng(0)
    people = [f"timbre/{i + 1:02d}" for i in range(N_PEOPLE)]
    easy = {c: dict(zip(people, rng.normal(0, 0.03, N_PEOPLE), strict=True)) for c in conditions}

    def left_out(fold):
        halves = {"half": people, "subject": people[fold :: settings.n_folds]}
        return halves[settings.folds_by]

    def rows(accuracy, fold):
        chosen = []
        for c in conditions:
            for person in left_out(fold):
                at = accuracy + (easy[c][person] if accuracy != 0.5 else 0)
                found = rng.binomial(N_PAIRS, np.clip(at, 0, 1)) / N_PAIRS
                auc = float(min(1.0, 0.5 + 1.2 * (found - 0.5)))
                chosen.append(
                    {"condition": c, "unit": person, "n": N_PAIRS, "accuracy": float(found), "auc": auc}
                )
        return chosen

    def mean(chosen, figure):
        return float(np.mean([row[figure] for row in chosen]))

    records = []
    for cell in cells(settings):
        share = 1.0 if cell.size is None else 1 - np.exp(-cell.size / 4)
        top = 0.5 + (truth[cell.arm] - 0.5) * share
        pace = 3 if cell.arm == "pretrained" else 6
        scores = rows(top, cell.fold)
        gained = [1 - np.exp(-e / pace) for e in range(1, 21)]
        at_end = {"accuracy": mean(scores, "accuracy"), "auc": mean(scores, "auc")}
        curve = [
            {
                **{"epoch": e, "loss": float(0.69 - 0.3 * g), "seconds": 2.5 * e},
                **{k: float(0.5 + (v - 0.5) * g / gained[-1]) for k, v in at_end.items()},
            }
            for e, g in enumerate(gained, 1)
        ]
        records.append(
            {
                **{"hash": "0" * 64, "arm": cell.arm, "fold": cell.fold, "seed": cell.seed},
                **{"size": cell.size, "left_out": left_out(cell.fold), "n_train": 4320, "n_test": 1440},
                **{"n_parameters": 1000, "n_trained": 1000, "seconds": 50.0, "reported": 20},
                **{"epochs": curve, "scores": scores},
                "reversed": {k: v - 0.02 for k, v in at_end.items()},
            }
        )
    baselines = []
    for fold in range(settings.n_folds):
        arms = ("pretrained", "fresh", "shuffled_order")
        found = {name: rows(truth[name], fold) for name in truth if name not in arms}
        baselines.append({n: Score(mean(r, "auc"), mean(r, "accuracy"), r) for n, r in found.items()})
    provenance = {
        "versions": {"fmriscale": "0.1.0", "torch": "2.8.0", "numpy": "2.3.1", "scikit-learn": "1.7.0"},
        "corpus": {"path": "corpora/timbre", "fingerprint": "4f" * 32},
        "config_hash": "9c" * 32,
        "encoders": {
            arm: {"every fold": {"weights_sha256": f"{i}a" * 32, "volume_order": order}}
            for i, (arm, order) in enumerate([("pretrained", "recorded"), ("shuffled_order", "shuffled")])
            if arm == "pretrained" or arm in settings.controls
        },
        "date": "2026-11-23",
    }
    found = summarise(settings, records, baselines, provenance)
    control = missing_control(found)
    to_run = commands(settings, control) if control else []
    return {**found, "design": design(settings), "to_run": to_run}
