"""How often each data set is drawn from, and which kinds its negatives are: shares as whole numbers."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fmriscale.common.errors import UserError
from fmriscale.common.suggest import did_you_mean
from fmriscale.config import KINDS, DataConfig
from fmriscale.corpus.reader import Corpus
from fmriscale.sampling.kernels import KIND_BLOCK
from fmriscale.sampling.window_index import WindowIndex


class Mixture(NamedTuple):
    """How data sets and kinds alternate in a block of positions."""

    which: np.ndarray  # int32 [block]: data set at each place
    occurrence: np.ndarray  # int64 [block]: how often it occurred before in the block
    quotas: np.ndarray  # int64 [D]: how often each data set occurs in a block
    kinds: np.ndarray  # int8 [D, KIND_BLOCK]: kind of each negative in turn
    numbers: np.ndarray  # int16 [D]: of each data set among those of all groups


class Turns(NamedTuple):
    """How what steps read of alternates in a block of steps: stimuli, or groups of one shape."""

    which: np.ndarray
    occurrence: np.ndarray
    quotas: np.ndarray

    def at(self, step: int) -> tuple[int, int]:
        """Return whose turn a step is, and how often it came before."""
        block, place = divmod(step, len(self.which))
        which = int(self.which[place])
        return which, int(block * self.quotas[which] + self.occurrence[place])


class PassMemo(NamedTuple):
    """What the windowed shuffle remembers of the pass it is in; it can be forgotten at any time."""

    epoch: np.ndarray  # int64 [D]: the pass; -1 = none
    blocks: np.ndarray  # int64 [H + D]: windows in all earlier blocks of the pass


def shares_of(corpus: Corpus, data: DataConfig, datasets: list[str], windows: np.ndarray) -> np.ndarray:
    """Return the share of each data set in training, float64 [D], with sum 1; `windows` counts theirs."""
    if unknown := sorted(set(data.weights) - set(datasets)):
        raise UserError(
            f"data.weights names {', '.join(unknown)}, which are not trained on; "
            f"choose from {', '.join(datasets)}{did_you_mean(unknown[0], datasets)}"
        )
    windows = np.asarray(windows, np.float64)
    if data.mixture == "temperature":
        shares = np.where(windows > 0, windows**data.temperature, 0.0)
    elif data.mixture == "proportional":
        shares = windows
    else:
        recipe = {name: corpus.manifest["datasets"][name].get("weight") for name in datasets}
        given = data.weights or {name: weight for name, weight in recipe.items() if weight is not None}
        shares = np.array([float(given.get(name, 0.0)) for name in datasets])
        without = np.array([name not in given for name in datasets])
        if without.any():
            per_window = shares.sum() / windows[~without].sum() if given else 1.0
            shares[without] = windows[without] * per_window
    if not shares.sum() > 0:
        raise UserError(f"{corpus}: every data set has weight 0; see data.weights and its recipe")
    return shares / shares.sum()


def mixture_of(shares: np.ndarray, kinds: np.ndarray, numbers: np.ndarray) -> Mixture:
    """Spread data sets over a block of positions, and kinds over a block of negatives."""
    quotas = largest_remainder(shares, block_size(shares))
    which, occurrence = interleave(quotas)
    return Mixture(which.astype(np.int32), occurrence, quotas, kinds, numbers)


def turns_of(shares: np.ndarray) -> Turns:
    """Spread steps over what they may read of."""
    quotas = largest_remainder(shares, block_size(shares) if len(shares) > 1 else 1)
    return Turns(*interleave(quotas), quotas)


def kinds_of(
    index: WindowIndex, negatives: dict[str, float], able: Callable[[int], np.ndarray]
) -> np.ndarray:
    """Return the kind of each negative in turn of each data set, int8 [D, KIND_BLOCK].

    The quota of a kind that no run of a data set can supply goes to its other kinds, in proportion; `able`
    tells how many windows of each run can have a kind, int [R], by its code.
    """
    declared = {KINDS.index(kind) + 1: quota for kind, quota in negatives.items() if quota > 0}
    codes = np.array(sorted(declared, key=lambda kind: (-declared[kind], kind)))
    quotas = np.array([declared[kind] for kind in codes])
    able_RK = np.stack([able(code) for code in codes.tolist()], axis=1)
    block = np.zeros((len(index.dataset_first) - 1, KIND_BLOCK), np.int8)
    for d, (first, last) in enumerate(zip(index.dataset_first, index.dataset_first[1:], strict=False)):
        is_able = (able_RK[first:last] > 0).any(axis=0)
        if is_able.any():
            turns = largest_remainder(np.where(is_able, quotas, 0.0), KIND_BLOCK)
            block[d] = codes[interleave(turns)[0]]
    return block


def largest_remainder(shares: Sequence[float] | np.ndarray, total: int) -> np.ndarray:
    """Split `total` into integer quotas in proportion to `shares` (Hamilton's method), int64 [N]."""
    exact = np.asarray(shares, np.float64) / np.sum(shares) * total
    quotas = np.floor(exact).astype(np.int64)
    rest = int(total - quotas.sum())
    quotas[np.argsort(quotas - exact, kind="stable")[:rest]] += 1
    return quotas


def interleave(quotas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spread quotas evenly over a block; return which comes at each place, and how often it came before."""
    which = np.repeat(np.arange(len(quotas)), quotas)
    occurrence = np.concatenate([np.arange(q) for q in quotas]) if len(quotas) else which
    place = (occurrence + 0.5) / quotas[which]
    order = np.lexsort((which, place))
    return which[order], occurrence[order]


def block_size(shares: np.ndarray) -> int:
    """Return a block length in which even the smallest share keeps its proportion within an eighth."""
    smallest = np.min(shares[shares > 0]) / np.sum(shares)
    return int(np.clip(np.ceil(8 / smallest), 1024, 2**20))
