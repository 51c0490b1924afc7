"""What each method makes of the pieces: vectors of an encoder, connectivity, windows, means, motion.

M pieces, N rows, L volumes, T volumes of a run, V features, F of what is made of them.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np
import torch
from nilearn.connectome import ConnectivityMeasure
from sklearn.covariance import LedoitWolf

from fmriscale.corpus.manifest import parse_segments
from fmriscale.corpus.reader import Corpus
from fmriscale.model.precision import describe_precision
from fmriscale.model.vectors import window_vectors
from fmriscale.study.probe.cut import starts_in, volumes
from fmriscale.study.probe.data import Probe
from fmriscale.study.probe.jobs import FRESH, arms

SMALLEST_MEAN = 0.01
"""Means of runs are rounded to it, in standard deviations: of runs that were standardised before they came
here, rounding alone is left, which would tell scanners apart perfectly."""


def features_of(probe: Probe, corpus: Corpus, method: str, fold: int, seed: int) -> np.ndarray:
    """Return the features of every row, [N, F], that need nothing to be fitted."""
    if method == FRESH or method in probe.config.encoders:
        return probe.rows.mean_of_pieces(vectors(probe, corpus, method, fold, seed))
    match method:
        case "connectivity":
            series = [np.asarray(piece, np.float32) for piece in pieces(probe, corpus)]
            found = connectivity(series)
        case "raw":
            found = np.stack(list(pieces(probe, corpus)))
            found = found.reshape(len(found), -1)
        case "window_mean":
            found = np.stack([piece.mean(axis=0, dtype=np.float32) for piece in pieces(probe, corpus)])
        case "run_mean":
            found = by_run(probe, lambda row: level(corpus, row))
        case "motion":
            found = by_run(probe, lambda row: corpus.runs["mean_fd"].to_numpy()[[row]])
            found = np.nan_to_num(found, nan=float(np.nanmean(found)))
        case _:
            raise ValueError(f"no features are called {method}")
    return probe.rows.mean_of_pieces(found.astype(np.float16 if method == "raw" else np.float32))


def pieces(probe: Probe, corpus: Corpus) -> Iterator[np.ndarray]:
    """Yield every piece: a window [L, V], or the uncensored volumes of a run [T, V]."""
    rows = probe.rows
    for run, start in zip(rows.run_M.tolist(), rows.start_M.tolist(), strict=True):
        bold_TV, about = corpus.bold(run), corpus.runs.iloc[run]
        if start >= 0:
            yield bold_TV[start : start + volumes(probe.config.windows.length, about.t_r)]
        else:
            yield np.concatenate([bold_TV[a:b] for a, b in parse_segments(about.segments)])


def by_run(probe: Probe, value_of: Any) -> np.ndarray:
    """Return a value of each piece's run, [M, F]."""
    runs, place_M = np.unique(probe.rows.run_M, return_inverse=True)
    return np.stack([value_of(int(run)) for run in runs])[place_M]


def level(corpus: Corpus, row: int) -> np.ndarray:
    """Return the mean of every feature before the run was standardised, [V], rounded."""
    mean_V, std_V = corpus.mean_std(row)
    step_V = SMALLEST_MEAN * np.where(std_V > 0, std_V, 1)
    return np.round(mean_V / step_V) * step_V


# ---------------------------------------------------------------- connectivity


def measure(kind: str) -> Any:
    """Return nilearn's measure, of covariances that are shrunk (Ledoit & Wolf 2004)."""
    return ConnectivityMeasure(
        cov_estimator=LedoitWolf(store_precision=False),
        kind=kind,
        vectorize=True,
        discard_diagonal=kind == "correlation",
    )


def connectivity(series: list[np.ndarray]) -> np.ndarray:
    """Return Fisher's z of the correlations of every piece, upper triangle, [M, F]."""
    found = measure("correlation").fit_transform(series)
    return np.arctanh(np.clip(found, -0.9999, 0.9999)).astype(np.float32)


# ---------------------------------------------------------------- encoders


def computation(probe: Probe) -> str:
    """Say where the encoders of a probe compute, and in which type."""
    metas = [probe.encoder_meta(arm, 0, probe.config.seeds[0]) for arm in arms(probe.config)]
    return describe_precision(torch.device("cpu"), [meta["encoder"]["d_model"] for meta in metas])


def vectors(probe: Probe, corpus: Corpus, arm: str, fold: int, seed: int) -> np.ndarray:
    """Return an encoder's vector of every piece, [M, D]; that of a run is the mean over its windows."""
    encoder, space = probe.encoder(arm, fold, seed)
    torch.set_num_threads(1)
    settings, rows, found = probe.config.windows, probe.rows, []
    places = zip(rows.run_M.tolist(), rows.start_M.tolist(), strict=True)
    for run, in_run in groupby(places, lambda place: place[0]):
        bold_TV, about = corpus.bold(run), corpus.runs.iloc[run]
        starts, length = [start for _, start in in_run], volumes(settings.length, about.t_r)
        whole = starts[0] < 0
        if whole:
            starts = starts_in(about.segments, about.t_r, settings)
        windows_NLV = np.stack([bold_TV[start : start + length] for start in starts])
        x_ND = window_vectors(encoder, windows_NLV, about.t_r, space, probe.config.pool)
        found.append(x_ND.mean(axis=0, keepdims=True) if whole else x_ND)
    return np.concatenate(found)
