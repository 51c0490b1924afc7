"""The linear model of a probe: its penalty chosen in inner folds, confounds taken out on the training side.

N rows, F features, K classes, C columns of confounds.
"""

import warnings
from typing import Any

import numpy as np
from scipy.special import log_softmax
from sklearn.decomposition import KernelPCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

N_INNER = 3
"""Inner folds, at most."""
PENALTIES_C = np.logspace(-4, 1, 6)
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
    fitted = LinearRegression().fit(confounds_train, x_train)
    left_train = x_train - fitted.predict(confounds_train)
    left_test = x_test - fitted.predict(confounds_test)
    # What was constant, or all confound, is left with rounding, which must not be blown up to a feature.
    gone_F = left_train.std(axis=0) <= SMALLEST_SHARE * np.abs(x_train).max(axis=0)
    return np.where(gone_F, 0, left_train), np.where(gone_F, 0, left_test)


def fit_linear(
    x_NF: np.ndarray, target_N: np.ndarray, group_N: np.ndarray | None, *, classify: bool
) -> Pipeline:
    """Fit a logistic (or ridge) regression on standardised features; inner folds keep groups together.

    Without groups the penalty is the middle one.

    With more features than rows the model is fitted to the principal components of all of them: for a
    quadratic penalty that is a rotation, and gives the same predictions.
    """
    n_rows, n_features = x_NF.shape
    steps: list[Any] = [StandardScaler()]
    if n_features > n_rows:
        steps.append(KernelPCA(kernel="linear", eigen_solver="dense"))
    if classify:
        model: Any = LogisticRegression(class_weight="balanced", max_iter=1000)
        grid = {"C": PENALTIES_C / n_features}
    else:
        model, grid = Ridge(), {"alpha": PENALTIES_ALPHA * n_features}
    ((name, values),) = grid.items()
    splits = [] if group_N is None else inner_splits(target_N, group_N, classify=classify)
    if splits:
        scoring = log_likelihood if classify else "neg_mean_squared_error"
        model = GridSearchCV(model, {name: values.tolist()}, cv=splits, scoring=scoring)
    else:
        model.set_params(**{name: float(values[len(values) // 2])})
    fitted = make_pipeline(*steps, model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # at the weakest penalties, which are not chosen
        return fitted.fit(x_NF.astype(np.float64), target_N)


def inner_splits(
    target_N: np.ndarray, group_N: np.ndarray, *, classify: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split training rows by groups, classes alike; none where a side would lack a class."""
    n_groups = min(N_INNER, len(np.unique(group_N)))
    if n_groups < 2:
        return []
    strata = target_N
    if not classify:
        strata = np.searchsorted(np.quantile(target_N, [1 / 3, 2 / 3]), target_N)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer members than folds
        splits = list(StratifiedGroupKFold(n_groups).split(target_N, strata, group_N))
    n_classes = len(np.unique(target_N)) if classify else 0
    return [
        (a, b) for a, b in splits if len(b) and (not classify or len(np.unique(target_N[a])) == n_classes)
    ]


def log_likelihood(model: Any, x_NF: np.ndarray, target_N: np.ndarray) -> float:
    """Return the mean log-probability of the true class, every class counting alike."""
    logp_N = log_proba(model, x_NF)[np.arange(len(x_NF)), np.searchsorted(model.classes_, target_N)]
    return float(np.mean([logp_N[target_N == label].mean() for label in np.unique(target_N)]))


def log_proba(model: Any, x_NF: np.ndarray) -> np.ndarray:
    """Return log-probabilities of the model's classes, finite however sure it is."""
    value = model.decision_function(x_NF)
    return log_softmax(np.stack([np.zeros_like(value), value], axis=1) if value.ndim == 1 else value, axis=1)


def log_probabilities(fitted: Pipeline, x_NF: np.ndarray, n_classes: int) -> np.ndarray:
    """Return log-probabilities of all classes, [N, K]; -inf for those that the training side did not have."""
    value_NK = np.full((len(x_NF), n_classes), -np.inf)
    value_NK[:, fitted.classes_] = log_proba(fitted, x_NF.astype(np.float64))
    return value_NK


def penalty_of(fitted: Pipeline) -> float:
    """Return the penalty that was chosen."""
    model = fitted[-1]
    found = model.best_params_ if isinstance(model, GridSearchCV) else model.get_params()
    return float(next(found[name] for name in ("C", "alpha") if name in found))


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
