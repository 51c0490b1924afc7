"""What a study has to beat: simple classifiers on the same windows and the same pairs, and controls.

Everything is fitted on the training side of the fold. N windows, P pairs, V features, K labels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from fmriscale.sampling.labelled import Pairs, Windows

N_SHUFFLES = 10
"""Shuffles of the training labels whose mean is the shuffled-label control."""


@dataclass(frozen=True)
class Score:
    """How well scores tell same-label from different-label pairs."""

    auc: float
    """Area under the ROC curve; 0.5 = chance; nan where the pairs are all of one class."""
    accuracy: float
    rows: list[dict[str, Any]]
    """One a (condition, unit): condition, unit, n (pairs), accuracy, auc (None with one class only)."""


def score(
    value_P: np.ndarray, threshold: float, same_P: np.ndarray, unit_P: np.ndarray, condition_P: np.ndarray
) -> Score:
    """Score pairs by a value that is high for "same".

    Parameters
    ----------
    value_P : numpy.ndarray
        A number a pair.
    threshold : float
        Above it a pair is called "same".
    same_P : numpy.ndarray
        The truth, 0 or 1.
    unit_P : numpy.ndarray
        The unit (text) to which a pair belongs: a person, or the fold's runs.
    condition_P : numpy.ndarray
        The pair's condition, text; "" where the task has none.

    Returns
    -------
    Score
        Rows in the order of condition and unit.
    """
    value_P, same_P = np.asarray(value_P), np.asarray(same_P)
    right_P = (value_P > threshold) == (same_P == 1)
    rows = []
    for condition, unit in sorted(set(zip(condition_P.tolist(), unit_P.tolist(), strict=True))):
        here = (condition_P == condition) & (unit_P == unit)
        area = auc(value_P[here], same_P[here])
        rows.append(
            {
                "condition": str(condition),
                "unit": str(unit),
                "n": int(here.sum()),
                "accuracy": float(right_P[here].mean()),
                "auc": None if np.isnan(area) else area,
            }
        )
    return Score(auc(value_P, same_P), float(right_P.mean()), rows)


def auc(value_P: np.ndarray, same_P: np.ndarray) -> float:
    """Return the area under the ROC curve from ranks (Mann-Whitney); nan where one class is missing."""
    n_same = int(np.sum(same_P == 1))
    n_different = len(same_P) - n_same
    if not n_same or not n_different:
        return float("nan")
    rank_sum = rankdata(value_P)[same_P == 1].sum()
    return float((rank_sum - n_same * (n_same + 1) / 2) / (n_same * n_different))


def mean_score(scores: list[Score]) -> Score:
    """Return the mean of several scores of the same pairs."""
    rows = []
    for same in zip(*(s.rows for s in scores), strict=True):
        areas = [row["auc"] for row in same]
        rows.append(
            same[0]
            | {
                "accuracy": float(np.mean([row["accuracy"] for row in same])),
                "auc": None if None in areas else float(np.mean(areas)),
            }
        )
    return Score(float(np.mean([s.auc for s in scores])), float(np.mean([s.accuracy for s in scores])), rows)


def baselines(
    windows: Windows,
    train: Pairs,
    test: Pairs,
    unit_P: np.ndarray,
    condition_P: np.ndarray,
    seed: int,
) -> dict[str, Score]:
    """Fit every baseline on the training pairs and score the test pairs.

    Returns
    -------
    dict of str to Score
        correlation: of the two window means; no fitting but of the threshold.
        category: a classifier of single windows (the field's standard); do its guesses agree?
        pair_logistic: logistic regression on |a - b| and a * b of the window means.
        same_run: calls pairs from one run "same"; at chance where pairs are cross-run.
        shuffled: pair_logistic fitted to shuffled labels, mean of several shuffles; has to be at chance.
    """
    mean_NV = windows.bold_NLV.mean(axis=1, dtype=np.float32)
    rng = np.random.default_rng([seed, 6])

    def scored(value_P: np.ndarray, threshold: float) -> Score:
        return score(value_P, threshold, test.same_P, unit_P, condition_P)

    correlation_P, midpoint = correlation(mean_NV, train, test)
    features_train, features_test = pair_features(mean_NV, train), pair_features(mean_NV, test)
    logistic = pair_logistic().fit(features_train, train.same_P)
    shuffles = [
        scored(
            pair_logistic()
            .fit(features_train, unrelated_labels(train.same_P, rng))
            .decision_function(features_test),
            0.0,
        )
        for _ in range(N_SHUFFLES)
    ]
    same_run_P = windows.run_N[test.left_P] == windows.run_N[test.right_P]
    return {
        "category": scored(category(windows, mean_NV, train, test), 1 / len(windows.labels)),
        "pair_logistic": scored(logistic.decision_function(features_test), 0.0),
        "correlation": scored(correlation_P, midpoint),
        "same_run": scored(same_run_P.astype(float), 0.5),
        "shuffled": mean_score(shuffles),
    }


def unrelated_labels(same_P: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shuffle labels so that none of the truth is left: half of either class is called "same".

    A plain permutation keeps a little of the truth (or of its opposite), which a strong signal blows up.
    """
    labels_P = np.empty_like(same_P)
    for true in (0, 1):
        of_class = same_P == true
        labels_P[of_class] = rng.permutation(np.arange(of_class.sum()) % 2)
    return labels_P


def correlation(mean_NV: np.ndarray, train: Pairs, test: Pairs) -> tuple[np.ndarray, float]:
    """Return the correlation of each test pair's patterns and the threshold fitted on training pairs."""
    centred_NV = mean_NV - mean_NV.mean(axis=1, keepdims=True)
    unit_NV = centred_NV / np.maximum(np.linalg.norm(centred_NV, axis=1, keepdims=True), 1e-6)

    def of(pairs: Pairs) -> np.ndarray:
        return np.einsum("pv,pv->p", unit_NV[pairs.left_P], unit_NV[pairs.right_P])

    fitted = of(train)
    midpoint = (fitted[train.same_P == 1].mean() + fitted[train.same_P == 0].mean()) / 2
    return of(test), float(midpoint)


def pair_features(mean_NV: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Return |a - b| and a * b of the window means, [P, 2V]; the order of the two does not matter."""
    left_PV, right_PV = mean_NV[pairs.left_P], mean_NV[pairs.right_P]
    return np.concatenate([np.abs(left_PV - right_PV), left_PV * right_PV], axis=1)


def pair_logistic() -> Pipeline:
    """Return an unfitted, strongly regularised logistic regression on standardised pair features."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=1000))


def category(windows: Windows, mean_NV: np.ndarray, train: Pairs, test: Pairs) -> np.ndarray:
    """Return for each test pair the chance that a window classifier gives both the same label, [P].

    The classifier is a (multinomial) logistic regression fitted on the training windows; with K labels,
    unrelated guesses agree with chance 1 / K, which is the threshold.
    """
    members = np.unique(np.concatenate([train.left_P, train.right_P]))
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
    classifier.fit(mean_NV[members], windows.label_N[members])
    guess_NK = classifier.predict_proba(mean_NV)
    return np.einsum("pk,pk->p", guess_NK[test.left_P], guess_NK[test.right_P])
