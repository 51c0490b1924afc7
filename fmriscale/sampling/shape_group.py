"""Pairs of one feature space and one length of sequence: what one training step may read."""

import hashlib
import threading
from typing import Any

import numpy as np
import pandas as pd

from fmriscale.common.errors import UserError
from fmriscale.config import KINDS, DataConfig
from fmriscale.corpus.manifest import FeatureSpace
from fmriscale.corpus.reader import Corpus
from fmriscale.sampling.across import (
    OTHER_PERSON,
    draw_across,
    sharers_of,
    without_other_person,
)
from fmriscale.sampling.batch import Batch
from fmriscale.sampling.gather import (
    Allocate,
    DeviceRuns,
    HostRuns,
    copy_runs,
    rescaling_of,
    verify_runs,
)
from fmriscale.sampling.kernels import draw_places
from fmriscale.sampling.mixture import PassMemo, kinds_of, mixture_of
from fmriscale.sampling.streaming import ShardSchedule, StreamedRuns
from fmriscale.sampling.window_index import index_windows


class ShapeGroup:
    """The windows of some runs (`rows` of the corpus), and the endless order of pairs that they give.

    `numbers` are those of the runs' data sets in `Batch.dataset`; `index` lists the windows, and `windows`
    counts them by data set, int64 [D].
    """

    def __init__(
        self,
        corpus: Corpus,
        rows: np.ndarray,
        datasets: list[str],
        numbers: np.ndarray,
        space: FeatureSpace,
        length: int,
        data: DataConfig,
        seed: int,
    ) -> None:
        self.corpus, self.data, self.seed = corpus, data, seed
        self.space, self.length, self.datasets = space, length, datasets
        self.index = index_windows(corpus.runs, rows, datasets, data.pairs, length)
        self.rows = self.index.runs["row"].copy()
        self.too_short = len(rows) - len(self.rows)
        self.windows = np.diff(self.index.run_first[self.index.dataset_first])
        self.numbers = np.asarray(numbers, np.int16)
        self._declared = [kind for kind, quota in data.pairs.negatives.items() if quota > 0]
        self._sharers = None
        if data.pairs.partner == "other_person":
            self._sharers = sharers_of(self.index, corpus.runs, data, seed)
        self._kinds = kinds_of(self.index, data.pairs.negatives, self._able)
        if self._sharers is not None:
            self._turns = self._kinds == OTHER_PERSON
            self._kinds = without_other_person(self._kinds)
        self._check_kinds()
        n_shards, n_datasets = len(self.index.shard_run) - 1, len(datasets)
        self._memo = PassMemo(np.full(n_datasets, -1), np.zeros(n_shards + n_datasets, np.int64))
        self._lock = threading.Lock()  # the memo is scratch, and a feed draws from its own thread
        self._n_open = data.shuffle_shards if data.shuffle == "window" else 0

    def set_shares(self, shares: np.ndarray) -> None:
        """Fix the mixture from the share of each data set, float [D]."""
        self.mixture = mixture_of(shares, self._kinds, self.numbers)

    def open(self, device: Any = None, allocate: Allocate | None = None) -> None:
        """Open the runs for reading, as `data.access` has it; see `NTPLoader`."""
        corpus, data, rows = self.corpus, self.data, self.rows
        shape = (self.length, self.space.n_features)
        if corpus.remote and self._n_open and data.access == "mmap":
            self._runs = StreamedRuns(corpus, rows, *shape, self._shard_schedule(), allocate)
            return
        corpus.want(pd.unique(corpus.runs["shard"].to_numpy()[rows]).tolist(), reader=f"{id(self)}")
        rescaling = rescaling_of(corpus, rows, self.index.runs["subject"], data.standardize)
        shuffle_seed = self.seed if data.volume_order == "shuffled" else None
        if data.access == "device":
            self._runs = DeviceRuns(corpus, rows, *shape, device, rescaling, shuffle_seed)
        elif data.access == "memory":
            self._runs = copy_runs(corpus, rows, *shape, rescaling, allocate, shuffle_seed)
        else:
            if data.verify:
                verify_runs(corpus, rows)
            self._runs = HostRuns(corpus.addresses(rows), *shape, corpus, rescaling, allocate)

    def draw(self, first: int, count: int) -> Batch:
        """Return the pairs at positions `first` to `first + count - 1`, without their sequences."""
        kind, dataset, t_r = np.empty(count, np.int8), np.empty(count, np.int16), np.empty(count, np.float32)
        out = Batch(*np.empty((6, count), np.int32), kind, dataset, t_r, np.empty(count, np.int64))  # pyright: ignore
        with self._lock:
            draw_places(first, self.index, self.mixture, self.seed, self._n_open, self._memo, out)
        if self._sharers is not None:
            draw_across(first, self.index, self._sharers, self._turns, self.mixture, self.seed, out)
        return out

    def batch(self, first: int, count: int) -> Batch:
        """Return the pairs at positions `first` to `first + count - 1`."""
        if isinstance(self._runs, StreamedRuns):
            self._runs.move(first, count)
        return self._runs.gather(self.draw(first, count))._replace(space=self.space.name)

    def supply(self) -> dict[str, np.ndarray]:
        """Return the share of each data set's windows that can have each declared kind, float [D] by kind."""
        runs = self.index.runs
        able = {kind: self._able(KINDS.index(kind) + 1) for kind in self._declared}
        return {
            kind: np.bincount(runs["dataset"], windows, len(self.datasets)) / np.maximum(self.windows, 1)
            for kind, windows in able.items()
        }

    def state(self) -> dict[str, dict[str, Any]]:
        """Return what the order depends on, by data set: counts, and a hash of its runs in their order."""
        runs, bounds = self.corpus.runs, self.index.dataset_first
        names = ["key", "sha256", "segments", "person", "subject", *(["shard"] if self._n_open else [])]
        if self._sharers is not None and "stimulus" in runs:
            names += ["stimulus", "stimulus_onset"]
        columns = [runs[name].astype(str).to_numpy()[self.rows] for name in names]
        t_r = runs.t_r.to_numpy()[self.rows].astype("<f8")
        state = {}
        for name, first, last, windows in zip(
            self.datasets, bounds[:-1], bounds[1:], self.windows, strict=True
        ):
            digest = hashlib.sha256(f"{self.space.sha256} {self.length}".encode())
            for column in columns:
                digest.update("\n".join(column[first:last]).encode())
            digest.update(t_r[first:last].tobytes())
            state[name] = {
                "runs": int(last - first),
                "windows": int(windows),
                "sha256": digest.hexdigest(),
            }
        return state

    def _able(self, code: int) -> np.ndarray:
        """Return how many windows of each run can have a kind, int [R]."""
        if code != OTHER_PERSON:
            return self.index.runs["reach"][:, code]
        return np.zeros(len(self.rows), int) if self._sharers is None else self._sharers.clocks["able"]

    def _shard_schedule(self) -> ShardSchedule:
        """Return which shards the windowed shuffle needs; standardisation must not need them all."""
        if self.data.standardize != "run":
            raise UserError(
                f"{self.corpus}: data.standardize: {self.data.standardize} reads all runs at the start; with "
                "data.shuffle: window on a server use run, or take data.shuffle: exact"
            )
        whole_subjects = not {"same_subject", "anywhere"}.isdisjoint(self._declared)
        return ShardSchedule(self.index, self.mixture, self.seed, self._n_open, whole_subjects)

    def _check_kinds(self) -> None:
        """Refuse runs that can supply none of the declared kinds."""
        codes = [KINDS.index(kind) + 1 for kind in self._declared]
        helpless = ~np.any([self._able(code) > 0 for code in codes], axis=0)
        if helpless.any():
            run = int(np.argmax(helpless))
            windows = self.index.run_first[run + 1] - self.index.run_first[run]
            raise UserError(
                f"{helpless.sum()} runs (first: {self.corpus.runs.key.iloc[self.rows[run]]}, {windows} "
                f"windows) can supply none of the negatives: {', '.join(self._declared)}; add a kind to "
                "pairs.negatives ('reversed' is always possible) or lower pairs.min_distance"
            )
