from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from fmriscale.common.errors import UserError
from fmriscale.study.folds import Fold, make_folds, refuse_seen_runs, smaller


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


def test_halves_are_of_everybody_s_own_runs():
    runs = table(3, 8)
    # One lost a run, another all but one, which then trains.
    runs = runs.drop(index=[9, *range(17, 24)])
    (only,) = make_folds(runs, "half", 1)
    assert only.test.tolist() == [4, 5, 6, 7, 13, 14, 15] and only.left_out == (
        "the second half of the runs",
    )
    assert only.train.tolist() == [0, 1, 2, 3, 8, 10, 11, 12, 16]
    first, second = make_folds(runs, "half", 2)
    assert second.test.tolist() == first.train.tolist() and second.train.tolist() == first.test.tolist()
    with pytest.raises(UserError, match=r"there is 1 fold .* or there are 2"):
        make_folds(runs, "half", 4)
    with pytest.raises(UserError, match="everybody has one; use folds_by: subject"):
        make_folds(table(3, 1), "half", 1)


@pytest.mark.parametrize(("by", "n_folds"), [("subject", 3), ("run", 4), ("half", 1)])
def test_smaller_training_sides_are_nested_and_drawn_from_the_seed(by, n_folds):
    runs = table(9, 8)
    fold = make_folds(runs, by, n_folds)[0]
    unit = runs["run" if by == "run" else "person"].to_numpy(str)
    n_units = len(set(unit[fold.train]))
    kept = [set(smaller(fold, runs, by, size, seed=0)) for size in range(1, n_units + 1)]
    assert all(few < more for few, more in pairwise(kept))
    assert kept[-1] == set(fold.train)
    for size, rows in enumerate(kept, 1):
        # Whole units: all of their training runs, and no other.
        units = set(unit[sorted(rows)])
        assert len(units) == size and rows == {row for row in fold.train if unit[row] in units}
    drawn = {tuple(sorted(smaller(fold, runs, by, 2, seed))) for seed in range(8)}
    assert len(drawn) > 1
    with pytest.raises(UserError, match=f"train_sizes has {n_units + 1}, .* give from 1 to {n_units}"):
        smaller(fold, runs, by, n_units + 1, seed=0)


def test_an_encoder_that_saw_test_runs_is_refused():
    runs = table(2, 4)
    keys = runs["key"].tolist()
    fold = make_folds(runs, "run", 2)[0]
    refuse_seen_runs(fold, runs, [keys[r] for r in fold.train], "encoder")
    with pytest.raises(UserError, match=r"saw 1 of the 4 runs that fold 0 tests \(k2\)"):
        refuse_seen_runs(fold, runs, ["k1", "k2"], "encoder")


@pytest.mark.parametrize("n_folds", [2, 5])
def test_kin_are_left_out_together_and_never_on_both_sides(n_folds):
    runs = table(20, 3)
    runs["group"] = [f"d/family{int(p[2:]) // 3}" if p < "d/15" else p for p in runs.person]
    folds = make_folds(runs, "subject", n_folds)
    assert sorted(np.concatenate([f.test for f in folds])) == list(range(60))
    for fold in folds:
        assert not set(runs.group[fold.train]) & set(runs.group[fold.test])
    alone = make_folds(runs.assign(group=runs.person), "subject", n_folds)
    for fold, other in zip(alone, make_folds(runs.drop(columns="group"), "subject", n_folds), strict=True):
        assert fold.test.tolist() == other.test.tolist()  # nobody has kin: the folds of a corpus without
    with pytest.raises(UserError, match="n_folds is 11, but 10 groups of kin take part"):
        make_folds(runs, "subject", 11)


def test_an_encoder_that_saw_a_twin_is_refused():
    runs = table(4, 1).assign(group=["d/f1", "d/f2", "d/f1", "d/f2"])
    fold = make_folds(runs, "subject", 2)[0]
    twins = runs[runs.group == runs.group[fold.test[0]]]
    refuse_seen_runs(fold, runs, runs.key[fold.train], "encoder")
    fold = Fold(0, fold.train, twins.index.to_numpy()[:1], ())  # one twin is tested, the other was seen
    with pytest.raises(UserError, match=rf"saw 1 runs of kin .* fold 0 tests \({twins.key.iloc[1]}\)"):
        refuse_seen_runs(fold, runs, twins.key.iloc[1:], "encoder")
