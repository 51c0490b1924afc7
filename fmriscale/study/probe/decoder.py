"""The linear model of a probe: inner folds choose scale and penalty, the training side takes confounds out.

N rows, F features, K classes, C columns of confounds.
"""

import functools
import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax
from sklearn.decomposition import KernelPCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

N_INNER = 3
"""Inner folds, at most."""
SCALES = ("each", "together")
"""Features are standardised, or centred and divided by one number: the second keeps what a method has to say
about which of them count most."""
PENALTIES_C = np.logspace(-2, 3, 6)
"""Inverse penalties of the logistic regression, of which inner folds choose, for one standardised feature;
with F features they are divided by F."""
PENALTIES_ALPHA = np.logspace(-2, 4, 7)
"""Penalties of the ridge regression, likewise; with F features they are multiplied by F."""

SMALLEST_SHARE = 1e-5
"""Deviation of a feature without its confounds, relative to its largest value, that is taken for rounding."""


def without_confounds(
    x_train: np.ndarray, x_test: np.ndarray, confounds_train: np.ndarray, confounds_test: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Take the linear effect of confounds out of features; it is fitted on the training side alone.

    Cross-validated confound regression (Snoek, Miletic & Scholte 2019, NeuroImage 184, 741-760): fitted on
    all rows it would let the test side into the training side.
    """
    if not confounds_train.shape[1]:
        return x_train, x_test
    x_train, x_test = x_train.astype(np.float64), x_test.astype(np.float64)
    fitted = LinearRegression().fit(confounds_train, x_train)
    left_train = x_train - fitted.predict(confounds_train)
    left_test = x_test - fitted.predict(confounds_test)
    # What was constant, or all confound, is left with rounding, which must not be blown up to a feature.
    gone_F = left_train.std(axis=0) <= SMALLEST_SHARE * np.abs(x_train).max(axis=0)
    return np.where(gone_F, 0, left_train), np.where(gone_F, 0, left_test)


Sides = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""`sides(fitted, applied)` gives the features of two sets of rows, with whatever is learned for them learned
from the first set alone: inner folds, which choose scale and penalty, are as blind to their validation rows
as the fold to its test rows."""


@dataclass(frozen=True)
class Choice:
    """What inner folds choose."""

    scale: str
    """One of SCALES."""
    penalty: float


@dataclass(frozen=True)
class Decoded:
    """What a model says of the test rows."""

    value: np.ndarray
    """Log-probabilities [N, K] of all classes, or predictions [N]."""
    choice: Choice
    n_features: int


def decode(
    sides: Sides,
    train_N: np.ndarray,
    test_N: np.ndarray,
    target_N: np.ndarray,
    groups: Sequence[np.ndarray] | None,
    n_classes: int,
) -> Decoded:
    """Fit a logistic (n_classes: 0 = a ridge) regression, and decode the test rows.

    target_N and groups are of the training rows; inner folds keep rows of a group together, and of several
    groupings leave a part of each out at once (None = features standardised, the middle penalty).
    """
    choice = choose(sides, train_N, target_N, groups, n_classes)
    x_train, x_test, width = scaled(*sides(train_N, test_N), choice.scale)
    model = linear_model(n_classes)
    fit(model, x_train, target_N, choice.penalty, width)
    if not n_classes:
        return Decoded(model.predict(x_test), choice, width)
    value_NL = log_softmax(logits(model, x_test), axis=1)
    return Decoded(among_all(value_NL, model.classes_, n_classes), choice, width)


def choose(
    sides: Sides,
    train_N: np.ndarray,
    target_N: np.ndarray,
    groups: Sequence[np.ndarray] | None,
    n_classes: int,
) -> Choice:
    """Return what decodes the validation rows of inner folds best; without any the middle penalty."""
    grid = PENALTIES_C if n_classes else PENALTIES_ALPHA
    scores = []
    for fitted, applied in inner_splits(target_N, groups, classify=n_classes > 0):
        of_split, both = [], sides(train_N[fitted], train_N[applied])
        for scale in SCALES:
            x_train, x_test, width = scaled(*both, scale)
            model = linear_model(n_classes)
            for penalty in grid:
                fit(model, x_train, target_N[fitted], penalty, width)
                of_split.append(score(model, x_test, target_N[applied]))
        scores.append(of_split)
    best = int(np.argmax(np.mean(scores, axis=0))) if scores else len(grid) // 2
    return Choice(SCALES[best // len(grid)], float(grid[best % len(grid)]))


def among_all(value_NL: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Return log-probabilities of all classes, [N, K]; -inf of those that the training side does not have."""
    value_NK = np.full((len(value_NL), n_classes), -np.inf)
    value_NK[:, labels] = value_NL
    return value_NK


def scaled(x_train: np.ndarray, x_test: np.ndarray, scale: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Return features of mean 0 and variance 1 (each, or their mean over features), and their number.

    More features than rows are turned to the principal components of all of them: for a quadratic penalty
    that is a rotation, and gives the same predictions.
    """
    width = x_train.shape[1]
    if not np.ptp(x_train, axis=0).any():  # nothing to learn from
        return np.zeros((len(x_train), 1)), np.zeros((len(x_test), 1)), width
    steps: list[Any] = [StandardScaler(with_std=scale == "each")]
    if width > len(x_train):
        steps.append(KernelPCA(kernel="linear", eigen_solver="dense"))
    pipeline = make_pipeline(*steps)
    x_train, x_test = pipeline.fit_transform(x_train.astype(float)), pipeline.transform(x_test.astype(float))
    size = np.sqrt(np.square(x_train).sum() / len(x_train) / width) if scale == "together" else 1.0
    return x_train / size, x_test / size, width


def linear_model(n_classes: int) -> Any:
    """Return an unfitted logistic or ridge regression."""
    return (
        LogisticRegression(class_weight="balanced", max_iter=500, warm_start=True) if n_classes else Ridge()
    )


def fit(model: Any, x_NF: np.ndarray, target_N: np.ndarray, penalty: float, width: int) -> None:
    """Fit a model with a penalty that is meant for one feature of `width`."""
    if isinstance(model, Ridge):
        model.set_params(alpha=penalty * width)
    else:
        model.set_params(C=penalty / width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # at the weakest penalties, which are not chosen
        warnings.filterwarnings(
            "ignore", "The number of unique classes", UserWarning
        )  # of moments there are many
        model.fit(x_NF, target_N)


def score(model: Any, x_NF: np.ndarray, target_N: np.ndarray) -> float:
    """Return how well a model decodes rows."""
    if isinstance(model, Ridge):
        return minus_squared_error(model.predict(x_NF), target_N)
    return log_probability(log_softmax(logits(model, x_NF), axis=1), model.classes_, target_N)


def log_probability(value_NL: np.ndarray, labels: np.ndarray, target_N: np.ndarray) -> float:
    """Return the mean log-probability of the true class, classes alike."""
    value_N = value_NL[np.arange(len(value_NL)), np.searchsorted(labels, target_N)]
    return float(np.mean([value_N[target_N == label].mean() for label in np.unique(target_N)]))


def minus_squared_error(prediction_N: np.ndarray, target_N: np.ndarray) -> float:
    """Return minus the mean squared error."""
    return -float(np.square(prediction_N - target_N).mean())


def logits(model: Any, x_NF: np.ndarray) -> np.ndarray:
    """Return the logits of the model's classes, [N, L]."""
    value = model.decision_function(x_NF)
    return np.stack([np.zeros_like(value), value], axis=1) if value.ndim == 1 else value


def inner_splits(
    target_N: np.ndarray, groups: Sequence[np.ndarray] | None, *, classify: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split training rows by groups, classes alike; no split without groups, nor one that lacks a class.

    Of several groupings every part of one meets every part of the others, as where both people and films are
    left out: neither is known to the side that is fitted.
    """
    strata = target_N
    if not classify:
        strata = np.searchsorted(np.quantile(target_N, [1 / 3, 2 / 3]), target_N)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer members than folds
        each = [
            list(StratifiedGroupKFold(min(N_INNER, n)).split(target_N, strata, group_N))
            for group_N in groups or ()
            if (n := len(np.unique(group_N))) > 1
        ]
    n_classes = len(np.unique(target_N)) if classify else 0
    splits = []
    for parts in itertools.product(*each) if each else ():
        fitted, applied = (functools.reduce(np.intersect1d, side) for side in zip(*parts, strict=True))
        if len(applied) and (not classify or len(np.unique(target_N[fitted])) == n_classes):
            splits.append((fitted, applied))
    return splits


def unrelated(target_N: np.ndarray, rng: np.random.Generator, *, classify: bool) -> np.ndarray:
    """Shuffle targets so that nothing of the truth is left.

    A plain permutation keeps a little of the truth (or of its opposite), which a strong signal blows up.
    """
    if not classify:
        shuffled_N, true_N = rng.permutation(target_N), target_N - target_N.mean()
        slope = shuffled_N @ true_N / max(true_N @ true_N, 1e-12)
        return shuffled_N - slope * true_N
    labels = np.unique(target_N)
    shuffled_N = np.empty_like(target_N)
    for true in labels:
        of_class = target_N == true
        shuffled_N[of_class] = rng.permutation(np.resize(rng.permutation(labels), of_class.sum()))
    return shuffled_N
