"""Where sequences are copied from: the mapped shards themselves, or a copy of all runs in memory.

Every way gives the same values, to the bit. B pairs, L volumes, V features, R runs.
"""

import hashlib
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from llvmlite import ir
from numba import njit, types  # pyright: ignore[reportPrivateImportUsage]
from numba.core import cgutils
from numba.extending import intrinsic

from fmriscale.common.errors import UserError
from fmriscale.common.workers import available_cores
from fmriscale.corpus.manifest import parse_segments
from fmriscale.corpus.reader import NPY_HEADER, Corpus
from fmriscale.sampling.tables import REVERSED, Draw

Allocate = Callable[[tuple[int, ...]], np.ndarray]
"""Makes a float16 array for a batch; on a GPU in pinned memory, so that it is sent without another copy."""


class Buffers:
    """Float16 arrays for batches in ordinary memory, used again when nobody holds them any more.

    Fresh memory costs a page fault every 4 KiB: batches in it took 3.5 times as long.
    """

    def __init__(self, most: int = 8) -> None:
        self._most = most
        self._owners: list[np.ndarray] = [np.empty(0, np.float16)]
        self._unheld = sys.getrefcount(self._owners[0])  # by the list and the call, as it is asked below
        self._lock = threading.Lock()

    def __call__(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array of this shape; its values are whatever was there."""
        with self._lock:
            free = None
            for i in range(len(self._owners)):
                # Views, and tensors over them, hold the array that owns the memory.
                if sys.getrefcount(self._owners[i]) == self._unheld:
                    if self._owners[i].shape == shape:
                        return self._owners[i].view()
                    free = i
            made = np.empty(shape, np.float16)
            if len(self._owners) < self._most:
                self._owners.append(made)
            elif free is not None:
                self._owners[free] = made
            return made.view()


class Source(Protocol):
    """Anything that turns places into sequences."""

    def gather(self, draw: Draw) -> tuple[Any, Any]:
        """Return left and right, float16 [B, L, V]; a `reversed` right has its last volume first."""
        ...


@dataclass(frozen=True)
class Standard:
    """Another standardisation than the stored one: value * scale + shift.

    Attributes
    ----------
    scale, shift : float32 [R, V]
        One row a run.
    """

    scale: np.ndarray
    shift: np.ndarray

    def apply(self, values: np.ndarray, run: np.ndarray) -> np.ndarray:
        """Convert sequences [B, L, V] (or runs) of the runs [B]; float16."""
        made = values.astype(np.float32) * self.scale[run][:, None] + self.shift[run][:, None]
        if np.abs(made).max(initial=0) > np.finfo(np.float16).max:
            raise UserError(
                "data.standardize: none: values beyond 65,504 do not fit float16; use run or subject"
            )
        return made.astype(np.float16)


def standard_of(
    corpus: Corpus, rows: np.ndarray, subject: np.ndarray, how: Literal["run", "subject", "none"]
) -> Standard | None:
    """Read what changes the standardisation of runs; None where they stay as they are stored."""
    if how == "run":
        return None
    pairs = [corpus.mean_std(int(row)) for row in rows]
    mean_RV = np.stack([mean for mean, _ in pairs]).astype(np.float64)
    std_RV = np.stack([std for _, std in pairs]).astype(np.float64)
    if how == "none":
        return Standard(std_RV.astype(np.float32), mean_RV.astype(np.float32))
    runs = corpus.runs.iloc[rows]
    n_R1 = (runs.n_volumes - runs.n_censored).to_numpy(np.float64)[:, None]
    n_subjects = int(subject.max()) + 1

    def pooled(values_RV: np.ndarray) -> np.ndarray:
        total = np.zeros((n_subjects, values_RV.shape[1]))
        np.add.at(total, subject, values_RV)
        return total[subject]

    n_pooled = pooled(n_R1)
    mean_pooled = pooled(n_R1 * mean_RV) / n_pooled
    squares = pooled((n_R1 - 1) * std_RV**2 + n_R1 * (mean_RV - mean_pooled) ** 2)
    std_pooled = np.sqrt(squares / (n_pooled - 1))
    std_pooled[std_pooled == 0] = 1
    scale, shift = std_RV / std_pooled, (mean_RV - mean_pooled) / std_pooled
    return Standard(scale.astype(np.float32), shift.astype(np.float32))


class MappedRuns:
    """Sequences out of the mapped shards, in place.

    Parameters
    ----------
    corpus : Corpus
        Maps the shards.
    rows : int array [R]
        Rows of the runs.
    length, n_features : int
        L and V.
    standard : Standard, optional
        Applied to every batch.
    allocate : function
        Makes the arrays of a batch; None = `Buffers`.
    """

    def __init__(
        self,
        corpus: Corpus,
        rows: np.ndarray,
        length: int,
        n_features: int,
        standard: Standard | None = None,
        allocate: Allocate | None = None,
    ) -> None:
        self.length, self.n_features = length, n_features
        self.standard, self.allocate = standard, allocate or Buffers()
        self._corpus = corpus  # keeps the maps alive
        self._address = corpus.addresses(rows)

    def gather(self, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        """Return left and right, float16 [B, L, V]."""
        backwards = draw.kind == REVERSED
        left = self._copy(draw.run_left, draw.start_left, np.zeros_like(backwards))
        return left, self._copy(draw.run_right, draw.start_right, backwards)

    def _copy(self, run: np.ndarray, start: np.ndarray, backwards: np.ndarray) -> np.ndarray:
        out = self.allocate((len(run), self.length, self.n_features))
        row_bytes = out.itemsize * self.n_features
        copy_sequences(self._address, run, start, backwards, self.length, row_bytes, out.ctypes.data)
        if self.standard is not None:
            out[:] = self.standard.apply(out, run)
        return out


class MemoryRuns(MappedRuns):
    """Sequences out of one copy of all runs, made and checked at the start; see `MappedRuns`."""

    def __init__(
        self,
        corpus: Corpus,
        rows: np.ndarray,
        length: int,
        n_features: int,
        standard: Standard | None = None,
        allocate: Allocate | None = None,
        shuffled: int | None = None,
    ) -> None:
        self.length, self.n_features = length, n_features
        self.standard, self.allocate = None, allocate or Buffers()  # the copy has its standardisation already
        self._volumes, first = copy_runs(corpus, rows, n_features, standard, shuffled)
        self._address = self._volumes.ctypes.data + first * (2 * n_features)


def copy_runs(
    corpus: Corpus,
    rows: np.ndarray,
    n_features: int,
    standard: Standard | None,
    shuffled: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Copy runs into one array, checking the sha256 of each."""
    counts = corpus.runs.n_volumes.to_numpy()[rows]
    first = np.cumsum(counts) - counts
    needed, free = int(counts.sum()) * n_features * 2, free_memory()
    if needed > free:
        raise UserError(
            f"{corpus}: data.access: memory needs {needed / 2**30:.1f} GiB for each rank, "
            f"{free / 2**30:.1f} GiB are free; use data.access: mmap"
        )
    volumes = np.empty((int(counts.sum()), n_features), np.float16)

    def fill(i: int) -> None:
        values = volumes[first[i] : first[i] + counts[i]]
        values[:] = corpus.bold(int(rows[i]))
        check_run(corpus, int(rows[i]), values)
        if standard is not None:
            values[:] = standard.apply(values[None], np.array([i]))[0]
        if shuffled is not None:
            shuffle_volumes(
                values, corpus.runs.key.iloc[rows[i]], corpus.runs.segments.iloc[rows[i]], shuffled
            )

    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(fill, range(len(rows))))
    return volumes, first


