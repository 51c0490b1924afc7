"""What every cell of a study is made from: corpus, windows, folds, and the pairs and units of a fold."""

from dataclasses import dataclass

import numpy as np

from fmriscale.common.errors import UserError
from fmriscale.config import StudyConfig
from fmriscale.corpus.manifest import FeatureSpace
from fmriscale.corpus.reader import Corpus
from fmriscale.sampling.gather import verify_runs
from fmriscale.study.folds import Fold, make_folds, smaller
from fmriscale.study.pairs import Pairs, Windows, draw_pairs, members_of, side_conditions
from fmriscale.study.sequences import cut_windows


@dataclass(frozen=True)
class Material:
    """What every cell of a study is made from."""

    corpus: Corpus
    space: FeatureSpace
    windows: Windows
    folds: list[Fold]


def prepare(config: StudyConfig) -> Material:
    """Open the corpus, cut the windows and make the folds."""
    corpus = Corpus.open(config.corpus)
    space = corpus.space(config.space)
    unknown = sorted(set(config.datasets or []) - set(corpus.runs["dataset"]))
    if unknown:
        raise UserError(f"{corpus}: no data set {unknown}; it has {sorted(set(corpus.runs['dataset']))}")
    table = corpus.runs
    takes_part = (table["space"] == space.name) & table["split"].isin(config.splits)
    if config.datasets is not None:
        takes_part &= table["dataset"].isin(config.datasets)
    runs = table.loc[takes_part]
    if runs.empty:
        raise UserError(
            f"{corpus}: no run of space '{space.name}' in splits {config.splits} "
            f"and data sets {config.datasets or 'all'}; choose others"
        )
    corpus.want(sorted(set(runs["shard"])))
    windows = cut_windows(corpus, config.task, runs.index.tolist())
    used = table.loc[np.unique(windows.run_N)]
    folds = make_folds(used, config.folds_by, config.n_folds)
    for fold in folds:
        for size in config.train_sizes or ():
            smaller(fold, used, config.folds_by, size, seed=0)  # now, and not in the middle of the study
    return Material(corpus, space, windows, folds)


def verify(material: Material) -> None:
    """Check every run that takes part against its sha256: what is damaged must not decide a study."""
    verify_runs(material.corpus, np.unique(material.windows.run_N))


def fold_pairs(
    config: StudyConfig, material: Material, fold: Fold, size: int | None = None, seed: int = 0
) -> tuple[Pairs, Pairs]:
    """Return the training and the test pairs of a fold; no pair crosses its border."""
    runs = material.corpus.runs.loc[sorted([*fold.train, *fold.test])]
    kept = fold.train if size is None else smaller(fold, runs, config.folds_by, size, seed)
    windows, task = material.windows, config.task
    sides = members_of(windows, task, kept, "train"), members_of(windows, task, fold.test, "test")
    try:
        train, test = (
            draw_pairs(windows, members, task, [fold.number, side]) for side, members in enumerate(sides)
        )
    except UserError as error:
        raise UserError(f"{material.corpus}, fold {fold.number} without {fold.left_out}: {error}") from None
    return train, test


def units(config: StudyConfig, material: Material, fold: Fold, pairs: Pairs) -> np.ndarray:
    """Return the statistical unit of each pair, text [P]: its left person; with folds_by: run, its fold."""
    if config.folds_by == "run":
        return np.full(len(pairs.same_P), f"fold {fold.number}")
    return material.windows.person_N[pairs.left_P]


def conditions(config: StudyConfig, material: Material, pairs: Pairs) -> np.ndarray:
    """Return the condition of each (test) pair, text [P]; "" where the task has none.

    Where a study trains on other conditions than it tests, both are named: "heard to imagined".
    """
    task, names = config.task, np.array(material.windows.conditions)
    own_P = names[material.windows.condition_N[pairs.left_P]]
    trained, tested = (
        sorted(set(names) if wanted is None else {str(w) for w in wanted})
        for wanted in (side_conditions(task, "train"), side_conditions(task, "test"))
    )
    if trained == tested:
        return own_P
    return np.char.add(f"{' and '.join(trained)} to ", own_P)
