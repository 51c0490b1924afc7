"""How often does a study find what is not there? Many simulated studies with a light model.

The light model stands for an encoder and its head: random features of a window's mean (the "encoder", drawn
once for a study), a logistic regression that guesses the label, and "same" where the two guesses agree. Two
arms are two draws of the features: neither is better but by luck. Heard and imagined tones are studies of
their own, as their noise is: an experiment of 17 people gives two. Where few people train, the features are
drawn anew in every training, so that the arms are equal in truth, or once for all folds of a seed, as the
weights of a study's fresh arm are.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

from fmriscale.config import SimulateConfig, StudyConfig, TaskConfig
from fmriscale.simulate.build import simulate
from fmriscale.study.baselines import baselines
from fmriscale.study.data import Study, open_study
from fmriscale.study.folds import Fold, smaller
from fmriscale.study.pairs import Pairs
from fmriscale.study.scores import by_unit, score, weighted_mean
from fmriscale.study.statistics import ALPHA, compare, corrected_t

N_FEATURES = 32
CONDITIONS = ("heard", "imagined")
FEW, N_TRAININGS, N_DRAWS = (1, 2, 4), 3, 5
"""Training people; trainings a fold; pairs of arms an experiment and condition."""
QUICK = {"FEW": (1, 2), "N_TRAININGS": 1, "N_DRAWS": 1}


def study(corpus: Path, condition: str, protocol: str) -> StudyConfig:
    """Return the settings of one null study."""
    published = protocol == "paper"
    task = TaskConfig(
        label="timbre",
        condition="condition",
        conditions=[condition],
        protocol="paper" if published else "cross_run",
        pairs_per_window=2,
        delay=0.0 if published else 4.0,
        standardize="subject" if published else "run",
    )
    by, n_folds = ("half", 2) if published else ("subject", 4)
    return StudyConfig(out="", corpus=str(corpus), pretrained=None, task=task, folds_by=by, n_folds=n_folds)


def light_arm(study: Study, sides: list[tuple[Pairs, Pairs]], draw: int) -> list[dict]:
    """Return the rows of an arm's scores, as those of a cell, in all folds."""
    rows = []
    for fold, (train, test) in zip(study.folds, sides, strict=True):
        members = np.unique(np.concatenate([train.left_P, train.right_P]))
        rows += light_cell(study, fold, test, members, [draw, 7])
    return [{**row, "seed": 0} for row in rows]


def light_cell(study: Study, fold: Fold, test: Pairs, members: np.ndarray, draw: list[int]) -> list[dict]:
    """Return the rows of scores of one training, on some of the windows."""
    mean_NV = study.windows.bold_NLV.mean(axis=1, dtype=np.float32)
    to_features = np.random.default_rng(draw).standard_normal((mean_NV.shape[1], N_FEATURES))
    feature_NF = np.tanh(mean_NV @ to_features / mean_NV.shape[1] ** 0.5)
    guess = LogisticRegression(C=0.1).fit(feature_NF[members], study.windows.label_N[members])
    lean_N = guess.decision_function(feature_NF)
    agree_P = lean_N[test.left_P] * lean_N[test.right_P]
    scored = score(agree_P, 0.0, test.same_P, study.units(fold, test), study.conditions(test))
    return [{**row, "fold": fold.number} for row in scored.rows]


_SIDES: dict[tuple[str, ...], tuple[np.ndarray, list[tuple[Pairs, Pairs]]]] = {}


def all_pairs(study: Study) -> list[tuple[Pairs, Pairs]]:
    """Return the pairs of every fold; they depend on the design alone, so that studies share them."""
    windows = study.windows
    design = np.stack([windows.run_N, windows.start_N, windows.label_N])
    place = (study.config.task.protocol, str(study.config.n_folds), *windows.conditions)
    if place not in _SIDES or not np.array_equal(_SIDES[place][0], design):
        _SIDES[place] = design, [study.pairs(fold) for fold in study.folds]
    return _SIDES[place][1]


def by_cell(rows: list[dict], by: list[str]) -> np.ndarray:
    """Return the accuracy of every cell."""
    return np.array(list(weighted_mean(rows, "accuracy", by).values()))


def p_values(config: StudyConfig, seed: int, with_shuffled: bool) -> dict[str, Any]:
    """Run a study with two light arms; return its p-values, and whether its intervals hold the truth."""
    opened = open_study(config)
    sides = all_pairs(opened)
    first, second = (light_arm(opened, sides, 2 * seed + arm) for arm in (0, 1))
    ratio = float(np.mean([len(test.same_P) / len(train.same_P) for train, test in sides]))

    def tested(left: list[dict], right: list[dict] | None) -> tuple[float, float | None, bool]:
        units = list(by_unit(left, "accuracy").values())
        cells = by_cell(left, ["fold"])
        other = [0.5] * len(units) if right is None else list(by_unit(right, "accuracy").values())
        other_cells = 0.5 if right is None else by_cell(right, ["fold"])
        found = compare(units, other)
        covers = found.low is not None and found.high is not None and found.low <= 0 <= found.high
        return found.p, corrected_t(cells - other_cells, ratio)[1], covers

    result: dict[str, Any] = {
        "chance": tested(first, None),
        "arms": tested(first, second),
        "accuracy": float(np.mean(list(by_unit(first, "accuracy").values()))),
    }
    if with_shuffled:
        shuffled = [
            {**row, "fold": fold.number, "seed": 0}
            for fold, (train, test) in zip(opened.folds, sides, strict=True)
            for row in baselines(
                opened.windows, train, test, opened.units(fold, test), opened.conditions(test), seed
            )["shuffled"].rows
        ]
        result["shuffled"] = tested(shuffled, None)
        result["shuffled_accuracy"] = float(np.mean(list(by_unit(shuffled, "accuracy").values())))
    return result


