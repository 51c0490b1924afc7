from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from nilearn.connectome import ConnectivityMeasure
from sklearn.metrics import roc_auc_score

from fmriscale.config import TaskConfig
from fmriscale.study import baselines as module
from fmriscale.study.baselines import (
    baselines,
    category,
    correlation,
    inner_splits,
    persistence,
    run_means,
    some_pairs,
    some_windows,
)
from fmriscale.study.connectivity import Connectivity, has_connectivity
from fmriscale.study.pairs import Pairs, draw_label_pairs
from fmriscale.study.scores import auc, score
from fmriscale.study.windows import Windows


def timbre_windows(timbre: float, run_offset: float, seed: int = 0, n_persons: int = 12) -> Windows:
    """The real design (a run has ONE label), with chosen label signal and chosen run offset; no cleaning."""
    rng = np.random.default_rng(seed)
    person, run, cycle = (a.ravel() for a in np.indices((n_persons, 4, 15)))
    n, n_features = len(run), 30
    label = run % 2
    patterns = rng.standard_normal((2, n_features))
    offsets = rng.standard_normal((n_persons, 4, n_features))
    x = rng.standard_normal((n, 5, n_features))
    x += timbre * patterns[label][:, None] + run_offset * offsets[person, run][:, None]
    return Windows(
        bold_NLV=x.astype(np.float16),
        run_mean_NV=(run_offset * offsets[person, run]).astype(np.float32),
        label_N=label,
        labels=("clarinet", "trumpet"),
        condition_N=np.zeros(n, int),
        conditions=("heard",),
        run_N=person * 4 + run,
        order_N=run,
        person_N=person.astype(str),
        dataset_N=np.full(n, "timbre"),
        start_N=cycle * 11,
        t_r_N=np.full(n, 2.0, np.float32),
        n_lost=0,
    )


def areas(windows: Windows, pairs: Literal["cross_run", "paper", "any"]) -> dict[str, float]:
    task = TaskConfig(protocol=pairs)
    test_side = windows.person_N.astype(int) % 2 == 0
    train, test = (
        draw_label_pairs(windows, np.flatnonzero(side), task, [i])
        for i, side in enumerate((~test_side, test_side))
    )
    scores = baselines(
        windows, train, test, windows.person_N[test.left_P], np.full(len(test.left_P), ""), seed=0
    )
    assert all({row["unit"] for row in s.rows} == set(windows.person_N[test_side]) for s in scores.values())
    return {name: s.auc for name, s in scores.items()}


def test_without_signal_everything_is_at_chance():
    found = areas(timbre_windows(0.0, 0.0), "cross_run")
    assert found["same_run"] == 0.5
    assert all(value == pytest.approx(0.5, abs=0.06) for value in found.values()), found


def test_with_signal_the_classifiers_find_it_and_the_controls_do_not():
    found = areas(timbre_windows(0.5, 0.0), "cross_run")
    assert found["category"] > 0.9
    assert found["correlation"] > 0.7
    assert found["pair_logistic"] > 0.7
    assert found["same_run"] == 0.5
    assert found["shuffled"] == pytest.approx(0.5, abs=0.1)


def test_run_offsets_without_any_timbre_fool_pairs_within_runs_but_not_cross_run_pairs():
    """The trap of the published protocol: 'same timbre' is 'same run' there."""
    trapped = timbre_windows(0.0, 1.0, n_persons=60)
    any_run, cross_run = areas(trapped, "any"), areas(trapped, "cross_run")
    assert any_run["correlation"] > 0.7 and any_run["pair_logistic"] > 0.7
    assert any_run["same_run"] > 0.7
    # A run's mean gives it away completely: no other pair of runs has a difference of 0.
    assert any_run["run_means"] > 0.95 * any_run["same_run"]
    for name in ("category", "correlation", "pair_logistic", "run_means", "same_run"):
        assert cross_run[name] == pytest.approx(0.5, abs=0.1), (name, cross_run)


