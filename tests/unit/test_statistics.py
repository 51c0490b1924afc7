import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import make_moons
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.svm import SVC

from fmriscale.study.statistics import (
    compare,
    corrected_t,
    detectable,
    holm,
    interval,
    lowest_p,
    power,
)


def test_a_constant_gain_has_the_smallest_p_that_its_units_allow():
    result = compare([0.7, 0.8, 0.9, 0.75, 0.85, 0.6], [0.6, 0.7, 0.8, 0.65, 0.75, 0.5])
    assert result.effect == pytest.approx(0.1)
    assert (result.low, result.high) == (pytest.approx(0.1), pytest.approx(0.1))
    assert result.p == pytest.approx(2 / 2**6) == lowest_p(6)
    assert result.detectable == 0


def test_few_units_are_enumerated_exactly():
    # Of the 16 sign patterns four have a sum as far from 0 as .75: all of one sign, and all but the .05's.
    result = compare([0.3, 0.2, 0.25, -0.05], [0.0, 0.0, 0.0, 0.0])
    assert result.p == pytest.approx(4 / 16)
    assert (result.low, result.high) == (pytest.approx(-0.0725, abs=1e-3), pytest.approx(0.4225, abs=1e-3))
    assert result.detectable is None


def test_swapping_the_arms_turns_the_sign_and_nothing_else():
    a, b = np.random.default_rng(0).random((2, 8))
    forth, back = compare(a, b), compare(b, a)
    assert (forth.effect, forth.low) == (pytest.approx(-back.effect), pytest.approx(-(back.high or 0)))
    assert (forth.p, forth.detectable) == (pytest.approx(back.p), pytest.approx(back.detectable))


def test_no_difference_and_one_unit_are_no_evidence():
    assert compare([0.5, 0.6], [0.5, 0.6]).p == 1.0
    alone = compare([0.9], [0.1])
    assert (alone.p, alone.low, alone.high, alone.detectable) == (1.0, None, None, None)


