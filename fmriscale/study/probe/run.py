"""A fit from its features to its result, and what both depend on."""

import functools
import io
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from filelock import FileLock

from fmriscale.common.files import atomic_write, expand
from fmriscale.common.version import __version__
from fmriscale.config import ProbeConfig
from fmriscale.config.recipe import to_dict
from fmriscale.corpus.reader import Corpus
from fmriscale.study.probe import reduce
from fmriscale.study.probe.adapt import Adaptation, Adapted, Rows
from fmriscale.study.probe.data import Probe
from fmriscale.study.probe.decoder import Decoded, decode, unrelated, without_confounds
from fmriscale.study.probe.features import features_of, pieces
from fmriscale.study.probe.folds import coarsest
from fmriscale.study.probe.jobs import FRESH, SHUFFLED, Fit, adapts, fits, has_seeds, judged
from fmriscale.study.results import Results, digest, start_of

WITHOUT_EFFECT = ("out", "corpus", "jobs", "tracking", "allow_seen_runs")
"""Settings that change no result: places, and how the work is done."""
OF_THE_FIT = ("encoders", "seeds", "train_sizes")
"""Settings of which a fit has its own share."""
FEATURES = "features"
"""Folder below the probe's with what fits share; it goes when the probe is finished."""


@dataclass(frozen=True)
class Runner:
    """Runs the fits of a probe; every worker process has a copy."""

    probe: Probe

    def run(self, fit: Fit) -> dict[str, Any]:
        """Fit the training side, and predict the test side."""
        started, probe, fold = time.monotonic(), self.probe, self.probe.folds[fit.fold]
        rows, seed = probe.rows, fit.seed or 0
        train_N, test_N = probe.sides(fold, fit.size, seed)
        target_N, groups, n_classes = rows.target_N[train_N], groups_of(probe, train_N), len(rows.classes)
        if fit.method == SHUFFLED:
            rng = np.random.default_rng([seed, fit.fold, 7])
            target_N, groups = unrelated(target_N, rng, classify=n_classes > 0), None
        decoded = self.decoded(fit, train_N, test_N, target_N, groups)
        if n_classes:
            outcome = judged_classes(decoded.value, rows.target_N[test_N])
        else:
            outcome = {"prediction": decoded.value.tolist()}
        learned = isinstance(decoded, Adapted)
        return {
            **asdict(fit),
            "left_out": list(fold.left_out),
            "n_train": len(train_N),
            "n_test": len(test_N),
            "n_train_people": len(set(rows.person_N[train_N].tolist())),
            "n_features": decoded.n_features,
            "penalty": decoded.choice.penalty,
            "scale": decoded.choice.scale,
            **({"epochs": decoded.epochs, "validation": decoded.validation} if learned else {}),
            "train_mean": None if n_classes else float(target_N.mean()),
            "seconds": time.monotonic() - started,
            "rows": test_N.tolist(),
            **outcome,
        }

    def decoded(
        self,
        fit: Fit,
        train_N: np.ndarray,
        test_N: np.ndarray,
        target_N: np.ndarray,
        groups: list[np.ndarray] | None,
    ) -> Decoded:
        """Decode the test rows by what a method makes of them, or by its encoder that learns."""
        probe, confounds_NC = self.probe, self.probe.rows.confounds_NC
        if adapts(probe.config, fit.method):
            arm = (judged(probe.config) or "") if fit.method == SHUFFLED else fit.method
            # Of shuffled labels the seed is that of the shuffle.
            seed = probe.config.seeds[0] if fit.method == SHUFFLED else fit.seed or 0
            work = Adaptation(probe, self.corpus, arm, fit.fold, seed, self.features(arm, fit))
            return work.decode(Rows(train_N, target_N), test_N, groups)
        fixed_NF = self.tangent(train_N, test_N, fit.fold) if fit.method == "tangent" else None

        def sides(fitted_N: np.ndarray, applied_N: np.ndarray) -> reduce.Sides:
            if fixed_NF is None:
                both = self.both_sides(fit, fitted_N, applied_N)
            else:
                both = fixed_NF[fitted_N], fixed_NF[applied_N]
            return without_confounds(*both, confounds_NC[fitted_N], confounds_NC[applied_N])

        return decode(sides, train_N, test_N, target_N, groups, len(probe.rows.classes))

    def both_sides(self, fit: Fit, fitted_N: np.ndarray, applied_N: np.ndarray) -> reduce.Sides:
        """Return the features of two sets of rows.

        What needs no labels is learned from the whole training side of the fold, however few of its people
        are labelled, but for the second set.
        """
        probe, method = self.probe, fit.method
        windows = probe.config.rows == "window"
        if method == SHUFFLED:
            method = judged(probe.config) or "connectivity"
        base = method
        if method in ("pca", "whitening", "shared"):
            base = "raw" if windows else "connectivity"
        x_NF, n_features = self.features(base, fit), probe.space.n_features
        both = x_NF[fitted_N], x_NF[applied_N]
        if method == "shared":
            return reduce.shared(
                both, n_features, probe.rows.target_N[fitted_N], probe.rows.person_N[fitted_N]
            )
        if method in ("pca", "whitening"):
            x_learn = x_NF[np.setdiff1d(probe.sides(probe.folds[fit.fold])[0], applied_N)]
            if method == "whitening":
                return reduce.whitening(x_learn, both, n_features)
            return reduce.pca(x_learn, both, n_features if windows else None)
        return both

    def tangent(self, train_N: np.ndarray, test_N: np.ndarray, fold: int) -> np.ndarray:
        """Return tangent connectivity of all rows, [N, F], 0 for those of no side.

        The reference is of the training side as a whole, also in inner folds: to find it takes a minute.
        """
        rows = self.probe.rows
        series = [np.asarray(piece, np.float32) for piece in pieces(self.probe, self.corpus)]
        of_train, of_test = (np.flatnonzero(np.isin(rows.row_M, side)) for side in (train_N, test_N))
        train, test = reduce.tangent([series[i] for i in of_train], [series[i] for i in of_test], fold)
        x_MF = np.zeros((len(series), train.shape[1]), np.float32)
        x_MF[of_train], x_MF[of_test] = train, test
        return rows.mean_of_pieces(x_MF)

    def features(self, method: str, fit: Fit) -> np.ndarray:
        """Return the features of all rows, [N, F], from their file, which is made where it is missing."""
        encoders, main = self.probe.config.encoders, judged(self.probe.config) or ""
        seed = encoder_seed(self.probe.config, fit)
        fold = fit.fold if "{fold}" in encoders.get(main if method == FRESH else method, "") else 0
        identity = digest(
            [
                settings_of(self.probe),
                method,
                seed,
                start_of_method(self.probe, method, fold, seed),
                versions(),
            ]
        )
        path = expand(self.probe.config.out) / FEATURES / f"{method}-{identity[:16]}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # others that need them wait, rather than make them too
            if not path.exists():
                found, file = features_of(self.probe, self.corpus, method, fold, seed), io.BytesIO()
                np.save(file, found, allow_pickle=False)
                atomic_write(path, file.getvalue())
        return np.load(path, mmap_mode="r", allow_pickle=False)

    @property
    def corpus(self) -> Corpus:
        """The corpus, opened once a process."""
        return opened(self.probe.config.corpus)