def run(experiment: SimulateConfig, n_studies: int, n_more: int, log: Path) -> list[dict[str, Any]]:
    """Run studies of new experiments, one for each seed and condition; what the log has is not run again.

    The first `n_more` are also done with shuffled labels, and with published pairs.
    """
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    with tempfile.TemporaryDirectory(prefix="fmriscale-") as folder, log.open("a") as handle:
        for seed in range(len(done) // len(CONDITIONS), -(-n_studies // len(CONDITIONS))):
            corpus = Path(folder) / str(seed)
            simulate(replace(experiment, seed=1000 + seed), corpus)
            for place, condition in enumerate(CONDITIONS):
                number = seed * len(CONDITIONS) + place
                more = number < n_more
                found = {"cross_run": p_values(study(corpus, condition, "cross_run"), number, more)}
                if more:
                    found["paper"] = p_values(study(corpus, condition, "paper"), number, False)
                handle.write(json.dumps(found) + "\n")
                done.append(found)
            handle.flush()
    return done[:n_studies]


def with_few(
    experiment: SimulateConfig, n_experiments: int, log: Path, shared: bool = False
) -> list[dict[str, Any]]:
    """Compare equal arms where few people train; what the log has is not run again.

    Parameters
    ----------
    experiment : SimulateConfig
        What is simulated, each time with another seed.
    n_experiments : int
        How often.
    log : Path
        One row a line.
    shared : bool
        All folds of a seed share one draw of the features.

    Returns
    -------
    list of dict
        n_folds and size; p over people (p); of the corrected t with n_test / n_train as the folds are cut
        (as_cut), and with n_train as few as train (as_trained).
    """
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    known = {row["experiment"] for row in done}
    with tempfile.TemporaryDirectory(prefix="fmriscale-") as folder, log.open("a") as handle:
        for seed in sorted(set(range(n_experiments)) - known):
            corpus = Path(folder) / str(seed)
            simulate(replace(experiment, seed=5000 + seed), corpus)
            found = [
                {"experiment": seed, **row}
                for condition in CONDITIONS
                for n_folds in (experiment.n_subjects, 4)
                for row in equal_arms(
                    replace(study(corpus, condition, "cross_run"), n_folds=n_folds), seed, shared
                )
            ]
            handle.write("".join(json.dumps(row) + "\n" for row in found))
            handle.flush()
            done += found
    return done


def equal_arms(config: StudyConfig, seed: int, shared: bool) -> Iterator[dict[str, Any]]:
    """Yield comparisons of two arms that draw their features in the same way, by training people."""
    opened = open_study(config)
    windows = opened.windows
    runs = opened.runs.loc[np.unique(windows.run_N)]
    tests = [test for _, test in all_pairs(opened)]
    for draw, size in product(range(N_DRAWS), FEW):
        rows: list[list[dict]] = [[], []]
        for fold, training, arm in product(opened.folds, range(N_TRAININGS), (0, 1)):
            kept = np.isin(windows.run_N, smaller(fold, runs, "subject", size, training))
            place = [seed, draw, arm, *(() if shared else (fold.number,)), training]
            cell = light_cell(opened, fold, tests[fold.number], kept.nonzero()[0], place)
            rows[arm] += [{**row, "seed": training} for row in cell]
        people = [list(by_unit(of_arm, "accuracy").values()) for of_arm in rows]
        first, second = (by_cell(of_arm, ["fold", "seed"]) for of_arm in rows)
        share = len(people[0]) / config.n_folds / size
        yield {
            **{"n_folds": config.n_folds, "size": size, "p": compare(people[0], people[1]).p},
            "as_cut": corrected_t(first - second, 1 / (config.n_folds - 1))[1],
            "as_trained": corrected_t(first - second, share)[1],
        }


def shares(
    results: list[dict[str, Any]], protocol: str, test: str
) -> Iterator[tuple[str, float, float, float, int]]:
    """Yield the share of p < 0.05 of each test, and of intervals that hold 0, with its interval and n."""
    values = [result[protocol][test] for result in results if protocol in result]
    over_people = [p < ALPHA for p, _, _ in values]
    over_folds = [p is not None and p < ALPHA for _, p, _ in values]
    found = {
        "permutation": over_people,
        "corrected_t": over_folds,
        "both": [a and b for a, b in zip(over_people, over_folds, strict=True)],
        "coverage": [covers for _, _, covers in values],
    }
    for name, hits in found.items():
        yield name, *share(hits), len(hits)


def share(hits: list[bool]) -> tuple[float, float, float]:
    """Return the share of hits with its exact 95 % interval."""
    between = binomtest(sum(hits), len(hits)).proportion_ci(0.95, "exact")
    return sum(hits) / len(hits), float(between.low), float(between.high)
