"""Runs of people who saw or heard the same thing, on one clock in seconds.

Volume k of a run lies at stimulus time `k * t_r - stimulus_onset`. Times are counted on a grid whose step is
the shortest repetition time; a window lies at a time of the grid by its nearest volume.
Shapes: R runs of one stimulus, G times of the grid.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from fmriscale.config import DataConfig
from fmriscale.corpus.manifest import parse_segments
from fmriscale.corpus.reader import Corpus
from fmriscale.sampling.window_index import volumes

_TIE = 1e-6  # Of a volume: halves are rounded up, though a sum of decimals may fall short of them


@dataclass(frozen=True)
class Clock:
    """Where runs lie in stimulus time; `rows` are those of the corpus.

    Turned by `shift`, a run's first and last window are neighbours, and its windows all turn alike.
    """

    rows: np.ndarray  # int64 [R]
    t_r: np.ndarray  # float64 [R], s
    onset: np.ndarray  # float64 [R], s
    first: np.ndarray  # int64 [R]: first time of the grid at which a window fits into the run
    count: np.ndarray  # int64 [R]: times from there on
    shift: np.ndarray  # int64 [R], times of the grid
    begin: float  # stimulus time of the grid's first time, s
    step: float  # from one time of the grid to the next, s

    def starts(self, run: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return the first volumes of windows of some runs [N, 1] at some times of the grid; -1 = beyond."""
        within = time - self.first[run]
        turned = self.first[run] + (within + self.shift[run]) % self.count[run]
        seconds = self.begin + turned * self.step
        start = np.floor((seconds + self.onset[run]) / self.t_r[run] + 0.5 + _TIE).astype(np.int32)
        return np.where((within >= 0) & (within < self.count[run]), start, np.int32(-1))


def clock_of(corpus: Corpus, rows: np.ndarray, length: int, data: DataConfig, seed: int) -> Clock:
    """Return the clock of runs of one stimulus, in each of which a window of `length` volumes fits."""
    runs = corpus.runs.iloc[rows]
    t_r, onset = runs.t_r.to_numpy(), runs.stimulus_onset.to_numpy()
    first_volume = volumes(data.pairs.first, t_r)
    last_volume = runs.n_volumes.to_numpy() - length
    step = float(t_r.min())
    begin = float((first_volume * t_r - onset).min())
    # The times whose nearest volumes are the first and the last one of the run at which a window may start.
    first = np.ceil((((first_volume - 0.5) * t_r - onset) - begin) / step - _TIE).astype(np.int64)
    last = np.ceil((((last_volume + 0.5) * t_r - onset) - begin) / step - _TIE).astype(np.int64) - 1
    first = np.maximum(first, 0)
    count = last - first + 1
    shift = np.zeros(len(rows), np.int64)
    if data.stimulus_clock == "shifted":
        shift = np.array([turn_of(key, n, seed) for key, n in zip(runs.key, count.tolist(), strict=True)])
    return Clock(rows, t_r, onset, first, count, shift, begin, step)


def turn_of(key: str, n_times: int, seed: int) -> int:
    """Return by how many times a run's clock is turned: a function of seed and key alone."""
    draw = int.from_bytes(hashlib.sha256(f"{seed}|{key}".encode()).digest()[:8], "little")
    return 1 + draw % max(1, n_times - 1)


def fitting(corpus: Corpus, clock: Clock, length: int, data: DataConfig) -> np.ndarray:
    """Tell at which times of the grid a run has a window without a censored volume, bool [R, G]."""
    times = np.arange(int((clock.first + clock.count).max(initial=0)))
    fits_RG = np.zeros((len(clock.rows), len(times)), bool)
    runs = corpus.runs.iloc[clock.rows]
    first_volume = volumes(data.pairs.first, clock.t_r)
    for r, segments in enumerate(runs.segments):
        spans = np.array(parse_segments(segments), np.int64).reshape(-1, 2)
        if len(spans) == 0:
            continue
        start_G = clock.starts(np.array([r]), times)
        span = np.searchsorted(spans[:, 0], start_G, side="right") - 1
        inside = (span >= 0) & (start_G + length <= spans[span, 1])
        fits_RG[r] = inside & (start_G >= first_volume[r])
    return fits_RG


def shared_runs(corpus: Corpus, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """Return the rows of the runs of each stimulus that two people share, sorted by person, by its name."""
    if "stimulus" not in corpus.runs:
        return {}
    runs = corpus.runs.iloc[rows]
    rows = rows[((runs.stimulus != "") & (runs.n_volumes >= length)).to_numpy()]
    ordered = corpus.runs.iloc[rows].assign(row=rows).sort_values(["stimulus", "person", "key"])
    of_name = {str(name): of for name, of in ordered.groupby("stimulus")}
    return {name: of.row.to_numpy() for name, of in of_name.items() if of.person.nunique() > 1}
