from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from factory import write_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from fmriscale.common.errors import UserError
from fmriscale.config import StudyConfig, TaskConfig
from fmriscale.study import pairs as study_pairs
from fmriscale.study.data import open_study
from fmriscale.study.folds import run_order
from fmriscale.study.pairs import draw_label_pairs, position_in_run
from fmriscale.study.windows import Windows, cut_windows, spread, windows_of_side

CELLS = [("heard", "trumpet"), ("heard", "clarinet"), ("imagined", "trumpet"), ("imagined", "clarinet")]


def timbre_events(subject, run):
    condition, timbre = CELLS[run % 4]
    probe = {"duration": 2.0, "timbre": timbre, "condition": "probe"}
    target = {"duration": 4.0, "timbre": timbre, "condition": condition, "note": "n/a"}
    return [
        event
        for onset in np.arange(16.0, 100.0, 22.0).tolist()
        for event in ({"onset": onset, **target}, {"onset": onset + 6, **probe})
    ]


TIMBRE = TaskConfig(label="timbre", condition="condition", conditions=["heard", "imagined"])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    spec = {"subjects": 2, "runs": 8, "n_volumes": 60, "events": timbre_events}
    return write_corpus(tmp_path_factory.mktemp("corpus"), datasets={"timbre": spec})


@pytest.fixture(scope="module")
def windows(corpus):
    return cut_windows(corpus, TIMBRE, range(16))


def blocks(n_persons=1, n_runs=6, n_labels=4) -> Windows:
    """A block design: every run has every label once."""
    person, run, label = (a.ravel() for a in np.indices((n_persons, n_runs, n_labels)))
    n = len(run)
    return Windows(
        bold_NLV=np.zeros((n, 3, 2), np.float16),
        run_mean_NV=np.zeros((n, 2), np.float32),
        label_N=label,
        labels=tuple("abcdefgh"[:n_labels]),
        condition_N=np.zeros(n, int),
        conditions=("",),
        run_N=person * n_runs + run,
        order_N=run,
        person_N=person.astype(str),
        dataset_N=np.full(n, "blocks"),
        start_N=label * 10,
        t_r_N=np.full(n, 2.0, np.float32),
        n_lost=0,
    )


def test_a_window_begins_with_the_first_volume_after_onset_and_delay(corpus, windows):
    # 16 s + 4 s at 2 s a volume is volume 10 exactly; then every 11 volumes.
    assert windows.bold_NLV.shape == (16 * 4, 5, 12)
    assert windows.start_N[:4].tolist() == [10, 21, 32, 43]
    whole_run = corpus.bold(windows.run_N[5]).astype(float).mean(axis=0)
    np.testing.assert_allclose(windows.run_mean_NV[5], whole_run, atol=1e-5)
    for i in (0, 17, 63):
        start = windows.start_N[i]
        np.testing.assert_array_equal(
            windows.bold_NLV[i], corpus.bold(int(windows.run_N[i]))[start : start + 5]
        )
    late = cut_windows(corpus, replace(TIMBRE, delay=4.1), range(16))
    assert late.start_N[:2].tolist() == [11, 22]
    assert set(windows.conditions) == {"heard", "imagined"}
    assert windows.labels == ("clarinet", "trumpet")


def test_windows_that_meet_censored_volumes_or_leave_the_run_are_left_out(tmp_path):
    kept = [t for t in range(60) if t != 23]
    spec = {"subjects": 1, "runs": 8, "n_volumes": 60, "events": timbre_events, "sample_mask": kept}
    corpus = write_corpus(tmp_path, datasets={"timbre": spec})
    cut = cut_windows(corpus, TIMBRE, range(8))
    assert sorted(set(cut.start_N.tolist())) == [10, 32, 43]
    assert cut.n_lost == 8
    late = cut_windows(corpus, replace(TIMBRE, delay=32.0), range(8))
    assert sorted(set(late.start_N.tolist())) == [24, 35, 46] and late.n_lost == 8


