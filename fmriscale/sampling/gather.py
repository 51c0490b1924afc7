"""Gather sequences out of runs: in place from mapped shards, from a copy in memory, or on the accelerator.

Every way gives the same values, to the bit.
Shapes: B pairs, L volumes of a sequence, V features, R runs, T volumes of a run.
"""

import hashlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import psutil
from llvmlite import ir
from numba import types  # pyright: ignore[reportPrivateImportUsage]
from numba.core import cgutils
from numba.extending import intrinsic

from fmriscale.common.compiled import njit
from fmriscale.common.errors import UserError
from fmriscale.common.workers import available_cores
from fmriscale.corpus.manifest import parse_segments
from fmriscale.corpus.reader import NPY_HEADER, Corpus
from fmriscale.sampling.batch import Batch
from fmriscale.sampling.kernels import REVERSED

Allocate = Callable[[tuple[int, ...]], np.ndarray]
"""Makes a float16 array for a batch; on a GPU in pinned memory, so that it is sent without another copy."""


class Buffers:
    """Float16 arrays for batches in ordinary memory, used again when nobody holds them any more.

    Fresh memory costs a page fault every 4 KiB: batches in it took 3.5 times as long.
    """

    def __init__(self, most: int = 8) -> None:
        self._most = most
        self._owners: list[np.ndarray] = [np.empty(0, np.float16)]
        self._unheld = sys.getrefcount(self._owners[0])  # by the list and the call, as counted below
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


@dataclass(frozen=True)
class Rescaling:
    """Replace the z-scoring of runs by another, or undo it: value * scale + shift."""

    scale_RV: np.ndarray
    shift_RV: np.ndarray

    def apply(self, values_BLV: np.ndarray, run_B: np.ndarray) -> np.ndarray:
        """Convert sequences of the runs; float16."""
        made = values_BLV.astype(np.float32) * self.scale_RV[run_B][:, None] + self.shift_RV[run_B][:, None]
        if np.abs(made).max(initial=0) > np.finfo(np.float16).max:
            raise UserError(
                "data.standardize: none: values beyond 65,504 do not fit float16; use run or subject"
            )
        return made.astype(np.float16)


def rescaling_of(
    corpus: Corpus, rows: np.ndarray, subject_R: np.ndarray, how: Literal["run", "subject", "none"]
) -> Rescaling | None:
    """Return what makes of runs, stored as z-scores, those of `data.standardize`; None where they stay."""
    if how == "run":
        return None
    moments = [corpus.mean_std(int(row)) for row in rows]
    mean_RV, std_RV = (np.stack(values).astype(np.float64) for values in zip(*moments, strict=True))
    if how == "none":
        return Rescaling(std_RV.astype(np.float32), mean_RV.astype(np.float32))
    runs = corpus.runs.iloc[rows]
    n_R1 = (runs.n_volumes - runs.n_censored).to_numpy(np.float64)[:, None]

    def total_of_subject(values_RV: np.ndarray) -> np.ndarray:
        total = np.zeros((int(subject_R.max()) + 1, values_RV.shape[1]))
        np.add.at(total, subject_R, values_RV)
        return total[subject_R]

    n_all = total_of_subject(n_R1)
    mean_all = total_of_subject(n_R1 * mean_RV) / n_all
    squares = total_of_subject((n_R1 - 1) * std_RV**2 + n_R1 * (mean_RV - mean_all) ** 2)
    std_all = np.sqrt(squares / (n_all - 1))
    std_all[std_all == 0] = 1
    scale, shift = std_RV / std_all, (mean_RV - mean_all) / std_all
    return Rescaling(scale.astype(np.float32), shift.astype(np.float32))


# ---------------------------------------------------------------- sequences


