from dataclasses import replace

import numpy as np
import pytest
from factory import write_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from fmriscale.config import TaskConfig
from fmriscale.errors import UserError
from fmriscale.sampling.cut import cut_windows
from fmriscale.sampling.labelled import Windows, draw_pairs, run_order

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
    pairs = draw_pairs(windows, members, TIMBRE, [0])
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
    first, again, other = (draw_pairs(windows, members, TIMBRE, seed) for seed in ([0, 1], [0, 1], [0, 2]))
    np.testing.assert_array_equal(first.right_P, again.right_P)
    assert (first.right_P != other.right_P).any()


def test_positives_and_negatives_are_equally_far_apart_where_the_design_permits():
    design = blocks()
    pairs = draw_pairs(design, np.arange(24), TaskConfig(), [0])
    apart = np.abs(design.order_N[pairs.left_P] - design.order_N[pairs.right_P])
    assert sorted(apart[pairs.same_P == 1]) == sorted(apart[pairs.same_P == 0])


def test_any_pairs_may_share_a_run_but_never_a_volume(windows):
    members = np.arange(len(windows.label_N))
    pairs = draw_pairs(windows, members, replace(TIMBRE, protocol="any", pairs_per_window=8), [0])
    one_run = windows.run_N[pairs.left_P] == windows.run_N[pairs.right_P]
    apart = np.abs(windows.start_N[pairs.left_P] - windows.start_N[pairs.right_P])
    assert one_run.any() and (apart[one_run] >= 5).all()
    # In this design a run has one timbre: only positives can share a run.
    assert (pairs.same_P[one_run] == 1).all()


@settings(max_examples=30, deadline=None)
@given(
    n_runs=st.integers(3, 7),
    n_labels=st.integers(2, 5),
    per_window=st.sampled_from([2, 4, 10]),
    seed=st.integers(0, 99),
)
def test_no_pair_leaves_the_members(n_runs, n_labels, per_window, seed):
    design = blocks(2, n_runs, n_labels)
    members = np.flatnonzero(design.order_N >= 1)
    pairs = draw_pairs(design, members, TaskConfig(pairs_per_window=per_window), [seed])
    assert set(pairs.left_P) | set(pairs.right_P) <= set(members)
    assert pairs.same_P.mean() == 0.5
    assert (design.run_N[pairs.left_P] != design.run_N[pairs.right_P]).all()


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
    with pytest.raises(UserError, match=r"gives 1 label"):
        cut_windows(corpus, replace(TIMBRE, labels=["trumpet"]), range(16))
    with pytest.raises(UserError, match=r"gives 0 label"):
        cut_windows(corpus, TaskConfig(label="note"), range(16))
    # One half of the runs has each timbre of a condition in one run only: same timbre would be same run.
    half = np.flatnonzero(windows.order_N < 4)
    with pytest.raises(UserError, match=r"no cross_run pairs among 32 windows of 8 runs"):
        draw_pairs(windows, half, TIMBRE, [0])


def test_a_corpus_without_events_is_refused(tmp_path):
    corpus = write_corpus(tmp_path, datasets={"rest": {"subjects": 1}})
    with pytest.raises(UserError, match="has events"):
        cut_windows(corpus, TaskConfig(), range(2))
