import numpy as np
import pandas as pd
import pytest

from fmriscale.errors import UserError
from fmriscale.evaluation.folds import make_folds, refuse_seen_runs


def table(n_persons: int, n_runs: int) -> pd.DataFrame:
    person, run = (a.ravel() for a in np.indices((n_persons, n_runs)))
    runs = pd.DataFrame({"person": [f"d/{p:02d}" for p in person], "run": [f"{r + 1}" for r in run]})
    return runs.assign(session="", task="t", key=[f"k{i}" for i in range(len(runs))])


@pytest.mark.parametrize(("by", "n_folds"), [("subject", 3), ("subject", 7), ("run", 4), ("run", 12)])
def test_every_unit_is_left_out_once_and_never_on_both_sides(by, n_folds):
    runs = table(7, 12)
    folds = make_folds(runs, by, n_folds)
    assert sorted(np.concatenate([f.test for f in folds])) == list(range(84))
    unit = runs["person"] if by == "subject" else runs["run"]
    for fold in folds:
        assert len(fold.train) + len(fold.test) == 84
        assert not set(unit[fold.train]) & set(unit[fold.test])
    sizes = [len(f.left_out) for f in folds]
    assert max(sizes) - min(sizes) <= 1


def test_leave_runs_out_takes_every_nth_run():
    fold = make_folds(table(2, 12), "run", 4)[1]
    assert fold.left_out == ("2", "6", "10")
    assert fold.test.tolist() == [1, 5, 9, 13, 17, 21]


def test_folds_keep_the_rows_of_the_corpus_and_depend_on_nothing_else():
    runs = table(6, 2)
    part = runs[runs.person != "d/03"]
    folds = make_folds(part, "subject", 2)
    shuffled = make_folds(part.sample(frac=1, random_state=0), "subject", 2)
    for fold, other in zip(folds, shuffled, strict=True):
        assert set(fold.test) == set(other.test) and fold.left_out == other.left_out
        assert not {6, 7} & (set(fold.train) | set(fold.test))


@pytest.mark.parametrize("n_folds", [1, 4])
def test_impossible_numbers_of_folds_are_refused(n_folds):
    with pytest.raises(UserError, match="from 2 to 3"):
        make_folds(table(3, 2), "subject", n_folds)


def test_an_encoder_that_saw_test_runs_is_refused():
    runs = table(2, 4)
    keys = runs["key"].tolist()
    fold = make_folds(runs, "run", 2)[0]
    refuse_seen_runs(fold, keys, [keys[r] for r in fold.train], "encoder")
    with pytest.raises(UserError, match=r"saw 1 of the 4 runs that fold 0 tests \(k2\)"):
        refuse_seen_runs(fold, keys, ["k1", "k2"], "encoder")
