"""A finished study without its hours of training: its summary.json, with chosen effects."""

from pathlib import Path

import numpy as np
from factory import write_corpus

from fmriscale.config import StudyConfig, TaskConfig
from fmriscale.evaluation.design import describe
from fmriscale.evaluation.material import fold_pairs, prepare
from fmriscale.simulate.design import cell_of

CONDITIONS = ["heard", "imagined", "heard to imagined"]
ARMS = {
    "pretrained": ("pre-trained", "arm", 0.62),
    "fresh": ("fresh", "arm", 0.57),
    "shuffled_volumes": ("pre-trained on shuffled volumes", "control", 0.565),
    "category": ("window classifier (SVM)", "baseline", 0.60),
    "pair_logistic": ("pair logistic", "baseline", 0.56),
    "run_means": ("run means", "baseline", 0.51),
    "persistence": ("persistence", "baseline", 0.50),
    "correlation": ("correlation", "baseline", 0.54),
    "same_run": ("same-run oracle", "baseline", 0.50),
    "shuffled": ("shuffled labels", "baseline", 0.50),
}
"""Title, kind and true accuracy of each row."""


def events(subject, run):
    """Targets of the timbre experiment: every run holds one condition and one timbre."""
    condition, timbre = cell_of(subject, run)
    return [
        {"onset": 16 + 22.0 * i, "duration": 4.0, "timbre": timbre, "condition": condition} for i in range(21)
    ]


def design(folder: Path, **changed):
    """Describe the design of 17 subjects x 8 runs under a protocol."""
    spec = {"subjects": 17, "runs": 8, "n_volumes": 240, "events": events}
    if not folder.exists():
        write_corpus(folder, datasets={"timbre": spec}, n_features=4)
    task = {"label": "timbre", "condition": "condition", "delay": 0.0}
    settings = {"out": "x", "corpus": str(folder), "pretrained": None, "n_folds": 4, **changed}
    config = StudyConfig(**settings | {"task": TaskConfig(**task | changed.get("task", {}))})
    material = prepare(config)
    return describe(config, material, [fold_pairs(config, material, fold) for fold in material.folds])


def interval(values):
    """Mean and a 95 % interval of it."""
    values = np.asarray(values)
    half = 2.12 * values.std(ddof=1) / np.sqrt(len(values))
    return {"mean": values.mean(), "low": values.mean() - half, "high": values.mean() + half}


def summary(seed=0, conditions=CONDITIONS, n_units=17, sizes=(1, 2, 4, 8, 12), protocol="cross_run"):
    """A summary; every number is a plain float or int, as in JSON."""
    rng = np.random.default_rng(seed)
    people = [f"timbre/{i + 1:02d}" for i in range(n_units)]
    base = {c: 0.02 * np.sin(i) + rng.normal(0, 0.03, n_units) for i, c in enumerate(conditions)}
    arms, values = {}, {}
    for name, (title, kind, truth) in ARMS.items():
        at_chance = truth == 0.5
        by = {}
        for c in conditions:
            noise = rng.normal(0, 0.02, n_units)
            by[c] = np.clip(truth + (0 if at_chance else 1) * base[c] + noise, 0, 1)
        by = {"all": np.mean(list(by.values()), axis=0), **(by if len(by) > 1 else {})}
        values[name] = by
        arms[name] = {
            "title": title,
            "kind": kind,
            "by_condition": {
                c: {
                    "auc": {"mean": float(2 * v.mean() - 0.5) / 1.4 + 0.14, "sd": float(v.std(ddof=1))},
                    "accuracy": {**{k: float(x) for k, x in interval(v).items()}, "n": n_units},
                    "by_unit": dict(zip(people, v.tolist(), strict=True)),
                }
                for c, v in by.items()
            },
            "reversed": {"auc": 0.5 + truth / 9, "accuracy": truth - 0.02} if kind != "baseline" else None,
        }
    comparisons = []
    for condition in values["fresh"]:
        for first, second in (("pretrained", "fresh"), ("pretrained", "category"), ("fresh", "category")):
            d = interval(values[first][condition] - values[second][condition])
            p = 0.0004 if d["low"] > 0 or d["high"] < 0 else 0.21
            comparisons.append(
                {
                    **{"condition": condition, "first": first, "second": second, "effect": float(d["mean"])},
                    **{"low": float(d["low"]), "high": float(d["high"]), "p": p, "p_holm": min(1.0, 3 * p)},
                    **{"n": n_units, "corrected_t": 2.31, "corrected_p": 0.034, "detectable": 0.0213},
                }
            )
    curves = {
        arm: [
            {
                **{"epoch": e, "loss": 0.69 - 0.02 * e**0.5 * scale, "accuracy": 0.5 + 0.06 * scale},
                **{"auc": 0.5 + height * (1 - np.exp(-e / scale)), "seconds": 1.0 * e},
            }
            for e in range(1, 21)
        ]
        for arm, height, scale in (("fresh", 0.1, 6), ("pretrained", 0.17, 3))
    }
    for lines in curves.values():
        for line in lines:
            line |= {"auc_low": line["auc"] - 0.02, "auc_high": line["auc"] + 0.02}
    by_size = [
        {
            **{"arm": arm, "size": size, "auc": 0.5 + x, "accuracy": 0.5 + x * 0.8},
            **{"low": 0.48 + x * 0.8, "high": 0.52 + x * 0.8},
        }
        for arm, height in (("fresh", 0.1), ("pretrained", 0.15))
        for size in sizes
        for x in [height * (1 - np.exp(-size / 5))]
    ]
    folds = [
        {
            **{"fold": f, "left_out": people[f::4], "n_train": 4320, "n_test": 1440},
            **{k: {a: float(0.5 + rng.normal(0.08, 0.02)) for a in ARMS} for k in ("accuracy", "auc")},
        }
        for f in range(4)
    ]
    main = comparisons[0]
    speed = {"effect": -6.2, "low": -7.9, "high": -4.4, "p": 0.0001, "p_holm": None, "n": n_units}
    return {
        **{"question": "same timbre?", "protocol": protocol, "label": "timbre", "unit": "subject"},
        **{"n_units": n_units, "folds_by": "subject", "n_folds": 4, "seeds": [0, 1, 2], "epochs": 20},
        **{"chance": 0.5, "conditions": conditions, "sizes": [*sizes] if sizes else [None]},
        **{"arms": arms, "by_size": by_size, "comparisons": comparisons, "curves": curves, "folds": folds},
        "speed": {
            "target_auc": 0.596,
            "reached": {
                "fresh": {"median_epochs": 17.0, "median_seconds": 41.5, "n_never": 2},
                "pretrained": {"median_epochs": 4.0, "median_seconds": 10.1, "n_never": 0},
            },
            **{"epochs": speed, "seconds": {**speed, "effect": -29.1, "low": -36.0, "high": -20.2}},
        },
        "verdict": {
            "sentence": f"The gain from pre-training survives cross_run: {100 * main['effect']:+.1f} points "
            f"of accuracy [{100 * main['low']:.1f}, {100 * main['high']:.1f}] over {n_units} subjects.",
            "survives": True,
        },
        "provenance": {
            "versions": {"fmriscale": "0.1.0", "torch": "2.8.0", "numpy": "2.3.1", "scikit-learn": "1.7.0"},
            "corpus": {"path": "corpora/timbre", "fingerprint": "4f" * 32},
            "config_hash": "9c" * 32,
            "encoders": {"pretrained": {str(f): f"{f}a" * 32 for f in range(4)}},
            "date": "2026-11-23",
        },
    }
