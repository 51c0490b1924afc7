import numpy as np
import pytest

from fmriscale.evaluation.statistics import compare, epochs_to


def test_a_constant_gain_has_the_smallest_p_that_its_units_allow():
    result = compare([0.7, 0.8, 0.9, 0.75, 0.85], [0.6, 0.7, 0.8, 0.65, 0.75])
    assert result.effect == pytest.approx(0.1)
    assert result.p == pytest.approx(2 / 2**5)


def test_few_units_are_enumerated_exactly():
    result = compare([0.3, 0.2, 0.1, 0.25], [0.0, 0.0, 0.0, 0.0])
    assert result.p == pytest.approx(2 / 2**4)
    assert result.low < result.effect < result.high
    assert "cannot give p below" in str(result)


def test_swapping_the_arms_turns_the_sign_and_nothing_else():
    a, b = np.random.default_rng(0).random((2, 8))
    forth, back = compare(a, b), compare(b, a)
    assert forth.effect == pytest.approx(-back.effect)
    assert forth.p == pytest.approx(back.p)


def test_no_difference_is_no_evidence():
    assert compare([0.5, 0.6], [0.5, 0.6]).p == 1.0
    assert compare([0.9], [0.1]).p == 1.0


def test_p_is_uniform_where_there_is_nothing():
    rng = np.random.default_rng(1)
    p = np.array([compare(*rng.standard_normal((2, 8)), seed=i).p for i in range(60)])
    assert 0.01 <= np.mean(p <= 0.2) <= 0.4


def test_epochs_to_a_target():
    assert epochs_to(0.7, [0.5, 0.7, 0.6]) == 2
    assert epochs_to(0.9, [0.5, 0.7, 0.6]) is None
