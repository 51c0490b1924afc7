"""Small corpora of people who saw one film: every volume tells its own place in stimulus time."""

from pathlib import Path

import numpy as np

from fmriscale import CorpusWriter, FeatureSpace
from fmriscale.config import SplitConfig
from fmriscale.corpus.reader import Corpus

SPACE = FeatureSpace("toy", 4)


def write_films(folder: Path, runs: list[dict], split: SplitConfig | None = None) -> Corpus:
    """Write runs of {subject, stimulus, onset, t_r, n, mask, dataset, run}; feature 0 is the time / 8, s.

    Nothing is z-scored, so that values can be read off.
    """
    with CorpusWriter(folder, split=split or SplitConfig(val=0.0, test=0.0)) as corpus:
        for number, given in enumerate(runs):
            n, t_r, onset = given.get("n", 100), given.get("t_r", 2.0), given.get("onset", 0.0)
            bold = np.random.default_rng(number).normal(size=(n, 4))
            bold[:, 0] = (np.arange(n) * t_r - onset) / 8
            corpus.add(
                bold,
                t_r,
                given["subject"],
                dataset=given.get("dataset", "film"),
                task=given.get("stimulus") or "rest",
                run=given.get("run", ""),
                space=given.get("space", SPACE),
                sample_mask=given.get("mask"),
                mean=np.zeros(4),
                std=np.ones(4),
                stimulus=given.get("stimulus"),
                stimulus_onset=onset,
            )
    return Corpus.open(folder)


def stimulus_time(corpus: Corpus, row, start) -> np.ndarray:
    """Return the stimulus time of volumes `start` of runs `row`, s."""
    runs = corpus.runs
    return np.asarray(start) * runs.t_r.to_numpy()[row] - runs.stimulus_onset.to_numpy()[row]