def test_cross_run_pairs_are_balanced_true_and_from_different_runs(windows):
    members = np.arange(len(windows.label_N))
    pairs = draw_label_pairs(windows, members, TIMBRE, [0])
    left, right, same = pairs.left_P, pairs.right_P, pairs.same_P
    assert len(same) == 4 * len(members) and same.mean() == 0.5
    assert (same == (windows.label_N[left] == windows.label_N[right])).all()
    assert (windows.run_N[left] != windows.run_N[right]).all()
    assert (windows.person_N[left] == windows.person_N[right]).all()
    assert (windows.condition_N[left] == windows.condition_N[right]).all()
    assert len(set(zip(left.tolist(), right.tolist(), strict=True))) == len(same)
    # Every left window has as many positives as negatives: the left one alone tells nothing.
    assert all(same[left == i].mean() == 0.5 for i in members)
    # Same timbre is four runs apart; the nearest that the design has for another timbre is three or five.
    apart = np.abs(windows.order_N[left] - windows.order_N[right])
    assert set(apart[same == 1]) == {4} and set(apart[same == 0]) == {3, 5}


def test_pairs_are_a_function_of_the_seed(windows):
    members = np.arange(len(windows.label_N))
    first, again, other = (
        draw_label_pairs(windows, members, TIMBRE, seed) for seed in ([0, 1], [0, 1], [0, 2])
    )
    np.testing.assert_array_equal(first.right_P, again.right_P)
    assert (first.right_P != other.right_P).any()


def test_positives_and_negatives_are_equally_far_apart_where_the_design_permits():
    design = blocks()
    pairs = draw_label_pairs(design, np.arange(24), TaskConfig(), [0])
    apart = np.abs(design.order_N[pairs.left_P] - design.order_N[pairs.right_P])
    assert sorted(apart[pairs.same_P == 1]) == sorted(apart[pairs.same_P == 0])


def test_any_pairs_may_share_a_run_but_never_a_volume(windows):
    members = np.arange(len(windows.label_N))
    pairs = draw_label_pairs(windows, members, replace(TIMBRE, protocol="any", pairs_per_window=8), [0])
    one_run = windows.run_N[pairs.left_P] == windows.run_N[pairs.right_P]
    apart = np.abs(windows.start_N[pairs.left_P] - windows.start_N[pairs.right_P])
    assert one_run.any() and (apart[one_run] >= 5).all()
    # In this design a run has one timbre: only positives can share a run.
    assert (pairs.same_P[one_run] == 1).all()


@settings(max_examples=60, deadline=None)
@given(
    n_persons=st.integers(1, 4),
    n_runs=st.integers(3, 7),
    n_labels=st.integers(2, 5),
    per_window=st.sampled_from([2, 4, 10]),
    protocol=st.sampled_from(["cross_run", "paper", "any"]),
    partners=st.sampled_from(["same_person", "other_person"]),
    seed=st.integers(0, 99),
)
def test_whatever_the_design_pairs_obey_the_rules(
    n_persons, n_runs, n_labels, per_window, protocol, partners, seed
):
    if partners == "other_person" and (protocol == "paper" or n_persons < 3):
        return
    design = blocks(n_persons, n_runs, n_labels)
    members = np.flatnonzero(design.order_N >= 1)
    task = TaskConfig(protocol=protocol, partners=partners, pairs_per_window=per_window)
    pairs = draw_label_pairs(design, members, task, [seed])
    left, right, same = pairs.left_P, pairs.right_P, pairs.same_P
    assert set(left) | set(right) <= set(members)
    assert (same == (design.label_N[left] == design.label_N[right])).all()
    assert all(same[left == i].mean() == 0.5 for i in set(left.tolist()))
    assert len(set(zip(left.tolist(), right.tolist(), strict=True))) == len(same)
    assert np.bincount(left).max() <= per_window
    one_person = design.person_N[left] == design.person_N[right]
    assert one_person.all() if partners == "same_person" else not one_person.any()
    if protocol == "cross_run":
        assert (design.order_N[left] != design.order_N[right]).all()
    else:
        one_run = design.run_N[left] == design.run_N[right]
        assert (np.abs(design.start_N[left] - design.start_N[right])[one_run] >= task.length).all()


