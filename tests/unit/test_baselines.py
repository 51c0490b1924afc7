import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fmriscale.config import TaskConfig
from fmriscale.evaluation.baselines import auc, baselines, score
from fmriscale.sampling.labelled import Windows, draw_pairs


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


def areas(windows: Windows, pairs: str) -> dict[str, float]:
    task = TaskConfig(protocol=pairs)
    test_side = windows.person_N.astype(int) % 2 == 0
    train, test = (
        draw_pairs(windows, np.flatnonzero(side), task, [i]) for i, side in enumerate((~test_side, test_side))
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
    for name in ("category", "correlation", "pair_logistic", "same_run"):
        assert cross_run[name] == pytest.approx(0.5, abs=0.1), (name, cross_run)


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
