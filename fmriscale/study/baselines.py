"""What a study has to beat: simple classifiers on the same windows and the same pairs, and controls.

Everything is fitted on the training side of the fold. N windows, L volumes, P pairs, V features, K labels.
Features of windows are an array [N, V], or are computed as they are indexed (`Connectivity`).
"""

from collections.abc import Callable

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from fmriscale.study.connectivity import Connectivity, has_connectivity
from fmriscale.study.pairs import Pairs
from fmriscale.study.scores import Score, mean_score, score
from fmriscale.study.windows import Windows

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Values of C of the support vector machine, of which inner folds choose."""
N_INNER = 3
"""Inner folds, at most."""
N_SHUFFLES = 10
"""Shuffles of the training labels whose mean is the shuffled-label control."""
SMALLEST_MEAN = 0.01
"""Means of runs are rounded to it, in standard deviations."""
MOST_VALUES = 2**24
"""Features of training pairs that a logistic regression gets (64 MiB); of more pairs, some are drawn."""
BLOCK = 2048
"""Pairs whose features are computed at a time, at most."""
MOST_CONNECTIVITY = 2**27
"""Connectivity values of training windows (512 MiB); of more windows, some are drawn."""

Features = np.ndarray | Connectivity


def baselines(
    windows: Windows, train: Pairs, test: Pairs, unit_P: np.ndarray, condition_P: np.ndarray, seed: int
) -> dict[str, Score]:
    """Fit every baseline on the training pairs and score the test pairs."""
    mean_NV = windows.bold_NLV.mean(axis=1, dtype=np.float32)
    rng = np.random.default_rng([seed, 6])
    some = some_pairs(train, 2 * mean_NV.shape[1], rng)
    features = pair_features(mean_NV, some)

    def scored(value_P: np.ndarray, threshold: float = 0.0) -> Score:
        return score(value_P, threshold, test.same_P, unit_P, condition_P)

    def logistic(same_P: np.ndarray) -> Score:
        fitted = pair_logistic().fit(features, same_P)
        return scored(in_blocks(test, lambda pairs: fitted.decision_function(pair_features(mean_NV, pairs))))

    connected = {}
    if has_connectivity(windows.bold_NLV):
        features_NF = Connectivity(windows.bold_NLV)
        fewer = some_windows(
            train, MOST_CONNECTIVITY // features_NF.shape[1], np.random.default_rng([seed, 7])
        )
        connected["connectivity"] = scored(*category(windows, features_NF, fewer, test))
        connected["connectivity_correlation"] = scored(*correlation(features_NF, fewer, test, less_mean=True))
    same_run_P = windows.run_N[test.left_P] == windows.run_N[test.right_P]
    return {
        "category": scored(*category(windows, mean_NV, train, test)),
        "pair_logistic": logistic(some.same_P),
        "correlation": scored(*correlation(mean_NV, train, test)),
        **connected,
        "run_means": scored(run_means(windows, some, test)),
        "persistence": scored(*persistence(windows, train, test)),
        "same_run": scored(same_run_P.astype(float), 0.5),
        "shuffled": mean_score([logistic(unrelated_labels(some.same_P, rng)) for _ in range(N_SHUFFLES)]),
    }


# ---------------------------------------------------------------- methods without an encoder


def category(windows: Windows, features_NV: Features, train: Pairs, test: Pairs) -> tuple[np.ndarray, float]:
    """Return how much a classifier's guesses at the labels of a pair's windows agree, [P], and a threshold.

    A linear support vector machine on standardised features of windows (their means, or their connectivity),
    one label against the rest, whose C inner folds choose on the training side. The agreement is the inner
    product of the two windows' decision values, centred over the labels: with two labels the product of their
    signed distances to the border, with more positive where both lean to the same labels. The threshold is
    fitted to training pairs whose windows were left out in the inner folds; it is 0 where the design permits
    none.
    """
    members = members_of(train)
    x, label = features_NV[members], windows.label_N[members]
    penalty, threshold, rotated = 1.0, 0.0, isinstance(features_NV, Connectivity)
    if splits := inner_splits(windows, members, test):
        search = GridSearchCV(
            svm(penalty, rotated), {"linearsvc__C": list(PENALTIES)}, cv=splits, refit=False
        )
        penalty = search.fit(x, label).best_params_["linearsvc__C"]
        # Labels that only the other side of a transfer has are unknown here.
        unseen_NK = np.full((len(windows.label_N), len(np.unique(label))), np.nan)
        for kept, left_out in splits:
            fitted = svm(penalty, rotated).fit(x[kept], label[kept])
            unseen_NK[members[left_out]] = decisions(fitted, x[left_out])
        value_P = agreement(unseen_NK, train)
        known = np.isfinite(value_P)
        if len(set(train.same_P[known])) == 2:
            threshold = midpoint(value_P[known], train.same_P[known])
    fitted, tested = svm(penalty, rotated).fit(x, label), members_of(test)
    tested_NK = np.full((len(windows.label_N), len(np.unique(label))), np.nan)
    for some in np.array_split(tested, -(-len(tested) // rows_of_block(features_NV))):
        tested_NK[some] = decisions(fitted, features_NV[some])
    return agreement(tested_NK, test), threshold


def svm(penalty: float, rotated: bool = False) -> Pipeline:
    """Return an unfitted linear SVM of standardised windows; rotated: in their span, for large V."""
    if not rotated:
        return make_pipeline(StandardScaler(), LinearSVC(C=penalty))
    # By default, as many dimensions as windows are left to the other solver, which does not converge.
    machine = LinearSVC(C=penalty, dual=True)  # pyright: ignore[reportArgumentType]
    return make_pipeline(StandardScaler(), PCA(svd_solver="full"), machine)


def decisions(fitted: Pipeline, x_NV: np.ndarray) -> np.ndarray:
    """Return decision values centred over the K labels, [N, K]."""
    value = fitted.decision_function(x_NV)
    value_NK = np.stack([-value, value], axis=1) if value.ndim == 1 else value
    return value_NK - value_NK.mean(axis=1, keepdims=True)


def agreement(decision_NK: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Return the inner product of the decision values of each pair's windows, [P]."""
    return np.einsum("pk,pk->p", decision_NK[pairs.left_P], decision_NK[pairs.right_P])