def test_what_cannot_be_paired_is_refused():
    with pytest.raises(ValueError, match="3 and 2 units"):
        compare([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="not finite"):
        compare([1, np.nan], [1, 2])


@pytest.mark.parametrize("draw", ["normal", "discrete", "skewed"])
def test_under_the_null_p_is_below_a_level_as_often_as_the_level_says(draw):
    """Differences of accuracies: normal ones, such of 8 pairs a unit (ties), and of one large unit."""
    rng = np.random.default_rng(1)
    sample = {
        "normal": lambda: rng.standard_normal(10),
        "discrete": lambda: (rng.binomial(8, 0.5, 10) - rng.binomial(8, 0.5, 10)) / 8,
        "skewed": lambda: rng.choice([-1, 1], 10) * rng.exponential(1, 10) ** 2,
    }[draw]
    p = np.array([compare(sample(), np.zeros(10)).p for _ in range(250)])
    for level in (0.05, 0.2):
        # The sign-flip test is exact: at most the level, and never far below but for ties.
        assert stats.binomtest(int((p <= level).sum()), 250, level, alternative="greater").pvalue > 0.01
    assert np.mean(p <= 0.2) > 0.1


@pytest.mark.parametrize("n", [4, 17])
def test_intervals_hold_the_truth_about_as_often_as_they_say(n):
    rng = np.random.default_rng(2)
    bounds = np.array([interval(rng.normal(0.1, 1, n)) for _ in range(150)], float)
    assert np.mean((bounds[:, 0] <= 0.1) & (bounds[:, 1] >= 0.1)) > 0.88


def test_the_interval_of_many_units_is_the_bias_corrected_bootstrap():
    values = np.random.default_rng(3).exponential(1, 40)
    low, high = np.array(interval(values), float)
    wanted = stats.bootstrap((values,), np.mean, n_resamples=9999, rng=np.random.default_rng(0))
    assert (low, high) == tuple(wanted.confidence_interval)
    assert high - values.mean() > values.mean() - low


def test_the_corrected_t_by_hand():
    # mean .125, variance .0125 / 3; t = .125 / sqrt((1/4 + 1/4) .0125 / 3) = sqrt(7.5)
    t, p = corrected_t([0.1, 0.2, 0.05, 0.15], 1 / 4)
    assert t == pytest.approx(7.5**0.5)
    assert p == pytest.approx(2 * stats.t.sf(7.5**0.5, 3))
    assert corrected_t([0.1], 0.25) == (None, None) == corrected_t([0.1, 0.1, 0.1], 0.25)


def test_the_corrected_t_is_that_of_a_published_example():
    """Ten times tenfold cross-validation of two classifiers: scikit-learn's guide has t .750, p/2 .227."""
    x, y = make_moons(noise=0.352, random_state=1, n_samples=100)
    folds = RepeatedStratifiedKFold(n_splits=10, n_repeats=10, random_state=0)
    first, second = (
        cross_val_score(SVC(kernel=kernel, random_state=0), x, y, scoring="roc_auc", cv=folds)
        for kernel in ("rbf", "linear")
    )
    t, p = corrected_t(first - second, 10 / 90)
    assert (t, (p or 1) / 2) == (pytest.approx(0.750, abs=5e-4), pytest.approx(0.227, abs=5e-4))


def test_the_correction_takes_away_what_overlapping_training_sets_feign():
    plain, corrected = [], []  # p-values
    rng = np.random.default_rng(4)
    for _ in range(300):
        # Fold differences of one data set share what its training data have in common.
        shared, own = rng.standard_normal(), rng.standard_normal(20)
        difference = np.sqrt(0.2) * shared + np.sqrt(0.8) * own
        plain.append(corrected_t(difference, 0)[1])
        corrected.append(corrected_t(difference, 0.25)[1])
    assert np.mean(np.array(plain) < 0.05) > 0.3
    assert np.mean(np.array(corrected) < 0.05) < 0.08


def test_seeds_that_test_the_same_people_are_no_more_people():
    """Seventeen people left out in turn, three seeds: most of a difference is the person's, the mean is 0."""
    rng = np.random.default_rng(7)
    plain, corrected = [], []  # p-values
    for _ in range(300):
        difference = np.repeat(rng.standard_normal(17), 3) + 0.5 * rng.standard_normal(51)
        plain.append(corrected_t(difference, 0)[1])
        corrected.append(corrected_t(difference, 1 / 16)[1])
    assert np.mean(np.array(plain) < 0.05) > 0.15
    assert np.mean(np.array(corrected) < 0.05) < 0.05


def test_people_who_share_a_training_agree_on_its_luck_and_the_corrected_t_does_not():
    """No true difference, but trainings that differ by chance: 16 people, 4 folds, 2 seeds."""
    rng = np.random.default_rng(6)
    over_people, over_trainings = [], []
    for _ in range(100):
        luck = rng.normal(0, 0.05, (4, 2))
        people = np.repeat(luck.mean(axis=1), 4) + rng.normal(0, 0.02, 16)
        over_people.append(compare(people, np.zeros(16)).p < 0.05)
        over_trainings.append(corrected_t(luck.ravel(), 1 / 3)[1])
    assert np.mean(over_people) > 0.2
    assert np.mean(np.array(over_trainings) < 0.05) < 0.06


def test_holm_by_hand():
    # Sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04, never falling: .02 .03 .06 .06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.04]) == [0.04]
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_power_is_that_of_the_tables():
    # The textbook case: a medium effect of 0.5 s.d. needs 34 pairs for 80 %.
    assert power(0.5 * 34**0.5, 34) == pytest.approx(0.8078, abs=1e-4)
    assert power(0.5 * 33**0.5, 33) < 0.8
    assert power(0, 10) == pytest.approx(0.05)
    assert detectable(0.02, 34) == pytest.approx(0.02 * 0.495, abs=1e-5)
    assert detectable(1, 5) is None
    assert detectable(1, 10**6) == pytest.approx((1.959964 + 0.841621) / 1000, rel=1e-4)


def test_a_detectable_effect_is_detected_four_times_in_five():
    rng = np.random.default_rng(5)
    smallest = detectable(1, 9)
    assert smallest
    found = [compare(rng.normal(smallest, 1, 9), np.zeros(9)).p < 0.05 for _ in range(150)]
    assert 0.7 < np.mean(found) < 0.9
