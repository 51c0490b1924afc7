"""The search for pre-training that helps must not open what the study tests."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from factory import write_corpus

from fmriscale.config import SplitConfig, StudyConfig, TaskConfig
from fmriscale.study.data import open_study


@pytest.fixture(scope="module")
def search():
    with pytest.MonkeyPatch.context() as patch:  # a program imports what lies beside it
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield importlib.import_module("search")


def events(subject, run):
    return [{"onset": 10.0 + 20 * i, "duration": 8.0, "trial_type": "ab"[(i + run) % 2]} for i in range(8)]


@pytest.mark.parametrize("fold", [0, 3])
def test_inside_of_a_fold_holds_nothing_that_the_fold_tests(search, tmp_path, fold):
    spec = {"subjects": 1, "runs": 12, "n_volumes": 100, "events": events}
    write_corpus(tmp_path, datasets={"one": spec}, n_features=4)
    config = StudyConfig(
        out=str(tmp_path / "out"),
        corpus=str(tmp_path),
        pretrained=None,
        task=TaskConfig(length=4),
        folds_by="run",
        n_folds=6,
    )
    target = search.Target("", "", {}, 3, [None])
    outer = open_study(config).folds[fold]
    study, unseen = search.inside(target, config, fold)
    keys = study.runs["key"].to_numpy(str)
    assert set(np.unique(study.windows.run_N)) == set(outer.train)
    assert set(keys[outer.test]) <= set(unseen)
    train, test = study.pairs(study.folds[0])
    for pairs, may_be_pretrained_on in ((train, True), (test, False)):
        runs = np.unique(study.windows.run_N[np.r_[pairs.left_P, pairs.right_P]])
        assert set(runs) <= set(outer.train)
        assert all((key not in unseen) == may_be_pretrained_on for key in keys[runs])


def test_people_kept_for_fine_tuning_alone_are_of_the_training_split(search, tmp_path):
    datasets = {name: {"subjects": 30, "runs": 1, "n_volumes": 60} for name in ("here", "there")}
    write_corpus(tmp_path, datasets=datasets, n_features=4, split=SplitConfig(val=0.2, test=0.2))
    task = TaskConfig(label="dataset", label_of="run", partners="other_person", windows_per_run=2)
    config = StudyConfig(
        out=str(tmp_path / "out"), corpus=str(tmp_path), pretrained=None, task=task, splits=["val", "test"]
    )
    target = search.Target("", "", {}, 3, [None], apart=0.5)
    study, unseen = search.inside(target, config, 0)
    runs = study.runs
    used = runs.iloc[np.unique(study.windows.run_N)]
    assert set(used["split"]) == {"train"} and 0 < len(used) < (runs["split"] == "train").sum()
    assert set(runs["key"][runs["split"] != "train"]) | set(used["key"]) == set(unseen)
    half = search.beyond(0.5, runs, unseen)
    seen = runs.loc[~runs["key"].isin(unseen)]
    assert set(half) < set(seen["key"]) and seen["person"].nunique() - len(half) == round(0.5 * len(seen))
