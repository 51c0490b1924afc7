"""The real experiment, 17 people x 8 runs: the recipes give the published numbers and kinds of pairs."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from factory import write_corpus

from fmriscale.config import PretrainConfig, StudyConfig
from fmriscale.config.recipe import parse
from fmriscale.sampling.loader import NTPLoader
from fmriscale.study.data import open_study

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def corpus(data_root, tmp_path_factory):
    """The design with two features of noise."""
    table = pd.read_csv(data_root / "timbre_design/events.tsv", sep="\t", dtype={"pitch": str})
    runs = {name: run.drop(columns=["subject", "run"]) for name, run in table.groupby(["subject", "run"])}

    def events(subject, run):
        return runs[f"sub-{subject + 1:02d}", f"run-{run + 1:02d}"].to_dict("records")

    spec = {"subjects": 17, "runs": 8, "n_volumes": 233, "events": events}
    return write_corpus(tmp_path_factory.mktemp("timbre"), datasets={"timbre": spec}, n_features=2)


@pytest.fixture(scope="module")
def config(corpus, repository):
    return parse(
        StudyConfig, [f"--config={repository}/configs/timbre_paper.yaml", f"--corpus={corpus.folder}"]
    )


@pytest.fixture(scope="module")
def study(config):
    return open_study(config)


def test_fine_tuning_has_2856_pairs_on_either_side(study):
    windows = study.windows
    assert len(windows.label_N) == 17 * 8 * 21 and windows.n_lost == 0
    assert sorted(set(windows.start_N.tolist())) == [8 + 11 * cycle for cycle in range(21)]
    train, test = study.pairs(study.folds[0])
    for pairs, places in ((train, {0, 1, 2, 3}), (test, {4, 5, 6, 7})):
        left, right, same = pairs.left_P, pairs.right_P, pairs.same_P
        assert len(same) == 2856 and same.sum() == 1428
        assert {int(p) for side in (left, right) for p in windows.order_N[side]} == places
        assert (windows.person_N[left] == windows.person_N[right]).all()
        assert (windows.condition_N[left] == windows.condition_N[right]).all()
        assert (left != right).all()
        # Every cycle of the half once with its own timbre, once with the other.
        for label in (0, 1):
            lefts = left[same == label]
            assert len(set(lefts.tolist())) == 17 * 84 == len(lefts)
        assert (same == (windows.label_N[left] == windows.label_N[right])).all()
        # The trap: a half has one run of each timbre and condition.
        assert (same == (windows.run_N[left] == windows.run_N[right])).all()
        # Partners are drawn, not matched: any other cycle of the run may be the positive one.
        apart = np.abs(windows.start_N[left] - windows.start_N[right])[same == 1]
        assert apart.min() == 11 and apart.max() == 220
    assert len(set(study.units(study.folds[0], test))) == 17
    assert dict(zip(*np.unique(study.conditions(test), return_counts=True), strict=True)) == {
        "heard": 1428,
        "imagined": 1428,
    }


def test_both_ways_the_halves_change_places(config):
    both = open_study(replace(config, n_folds=2))
    first, second = both.folds
    assert set(first.train) == set(second.test) and set(first.test) == set(second.train)
    assert [len(pairs.same_P) for fold in both.folds for pairs in both.pairs(fold)] == [2856] * 4


def test_pre_training_has_15096_pairs_on_either_side(corpus, repository):
    config = parse(
        PretrainConfig,
        [f"--config={repository}/configs/pretrain_paper.yaml", f"--data.corpus={corpus.folder}"],
    )
    kept = []
    for split in ("train", "eval"):
        loader = NTPLoader(corpus, config.data, split, 0, 256)
        assert 2 * sum(int(group.windows.sum()) for group in loader.groups) == 15_096
        kept.append({int(row) for group in loader.groups for row in group.rows})
    places = [{int(run) for run in corpus.runs["run"].iloc[sorted(rows)]} for rows in kept]
    assert places == [{1, 2, 3, 4}, {5, 6, 7, 8}]


def test_across_runs_the_trap_is_gone(config):
    task = replace(config.task, protocol="cross_run", delay=4.0, standardize="run")
    study = open_study(replace(config, task=task, folds_by="subject", n_folds=4))
    windows = study.windows
    for fold in study.folds:
        for pairs in study.pairs(fold):
            left, right = pairs.left_P, pairs.right_P
            assert (windows.run_N[left] != windows.run_N[right]).all()
            assert pairs.same_P.mean() == 0.5
            # Nothing but the label differs: same condition, same place in the run as the positive's.
            place = windows.start_N[right]
            assert sorted(place[pairs.same_P == 1]) == sorted(place[pairs.same_P == 0])
            apart = np.abs(windows.order_N[left] - windows.order_N[right])
            assert set(apart[pairs.same_P == 1]) == {4} and set(apart[pairs.same_P == 0]) == {3, 5}


def test_from_heard_to_imagined(config):
    task = replace(config.task, train_conditions=["heard"], test_conditions=["imagined"])
    study = open_study(replace(config, task=task))
    train, test = study.pairs(study.folds[0])
    of = np.array(study.windows.conditions)[study.windows.condition_N]
    assert set(of[train.left_P]) | set(of[train.right_P]) == {"heard"}
    assert set(of[test.left_P]) | set(of[test.right_P]) == {"imagined"}
    assert len(train.same_P) == len(test.same_P) == 1428
    assert set(study.conditions(test)) == {"heard to imagined"}
