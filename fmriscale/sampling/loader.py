"""Deliver pairs by position: `batch(first, count)` is a pure function of the corpus, settings and seed.

Step s of global batch G is positions s*G to (s+1)*G; ranks and accumulation slice it. The state of the
data is therefore one number, the pairs consumed.
"""

import dataclasses
import fnmatch
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numba import carray, njit, types  # pyright: ignore[reportPrivateImportUsage]
from numba.extending import intrinsic

from fmriscale.config import KINDS, DataConfig
from fmriscale.corpus.reader import Corpus
from fmriscale.errors import UserError
from fmriscale.sampling import order, pairs

_POSITIVE_ORDER, _NEGATIVE_ORDER, _KIND, _PARTNER = range(4)
"""Streams of random numbers: each use of the seed has its own."""
_KIND_BLOCK = 240
"""Negatives in which the quotas of kinds are exact."""


@dataclass(frozen=True)
class Batch:
    """B pairs of sequences of L volumes and V features.

    Attributes
    ----------
    left, right : float16 [B, L, V]
        The sequences.
    label : int64 [B]
        1 where right follows left.
    kind : int8 [B]
        0 for a positive, else 1 + index in `config.KINDS`.
    dataset : int16 [B]
        Index of the left sequence's data set in the loader's `datasets`.
    t_r : float32 [B]
        Repetition time of the left run, s.
    run_left, run_right, start_left, start_right : int32 [B]
        Rows in the corpus and first volumes.
    """

    left: np.ndarray
    right: np.ndarray
    label: np.ndarray
    kind: np.ndarray
    dataset: np.ndarray
    t_r: np.ndarray
    run_left: np.ndarray
    run_right: np.ndarray
    start_left: np.ndarray
    start_right: np.ndarray


