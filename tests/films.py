"""Small corpora of people who saw one film: a signal that they share, and noise of their own."""

from pathlib import Path

import numpy as np

from fmriscale import CorpusWriter, FeatureSpace
from fmriscale.config import SplitConfig
from fmriscale.corpus.reader import Corpus

N_SHARED = 6
"""Signals that people share."""


def write_film(
    folder: Path, n_people: int = 12, n_volumes: int = 240, n_features: int = 20, shared: float = 1.0
) -> tuple[Corpus, np.ndarray]:
    """Write a film of 12 people by default, a third of them held out; return it with the mixing [K, V].

    The shared part is K slow signals, mixed alike in all people; the noise is as large in every feature.
    """
    rng = np.random.default_rng(0)
    mixing_KV = rng.standard_normal((N_SHARED, n_features)) / np.sqrt(N_SHARED)
    signal_TK = _slow(rng, n_volumes, N_SHARED)
    with CorpusWriter(folder, split=SplitConfig(val=0.0, test=0.0)) as corpus:
        for person in range(n_people):
            noise_TV = _slow(rng, n_volumes, n_features)
            corpus.add(
                shared * signal_TK @ mixing_KV + noise_TV,
                2.0,
                f"{person:02d}",
                dataset="film",
                task="film",
                space=FeatureSpace("toy", n_features),
                stimulus="film",
            )
    return Corpus.open(folder), mixing_KV


def _slow(rng: np.random.Generator, n_volumes: int, n: int) -> np.ndarray:
    """Return signals of unit variance that change within a few volumes, [T, n]."""
    x_TN = rng.standard_normal((n_volumes + 2, n))
    return (x_TN[:-2] + x_TN[1:-1] + x_TN[2:]) / np.sqrt(3)
