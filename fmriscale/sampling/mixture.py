"""How often each data set is drawn from, and which kinds its negatives are: shares as whole numbers."""

import numpy as np

from fmriscale.common.errors import UserError
from fmriscale.config import KINDS, DataConfig
from fmriscale.corpus.reader import Corpus
from fmriscale.sampling.order import block_size, interleave, largest_remainder
from fmriscale.sampling.tables import KIND_BLOCK, Mixture, Table


def shares_of(corpus: Corpus, data: DataConfig, datasets: list[str], windows: np.ndarray) -> np.ndarray:
    """Return the share of each data set in training, float64 [D], with sum 1."""
    if unknown := sorted(set(data.weights) - set(datasets)):
        raise UserError(
            f"data.weights names {', '.join(unknown)}, which are not trained on; "
            f"choose from {', '.join(datasets)}"
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


def mixture_of(shares: np.ndarray, kinds: np.ndarray) -> Mixture:
    """Spread data sets over a block of positions, and kinds over a block of negatives."""
    quotas = largest_remainder(shares, block_size(shares))
    which, occurrence = interleave(quotas)
    return Mixture(which.astype(np.int32), occurrence, quotas, kinds)


def kinds_of(table: Table, negatives: dict[str, float]) -> np.ndarray:
    """Return the kind of each negative in turn of each data set, int8 [D, KIND_BLOCK].

    The quota of a kind that no run of a data set can supply goes to its other kinds, in proportion.
    """
    declared = {KINDS.index(kind) + 1: quota for kind, quota in negatives.items() if quota > 0}
    codes = np.array(sorted(declared, key=lambda kind: (-declared[kind], kind)))
    quotas = np.array([declared[kind] for kind in codes])
    block = np.zeros((len(table.dataset_first) - 1, KIND_BLOCK), np.int8)
    for d, (first, last) in enumerate(zip(table.dataset_first, table.dataset_first[1:], strict=False)):
        able = (table.runs["reach"][first:last, codes] > 0).any(axis=0)
        if able.any():
            turns = largest_remainder(np.where(able, quotas, 0.0), KIND_BLOCK)
            block[d] = codes[interleave(turns)[0]]
    return block