opened = functools.cache(Corpus.open)


def judged_classes(value_NK: np.ndarray, target_N: np.ndarray) -> dict[str, list]:
    """Return by row whether its class was told, and its part in the area under the ROC curve.

    The area is the mean over classes, one against the rest. The part of a row in it is the area plus its
    influence on it, from its placement: the share of the rows on the other side that it is told from (ties:
    half). Parts average to the area, and their variance is that of the area (DeLong et al. 1988, Biometrics
    44, 837-845). None where there is no other class.
    """
    labels, n = np.unique(target_N), len(target_N)
    influence_N, areas = np.zeros(n), []
    for label in labels if len(labels) > 1 else ():
        own, value_N = target_N == label, value_NK[:, label]
        above, below = placements(value_N[own], value_N[~own]), placements(-value_N[~own], -value_N[own])
        areas.append(above.mean())
        influence_N[own] += (above - areas[-1]) * n / own.sum() / len(labels)
        influence_N[~own] += (below - areas[-1]) * n / (~own).sum() / len(labels)
    right_N = value_NK.argmax(axis=1) == target_N
    parts = (np.mean(areas) + influence_N).tolist() if areas else [None] * n
    return {"right": right_N.astype(int).tolist(), "area": parts}


def placements(value_A: np.ndarray, other_B: np.ndarray) -> np.ndarray:
    """Return for each value the share of the others that are below it, ties half, [A]."""
    other_B = np.sort(other_B)
    below, not_above = (np.searchsorted(other_B, value_A, side=side) for side in ("left", "right"))
    return (below + not_above) / 2 / len(other_B)


def groups_of(probe: Probe, train_N: np.ndarray) -> list[np.ndarray]:
    """Return what inner folds keep together; runs, where there is one of all else (one person trains)."""
    # Of one site that is left to train on, people are what can be kept together.
    groups = coarsest([group_N[train_N] for group_N in probe.inner_groups])
    if any(len(np.unique(group_N)) > 1 for group_N in groups):
        return groups
    first = np.r_[0, np.flatnonzero(np.diff(probe.rows.row_M)) + 1]
    return [probe.rows.run_M[first][train_N].astype(str)]


def encoder_seed(config: ProbeConfig, fit: Fit) -> int:
    """Return the seed of the encoder of a fit; that of the first where an encoder has none, or labels do."""
    if fit.seed is None or fit.method == SHUFFLED or not has_seeds(config, fit.method):
        return config.seeds[0]
    return fit.seed


# ---------------------------------------------------------------- what a result depends on


def settings_of(probe: Probe, *, learning: bool = False) -> dict[str, Any]:
    """Return the settings that results depend on, and the corpus; learning: of an encoder that learns."""
    content = to_dict(probe.config)
    left_out = WITHOUT_EFFECT + OF_THE_FIT + (() if learning else ("train",))
    kept = {k: v for k, v in content.items() if k not in left_out}
    return kept | {"fingerprint": probe.fingerprint}


def start_of_method(probe: Probe, method: str, fold: int, seed: int) -> list[Any]:
    """Return what the encoder of a method depends on; nothing for a baseline."""
    if method == SHUFFLED:
        method = judged(probe.config) or SHUFFLED
    if method != FRESH and method not in probe.config.encoders:
        return []
    return start_of(probe.encoder_meta(method, fold, seed), fresh=method == FRESH)


def versions() -> list[str]:
    """Return the versions of what computes results."""
    return [__version__, *(version(name) for name in ("torch", "numpy", "scikit-learn", "nilearn"))]


def results_of(probe: Probe) -> Results:
    """Return where the results of all fits of a probe are, each with the hash that makes it valid."""
    made_with, config = versions(), probe.config
    settings = {learning: settings_of(probe, learning=learning) for learning in (False, True)}
    hashes = {}
    for fit in fits(config, probe.methods, len(probe.folds)):
        start = start_of_method(probe, fit.method, fit.fold, encoder_seed(config, fit))
        hashes[fit] = digest([settings[adapts(config, fit.method)], asdict(fit), start, made_with])
    return Results(expand(config.out), hashes)
