"""The persistence baseline: brain activity changes slowly, so right follows left where they look alike.

It is fitted on nothing. An encoder that does not beat it has learned the autocorrelation of the signal.
"""

import numpy as np


def persistence_score(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Correlation over features between the last volume of left and the first of right."""
    a, b = left[:, -1].astype(np.float64), right[:, 0].astype(np.float64)
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    norm = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.divide((a * b).sum(1), norm, out=np.zeros(len(a)), where=norm > 0)


def best_threshold(score: np.ndarray, label: np.ndarray) -> float:
    """Threshold above which calling a pair positive is right most often."""
    order = np.argsort(score, kind="stable")
    ranked, positive = score[order], label[order] == 1
    # Cut before item i: the negatives below it and the positives from it on are right.
    right = np.r_[0, np.cumsum(~positive)] + np.r_[np.cumsum(positive[::-1])[::-1], 0]
    cuts = np.r_[-np.inf, (ranked[:-1] + ranked[1:]) / 2, np.inf]
    allowed = np.r_[True, ranked[1:] > ranked[:-1], True]
    return float(cuts[np.argmax(np.where(allowed, right, -1))])


def area_under_curve(score: np.ndarray, label: np.ndarray) -> float:
    """Probability that a positive pair scores higher than a negative one; ties count half."""
    positive, negative = score[label == 1], np.sort(score[label == 0])
    below = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    return float(below.sum() / (2 * len(positive) * len(negative)))
