"""A study opened once: its corpus, windows and folds, and the pairs and units of a fold."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fmriscale.common.errors import UserError
from fmriscale.common.suggest import did_you_mean
from fmriscale.config import ProbeConfig, StudyConfig
from fmriscale.corpus.manifest import FeatureSpace
from fmriscale.corpus.reader import Corpus
from fmriscale.model.export import read_meta
from fmriscale.sampling.gather import verify_runs
from fmriscale.study.folds import Fold, make_folds, smaller
from fmriscale.study.pairs import Pairs, draw_label_pairs
from fmriscale.study.windows import Windows, cut_windows, side_conditions, windows_of_side


class Metas(dict[Path, dict[str, Any]]):
    """config.json by encoder folder, each read once."""

    def __missing__(self, folder: Path) -> dict[str, Any]:
        self[folder] = read_meta(folder)
        return self[folder]


@dataclass(frozen=True)
class Study:
    """What every job of a study is made from; worker processes get a copy."""

    config: StudyConfig
    fingerprint: str
    """Of the corpus."""
    runs: pd.DataFrame
    """All runs of the corpus."""
    space: FeatureSpace
    windows: Windows
    folds: list[Fold]
    metas: Metas = field(default_factory=Metas)

    def verify(self, corpus: Corpus) -> None:
        """Check every run that takes part against its sha256: what is damaged must not decide a study."""
        verify_runs(corpus, np.unique(self.windows.run_N))

    def pairs(self, fold: Fold, size: int | None = None, seed: int = 0) -> tuple[Pairs, Pairs]:
        """Return the training and the test pairs of a fold; no pair crosses its border."""
        task, rows = self.config.task, fold.train
        if size is not None:
            runs = self.runs.loc[sorted([*fold.train, *fold.test])]
            rows = smaller(fold, runs, self.config.folds_by, size, seed)
        train = windows_of_side(self.windows, task, rows, "train")
        test = windows_of_side(self.windows, task, fold.test, "test")
        try:
            return (
                draw_label_pairs(self.windows, train, task, [fold.number, 0]),
                draw_label_pairs(self.windows, test, task, [fold.number, 1]),
            )
        except UserError as error:
            where = f"{self.config.corpus}, fold {fold.number} without {fold.left_out}"
            raise UserError(f"{where}: {error}") from None

    def units(self, fold: Fold, pairs: Pairs) -> np.ndarray:
        """Return the statistical unit of each pair, text [P]: its left person, or its fold of runs."""
        if self.config.folds_by == "run":
            return np.full(len(pairs), f"fold {fold.number}")
        return self.windows.person_N[pairs.left_P]

    def conditions(self, pairs: Pairs) -> np.ndarray:
        """Return the condition of each (test) pair, text [P]; "" where the task has none.

        Where a study trains on other conditions than it tests, both are named: "heard to imagined".
        """
        task, names = self.config.task, np.array(self.windows.conditions)
        condition_P = names[self.windows.condition_N[pairs.left_P]]
        trained, tested = (
            sorted(set(names) if wanted is None else {str(w) for w in wanted})
            for wanted in (side_conditions(task, "train"), side_conditions(task, "test"))
        )
        return condition_P if trained == tested else np.char.add(f"{' and '.join(trained)} to ", condition_P)


def open_study(config: StudyConfig, corpus: Corpus | None = None) -> Study:
    """Open the corpus, cut the windows and make the folds."""
    corpus = corpus or Corpus.open(config.corpus)
    space, runs = corpus.space(config.space), corpus.runs
    rows = runs_taking_part(config, corpus, space)
    corpus.want(sorted(set(runs["shard"].iloc[rows])))
    windows = cut_windows(corpus, config.task, rows)
    used = runs.loc[np.unique(windows.run_N)]
    folds = make_folds(used, config.folds_by, config.n_folds)
    for fold in folds:
        for size in config.train_sizes or ():
            smaller(fold, used, config.folds_by, size, seed=0)  # refused now, not in the middle of the study
    return Study(config, corpus.fingerprint, runs, space, windows, folds)


def runs_taking_part(config: StudyConfig | ProbeConfig, corpus: Corpus, space: FeatureSpace) -> list[int]:
    """Return the runs of the data sets and splits that a recipe names, in its feature space."""
    runs = corpus.runs
    if unknown := sorted(set(config.datasets or []) - set(runs["dataset"])):
        known = sorted(set(runs["dataset"]))
        raise UserError(f"{corpus}: no data set {unknown}; it has {known}{did_you_mean(unknown[0], known)}")
    taking_part = (runs["space"] == space.name) & runs["split"].isin(config.splits)
    if config.datasets is not None:
        taking_part &= runs["dataset"].isin(config.datasets)
    rows = np.flatnonzero(taking_part).tolist()
    if not rows:
        raise UserError(
            f"{corpus}: no run of space '{space.name}' in splits {config.splits} "
            f"and data sets {config.datasets or 'all'}; choose others"
        )
    return rows