def shuffle_volumes(values_TV: np.ndarray, key: str, segments: str, seed: int) -> None:
    """Put the uncensored volumes of a run into a random order, in place: a function of seed and key alone."""
    stretches = [np.arange(start, stop) for start, stop in parse_segments(segments)]
    kept = np.concatenate(stretches) if stretches else np.empty(0, np.int64)
    of_run = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    values_TV[kept] = values_TV[np.random.default_rng([seed, of_run]).permutation(kept)]


def free_memory() -> int:
    """Return the bytes of memory that are free or can be freed."""
    told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(told["MemAvailable"].split()[0]) * 1024


def verify_runs(corpus: Corpus, rows: np.ndarray) -> None:
    """Check the sha256 of runs in their shards, on all cores."""
    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(lambda row: check_run(corpus, row, corpus.bold(row)), (int(row) for row in rows)))


def check_run(corpus: Corpus, row: int, values: np.ndarray) -> None:
    """Compare a run's header in the shard and its values [T, V] with the sha256 of the manifest."""
    digest = hashlib.sha256(corpus.bytes_before(row, NPY_HEADER))
    digest.update(np.ascontiguousarray(values).data)
    told = corpus.runs.sha256.iloc[row]
    if digest.hexdigest() != told:
        raise corpus.damage(row, "its values have another sha256 than the manifest tells")


@intrinsic
def _memcpy(_context, _target, _source, _count):
    """Copy bytes between addresses: the C library's routine is 2.7 times as fast as a compiled loop."""

    def codegen(context, builder, _signature, arguments):
        pointer = ir.IntType(8).as_pointer()
        target, source = (builder.inttoptr(address, pointer) for address in arguments[:2])
        cgutils.raw_memcpy(builder, target, source, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@njit(cache=True, nogil=True)
def copy_sequences(address, run, start, backwards, length, row_bytes, out):
    """Copy sequences of `length` rows (volumes) out of runs whose first row lies at `address`."""
    # Addresses first: those of many runs are not in the cache, and here the processor waits for many at once.
    source = np.empty(len(run), np.int64)
    for i in range(len(run)):
        source[i] = address[run[i]] + np.int64(start[i]) * row_bytes
    for i in range(len(run)):
        target = out + i * length * row_bytes
        if backwards[i]:
            for row in range(length):
                last = source[i] + (length - 1 - row) * row_bytes
                _memcpy(target + row * row_bytes, last, row_bytes)  # pyright: ignore[reportCallIssue]
        else:
            _memcpy(target, source[i], length * row_bytes)  # pyright: ignore[reportCallIssue]