def inner_splits(windows: Windows, members: np.ndarray, test: Pairs) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split training windows as the outer folds do: persons are left out, or runs where persons are known."""
    label, person = windows.label_N[members], windows.person_N[members]
    strangers = not np.isin(windows.person_N[test.left_P], person).any()
    group = person if strangers and len(set(person)) > 1 else windows.run_N[members]
    n_groups = min(N_INNER, len(np.unique(group)))
    if n_groups < 2:
        return []
    splits = StratifiedGroupKFold(n_groups).split(members, label, group)
    return [(a, b) for a, b in splits if len(b) and len(np.unique(label[a])) == len(np.unique(label))]


def pair_features(mean_NV: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Return |a - b| and a * b of the window means, [P, 2V]; the order of the two does not matter."""
    left_PV, right_PV = mean_NV[pairs.left_P], mean_NV[pairs.right_P]
    return np.concatenate([np.abs(left_PV - right_PV), left_PV * right_PV], axis=1)


def pair_logistic() -> Pipeline:
    """Return an unfitted, strongly regularised logistic regression on standardised pair features."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=1000))


def correlation(
    features_NV: Features, train: Pairs, test: Pairs, less_mean: bool = False
) -> tuple[np.ndarray, float]:
    """Return the correlation of each test pair's patterns and the threshold fitted on training pairs.

    Less the mean of the training windows where that is most of every pattern, as in connectivity.
    """
    members, mean_V = members_of(train), 0.0
    if less_mean:
        parts = np.array_split(members, -(-len(members) // rows_of_block(features_NV)))
        mean_V = sum(features_NV[part].sum(axis=0) for part in parts) / len(members)

    def value(pairs: Pairs) -> np.ndarray:
        # A window that is in several pairs of the block is computed once.
        window, place = np.unique(np.concatenate((pairs.left_P, pairs.right_P)), return_inverse=True)
        unit_NV = features_NV[window] - mean_V
        unit_NV = unit_NV - unit_NV.mean(axis=1, keepdims=True)
        unit_NV /= np.maximum(np.linalg.norm(unit_NV, axis=1, keepdims=True), 1e-6)
        left_P, right_P = np.split(place, 2)
        return np.einsum("pv,pv->p", unit_NV[left_P], unit_NV[right_P])

    block = min(BLOCK, rows_of_block(features_NV))
    return in_blocks(test, value, block), midpoint(in_blocks(train, value, block), train.same_P)


# ---------------------------------------------------------------- shortcuts and controls


def run_means(windows: Windows, train: Pairs, test: Pairs) -> np.ndarray:
    """Return the decision of a logistic regression on |a - b| of the means of the two runs, [P].

    Means are rounded: in runs standardised one by one what is left of them is rounding of the stored values,
    which would tell runs apart perfectly though no method could ever use it.
    """
    mean_NV = np.round(windows.run_mean_NV / SMALLEST_MEAN) * SMALLEST_MEAN

    def distance(pairs: Pairs) -> np.ndarray:
        return np.abs(mean_NV[pairs.left_P] - mean_NV[pairs.right_P])

    fitted = pair_logistic().fit(distance(train), train.same_P)
    return in_blocks(test, lambda pairs: fitted.decision_function(distance(pairs)))


def persistence(windows: Windows, train: Pairs, test: Pairs) -> tuple[np.ndarray, float]:
    """Return how well one window of a pair continues the other, [P], and a threshold from training pairs.

    Every feature is a first-order autoregressive process round its run's mean: x(t+1) = r x(t) + noise, with
    r and the variance of training windows. The value is the log-likelihood ratio of the right window's first
    volume given the left one's last, against its own distribution, summed over the features; or the same
    with left and right exchanged, whichever is higher.
    """
    members = members_of(train)
    trained_NLV = windows.bold_NLV[members].astype(np.float32) - windows.run_mean_NV[members, None]
    power_V = np.maximum(np.square(trained_NLV).mean(axis=(0, 1)), 1e-6)
    r_V = np.zeros_like(power_V)
    if trained_NLV.shape[1] > 1:
        r_V = (trained_NLV[:, 1:] * trained_NLV[:, :-1]).mean(axis=(0, 1)) / power_V
    r_V = np.clip(r_V, -0.99, 0.99)
    scale_V = np.sqrt(power_V)
    first_NV, last_NV = ((windows.bold_NLV[:, i] - windows.run_mean_NV) / scale_V for i in (0, -1))

    def continues(left_P: np.ndarray, right_P: np.ndarray) -> np.ndarray:
        now_PV, then_PV = first_NV[right_P], last_NV[left_P]
        surprise_PV = np.square(now_PV - r_V * then_PV) / (1 - r_V**2) + np.log(1 - r_V**2)
        return (np.square(now_PV) - surprise_PV).sum(axis=1) / 2

    def value(pairs: Pairs) -> np.ndarray:
        return np.maximum(continues(pairs.left_P, pairs.right_P), continues(pairs.right_P, pairs.left_P))

    return in_blocks(test, value), midpoint(in_blocks(train, value), train.same_P)


def unrelated_labels(same_P: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shuffle labels so that none of the truth is left: half of either class is called "same".

    A plain permutation keeps a little of the truth (or of its opposite), which a strong signal blows up.
    """
    labels_P = np.empty_like(same_P)
    for true in (0, 1):
        of_class = same_P == true
        labels_P[of_class] = rng.permutation(np.arange(of_class.sum()) % 2)
    return labels_P


