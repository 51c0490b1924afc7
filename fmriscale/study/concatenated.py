"""Standardise over all runs of a subject put end to end, as published: offsets of runs stay in.

R runs of a subject, T volumes, V features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fmriscale.corpus.manifest import parse_segments
from fmriscale.corpus.reader import Corpus
from fmriscale.study.pairs import run_order

FEATURES = 1024
"""Columns that are fitted at a time, to bound memory."""


@dataclass(frozen=True)
class Standard:
    """Turns stored values of a run into others: value * scale + shift + slope * volume."""

    scale_V: np.ndarray
    shift_V: np.ndarray
    slope_V: np.ndarray

    def apply(self, values_LV: np.ndarray, start: int) -> np.ndarray:
        """Convert consecutive volumes, the first of which is number `start` of the run; float16 [L, V]."""
        volume_L1 = np.arange(start, start + len(values_LV))[:, None]
        return (values_LV * self.scale_V + self.shift_V + self.slope_V * volume_L1).astype(np.float16)


def standards_of(corpus: Corpus, rows: Sequence[int]) -> dict[int, Standard]:
    """Fit the linear trend and the scale of each subject's runs together.

    The stored standardisation of a run is undone with its mean and deviation; then one straight line is taken
    off the concatenation of the subject's runs, and one deviation divides it. Runs that are tested take part,
    as in the published protocol, so what is fitted here is not fitted on training data alone.
    """
    table = corpus.runs.iloc[list(rows)]
    order = run_order(table)
    standards: dict[int, Standard] = {}
    for places in table.groupby("person", sort=True).indices.values():
        in_time = places[np.argsort(order[places])]
        standards |= _together(corpus, [int(rows[place]) for place in in_time])
    return standards


def _together(corpus: Corpus, rows: list[int]) -> dict[int, Standard]:
    """Fit one subject, whose runs come in their order."""
    table = corpus.runs.iloc[rows]
    kept = [np.concatenate([np.arange(a, b) for a, b in parse_segments(text)]) for text in table["segments"]]
    first_R = np.concatenate([[0], np.cumsum(table["n_volumes"])[:-1]])
    time_T = np.concatenate([volumes + first for volumes, first in zip(kept, first_R, strict=True)])
    bold = [corpus.bold(row) for row in rows]
    mean_RV, std_RV = (
        np.stack(parts).astype(np.float64)
        for parts in zip(*(corpus.mean_std(row) for row in rows), strict=True)
    )
    mean_RV[std_RV == 0] = 0  # whatever it is, the feature is missing
    scale_RV, shift_RV, slope_RV = (np.zeros(mean_RV.shape, np.float32) for _ in range(3))
    for first in range(0, mean_RV.shape[1], FEATURES):
        some = slice(first, first + FEATURES)
        mean, std = mean_RV[:, some], std_RV[:, some]
        x_TV = np.concatenate(
            [run[volumes, some] * s + m for run, volumes, m, s in zip(bold, kept, mean, std, strict=True)]
        )
        there_TV = np.repeat(std > 0, [len(volumes) for volumes in kept], axis=0)
        level_V, middle_V, slope_V, deviation_V = line(x_TV, time_T[:, None], there_TV)
        level_RV = level_V + slope_V * (first_R[:, None] - middle_V)
        scale_RV[:, some] = std / deviation_V
        shift_RV[:, some] = (std > 0) * (mean - level_RV) / deviation_V
        slope_RV[:, some] = (std > 0) * -slope_V / deviation_V
    return {row: Standard(scale_RV[i], shift_RV[i], slope_RV[i]) for i, row in enumerate(rows)}


def line(x_TV: np.ndarray, time_T1: np.ndarray, there_TV: np.ndarray) -> tuple[np.ndarray, ...]:
    """Fit a straight line to each column where it is there."""
    n_V = np.maximum(there_TV.sum(0), 1)
    level_V = (x_TV * there_TV).sum(0) / n_V
    middle_V = (time_T1 * there_TV).sum(0) / n_V
    time_TV = (time_T1 - middle_V) * there_TV
    slope_V = (time_TV * x_TV).sum(0) / np.maximum((time_TV**2).sum(0), 1)
    left_TV = (x_TV - level_V) * there_TV - time_TV * slope_V
    deviation_V = np.sqrt((left_TV**2).sum(0) / np.maximum(n_V - 1, 1))
    return level_V, middle_V, slope_V, np.where(deviation_V > 0, deviation_V, 1)