def test_runs_standardised_one_by_one_have_no_means_to_tell_them_by():
    windows = timbre_windows(0.5, 0.0)
    rounding = np.random.default_rng(0).normal(0, 1e-4, (48, 30)).astype(np.float32)
    windows = replace(windows, run_mean_NV=rounding[windows.run_N])
    train, test = sides(windows, TaskConfig(protocol="any"))
    assert np.ptp(run_means(windows, train, test)) == 0


def sides(windows: Windows, task: TaskConfig) -> tuple[Pairs, Pairs]:
    test_side = windows.person_N.astype(int) % 2 == 0
    train, test = (
        draw_label_pairs(windows, np.flatnonzero(side), task, [0]) for side in (~test_side, test_side)
    )
    return train, test


def many_labels(signal: float, n_labels: int = 8) -> Windows:
    """A block design: every run has every label twice."""
    windows = timbre_windows(0.0, 0.0)
    label = (windows.start_N // 11) % n_labels
    patterns = np.random.default_rng(3).standard_normal((n_labels, 30))
    bold = windows.bold_NLV + signal * patterns[label][:, None]
    labels = tuple("abcdefgh"[:n_labels])
    return replace(windows, bold_NLV=bold.astype(np.float16), label_N=label, labels=labels)


@pytest.mark.parametrize("n_labels", [2, 3, 8])
def test_guesses_agree_whatever_the_number_of_labels(n_labels):
    windows = many_labels(1.0, n_labels)
    train, test = sides(windows, TaskConfig())
    value, threshold = category(windows, windows.bold_NLV.mean(axis=1, dtype=np.float32), train, test)
    right = (value > threshold) == test.same_P
    assert right.mean() > 0.9
    assert abs(right[test.same_P == 1].mean() - right[test.same_P == 0].mean()) < 0.15


def test_the_window_classifier_may_be_tested_on_labels_that_it_has_not_learned():
    windows = many_labels(1.0)
    train, test = sides(windows, TaskConfig())
    known = [windows.label_N[side] < 5 for side in (train.left_P, train.right_P)]
    fewer = Pairs(*(part[known[0] & known[1]] for part in (train.left_P, train.right_P, train.same_P)))
    value, threshold = category(windows, windows.bold_NLV.mean(axis=1, dtype=np.float32), fewer, test)
    assert np.isfinite(value).all() and np.isfinite(threshold)
    assert roc_auc_score(test.same_P, value) > 0.6


def test_the_window_classifier_never_sees_a_test_label():
    windows = many_labels(0.5)
    train, test = sides(windows, TaskConfig())
    mean_NV = windows.bold_NLV.mean(axis=1, dtype=np.float32)
    hidden = windows.label_N.copy()
    hidden[np.unique([test.left_P, test.right_P])] = 0
    seen, blind = (category(w, mean_NV, train, test) for w in (windows, replace(windows, label_N=hidden)))
    np.testing.assert_array_equal(seen[0], blind[0])
    assert seen[1] == blind[1]


def test_inner_folds_leave_out_what_the_outer_ones_do():
    windows = timbre_windows(0.5, 0.0, n_persons=4)
    person, run = windows.person_N, windows.run_N
    everybody, by_person = sides(windows, TaskConfig())

    members = np.flatnonzero(person.astype(int) % 2 == 1)
    for kept, left_out in inner_splits(windows, members, by_person):
        assert not set(person[members[kept]]) & set(person[members[left_out]])
        assert set(windows.label_N[members[kept]]) == {0, 1}

    members = np.arange(len(person))
    splits = inner_splits(windows, members, everybody)  # every test person trains too
    assert len(splits) == 3
    for kept, left_out in splits:
        assert set(person[members[kept]]) == set(person)
        assert not set(run[members[kept]]) & set(run[members[left_out]])

    # One person with a run a label: whatever is left out, a label is missing; C stays as it is.
    two_runs = np.flatnonzero((person == "1") & (windows.order_N < 2))
    assert inner_splits(windows, two_runs, by_person) == []


# ---------------------------------------------------------------- connectivity


def connected_windows(strength: float, length: int = 24, n_features: int = 30, seed: int = 0) -> Windows:
    """Windows whose labels differ in what goes together with what, and in no mean."""
    windows = timbre_windows(0.0, 0.0)
    rng = np.random.default_rng(seed)
    sources = rng.standard_normal((2, 4, n_features))
    shape = (len(windows.label_N), length)
    x = rng.standard_normal((*shape, n_features))
    x += strength * np.einsum("nlk,nkv->nlv", rng.standard_normal((*shape, 4)), sources[windows.label_N])
    x -= x.mean(axis=1, keepdims=True)
    return replace(windows, bold_NLV=x.astype(np.float16))


def test_connectivity_finds_what_window_means_cannot_hold():
    found = areas(connected_windows(0.4), "cross_run")
    assert found["connectivity"] > 0.9 and found["connectivity_correlation"] > 0.7
    for name in ("category", "pair_logistic", "correlation", "same_run"):
        assert found[name] == pytest.approx(0.5, abs=0.08), (name, found)
    nothing = areas(connected_windows(0.0), "cross_run")
    assert all(value == pytest.approx(0.5, abs=0.06) for value in nothing.values()), nothing


@pytest.mark.parametrize(
    ("shape", "there"),
    [((10, 30), True), ((9, 30), False), ((10, 2), False), ((10, 1000), True), ((10, 1001), False)],
)
def test_short_windows_and_very_many_features_have_no_connectivity(shape, there):
    assert has_connectivity(np.zeros((2, *shape), np.float16)) is there
    if shape[1] == 30:
        assert ("connectivity" in areas(connected_windows(0.0, length=shape[0]), "cross_run")) is there


def test_connectivity_is_that_of_nilearn():
    bold_NLV = connected_windows(0.4).bold_NLV[:5]
    signals = [window - window.mean(axis=0) for window in bold_NLV.astype(np.float64)]
    signals = [window / window.std(axis=0) for window in signals]
    measure = ConnectivityMeasure(
        kind="correlation", vectorize=True, discard_diagonal=True, standardize=False
    )
    expected = np.sort(np.arctanh(measure.fit_transform(signals)), axis=1)
    found = Connectivity(bold_NLV)[np.arange(5)]
    assert found.dtype == np.float32 and found.shape == (5, 30 * 29 // 2)
    np.testing.assert_allclose(np.sort(found, axis=1), expected, atol=1e-5)
    flat = bold_NLV.copy()
    flat[:, :, 3] = 2  # a region that is missing
    assert np.isfinite(Connectivity(flat)[np.arange(5)]).all()


def test_features_that_come_in_blocks_give_what_all_of_them_give_at_once(monkeypatch):
    windows = connected_windows(0.2)
    train, test = sides(windows, TaskConfig())
    blocks = Connectivity(windows.bold_NLV)
    whole = blocks[np.arange(len(windows.label_N))]
    methods = (
        lambda features: category(windows, features, train, test),
        lambda features: correlation(features, train, test, less_mean=True),
    )
    for method in methods:
        value, threshold = method(whole)
        with monkeypatch.context() as patch:
            patch.setattr(module, "MOST_VALUES", 20 * blocks.shape[1])
            other, its_threshold = method(blocks)
        # The classifier is fitted in a rotated space, to a tolerance.
        np.testing.assert_allclose(other, value, rtol=1e-2, atol=2e-3)
        assert its_threshold == pytest.approx(threshold, rel=1e-2, abs=2e-3)


def test_of_very_many_windows_some_are_drawn():
    windows = timbre_windows(0.0, 0.0)
    train, _ = sides(windows, TaskConfig())
    few = some_windows(train, 100, np.random.default_rng(0))
    assert 80 < len(np.unique([few.left_P, few.right_P])) <= 100 and set(few.same_P) == {0, 1}
    assert some_windows(train, 10_000, np.random.default_rng(0)) is train


def autoregression(r: float, seed: int = 0) -> tuple[Windows, Pairs]:
    """Runs of consecutive windows of 5 volumes, and pairs: neighbours (in either order) and far ones."""
    rng = np.random.default_rng(seed)
    n_runs, n_windows, n_features = 8, 24, 20
    noise = rng.standard_normal((n_runs, n_windows * 5, n_features))
    bold = np.zeros_like(noise)
    for t in range(bold.shape[1]):
        bold[:, t] = r * bold[:, t - 1] + np.sqrt(1 - r**2) * noise[:, t]
    windows = timbre_windows(0.0, 0.0)
    n = n_runs * n_windows
    windows = replace(
        windows,
        bold_NLV=bold.reshape(n, 5, n_features).astype(np.float16),
        run_mean_NV=np.zeros((n, n_features), np.float32),
    )
    left = np.concatenate([run * n_windows + np.arange(n_windows - 6) for run in range(n_runs)])
    near = np.stack([left, left + 1])
    near[:, ::2] = near[::-1, ::2]
    far = np.stack([left, left + 5])
    left_P, right_P = np.concatenate([near, far], axis=1)
    return windows, Pairs(left_P, right_P, np.repeat([1, 0], len(left)))


@pytest.mark.parametrize(("r", "low", "high"), [(0.8, 0.95, 1), (0.4, 0.65, 0.95), (0.0, 0.4, 0.6)])
def test_persistence_finds_the_window_that_continues_another_in_either_order(r, low, high):
    windows, pairs = autoregression(r)
    train, test = (
        Pairs(pairs.left_P[part::2], pairs.right_P[part::2], pairs.same_P[part::2]) for part in (0, 1)
    )
    value, threshold = persistence(windows, train, test)
    assert low <= auc(value, test.same_P) <= high
    if r == 0.8:
        assert ((value > threshold) == test.same_P).mean() > 0.9


def test_persistence_of_single_volumes_is_at_chance():
    windows, pairs = autoregression(0.8)
    value, threshold = persistence(replace(windows, bold_NLV=windows.bold_NLV[:, :1]), pairs, pairs)
    assert np.isfinite(value).all() and np.ptp(value) == 0 == threshold


def test_of_very_many_training_pairs_some_are_drawn():
    pairs = Pairs(np.arange(5000), np.arange(5000, 10000), np.arange(5000) % 2)
    some = some_pairs(pairs, 2**24 // 1000, np.random.default_rng(0))
    assert 1000 <= len(some.same_P) <= 1001
    np.testing.assert_array_equal(some.right_P - some.left_P, 5000)
    assert some_pairs(pairs, 10, np.random.default_rng(0)) is pairs


def test_a_score_has_its_known_value():
    same = np.array([1, 1, 0, 0, 1])
    unit, condition = np.array(["a", "a", "a", "b", "b"]), np.array(["x", "x", "x", "x", "y"])
    result = score(np.array([3.0, 1.0, 2.0, 0.0, 1.0]), 1.5, same, unit, condition)
    assert result.auc == 4 / 6
    assert result.accuracy == 2 / 5
    assert result.rows == [
        {"condition": "x", "unit": "a", "n": 3, "accuracy": 1 / 3, "auc": 0.5},
        {"condition": "x", "unit": "b", "n": 1, "accuracy": 1.0, "auc": None},
        {"condition": "y", "unit": "b", "n": 1, "accuracy": 0.0, "auc": None},
    ]


def test_the_area_is_that_of_scikit_learn_with_ties():
    rng = np.random.default_rng(0)
    value, same = rng.integers(0, 20, 200) / 20.0, rng.integers(0, 2, 200)
    assert auc(value, same) == pytest.approx(roc_auc_score(same, value), abs=1e-12)
    assert np.isnan(auc(value, np.ones(200)))