@settings(max_examples=15, deadline=None)
@given(
    folds_by=st.sampled_from(["subject", "run", "half"]),
    protocol=st.sampled_from(["cross_run", "paper", "any"]),
    partners=st.sampled_from(["same_person", "other_person"]),
    size=st.sampled_from([None, 3]),
    seed=st.integers(0, 9),
)
def test_no_pair_crosses_the_border_of_a_fold(tiny, folds_by, protocol, partners, size, seed):
    if partners == "other_person" and protocol == "paper":
        return
    config = StudyConfig(
        out="",
        corpus=str(tiny),
        pretrained=None,
        task=TaskConfig(label="stimulus", protocol=protocol, partners=partners),
        folds_by=folds_by,
        n_folds=2,
    )
    study = open_study(config)
    for fold in study.folds:
        train, test = study.pairs(fold, size, seed)
        for pairs, rows in ((train, fold.train), (test, fold.test)):
            assert set(study.windows.run_N[np.r_[pairs.left_P, pairs.right_P]]) <= set(rows)
        if size is not None:
            unit = study.windows.order_N if folds_by == "run" else study.windows.person_N
            assert len(set(unit[train.left_P].tolist())) == size


def test_sizes_that_there_are_not_are_refused_before_anything_is_trained(tiny):
    task = TaskConfig(label="stimulus")
    config = StudyConfig(out="", corpus=str(tiny), pretrained=None, task=task, n_folds=2, train_sizes=[1, 4])
    with pytest.raises(UserError, match=r"train_sizes has 4, .* fold 0 has 3 subjects; give from 1 to 3"):
        open_study(config)
    by_run = replace(config, folds_by="run", train_sizes=[2, 5])
    with pytest.raises(UserError, match=r"train_sizes has 5, .* fold 0 has 4 run places"):
        open_study(by_run)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Six people, eight runs, a stimulus of three in each of three blocks, in another order in every run."""

    def events(subject, run):
        order = np.random.default_rng([subject, run]).permutation(3)
        return [{"onset": 20.0 * i, "stimulus": "abc"[which]} for i, which in enumerate(order)]

    spec = {"subjects": 6, "runs": 8, "n_volumes": 40, "events": events}
    return write_corpus(tmp_path_factory.mktemp("tiny"), datasets={"toy": spec}, n_features=2).folder


def test_pairs_of_a_person_depend_on_nobody_else():
    design = blocks(3)
    first = design.person_N == "0"
    alone, all_three = (
        draw_label_pairs(design, members, TaskConfig(), [4])
        for members in (np.flatnonzero(first), np.arange(len(first)))
    )
    own = first[all_three.left_P]
    np.testing.assert_array_equal(alone.right_P, all_three.right_P[own])
    np.testing.assert_array_equal(alone.left_P, all_three.left_P[own])
    # Nor does one draw serve for all: people of one design are paired differently.
    of_each = [all_three.right_P[design.person_N[all_three.left_P] == person] % 24 for person in "012"]
    assert all((of_each[0] != other).any() for other in of_each[1:])


def test_of_very_many_windows_some_are_looked_at(monkeypatch):
    design, task = blocks(20, 4, 3), TaskConfig(partners="other_person")
    monkeypatch.setattr(study_pairs, "MOST_OTHERS", 30)
    pairs = draw_label_pairs(design, np.arange(240), task, [0])
    assert len(pairs.same_P) > 0.9 * 4 * 240 and pairs.same_P.mean() == 0.5
    assert (design.person_N[pairs.left_P] != design.person_N[pairs.right_P]).all()
    assert (pairs.same_P == (design.label_N[pairs.left_P] == design.label_N[pairs.right_P])).all()
    assert len(set(zip(pairs.left_P.tolist(), pairs.right_P.tolist(), strict=True))) == len(pairs.same_P)


def test_published_partners_are_drawn_from_all_there_are():
    design = blocks(1, 4, 2)
    rights = {0: set(), 1: set()}
    for seed in range(60):
        pairs = draw_label_pairs(
            design, np.arange(8), TaskConfig(protocol="paper", pairs_per_window=2), [seed]
        )
        assert sorted(pairs.left_P) == sorted(2 * list(range(8)))
        for right, same in zip(
            pairs.right_P[pairs.left_P == 0], pairs.same_P[pairs.left_P == 0], strict=True
        ):
            rights[same].add(int(right))
    # Windows 0, 2, 4 and 6 have one label. A window is never its own partner; its run's other label may be.
    assert rights == {0: {1, 3, 5, 7}, 1: {2, 4, 6}}


# ---------------------------------------------------------------- runs that have a label


def sites(tmp_path, **spec):
    """Two data sets with both diagnoses, and one that has one; runs of other lengths in each."""
    few = {"subjects": 9, "runs": 1, "n_volumes": 60, "participant": lambda s: {"dx": "12"[s % 3 == 0]}}
    one = {"subjects": 4, "runs": 1, "n_volumes": 90, "participant": lambda s: {"dx": "1"}}
    some = {"subjects": 8, "runs": 1, "n_volumes": 120, "participant": lambda s: {"dx": "12n/a"[s % 2]}}
    datasets = {"few": few | spec, "one": one | spec, "some": some | spec}
    return write_corpus(tmp_path, datasets=datasets, n_features=2)


RUNS = TaskConfig(label="dx", label_of="run", partners="other_person", length=8, windows_per_run=3)


def test_windows_are_spread_over_runs_that_have_a_label(tmp_path):
    corpus = sites(tmp_path)
    cut = cut_windows(corpus, RUNS, range(len(corpus.runs)))
    assert len(cut.label_N) == 3 * 21 and cut.n_lost == 0 and cut.labels == ("1", "2")
    assert cut.start_N[:3].tolist() == [0, 26, 52]  # 60 volumes: first, middle, last
    assert position_in_run(cut)[:6].tolist() == [0, 1, 2, 0, 1, 2]
    assert (cut.dataset_N[:27] == "few").all()
    # A column of runs.tsv serves as well.
    by_site = cut_windows(corpus, replace(RUNS, label="dataset"), range(len(corpus.runs)))
    assert by_site.labels == ("few", "one", "some")


@pytest.mark.parametrize(
    ("stretches", "length", "n", "starts"),
    [
        ([(0, 30)], 10, 3, [0, 10, 20]),
        ([(0, 30)], 10, 8, [0, 10, 20]),
        ([(5, 30)], 10, 1, [13]),
        ([(0, 12), (20, 29), (40, 60)], 10, 3, [0, 50]),
        ([(0, 9)], 10, 3, []),
        ([], 10, 3, []),
    ],
)
def test_spread_windows_share_no_volume_and_stay_in_a_stretch(stretches, length, n, starts):
    found = spread(stretches, length, n)
    assert found == starts and all(b - a >= length for a, b in pairwise(found))
    assert all(any(a <= s and s + length <= b for a, b in stretches) for s in found)


def test_neither_data_set_nor_place_in_the_run_tells_the_label(tmp_path):
    corpus = sites(tmp_path)
    cut = cut_windows(corpus, RUNS, range(len(corpus.runs)))
    pairs = draw_label_pairs(cut, np.arange(len(cut.label_N)), RUNS, [0])
    assert (cut.person_N[pairs.left_P] != cut.person_N[pairs.right_P]).all()
    place = position_in_run(cut)

    def told(same):
        of = pairs.same_P == same
        left, right = pairs.left_P[of], pairs.right_P[of]
        return sorted(zip(cut.dataset_N[left], cut.dataset_N[right], left, place[right], strict=True))

    # Both classes have the same left windows, data sets and, as far as there are as many, places.
    assert [t[:3] for t in told(0)] == [t[:3] for t in told(1)]
    assert np.mean([a == b for a, b in zip(told(0), told(1), strict=True)]) > 0.95
    # A data set with one label can be left, but gives no partner: that it is the right one would tell.
    assert set(cut.dataset_N[pairs.right_P]) == {"few", "some"}
    assert "one" in set(cut.dataset_N[pairs.left_P])


def test_where_the_data_set_is_the_label_it_is_not_matched(tmp_path):
    corpus = sites(tmp_path)
    task = replace(RUNS, label="dataset")
    cut = cut_windows(corpus, task, range(len(corpus.runs)))
    pairs = draw_label_pairs(cut, np.arange(len(cut.label_N)), task, [0])
    assert ((cut.dataset_N[pairs.left_P] == cut.dataset_N[pairs.right_P]) == pairs.same_P).all()
    place = position_in_run(cut)[pairs.right_P]
    assert sorted(place[pairs.same_P == 1]) == sorted(place[pairs.same_P == 0])


def test_people_hear_the_same_thing_at_the_same_time_in_other_runs(windows):
    task = replace(TIMBRE, partners="other_person")
    with pytest.raises(UserError, match=r"there are 2 people; use fewer folds, or .* task.protocol: any"):
        draw_label_pairs(windows, np.flatnonzero(windows.order_N == 0), task, [0])
    pairs = draw_label_pairs(windows, np.arange(len(windows.label_N)), task, [0])
    assert (windows.order_N[pairs.left_P] != windows.order_N[pairs.right_P]).all()


# ---------------------------------------------------------------- transfer, order, mistakes


def test_sides_may_have_other_conditions(windows):
    task = replace(TIMBRE, conditions=None, train_conditions=["heard"], test_conditions=["imagined", "heard"])
    names = np.array(windows.conditions)
    heard, both = (windows_of_side(windows, task, np.arange(4), side) for side in ("train", "test"))
    assert set(names[windows.condition_N[heard]]) == {"heard"} and set(windows.run_N[heard]) == {0, 1}
    assert set(windows.run_N[both]) == {0, 1, 2, 3}


def test_runs_are_put_in_the_order_of_session_and_number(corpus):
    runs = corpus.runs.head(4).assign(
        task=["b", "a", "a", "b"], run=["2", "10", "9", "1"], session=["1", "1", "1", "2"]
    )
    assert run_order(runs).tolist() == [0, 2, 1, 3]


def test_mistakes_are_named(corpus, windows):
    with pytest.raises(UserError, match=r"no column 'genre'.*condition, duration, note, onset, timbre"):
        cut_windows(corpus, TaskConfig(label="genre"), range(16))
    with pytest.raises(UserError, match=r"oboe.*never occur.*clarinet"):
        cut_windows(corpus, replace(TIMBRE, labels=["trumpet", "oboe"]), range(16))
    with pytest.raises(UserError, match=r"task.test_conditions \['dreamt'\] never occur.*heard"):
        cut_windows(corpus, replace(TIMBRE, test_conditions=["dreamt"]), range(16))
    with pytest.raises(UserError, match=r"the runs have no column 'dx'.*dataset.*run"):
        cut_windows(corpus, RUNS, range(16))
    with pytest.raises(ValueError, match=r"set task.condition"):
        TaskConfig(train_conditions=["heard"])
    with pytest.raises(ValueError, match=r"paper pairs within a person"):
        TaskConfig(protocol="paper", partners="other_person")
    with pytest.raises(UserError, match=r"gives 1 label"):
        cut_windows(corpus, replace(TIMBRE, labels=["trumpet"]), range(16))
    with pytest.raises(UserError, match=r"gives 0 label"):
        cut_windows(corpus, TaskConfig(label="note"), range(16))
    # One half of the runs has each timbre of a condition in one run only: same timbre would be same run.
    half = np.flatnonzero(windows.order_N < 4)
    with pytest.raises(UserError, match=r"no cross_run pairs among 32 windows of 8 runs"):
        draw_label_pairs(windows, half, TIMBRE, [0])


def test_a_corpus_without_events_is_refused(tmp_path):
    corpus = write_corpus(tmp_path, datasets={"rest": {"subjects": 1}})
    with pytest.raises(UserError, match="has events"):
        cut_windows(corpus, TaskConfig(), range(2))
