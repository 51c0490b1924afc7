"""The connectivity of whole runs, which teaches whose windows are alike.

The idea is F-BERT's (Marraffini; see docs/objectives.md). Shapes: R runs, T volumes, V features, F entries.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from fmriscale.common.errors import UserError
from fmriscale.common.randomness import GOLDEN, mix
from fmriscale.corpus.manifest import parse_segments
from fmriscale.corpus.reader import Corpus

MOST_ENTRIES = 4096
"""More entries of a run's connectivity are folded into so many."""
MOST_FEATURES = 2048
"""More features have too many pairs to be correlated one by one."""
STRONGEST = 1 - 1e-6
"""Correlations are clipped to this before Fisher's transformation."""


class Teacher:
    """A vector of each run: its connectivity less that of the mean training run, with norm 1.

    Connectivity is Fisher's z of the correlation of every two features over the uncensored volumes. Feature
    spaces are taken one by one: their vectors cannot be compared.

    Parameters
    ----------
    corpus : Corpus
        An open corpus.
    rows : ndarray of int
        Rows of the runs.
    training : ndarray of int
        Those of training, whose mean is taken away from all.
    rank, world_size : int
        Each rank reads a share of the runs, and has the vectors of all.
    """

    def __init__(
        self, corpus: Corpus, rows: np.ndarray, training: np.ndarray, rank: int = 0, world_size: int = 1
    ) -> None:
        self._place = np.full(len(corpus.runs), -1)
        self._place[rows] = np.arange(len(rows))
        spaces = corpus.runs.space.to_numpy()[rows]
        widths = {name: _width(corpus, name) for name in sorted(set(spaces))}
        vectors_RF = torch.zeros(len(rows), max(widths.values(), default=0))
        for i in range(rank, len(rows), world_size):
            vector_F = fold(connectivity(_volumes(corpus, int(rows[i]))))
            vectors_RF[i, : len(vector_F)] = torch.from_numpy(vector_F)
        if world_size > 1:
            dist.all_reduce(vectors_RF)  # each row comes from one rank, so the sum is exact
        is_training = np.isin(rows, training)
        for name in widths:
            of_space = spaces == name
            mean_F = vectors_RF[of_space & is_training].double().mean(dim=0)
            vectors_RF[of_space] -= mean_F.float()
        self._vectors_RF = torch.nn.functional.normalize(vectors_RF, dim=1)

    def of(self, row_B: np.ndarray) -> Tensor:
        """Return the vectors of runs by their rows in the corpus, float32 [B, F]."""
        return self._vectors_RF[self._place[row_B]]


def connectivity(volumes: Iterator[np.ndarray]) -> np.ndarray:
    """Return Fisher's z of the correlation of every two features, float64 [V (V - 1) / 2]; 0 of flat ones."""
    x_TV = np.concatenate(list(volumes)).astype(np.float64)
    x_TV -= x_TV.mean(axis=0)
    norm_V = np.linalg.norm(x_TV, axis=0)
    x_TV /= np.where(norm_V > 0, norm_V, 1)
    upper = np.triu_indices(x_TV.shape[1], 1)
    return np.arctanh(np.clip((x_TV.T @ x_TV)[upper], -STRONGEST, STRONGEST))


def fold(values_N: np.ndarray, n_entries: int = MOST_ENTRIES) -> np.ndarray:
    """Return a vector as it is, or where it is longer its sum by random signs into so many entries, float32.

    A count sketch (Charikar, Chen & Farach-Colton 2002): it keeps inner products in the mean, with a
    deviation of about 1 / sqrt(n_entries) of the product of norms. The signs are the same for all vectors.
    """
    if len(values_N) <= n_entries:
        return values_N.astype(np.float32)
    bits_N = mix(np.arange(1, len(values_N) + 1, dtype=np.uint64) * GOLDEN)
    sign_N = 1.0 - 2.0 * (bits_N & np.uint64(1))
    place_N = ((bits_N >> np.uint64(1)) % np.uint64(n_entries)).astype(np.int64)
    return np.bincount(place_N, sign_N * values_N, minlength=n_entries).astype(np.float32)


def _width(corpus: Corpus, space: str) -> int:
    """Return the entries of a run's vector in a feature space."""
    n = corpus.spaces[space].n_features
    if n > MOST_FEATURES:
        raise UserError(
            f"train.connectivity_weight correlates every two features, and space {space} has {n}: at most "
            f"{MOST_FEATURES:,}; use parcels, or name another data.space"
        )
    return min(n * (n - 1) // 2, MOST_ENTRIES)


def _volumes(corpus: Corpus, row: int) -> Iterator[np.ndarray]:
    """Yield the uncensored stretches of a run, [T, V]."""
    bold_TV = corpus.bold(row)
    for start, stop in parse_segments(corpus.runs.segments.iloc[row]):
        yield bold_TV[start:stop]
