"""One page of each kind, from made-up data alone: as people meet them, and with all that is long and many."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import studies
from factory import write_corpus

from fmriscale.cli import run
from fmriscale.study.probe.verdict import verdict

LONG = "a_name_of_forty_characters_is_long_{:05d}"
"""Longer than any column is wide."""
NOTHING = dict.fromkeys(studies.CROSS_RUN, 0.5)


def study_yes(folder: Path) -> Path:
    """Draw a study in which pre-training helps."""
    return _study(folder, studies.summary(studies.config(folder)))


def study_no(folder: Path) -> Path:
    """Draw a study in which there is nothing to find."""
    settings = studies.config(folder, train_sizes=None, controls={})
    return _study(folder, studies.summary(settings, truth=NOTHING, conditions=("",)))


def study_long(folder: Path) -> Path:
    """Draw a study with twelve arms and baselines of long names, a long label and long conditions."""
    text = json.dumps(studies.summary(studies.config(folder)))
    for name in ("heard to imagined", "timbre"):
        text = text.replace(name, LONG.format(len(name)))
    summary = json.loads(text)
    for number in range(2):
        name, old = f"further_{number}", "shuffled_order"
        summary["arms"] = {name: {**summary["arms"][old], "title": LONG.format(number)}} | summary["arms"]
        summary["curves"][name] = summary["curves"][old]
        for rows, column in (("comparisons", "second"), ("against_chance", "first"), ("by_size", "arm")):
            own = [row for row in summary[rows] if row.get(column) == old]
            summary[rows] += [{**row, column: name} for row in own]
        for fold in summary["folds"]:
            fold["accuracy"][name] = fold["accuracy"][old]
    return _study(folder, summary)


def _study(folder: Path, summary: dict[str, Any]) -> Path:
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text("task: {label: timbre, protocol: cross_run}\nn_folds: 4\n")
    return _reported(folder)


def probe(folder: Path, long: bool = False) -> Path:
    """Draw a probe in which a simple method does as well as the encoder."""
    truth = {
        **{"pretrained": ("arm", "pre-trained", 0.74), "fresh": ("arm", "fresh", 0.63)},
        "shifted": ("control", "clocks shifted", 0.64),
        **{"connectivity": ("baseline", "connectivity", 0.73), "pca": ("baseline", "PCA", 0.66)},
        **{"run_mean": ("baseline", "run means", 0.52), "shuffled": ("check", "shuffled labels", 0.5)},
    }
    if long:
        truth |= {f"more_{i}": ("control", LONG.format(i), 0.6 + 0.01 * i) for i in range(6)}
        truth["connectivity"] = ("baseline", LONG.format(99), 0.73)
    summary = probe_summary(truth, LONG.format(1) if long else "diagnosis")
    (folder / "fits").mkdir()
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text("target: diagnosis\nrows: run\n")
    return _reported(folder)


def probe_long(folder: Path) -> Path:
    """Draw a probe of twelve methods and more, with long names."""
    return probe(folder, long=True)


def probe_summary(truth: dict[str, tuple[str, str, float]], target: str) -> dict[str, Any]:
    """Return the numbers of a probe whose methods (kind, title, AUC) are known."""
    main, best, sizes = "pretrained", "connectivity", [10, 20, 40, None]
    names = ("auc", "balanced_accuracy")

    def value(name: str, figure: str, size: int | None = None) -> dict[str, float]:
        share = 1.0 if size is None else 1 - math.exp(-size / 20)
        mean = 0.5 + (truth[name][2] - 0.5) * share * (1.0 if figure == "auc" else 0.8)
        return {"mean": mean, "low": mean - 0.04, "high": mean + 0.04, "n": 80}

    def row(first: str, second: str, figure: str, size: int | None = None) -> dict[str, Any]:
        base = 0.5 if second == "chance" else value(second, figure, size)["mean"]
        effect = value(first, figure, size)["mean"] - base
        p = 0.0002 if abs(effect) > 0.03 else 0.31
        tests = {"p": p, "p_holm": min(1.0, 4 * p), "corrected_t": 40 * effect, "corrected_p": p, "n": 80}
        about = {"figure": figure, "first": first, "second": second, "size": size, "detectable": 0.03}
        return {**about, "effect": effect, "low": effect - 0.03, "high": effect + 0.03, **tests}

    others = [name for name in truth if name not in (main, "shuffled")]
    people = [f"toy/{i:03d}" for i in range(80)]
    summary = {
        "question": f"How well can {target} be told from a run?",
        **{"probe": True, "target": target, "kind": "classify", "rows": "run", "folds_by": "subject"},
        **{"n_folds": 4, "seeds": [0, 1], "sizes": sizes, "regress_out": [], "allow_seen_runs": False},
        **{"n_rows": 80, "n_people": 80, "n_runs": 80, "left_out": {"no value": 2}},
        "values": {"n_classes": 2, "rows": {"1": 40, "2": 40}},
        **{"figures": list(names), "chance": dict.fromkeys(names, 0.5), "main": main, "best_baseline": best},
        "methods": {
            name: {"title": title, "kind": kind, **{figure: value(name, figure) for figure in names}}
            for name, (kind, title, _) in truth.items()
        },
        "comparisons": [row(main, other, figure) for other in others for figure in names],
        "against_chance": [row(name, "chance", "auc") for name in truth],
        "by_size": [
            {"method": name, "size": size, **{figure: value(name, figure, size) for figure in names}}
            for name in (main, *others)
            for size in sizes
        ],
        "size_comparisons": [row(main, other, "auc", n) for other in ("fresh", best) for n in sizes],
        "folds": [
            {"fold": i, "left_out": people[i::4], "n_train": 60, "n_test": 20}
            | {"auc": {name: value(name, "auc")["mean"] for name in truth}}
            for i in range(4)
        ],
        "provenance": {"corpus": {"path": "corpora/toy", "fingerprint": "4f" * 32}, "date": "2026-11-29"},
    }
    return {**summary, "verdict": verdict(summary)}


def corpus(folder: Path, datasets: dict[str, Any] | None = None) -> Path:
    """Draw a corpus of three data sets that differ in length, motion and repetition time."""
    rng = np.random.default_rng(3)

    def quality(subject: int, run_: int) -> dict[str, Any]:
        lacking = {"missing_features": [2] if subject % 3 else []}
        return {"mean_fd": 0.1 + 0.05 * subject, "tsnr": 50.0 + 3 * subject, "spike": 4.0 + run_, **lacking}

    toy = {"quality": quality, "licence": "CC0"}
    found = {
        "film": {**toy, "subjects": 8, "runs": 4, "n_volumes": 180},
        "rest": {**toy, "subjects": 6, "t_r": 1.5, "sample_mask": [v for v in range(120) if v % 29]},
        "story": {**toy, "subjects": 5, "n_volumes": 90, "t_r": 1.0},
    }
    if datasets is not None:
        found = {name: {**toy, **spec} for name, spec in datasets.items()}
    places = tuple(map(tuple, (rng.uniform(-1, 1, (60, 3)) * (60, 80, 50)).round(1).tolist()))
    rejected = [
        {"dataset": "film", "source": f"sub-{i}/a.nii.gz", "reason": reason, "detail": "too bad; drop it"}
        for i, reason in enumerate(["low_coverage", "low_coverage", "no_t_r"])
    ]
    made = write_corpus(
        folder / "toy_corpus", datasets=found, n_features=60, coordinates=places, quarantine=rejected
    )
    page = folder / "report.html"
    assert run(["inspect", str(made.folder), "--report", str(page)]) == 0
    return page


def corpus_long(folder: Path) -> Path:
    """Draw a corpus of 24 data sets with long names and many repetition times."""
    sizes = {"n_volumes": 40, "runs": 1}
    return corpus(folder, {LONG.format(i): {**sizes, "subjects": 2, "t_r": 1 + 0.05 * i} for i in range(24)})


def training(folder: Path, names: tuple[str, ...] = ("film", "rest", "story")) -> Path:
    """Draw a pre-training run that has learned something."""
    lines, kinds = [], ("positive", "same_run", "same_subject", "other_subject")
    for step in range(1, 601):
        gained = 1 - math.exp(-step / 200)
        wave = 0.02 * math.sin(step)
        by = {"acc_by_kind": {k: 0.5 + 0.08 * (i + 1) * gained + wave for i, k in enumerate(kinds)}}
        by["acc_by_dataset"] = {n: 0.5 + 0.3 * gained / (1 + i / 9) + wave for i, n in enumerate(names)}
        line = {"step": step, "loss": 0.7 - 0.3 * gained + wave, "acc": 0.5 + 0.3 * gained + wave, **by}
        line |= {"seen": dict.fromkeys(names, 64 * step), "lr": 1e-3 * (1 - step / 700), "finite": step != 7}
        line |= {"grad_norm": 1 + wave, "pairs_per_s": 5_000.0, "data_wait_share": 0.01}
        lines.append(line)
        if step % 150 == 0:
            held_out = {
                "event": "eval",
                "step": step,
                "loss": 0.72 - 0.25 * gained,
                "acc": 0.5 + 0.22 * gained,
            }
            lines.append({**held_out, **by, "persistence": {"acc": 0.58}})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.yaml").write_text("model: {preset: base}\ntrain: {steps: 600, ntp_weight: 1.0}\n")
    return _reported(folder)


def training_long(folder: Path) -> Path:
    """Draw a pre-training run on 24 data sets with long names."""
    return training(folder, tuple(LONG.format(i) for i in range(24)))


def _reported(folder: Path) -> Path:
    assert run(["report", str(folder)]) == 0
    return folder / "report.html"


PAGES: dict[str, Callable[[Path], Path]] = {
    maker.__name__: maker
    for maker in (
        *(study_yes, study_no, study_long, probe, probe_long),
        *(corpus, corpus_long, training, training_long),
    )
}
"""Every page by the name of its maker, which takes an empty folder."""
