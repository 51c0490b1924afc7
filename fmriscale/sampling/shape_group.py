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
from fmriscale.sampling.batch import Batch
from fmriscale.sampling.gather import Allocate, MappedRuns, MemoryRuns, Source, standard_of, verify_runs
from fmriscale.sampling.kernels import draw_pairs
from fmriscale.sampling.mixture import kinds_of, mixture_of
from fmriscale.sampling.stream import ShardPlan, StreamedRuns
from fmriscale.sampling.tables import Draw, Memo
from fmriscale.sampling.windows import find_windows


class ShapeGroup:
    """The windows of some runs, and the endless order of pairs that they give.

    Parameters
    ----------
    corpus : Corpus
        Holds the runs.
    rows : int array
        Rows of the runs, all of `space`.
    datasets : list of str
        Their data sets.
    numbers : int array
        Number of each of those in `Batch.dataset`.
    space : FeatureSpace
        V.
    length : int
        L.
    data : DataConfig
        How pairs are drawn and read.
    seed : int
        Seed of the order.

    Attributes
    ----------
    table : Table
        The windows.
    rows : int32 [R]
        Row of the corpus of each run of the table.
    windows : int64 [D]
        Left windows of each data set.
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
        self.table, self.rows = find_windows(corpus.runs, rows, datasets, data.pairs, length)
        self.too_short = len(rows) - len(self.rows)
        self.windows = np.diff(self.table.run_first[self.table.dataset_first])
        self.numbers = np.asarray(numbers, np.int16)
        self._kinds = kinds_of(self.table, data.pairs.negatives)
        self._check_kinds()
        n_shards, n_datasets = len(self.table.shard_run) - 1, len(datasets)
        self._memo = Memo(np.full(n_datasets, -1), np.zeros(n_shards + n_datasets, np.int64))
        self._lock = threading.Lock()  # the memo is scratch, and a feed draws from its own thread
        self._window = data.shuffle_shards if data.shuffle == "window" else 0
        self._source: Source | None = None
        self._stream: StreamedRuns | None = None

    def set_shares(self, shares: np.ndarray) -> None:
        """Fix the mixture from the share of each data set, float [D]."""
        self.mixture = mixture_of(shares, self._kinds)

    def open(self, device: Any = None, allocate: Allocate | None = None) -> None:
        """Open the runs for reading; see `NTPLoader`."""
        if self.corpus.remote and self._window and self.data.access == "mmap":
            self._source = self._stream = self._streamed(allocate)
            return
        shards = pd.unique(self.corpus.runs["shard"].to_numpy()[self.rows])
        self.corpus.want(shards.tolist(), reader=f"{id(self)}")
        standard = standard_of(self.corpus, self.rows, self.table.runs["subject"], self.data.standardize)
        place = (self.corpus, self.rows, self.length, self.space.n_features, standard)
        shuffled = self.seed if self.data.volume_order == "shuffled" else None
        if self.data.access == "device":
            from fmriscale.sampling.device import DeviceRuns  # here: it brings torch

            self._source = DeviceRuns(*place, device, shuffled)
            return
        if self.data.access == "memory":
            self._source = MemoryRuns(*place, allocate, shuffled)
            return
        if self.data.verify:
            verify_runs(self.corpus, self.rows)
        self._source = MappedRuns(*place, allocate)

    def draw(self, first: int, count: int) -> Draw:
        """Return the places of the pairs at positions `first` to `first + count - 1`, without their data."""
        runs, starts, rows = np.empty((3, 2, count), np.int32)
        kind, dataset, t_r = np.empty(count, np.int8), np.empty(count, np.int16), np.empty(count, np.float32)
        out = Draw(runs[0], starts[0], runs[1], starts[1], kind, dataset, rows[0], rows[1], t_r)
        with self._lock:
            draw_pairs(first, self.table, self.mixture, self.seed, self._window, self._memo, out)
        return out

    def batch(self, first: int, count: int) -> Batch:
        """Return the pairs at positions `first` to `first + count - 1`."""
        if self._source is None:
            self.open()
        draw = self.draw(first, count)
        if self._stream:
            self._stream.move(first, count)
        left, right = self._source.gather(draw)  # pyright: ignore[reportOptionalMemberAccess]
        return Batch(
            left=left,
            right=right,
            label=(draw.kind == 0).astype(np.int64),
            kind=draw.kind,
            dataset=self.numbers[draw.dataset],
            t_r=draw.t_r,
            run_left=draw.row_left,
            run_right=draw.row_right,
            start_left=draw.start_left,
            start_right=draw.start_right,
            space=self.space.name,
        )

    def supply(self) -> dict[str, np.ndarray]:
        """Return the share of each data set's windows that can have each declared kind, float [D] by kind."""
        declared = [kind for kind, quota in self.data.pairs.negatives.items() if quota > 0]
        runs = self.table.runs
        able = {kind: runs["reach"][:, KINDS.index(kind) + 1] for kind in declared}
        return {
            kind: np.bincount(runs["dataset"], windows, len(self.datasets)) / np.maximum(self.windows, 1)
            for kind, windows in able.items()
        }

    def state(self) -> dict[str, dict[str, Any]]:
        """Return what the order depends on, by data set: counts, and a hash of its runs in their order."""
        columns = ["key", "sha256", "segments", "person", "subject"]
        columns += ["shard"] if self._window else []
        values = [self.corpus.runs[name].to_numpy()[self.rows] for name in columns]
        found = {}
        for name, first, last in zip(
            self.datasets, self.table.dataset_first, self.table.dataset_first[1:], strict=False
        ):
            digest = hashlib.sha256(f"{self.space.sha256} {self.length}".encode())
            for column in values:
                digest.update("\n".join(column[first:last]).encode())
            digest.update(self.corpus.runs.t_r.to_numpy()[self.rows[first:last]].astype("<f8").tobytes())
            windows = int(self.table.run_first[last] - self.table.run_first[first])
            found[name] = {"runs": int(last - first), "windows": windows, "sha256": digest.hexdigest()}
        return found

    def _streamed(self, allocate: Allocate | None) -> StreamedRuns:
        """Open the runs of a server, of which the windowed shuffle needs some at a time."""
        if self.data.standardize != "run":
            raise UserError(
                f"{self.corpus}: data.standardize: {self.data.standardize} reads all runs at the start; with "
                "data.shuffle: window on a server use run, or take data.shuffle: exact"
            )
        whole = any(self.data.pairs.negatives.get(kind, 0) > 0 for kind in ("same_subject", "anywhere"))
        plan = ShardPlan(self.table, self.mixture, self.seed, self._window, whole)
        return StreamedRuns(self.corpus, self.rows, self.length, self.space.n_features, plan, allocate)

    def _check_kinds(self) -> None:
        """Refuse runs that can supply none of the declared kinds."""
        declared = [KINDS.index(kind) + 1 for kind, quota in self.data.pairs.negatives.items() if quota > 0]
        helpless = ~(self.table.runs["reach"][:, declared] > 0).any(axis=1)
        if helpless.any():
            run = int(np.argmax(helpless))
            kinds = ", ".join(KINDS[k - 1] for k in declared)
            windows = self.table.run_first[run + 1] - self.table.run_first[run]
            raise UserError(
                f"{helpless.sum()} runs (first: {self.corpus.runs.key.iloc[self.rows[run]]}, {windows} "
                f"windows) can supply none of the negatives: {kinds}; add a kind to pairs.negatives "
                "('reversed' is always possible) or lower pairs.min_distance"
            )
