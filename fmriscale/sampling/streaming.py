"""Gather sequences out of the shards of a server, of which only some are here at a time.

Only the windowed shuffle can do with some of the shards. All else reads the whole corpus from the first step
on and waits for all of it.
"""

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from fmriscale.corpus.reader import Corpus
from fmriscale.sampling.batch import Batch
from fmriscale.sampling.gather import Allocate, HostRuns
from fmriscale.sampling.kernels import pass_over_shards
from fmriscale.sampling.mixture import Mixture
from fmriscale.sampling.window_index import WindowIndex


class ShardSchedule:
    """Which shards the windowed shuffle reads at a position, and which come next: a pure function of it.

    `n_open` shards of each data set are read at a time. With `whole_subjects` there are negatives of the same
    subject, which may lie in another shard than its other runs.
    """

    def __init__(
        self, index: WindowIndex, mixture: Mixture, seed: int, n_open: int, whole_subjects: bool
    ) -> None:
        self.index, self.mixture, self.seed, self.n_open = index, mixture, seed, n_open
        self._related = _related_shards(index) if whole_subjects else {}
        self._n_windows = np.diff(index.run_first[index.dataset_first]).tolist()

    def at(self, first: int, last: int) -> tuple[list[int], list[int], int]:
        """Return the shards that two positions need, those that come next, and until when that is so."""
        now: list[int] = []
        ahead: list[tuple[int, int]] = []
        for dataset in np.flatnonzero(self.mixture.quotas).tolist():
            now += [*self._open(dataset, first), *self._open(dataset, last)]
            ahead += islice(self._coming(dataset, last), 2 * self.n_open)
        until = min(position for position, _ in ahead)
        wanted = self._with_related(now)
        later = self._with_related(shard for _, shard in sorted(ahead))
        return list(wanted), [shard for shard in later if shard not in wanted], max(until, last + 1)

    def _progress(self, dataset: int, position: int) -> tuple[int, int]:
        """Return how many passes over a data set lie before a position, and how many windows of the next."""
        n_block, quota = len(self.mixture.which), int(self.mixture.quotas[dataset])
        block, place = divmod(position, n_block)
        return divmod((block * quota + place * quota // n_block) // 2, self._n_windows[dataset])

    def _position(self, dataset: int, epoch: int, window: int) -> int:
        """Return a position not after the one at which a data set's pass comes to a window."""
        drawn = 2 * (epoch * self._n_windows[dataset] + window)
        return drawn // int(self.mixture.quotas[dataset]) * len(self.mixture.which)

    def _open(self, dataset: int, position: int) -> Iterator[int]:
        """Yield the shards of a data set that are read at a position.

        Partners from other data sets take a data set's block in proportion to its pass, so that is read too.
        """
        epoch, window = self._progress(dataset, position)
        shards, blocks = pass_over_shards(self.index, dataset, epoch, self.n_open, self.seed)
        exact = int(np.searchsorted(blocks, window, side="right")) - 1
        for block in (exact, window * len(shards) // int(blocks[-1])):
            yield from shards[(block - np.arange(min(self.n_open, len(shards)))) % len(shards)].tolist()

    def _coming(self, dataset: int, position: int) -> Iterator[tuple[int, int]]:
        """Yield the shards of a data set that come next and the positions from which on, without end."""
        epoch, window = self._progress(dataset, position)
        while True:
            shards, blocks = pass_over_shards(self.index, dataset, epoch, self.n_open, self.seed)
            for block in range(int(np.searchsorted(blocks, window, side="right")), len(shards)):
                yield self._position(dataset, epoch, int(blocks[block])), int(shards[block])
            epoch, window = epoch + 1, 0
            begin = self._position(dataset, epoch, 0)
            shards, _ = pass_over_shards(self.index, dataset, epoch, self.n_open, self.seed)
            yield from ((begin, int(shards[-i])) for i in range(min(self.n_open, len(shards))))

    def _with_related(self, shards: Iterable[int]) -> dict[int, None]:
        """Add the shards that hold other runs of their subjects."""
        return dict.fromkeys(other for shard in shards for other in (shard, *self._related.get(shard, ())))


def _related_shards(index: WindowIndex) -> dict[int, list[int]]:
    """Return the other shards that hold runs of a shard's subjects."""
    shard_of_run = np.repeat(np.arange(len(index.shard_run) - 1), np.diff(index.shard_run))
    shards_of: dict[int, set[int]] = defaultdict(set)
    for subject, shard in zip(index.runs["subject"].tolist(), shard_of_run.tolist(), strict=True):
        shards_of[subject].add(shard)
    related: dict[int, set[int]] = defaultdict(set)
    for shards in shards_of.values():
        for shard in shards:
            related[shard] |= shards - {shard}
    return {shard: sorted(others) for shard, others in related.items() if others}


class StreamedRuns(HostRuns):
    """Copy sequences out of shards that come and go, by a schedule; `rows` are those of its index."""

    def __init__(
        self,
        corpus: Corpus,
        rows: np.ndarray,
        length: int,
        n_features: int,
        schedule: ShardSchedule,
        allocate: Allocate | None = None,
    ) -> None:
        super().__init__(np.zeros(len(rows), np.int64), length, n_features, corpus, allocate=allocate)
        self._corpus, self._rows, self._schedule = corpus, rows, schedule
        self._first = schedule.index.shard_run
        self._names = corpus.runs["shard"].to_numpy()[rows[self._first[:-1]]].tolist()
        self._shard = np.repeat(np.arange(len(self._names)), np.diff(self._first))
        self._mapped = np.zeros(len(rows), bool)
        self._maps: dict[int, object] = {}
        self._valid = range(0)
        self._lock = threading.Lock()  # maps must not go while another thread copies

    def move(self, first: int, count: int) -> None:
        """Have the shards fetched that positions `first` to `first + count - 1` need, and those after."""
        if first in self._valid and first + count - 1 in self._valid:
            return
        with self._lock:
            now, ahead, until = self._schedule.at(first, first + count - 1)
            self._valid = range(first, until)
            names = ([self._names[s] for s in shards] for shards in (now, ahead))
            self._corpus.want(*names, reader=f"{id(self)}")
            for shard in self._maps.keys() - set(now):
                self._mapped[self._first[shard] : self._first[shard + 1]] = False
                del self._maps[shard]
                self._corpus.forget(self._names[shard])

    def gather(self, drawn: Batch) -> Batch:
        """Read left and right; waits for shards that are not there yet."""
        with self._lock:
            for runs in (drawn.run_left, drawn.run_right):
                for shard in np.unique(self._shard[runs[~self._mapped[runs]]]).tolist():
                    self._map(shard)
            return super().gather(drawn)

    def _map(self, shard: int) -> None:
        """Map a shard and note where its runs lie."""
        runs = slice(self._first[shard], self._first[shard + 1])
        self._address[runs] = self._corpus.addresses(self._rows[runs])
        self._maps[shard] = self._corpus.map(self._names[shard])  # it stays for as long as this refers to it
        self._mapped[runs] = True