# ---------------------------------------------------------------- pairs by the block


def midpoint(value_P: np.ndarray, same_P: np.ndarray) -> float:
    """Return the threshold halfway between the mean values of the two classes."""
    return float((value_P[same_P == 1].mean() + value_P[same_P == 0].mean()) / 2)


def some_pairs(pairs: Pairs, n_features: int, rng: np.random.Generator) -> Pairs:
    """Return the pairs, or as many drawn from them as keep their features within MOST_VALUES."""
    most = max(2, MOST_VALUES // n_features)
    if len(pairs) <= most:
        return pairs
    return pairs.take(np.sort(rng.choice(len(pairs), most, replace=False)))


def some_windows(pairs: Pairs, most: int, rng: np.random.Generator) -> Pairs:
    """Return the pairs, or as many drawn from them as have no more than so many windows."""
    if len(members_of(pairs)) <= most:
        return pairs
    order = rng.permutation(len(pairs))
    both = np.stack([pairs.left_P[order], pairs.right_P[order]], axis=1)
    first = np.unique(both, return_index=True)[1] // 2  # place of the pair that brings each window
    n_windows = np.cumsum(np.bincount(first, minlength=len(pairs)))
    return pairs.take(np.sort(order[n_windows <= max(most, 4)]))


def members_of(pairs: Pairs) -> np.ndarray:
    """Return the windows of pairs, each once."""
    return np.unique(np.concatenate([pairs.left_P, pairs.right_P]))


def rows_of_block(features_NV: Features) -> int:
    """Return of how many windows (or pairs) features are in memory at a time."""
    return max(16, MOST_VALUES // features_NV.shape[1])


def in_blocks(pairs: Pairs, value_of: Callable[[Pairs], np.ndarray], block: int = BLOCK) -> np.ndarray:
    """Return a value of each pair, [P], without the features of all pairs in memory at a time."""
    blocks = np.array_split(np.arange(len(pairs)), -(-len(pairs) // block))
    return np.concatenate([value_of(pairs.take(block)) for block in blocks])
