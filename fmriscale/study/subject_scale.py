"""Standardise over all runs of a subject put end to end, as published: offsets of runs stay in.

R runs of a subject, T volumes, V features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fmriscale.corpus.manifest import parse_segments
from fmriscale.corpus.reader import Corpus
from fmriscale.study.folds import run_order

BLOCK = 1024
"""Features that are fitted at a time, to bound memory."""


@dataclass(frozen=True)
class SubjectScale:
    """Turns stored values of a run into others: value * scale + shift + slope * volume."""

    scale_V: np.ndarray
    shift_V: np.ndarray
    slope_V: np.ndarray

    def apply(self, run_TV: np.ndarray) -> np.ndarray:
        """Convert a whole run; float16 [T, V]."""
        volume_T1 = np.arange(len(run_TV))[:, None]
        return (run_TV * self.scale_V + self.shift_V + self.slope_V * volume_T1).astype(np.float16)


def subject_scales(corpus: Corpus, rows: Sequence[int]) -> dict[int, SubjectScale]:
    """Fit the linear trend and the scale of each subject's runs together; by row of the runs.

    The stored standardisation of a run is undone with its mean and deviation; then one straight line is taken
    off the concatenation of the subject's runs, and one deviation divides it. Runs that are tested take part,
    as in the published protocol, so what is fitted here is not fitted on training data alone.
    """
    table = corpus.runs.iloc[list(rows)]
    order = run_order(table)
    scales: dict[int, SubjectScale] = {}
    for places in table.groupby("person", sort=True).indices.values():
        in_time = places[np.argsort(order[places])]
        scales |= fit_subject(corpus, [int(rows[place]) for place in in_time])
    return scales


def fit_subject(corpus: Corpus, rows: list[int]) -> dict[int, SubjectScale]:
    """Fit one subject, whose runs come in their order."""
    table = corpus.runs.iloc[rows]
    kept = [np.concatenate([np.arange(a, b) for a, b in parse_segments(text)]) for text in table["segments"]]
    first_R = np.concatenate([[0], np.cumsum(table["n_volumes"])[:-1]])
    time_T = np.concatenate([volumes + first for volumes, first in zip(kept, first_R, strict=True)])
    bold = [corpus.bold(row) for row in rows]
    stored = zip(*(corpus.mean_std(row) for row in rows), strict=True)
    mean_RV, std_RV = (np.stack(values).astype(np.float64) for values in stored)
    mean_RV[std_RV == 0] = 0  # the feature is missing
    scale_RV, shift_RV, slope_RV = (np.zeros(mean_RV.shape, np.float32) for _ in range(3))
    for first in range(0, mean_RV.shape[1], BLOCK):
        block = slice(first, first + BLOCK)
        mean, std = mean_RV[:, block], std_RV[:, block]
        x_TV = np.concatenate(
            [run[volumes, block] * s + m for run, volumes, m, s in zip(bold, kept, mean, std, strict=True)]
        )
        present_TV = np.repeat(std > 0, [len(volumes) for volumes in kept], axis=0)
        level_V, middle_V, slope_V, deviation_V = fit_line(x_TV, time_T[:, None], present_TV)
        level_RV = level_V + slope_V * (first_R[:, None] - middle_V)
        scale_RV[:, block] = std / deviation_V
        shift_RV[:, block] = (std > 0) * (mean - level_RV) / deviation_V
        slope_RV[:, block] = (std > 0) * -slope_V / deviation_V
    return {row: SubjectScale(scale_RV[i], shift_RV[i], slope_RV[i]) for i, row in enumerate(rows)}


def fit_line(x_TV: np.ndarray, time_T1: np.ndarray, present_TV: np.ndarray) -> tuple[np.ndarray, ...]:
    """Fit a line to each column's present values: level at the mean time, that time, slope, deviation."""
    n_V = np.maximum(present_TV.sum(0), 1)
    level_V = (x_TV * present_TV).sum(0) / n_V
    middle_V = (time_T1 * present_TV).sum(0) / n_V
    time_TV = (time_T1 - middle_V) * present_TV
    slope_V = (time_TV * x_TV).sum(0) / np.maximum((time_TV**2).sum(0), 1)
    residual_TV = (x_TV - level_V) * present_TV - time_TV * slope_V
    deviation_V = np.sqrt((residual_TV**2).sum(0) / np.maximum(n_V - 1, 1))
    return level_V, middle_V, slope_V, np.where(deviation_V > 0, deviation_V, 1)
