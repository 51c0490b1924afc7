"""Figures of a probe from the results of its fits: of every person, of every fold, and their comparisons.

Each figure is a mean over rows of the part that a row has in it: the figure itself plus the row's influence
on it. So people carry intervals and tests, and the spread of parts is the spread that the figure has.

- balanced accuracy: told right or not, against the share of its class that is
- auc: within a fold (`run.judged_classes`)
- r: the correlation within a fold
- mae: the absolute error
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fmriscale.study.probe.rows import Rows
from fmriscale.study.statistics import compare, corrected_t, mean_within, paired

Result = dict[str, Any]
NO_SEED = -1
"""Seed of what has none."""
LIMITS = {"balanced_accuracy": (0.0, 1.0), "auc": (0.0, 1.0), "r": (-1.0, 1.0), "mae": (0.0, np.inf)}
"""Ends of the scale of each figure."""


@dataclass(frozen=True)
class Scores:
    """Parts in a figure, of S tested rows."""

    unit_S: np.ndarray
    """Person."""
    seed_S: np.ndarray
    score_S: np.ndarray


def figures_of(rows: Rows) -> tuple[str, str]:
    """Return the figure that is judged, and the other one."""
    if not rows.classes:
        return "r", "mae"
    # The area under the curve of two classes needs no threshold.
    return ("auc", "balanced_accuracy") if len(rows.classes) == 2 else ("balanced_accuracy", "auc")


def chance_of(figure: str, rows: Rows, results: list[Result]) -> float:
    """Return what a figure is without any knowledge; of the error: that of the training side's mean."""
    if figure == "mae":
        errors = [np.abs(rows.target_N[result["rows"]] - result["train_mean"]) for result in results]
        return float(np.concatenate(errors).mean())
    return {"auc": 0.5, "r": 0.0, "balanced_accuracy": 1 / max(len(rows.classes), 1)}[figure]


def scores_of(figure: str, rows: Rows, results: list[Result]) -> Scores:
    """Return the part of every tested row that the figure can be made of."""
    parts = []
    for result in results:
        number = np.array(result["rows"])
        if figure == "balanced_accuracy":
            score = np.array(result["right"], float)
        elif figure == "auc":
            score = np.array([np.nan if value is None else value for value in result["area"]])
        elif figure == "mae":
            score = np.abs(rows.target_N[number] - result["prediction"])
        else:
            score = influence(rows.target_N[number], np.array(result["prediction"]))
        kept = np.isfinite(score)
        seed = np.full(kept.sum(), NO_SEED if result["seed"] is None else result["seed"])
        parts.append((rows.person_N[number][kept], seed, rows.target_N[number][kept], score[kept]))
    unit_S, seed_S, target_S, score_S = (np.concatenate(part) for part in zip(*parts, strict=True))
    if figure == "balanced_accuracy":
        for seed in np.unique(seed_S):
            score_S[seed_S == seed] = balanced(score_S[seed_S == seed], target_S[seed_S == seed])
    return Scores(unit_S, seed_S, score_S)


def balanced(right_S: np.ndarray, target_S: np.ndarray) -> np.ndarray:
    """Turn right or wrong into parts of the accuracy in which every class counts alike, [S]."""
    _, class_S, n_K = np.unique(target_S, return_inverse=True, return_counts=True)
    share_K = np.bincount(class_S, right_S) / n_K
    weight_S = len(right_S) / (len(n_K) * n_K[class_S])
    return share_K.mean() + (right_S - share_K[class_S]) * weight_S


def influence(target_N: np.ndarray, prediction_N: np.ndarray) -> np.ndarray:
    """Return a value a row whose mean is Pearson's r and whose spread is that of its estimate."""
    if len(target_N) < 3 or np.ptp(target_N) == 0:
        return np.full(len(target_N), np.nan)
    if np.ptp(prediction_N) <= 1e-9 * max(1.0, float(np.abs(prediction_N).max())):
        return np.zeros(len(target_N))  # one prediction for all: unrelated
    x_N, y_N = ((v - v.mean()) / v.std() for v in (target_N, prediction_N))
    r = float((x_N * y_N).mean())
    return r + x_N * y_N - r * (x_N**2 + y_N**2) / 2


def by_unit(scores: Scores) -> dict[str, float]:
    """Return a value a person whose mean over people is the figure; seeds are averaged."""
    units, unit_S = np.unique(scores.unit_S, return_inverse=True)
    of_seeds = []
    for seed in np.unique(scores.seed_S):
        own = scores.seed_S == seed
        total_U = np.bincount(unit_S[own], scores.score_S[own], minlength=len(units))
        of_seeds.append(total_U * len(units) / own.sum())
    return dict(zip(units.tolist(), np.mean(of_seeds, axis=0).tolist(), strict=True))


def by_fold(figure: str, rows: Rows, results: list[Result]) -> dict[tuple[int, int | None], float]:
    """Return the figure of every (fold, seed), classes weighted within it; folds without it are left out."""
    found = {}
    for result in results:
        scores = scores_of(figure, rows, [result])
        if len(scores.score_S):
            found[result["fold"], result["seed"]] = float(scores.score_S.mean())
    return found


def figure_with_interval(figure: str, units: dict[str, float]) -> dict[str, Any]:
    """Return mean and 95 % interval over people, within the ends of the scale."""
    return mean_within(list(units.values()), *LIMITS[figure])


def comparison(
    figure: str, rows: Rows, first: list[Result], second: list[Result] | float, ratio: float
) -> dict[str, Any]:
    """Compare two methods, or one and a number (chance), over people and over folds and seeds."""
    own = by_unit(scores_of(figure, rows, first))
    own_folds = by_fold(figure, rows, first)
    if isinstance(second, int | float):
        other, other_folds = dict.fromkeys(own, second), dict.fromkeys(own_folds, second)
    else:
        other = by_unit(scores_of(figure, rows, second))
        other_folds = by_fold(figure, rows, second)
    units = [unit for unit in own if unit in other]
    tested = compare([own[unit] for unit in units], [other[unit] for unit in units])
    differences = paired(own_folds, other_folds)
    t, p = corrected_t([difference for _, difference in differences], ratio)
    return {"figure": figure, **asdict(tested), "corrected_t": t, "corrected_p": p}