class HostRuns:
    """Copy sequences out of runs [T, V] in memory; `owner` keeps their addresses, int64 [R], valid."""

    def __init__(
        self,
        address: np.ndarray,
        length: int,
        n_features: int,
        owner: Any,
        rescaling: Rescaling | None = None,
        allocate: Allocate | None = None,
    ) -> None:
        self.length, self.n_features, self.owner = length, n_features, owner
        self.rescaling, self.allocate = rescaling, allocate or Buffers()
        self._address = address

    def gather(self, drawn: Batch) -> Batch:
        """Read left and right, float16 [B, L, V]."""
        left = self.windows(drawn.run_left, drawn.start_left)
        return drawn._replace(
            left=left, right=self._copy(drawn.run_right, drawn.start_right, drawn.kind == REVERSED)
        )

    def windows(self, run: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Return the sequences of some runs that start at some volumes, int32 [N], as float16 [N, L, V]."""
        return self._copy(run, start, np.zeros(len(run), bool))

    def _copy(self, run: np.ndarray, start: np.ndarray, backwards: np.ndarray) -> np.ndarray:
        out = self.allocate((len(run), self.length, self.n_features))
        row_bytes = out.itemsize * self.n_features
        copy_sequences(self._address, run, start, backwards, self.length, row_bytes, out.ctypes.data)
        if self.rescaling is not None:
            out[:] = self.rescaling.apply(out, run)
        return out


class DeviceRuns:
    """Gather sequences on the accelerator, out of all runs as one tensor [T of all, V].

    Runs go there one by one: the memory of the host holds one a core, not the corpus once a rank.
    """

    def __init__(
        self,
        corpus: Corpus,
        rows: np.ndarray,
        length: int,
        n_features: int,
        device: Any,
        rescaling: Rescaling | None = None,
        shuffle_seed: int | None = None,
    ) -> None:
        import torch

        counts = corpus.runs.n_volumes.to_numpy()[rows]
        self._first, self._steps = np.cumsum(counts) - counts, np.arange(length)
        shape = int(counts.sum()), n_features
        try:
            self.volumes = torch.empty(shape, dtype=torch.float16, device=device)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{corpus}: data.access: device needs {2 * shape[0] * shape[1] / 2**30:.1f} GiB, "
                f"which {device} has not free; use data.access: memory or mmap"
            ) from error

        def fill(i: int) -> None:
            values_TV = np.empty((counts[i], n_features), np.float16)
            read_run(corpus, rows, i, rescaling, shuffle_seed, values_TV)
            self.volumes[self._first[i] : self._first[i] + counts[i]] = torch.from_numpy(values_TV).to(device)

        _on_all_cores(fill, range(len(rows)))
        if self.volumes.device.type == "cuda":  # batches are gathered on another stream
            torch.cuda.synchronize(self.volumes.device)

    def gather(self, drawn: Batch) -> Batch:
        """Read left and right, float16 tensors [B, L, V] on the device."""
        import torch

        turned = np.where((drawn.kind == REVERSED)[:, None], self._steps[::-1], self._steps)
        left_BL = (self._first[drawn.run_left] + drawn.start_left)[:, None] + self._steps
        right_BL = (self._first[drawn.run_right] + drawn.start_right)[:, None] + turned
        both = torch.from_numpy(np.stack((left_BL, right_BL)))
        if self.volumes.device.type == "cuda":
            both = both.pin_memory()
        left, right = self.volumes[both.to(self.volumes.device, non_blocking=True)]
        return drawn._replace(left=left, right=right)


# ---------------------------------------------------------------- whole runs


def copy_runs(
    corpus: Corpus,
    rows: np.ndarray,
    length: int,
    n_features: int,
    rescaling: Rescaling | None,
    allocate: Allocate | None,
    shuffle_seed: int | None = None,
) -> HostRuns:
    """Copy runs into one array [T of all, V], checking the sha256 of each."""
    counts = corpus.runs.n_volumes.to_numpy()[rows]
    first = np.cumsum(counts) - counts
    needed, free = int(counts.sum()) * n_features * 2, free_memory()
    if needed > free:
        raise UserError(
            f"{corpus}: data.access: memory needs {needed / 2**30:.1f} GiB for each rank, "
            f"{free / 2**30:.1f} GiB are free for each; use data.access: mmap"
        )
    volumes = np.empty((int(counts.sum()), n_features), np.float16)

    def fill(i: int) -> None:
        read_run(corpus, rows, i, rescaling, shuffle_seed, volumes[first[i] : first[i] + counts[i]])

    _on_all_cores(fill, range(len(rows)))
    address = volumes.ctypes.data + first * volumes[0].nbytes
    return HostRuns(address, length, n_features, volumes, allocate=allocate)


def read_run(
    corpus: Corpus,
    rows: np.ndarray,
    i: int,
    rescaling: Rescaling | None,
    shuffle_seed: int | None,
    out_TV: np.ndarray,
) -> None:
    """Read the i-th of some runs, check its sha256, and rescale and shuffle it where that is wanted."""
    row = int(rows[i])
    out_TV[:] = corpus.bold(row)
    check_run(corpus, row, out_TV)
    if rescaling is not None:
        out_TV[:] = rescaling.apply(out_TV[None], np.array([i]))[0]
    if shuffle_seed is not None:
        run = corpus.runs.iloc[row]
        shuffle_volumes(out_TV, run.key, run.segments, shuffle_seed)


def shuffle_volumes(values_TV: np.ndarray, key: str, segments: str, seed: int) -> None:
    """Put the uncensored volumes of a run into a random order, in place: a function of seed and key alone."""
    stretches = [np.arange(start, stop) for start, stop in parse_segments(segments)]
    kept = np.concatenate(stretches) if stretches else np.empty(0, np.int64)
    of_run = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    values_TV[kept] = values_TV[np.random.default_rng([seed, of_run]).permutation(kept)]


def free_memory() -> int:
    """Return this rank's share of the memory of its machine that is free or can be freed, bytes.

    All ranks of a machine ask at once, before any has taken its copy.
    """
    return psutil.virtual_memory().available // int(os.environ.get("LOCAL_WORLD_SIZE") or 1)


def verify_runs(corpus: Corpus, rows: np.ndarray) -> None:
    """Check the sha256 of runs in their shards."""
    _on_all_cores(lambda row: check_run(corpus, row, corpus.bold(row)), rows.tolist())


def check_run(corpus: Corpus, row: int, values_TV: np.ndarray) -> None:
    """Compare a run's header in the shard and its values with the sha256 of the manifest."""
    digest = hashlib.sha256(corpus.bytes_before(row, NPY_HEADER))
    digest.update(np.ascontiguousarray(values_TV).data)
    if digest.hexdigest() != corpus.runs.sha256.iloc[row]:
        raise corpus.damage(row, "its values have another sha256 than the manifest tells")


def _on_all_cores(function: Callable[[int], None], items: Any) -> None:
    with ThreadPoolExecutor(available_cores()) as threads:
        list(threads.map(function, items))


# ---------------------------------------------------------------- compiled


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