class NTPLoader:
    """Next Thought Prediction pairs of one feature space of a corpus.

    Parameters
    ----------
    corpus : Corpus
        An open corpus.
    data : DataConfig
        Data sets, mixture, held-out runs and pairs.
    split : {"train", "eval"}
        train: runs of the train split; eval: those of the val split and all that match `holdout_runs`,
        every data set with the same weight.
    seed : int
        Seed of order and pairs.

    Raises
    ------
    UserError
        A data set that is not in the corpus, no run in which a pair fits, or runs that can supply none
        of the declared kinds of negatives.
    """

    def __init__(self, corpus: Corpus, data: DataConfig, split: Literal["train", "eval"], seed: int) -> None:
        self.corpus, self.data, self.seed = corpus, data, seed
        self.space = corpus.space(data.space)
        rows = select_runs(corpus, data, split)
        present = set(corpus.runs.dataset.iloc[rows])
        self.datasets = [name for name in sorted(present) if data.datasets is None or name in data.datasets]
        self.windows = pairs.find_windows(corpus.runs, rows, self.datasets, data.pairs)
        w = self.windows
        self.n_windows = int(w.n_windows.sum())
        if self.n_windows == 0:
            raise UserError(
                f"{corpus.folder}: no run of split '{split}' holds a pair of "
                f"2 x {data.pairs.length} volumes with gap {data.pairs.gap}; shorten pairs.length or "
                "pairs.gap, or check data.datasets, data.holdout_runs and the splits (fmriscale inspect)"
            )
        self.too_short = len(rows) - len(w.row)
        self.run_keys = corpus.runs.key.iloc[w.row].tolist()

        count = np.bincount(w.dataset, w.n_windows, len(self.datasets)).astype(np.int64)
        self._window_count, self._window_first = count, np.cumsum(count) - count
        shares = count.astype(float) if split == "train" else (count > 0).astype(float)
        if split == "train" and data.mixture == "weights":
            shares = _weighted(corpus, self.datasets, shares)
        self.block = order.block_size(shares)
        self.quotas = order.largest_remainder(shares, self.block)
        self._which, self._occurrence = order.interleave(self.quotas)

        self._able = pairs.can_supply(w, data.pairs)
        declared = {KINDS.index(kind) + 1: quota for kind, quota in data.pairs.negatives.items() if quota > 0}
        self._declared = sorted(declared, key=lambda kind: (-declared[kind], kind))
        quota = order.largest_remainder([declared[k] for k in self._declared], _KIND_BLOCK)
        self._kind_block = np.array(self._declared)[order.interleave(quota)[0]]
        self._check_kinds()

        runs = corpus.runs.iloc[w.row]
        self._t_r = runs.t_r.to_numpy(np.float32)
        self._views = [corpus.bold(int(row)) for row in w.row]  # keeps the maps alive
        self._address = np.array([view.ctypes.data for view in self._views], np.int64)
        settings = [
            corpus.fingerprint,
            dataclasses.asdict(data.pairs),
            self.run_keys,
            self.quotas.tolist(),
            seed,
        ]
        self.fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def batch(self, first: int, count: int) -> Batch:
        """Return the pairs at positions `first` to `first + count - 1` of the global order."""
        w, settings = self.windows, self.data.pairs
        position = np.arange(first, first + count, dtype=np.int64)
        block, place = np.divmod(position, self.block)
        dataset = self._which[place]
        draw = block * self.quotas[dataset] + self._occurrence[place]

        # Even draws of a data set are positives, odd ones negatives; each has its own pass over the windows.
        label = 1 - draw % 2
        epoch, index = np.divmod(draw // 2, self._window_count[dataset])
        stream = np.where(label == 1, _POSITIVE_ORDER, _NEGATIVE_ORDER)
        keys = order.key_of(self.seed, stream, dataset, epoch)
        index = order.permute(index, self._window_count[dataset], keys)
        run, start = pairs.left_window(w, self._window_first[dataset] + index, settings)

        kind = self._kind_block[(draw // 2) % _KIND_BLOCK]
        kind = np.where(label == 1, 0, pairs.supplied_kind(self._able[run], kind, self._declared))
        u = order.uniform(order.key_of(self.seed, _PARTNER), position)
        right_run, right_start = pairs.right_window(w, run, start, kind, u, settings)

        right = self._gather(right_run, right_start)
        backwards = kind == pairs.REVERSED
        right[backwards] = right[backwards, ::-1]
        return Batch(
            left=self._gather(run, start),
            right=right,
            label=label.astype(np.int64),
            kind=kind.astype(np.int8),
            dataset=dataset.astype(np.int16),
            t_r=self._t_r[run],
            run_left=w.row[run],
            run_right=w.row[right_run],
            start_left=start.astype(np.int32),
            start_right=right_start.astype(np.int32),
        )

    def describe(self) -> dict[str, Any]:
        """Return what the loader will deliver: windows, mixture as quotas, and kinds as supplied."""
        able = np.average(self._able, axis=0, weights=self.windows.n_windows)
        notes = [
            f"{KINDS[k - 1]}: {1 - able[k]:.1%} of the windows lie in runs that cannot supply it; "
            "other declared kinds take their place"
            for k in self._declared
            if able[k] < 1
        ]
        if self.too_short:
            notes.append(f"{self.too_short} runs are too short for a pair")
        return {
            "windows": self.n_windows,
            "pairs_per_epoch": 2 * self.n_windows,
            "runs": len(self.run_keys),
            "mixture": dict(zip(self.datasets, (self.quotas / self.block).tolist(), strict=True)),
            "kinds": [KINDS[k - 1] for k in self._declared],
            "notes": notes,
        }

    def _gather(self, run: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Copy sequences out of the mapped shards, float16 [B, L, V]."""
        n_features = self.space.n_features
        out = np.empty((len(run), self.data.pairs.length, n_features), np.float16)
        _copy(self._address[run] + start * (2 * n_features), out.view(np.uint16).reshape(len(run), -1))
        return out

    def _check_kinds(self) -> None:
        """Refuse runs that can supply none of the declared kinds."""
        helpless = ~self._able[:, self._declared].any(axis=1)
        if helpless.any():
            run = int(np.argmax(helpless))
            kinds = ", ".join(KINDS[k - 1] for k in self._declared)
            raise UserError(
                f"{helpless.sum()} runs (first: {self.run_keys[run]}, {self.windows.n_starts[run]} possible "
                f"starts) can supply none of the negatives: {kinds}; add a kind to pairs.negatives "
                "('reversed' is always possible) or lower pairs.min_distance"
            )


def select_runs(corpus: Corpus, data: DataConfig, split: Literal["train", "eval"]) -> np.ndarray:
    """Return the rows of the corpus that a split may draw from, int64 [R].

    Raises
    ------
    UserError
        A data set that the corpus does not hold in this feature space.
    """
    runs, space = corpus.runs, corpus.space(data.space)
    in_space = (runs.space == space.name).to_numpy()
    missing = sorted(set(data.datasets or []) - set(runs.dataset[in_space]))
    if missing:
        there = ", ".join(sorted(set(runs.dataset[in_space])))
        raise UserError(
            f"{corpus.folder}: no data set {', '.join(missing)} in space '{space.name}'; choose from {there}"
        )
    held_out = np.zeros(len(runs), bool)
    for pattern in data.holdout_runs:
        matched = np.array([fnmatch.fnmatchcase(key, pattern) for key in runs.key], bool)
        if not matched.any():
            raise UserError(f"{corpus.folder}: data.holdout_runs '{pattern}' matches no run key")
        held_out |= matched
    if data.datasets is not None:
        in_space = in_space & runs.dataset.isin(data.datasets).to_numpy()
    wanted = (
        (runs.split == "val").to_numpy() | held_out
        if split == "eval"
        else (runs.split == "train") & ~held_out
    )
    return np.flatnonzero(in_space & np.asarray(wanted))


def _weighted(corpus: Corpus, datasets: list[str], windows: np.ndarray) -> np.ndarray:
    """Apply the weights of the corpus recipe; data sets without one share the rest by windows."""
    weight = [corpus.manifest["datasets"][name].get("weight") for name in datasets]
    given = np.array([w is not None for w in weight])
    if not given.any():
        return windows
    shares = np.array([0.0 if w is None else float(w) for w in weight])
    if not given.all():
        per_window = shares.sum() / windows[given].sum()
        shares[~given] = windows[~given] * per_window
    return shares


@intrinsic
def _pointer(_context, _address):
    """Make a pointer of an address."""

    def codegen(context, builder, _signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), codegen


@njit(cache=True, nogil=True)
def _copy(address: np.ndarray, out: np.ndarray) -> None:
    """Copy out.shape[1] uint16 values from each address; float16 is moved as uint16, bit for bit."""
    n = out.shape[1]
    for i in range(out.shape[0]):
        out[i] = carray(_pointer(address[i]), n, np.uint16)  # pyright: ignore[reportCallIssue]
