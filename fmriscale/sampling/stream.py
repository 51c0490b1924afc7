"""Sequences out of the shards of a server: which shards a position needs, and maps of those alone.

Only the windowed shuffle can do with some of the shards at a time. All else reads the whole corpus from the
first step on and waits for all of it.
"""

import threading
from collections.abc import Iterable

import numpy as np

from fmriscale.corpus.reader import Corpus
from fmriscale.sampling.gather import Allocate, Buffers, MappedRuns
from fmriscale.sampling.kernels import pass_over_shards
from fmriscale.sampling.tables import Draw, Mixture, Table


class ShardPlan:
    """Which shards the windowed shuffle reads at a position, and which come next: a pure function of it.

    Parameters
    ----------
    table : Table
        The windows.
    mixture : Mixture
        How data sets alternate.
    seed : int
        Seed of the order.
    window : int
        Shards of each data set that are read at a time.
    whole_subjects : bool
        Negatives of the same subject are drawn, and may lie in another shard than its other runs.
    """

    def __init__(self, table: Table, mixture: Mixture, seed: int, window: int, whole_subjects: bool) -> None:
        self.table, self.mixture, self.seed, self.window = table, mixture, seed, window
        self._relatives = _relatives(table) if whole_subjects else {}
        self._passes: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def at(self, first: int, last: int) -> tuple[list[int], list[int], int]:
        """Return what the pairs at some positions need."""
        now: dict[int, None] = {}
        ahead: list[tuple[int, int]] = []
        until = 1 << 62
        for dataset in np.flatnonzero(self.mixture.quotas):
            now |= dict.fromkeys(self._open(int(dataset), first))
            now |= dict.fromkeys(self._open(int(dataset), last))
            coming = self._coming(int(dataset), last)
            ahead += coming
            until = min(until, coming[0][0])
        self._passes = {key: self._passes[key] for key in list(self._passes)[-4 * len(self.mixture.quotas) :]}
        wanted = self._with_relatives(now)
        later = self._with_relatives(shard for _, shard in sorted(ahead))
        return list(wanted), [shard for shard in later if shard not in wanted], max(until, last + 1)

    def _pass(self, dataset: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the shuffled shards of a pass and the windows in all earlier blocks."""
        key = (dataset, epoch)
        if key not in self._passes:
            self._passes[key] = pass_over_shards(self.table, dataset, epoch, self.window, self.seed)
        return self._passes[key]

    def _place(self, dataset: int, position: int) -> tuple[int, int]:
        """Return how many passes over a data set lie before a position, and how many windows of the next."""
        block, place = divmod(position, len(self.mixture.which))
        quota = int(self.mixture.quotas[dataset])
        windows = self.table.run_first[self.table.dataset_first[dataset : dataset + 2]]
        return divmod(
            (block * quota + place * quota // len(self.mixture.which)) // 2, int(np.diff(windows)[0])
        )

    def _open(self, dataset: int, position: int) -> Iterable[int]:
        """Yield the shards of a data set that are read at a position.

        Partners from other data sets take a data set's block in proportion to its pass, so that is read too.
        """
        epoch, index = self._place(dataset, position)
        shards, blocks = self._pass(dataset, epoch)
        exact = int(np.searchsorted(blocks, index, side="right")) - 1
        for block in (exact, index * len(shards) // int(blocks[-1])):
            yield from shards[(block - np.arange(min(self.window, len(shards)))) % len(shards)].tolist()

    def _coming(self, dataset: int, position: int) -> list[tuple[int, int]]:
        """Return the shards of a data set that come next, each with the position from which on."""
        epoch, index = self._place(dataset, position)
        found: list[tuple[int, int]] = []
        at = index
        while len(found) < self.window + 1:
            shards, blocks = self._pass(dataset, epoch)
            block = int(np.searchsorted(blocks, at, side="right"))  # the next one
            for b in range(block, len(shards)):
                found.append((self._position(dataset, epoch, int(blocks[b])), int(shards[b])))
            epoch, at = epoch + 1, 0
            shards, _ = self._pass(dataset, epoch)
            begin = self._position(dataset, epoch, 0)
            found += [(begin, int(s)) for s in shards[-np.arange(min(self.window, len(shards)))]]
        return found[: 2 * self.window]

    def _position(self, dataset: int, epoch: int, index: int) -> int:
        """Return a position not after the one at which a data set's pass comes to a window."""
        windows = self.table.run_first[self.table.dataset_first[dataset : dataset + 2]]
        draw = 2 * (epoch * int(np.diff(windows)[0]) + index)
        return draw // int(self.mixture.quotas[dataset]) * len(self.mixture.which)

    def _with_relatives(self, shards: Iterable[int]) -> dict[int, None]:
        """Add the shards that hold other runs of their subjects."""
        return dict.fromkeys(other for shard in shards for other in (shard, *self._relatives.get(shard, ())))


def _relatives(table: Table) -> dict[int, list[int]]:
    """Return the other shards that hold runs of a shard's subjects."""
    shard = np.repeat(np.arange(len(table.shard_run) - 1), np.diff(table.shard_run))
    subject, inside = np.unique(np.stack([table.runs["subject"], shard]), axis=1)
    found: dict[int, set[int]] = {}
    starts = np.flatnonzero(np.r_[True, np.diff(subject) != 0])
    for its in np.split(inside, starts[1:]):
        if len(its) > 1:
            for one in its.tolist():
                found.setdefault(one, set()).update(set(its.tolist()) - {one})
    return {one: sorted(others) for one, others in found.items()}


class StreamedRuns(MappedRuns):
    """Sequences out of shards that come and go; see `MappedRuns`.

    Parameters
    ----------
    corpus : Corpus
        A corpus on a server.
    rows : int array [R]
        Rows of the runs of the plan's table.
    length, n_features : int
        L and V.
    plan : ShardPlan
        Which shards are needed.
    allocate : function
        Makes the arrays of a batch.
    """

    def __init__(
        self,
        corpus: Corpus,
        rows: np.ndarray,
        length: int,
        n_features: int,
        plan: ShardPlan,
        allocate: Allocate | None = None,
    ) -> None:
        self.length, self.n_features = length, n_features
        self.standard, self.allocate = None, allocate or Buffers()
        self._corpus, self._rows, self._plan = corpus, rows, plan
        self._first = plan.table.shard_run
        self._names = corpus.runs["shard"].to_numpy()[rows[self._first[:-1]]].tolist()
        self._shard = np.repeat(np.arange(len(self._names)), np.diff(self._first))
        self._address = np.zeros(len(rows), np.int64)
        self._mapped = np.zeros(len(rows), bool)
        self._maps: dict[int, object] = {}
        self._valid = range(0)
        self._lock = threading.Lock()  # maps must not go while another thread copies

    def move(self, first: int, count: int) -> None:
        """Have the shards fetched that positions `first` to `first + count - 1` need, and those after."""
        if first in self._valid and first + count - 1 in self._valid:
            return
        with self._lock:
            now, ahead, until = self._plan.at(first, first + count - 1)
            self._valid = range(first, until)
            names = ([self._names[s] for s in shards] for shards in (now, ahead))
            self._corpus.want(*names, reader=f"{id(self)}")
            for shard in self._maps.keys() - set(now):
                self._mapped[self._first[shard] : self._first[shard + 1]] = False
                del self._maps[shard]
                self._corpus.forget(self._names[shard])

    def gather(self, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        """Return left and right, float16 [B, L, V]; waits for shards that are not there yet."""
        with self._lock:
            for runs in (draw.run_left, draw.run_right):
                if not self._mapped[runs].all():
                    for shard in np.unique(self._shard[runs[~self._mapped[runs]]]).tolist():
                        self._map(shard)
            return super().gather(draw)

    def _map(self, shard: int) -> None:
        """Map a shard and note where its runs lie."""
        runs = slice(self._first[shard], self._first[shard + 1])
        self._address[runs] = self._corpus.addresses(self._rows[runs])
        self._maps[shard] = self._corpus.map(self._names[shard])  # it stays for as long as this refers to it
        self._mapped[runs] = True
