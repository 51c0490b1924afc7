"""What a probe says of its numbers, and that its figures are those of scikit-learn, with honest intervals."""

import re

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from fmriscale.study.probe.decoder import decode, inner_splits, unrelated, without_confounds
from fmriscale.study.probe.figures import by_unit, scores_of
from fmriscale.study.probe.plain import answer
from fmriscale.study.probe.reduce import shared
from fmriscale.study.probe.rows import Rows
from fmriscale.study.probe.run import judged_classes
from fmriscale.study.probe.verdict import verdict


def row(second, effect, p, corrected_p=0.001, n=40, first="pretrained"):
    tests = {"p": p, "corrected_p": corrected_p, "corrected_t": 3.0, "n": n, "detectable": None}
    interval = {"effect": effect, "low": effect - 0.05, "high": effect + 0.05}
    return {"figure": "auc", "first": first, "second": second, "size": None, **interval, **tests}


def summary(
    fresh=(0.1, 0.001), best=(0.05, 0.001), own=0.75, corrected=0.001, n=40, shuffled=(0.5, 0.4), **changed
):
    """A probe of a chosen outcome; fresh and best: gain over them and its p."""

    def method(title, kind, mean, spread=0.05):
        figure = {"mean": mean, "low": mean - spread, "high": mean + spread, "n": n}
        return {"title": title, "kind": kind, "auc": figure, "balanced_accuracy": figure}

    found = {
        "figures": ["auc", "balanced_accuracy"],
        "main": "pretrained",
        "best_baseline": "connectivity",
        "target": "dx",
        "n_people": n,
        "chance": {"auc": 0.5, "balanced_accuracy": 0.5},
        "allow_seen_runs": False,
        "methods": {
            "pretrained": method("pre-trained", "arm", own),
            "fresh": method("fresh", "arm", own - fresh[0]),
            "connectivity": method("connectivity", "baseline", own - best[0]),
            "shuffled": method("shuffled labels", "check", shuffled[0]),
        },
        "comparisons": [row("fresh", *fresh, corrected, n), row("connectivity", *best, corrected, n)],
        "against_chance": [
            row("chance", own - 0.5, 0.001, n=n),
            row("chance", own - best[0] - 0.5, 0.001, n=n, first="connectivity"),
            row("chance", shuffled[0] - 0.5, 0.01, shuffled[1], n=n, first="shuffled"),
        ],
        "size_comparisons": [],
    }
    return found | changed


@pytest.mark.parametrize(
    ("chosen", "survives", "words"),
    [
        ({}, True, ["Yes: the pre-trained", "a fresh one's", "best baseline, connectivity", "40 people"]),
        (
            {"best": (-0.08, 0.001)},
            False,
            ["No:", "is above a fresh one's", "but not above the best baseline"],
        ),
        ({"best": (0.01, 0.4)}, False, ["but not above the best baseline, connectivity, AUC 0.740"]),
        ({"fresh": (0.01, 0.4)}, False, ["is not above a fresh one's"]),
        ({"fresh": (0.01, 0.4), "best": (-0.1, 0.001)}, False, ["neither above"]),
        ({"corrected": 0.3}, None, ["Open: over people", "trainings do not agree"]),
        ({"n": 4}, None, ["Open: 4 people cannot give p below 0.12"]),
        ({"shuffled": (0.7, 0.001)}, None, ["models trained on shuffled labels"]),
        ({"shuffled": (0.7, 0.4)}, True, ["Yes:"]),
        ({"main": None}, None, ["No encoder to judge: the best baseline is connectivity", "above chance"]),
        ({"allow_seen_runs": True}, True, ["pre-training may have seen the test runs"]),
    ],
)
def test_the_verdict_counts_a_gain_only_where_fresh_and_the_best_baseline_are_beaten(chosen, survives, words):
    found = verdict(summary(**chosen))
    assert found["survives"] is survives
    assert all(word in found["sentence"] for word in words), found["sentence"]
    asked = {"rows": "run", "kind": "classify", "question": "How well can dx be told from a run?"}
    told = answer(summary(**chosen) | asked | {"verdict": found})
    assert told.word == {True: "Yes", False: "No", None: "Open"}[survives]
    assert not re.search(r"p [=<]|\[", told.why) and told.why.endswith(".")


def as_rows(target, classes, person=None):
    n = len(target)
    person = np.array([f"p{i}" for i in range(n)]) if person is None else person
    index = np.arange(n)
    return Rows(index, index, index, target, classes, person, person, np.empty((n, 0)), {})


@pytest.mark.parametrize("n_classes", [2, 4])
def test_figures_of_classes_are_those_of_scikit_learn_and_spread_as_their_bootstrap(n_classes):
    rng = np.random.default_rng(0)
    target = rng.choice(n_classes, 500, p=np.arange(1, n_classes + 1) / sum(range(1, n_classes + 1)))
    value = rng.standard_normal((500, n_classes))
    value[np.arange(500), target] += 0.8
    share = np.exp(value) / np.exp(value).sum(axis=1, keepdims=True)

    def auc(i):
        if n_classes == 2:
            return roc_auc_score(target[i], share[i, 1])
        return roc_auc_score(target[i], share[i], multi_class="ovr")

    rows = as_rows(target, tuple("abcd"[:n_classes]))
    result = {
        "fold": 0,
        "seed": None,
        "rows": np.arange(500).tolist(),
        **judged_classes(np.log(share), target),
    }
    draws = [rng.integers(0, 500, 500) for _ in range(400)]
    for figure, expected in (
        ("auc", auc),
        ("balanced_accuracy", lambda i: balanced_accuracy_score(target[i], value[i].argmax(axis=1))),
    ):
        units = list(by_unit(scores_of(figure, rows, [result])).values())
        assert np.isclose(np.mean(units), expected(np.arange(500)))
        bootstrap = np.std([expected(i) for i in draws])
        assert abs(np.std(units) / 500**0.5 / bootstrap - 1) < 0.15


def test_r_is_pearsons_and_the_parts_of_a_persons_rows_are_one_unit():
    rng = np.random.default_rng(1)
    target = rng.standard_normal(200)
    prediction = target + rng.standard_normal(200)
    rows = as_rows(target, (), np.array([f"p{i // 4}" for i in range(200)]))
    result = {"fold": 0, "seed": None, "rows": np.arange(200).tolist(), "prediction": prediction.tolist()}
    units = by_unit(scores_of("r", rows, [result]))
    assert len(units) == 50 and np.isclose(
        np.mean(list(units.values())), np.corrcoef(target, prediction)[0, 1]
    )


def test_more_features_than_rows_give_what_the_model_itself_gives():
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(2)
    x, target = rng.standard_normal((40, 300)), rng.standard_normal(40)
    train, test = np.arange(30), np.arange(30, 40)
    found = decode(lambda a, b: (x[a], x[b]), train, test, target[:30], None, n_classes=0)
    scaler = StandardScaler().fit(x[:30])
    plain = Ridge(alpha=found.choice.penalty * 300).fit(scaler.transform(x[:30]), target[:30])
    np.testing.assert_allclose(found.value, plain.predict(scaler.transform(x[30:])), atol=1e-8)


def test_inner_folds_know_nothing_of_their_validation_rows():
    rng = np.random.default_rng(6)
    x, target = rng.standard_normal((60, 8)), np.arange(60) % 2
    group = np.repeat(np.arange(20), 3).astype(str)
    asked = []

    def sides(fitted, applied):
        asked.append((set(fitted.tolist()), set(applied.tolist())))
        return x[fitted], x[applied]

    decode(sides, np.arange(40), np.arange(40, 60), target[:40], [group[:40]], n_classes=2)
    assert len(asked) == 4 and asked[-1] == (set(range(40)), set(range(40, 60)))
    for fitted, applied in asked:
        assert not fitted & applied and not {group[i] for i in fitted} & {
            group[i] for i in applied - set(range(40, 60))
        }
        assert not fitted & set(range(40, 60))


def test_inner_folds_leave_out_all_that_the_folds_leave_out():
    """Of two groupings the side that is fitted knows neither the people nor the films of the other side."""
    person, film = np.repeat(np.arange(6), 8), np.tile(np.repeat(np.arange(2), 4), 6)
    splits = inner_splits(np.arange(48) % 2, [person, film], classify=True)
    assert len(splits) == 3 * 2
    for fitted, applied in splits:
        assert not set(person[fitted]) & set(person[applied]) and not set(film[fitted]) & set(film[applied])
    applied = np.concatenate([applied for _, applied in splits])
    assert sorted(applied.tolist()) == list(range(48)), "every row is validated once"
    assert inner_splits(np.arange(48) % 2, [np.zeros(48)], classify=True) == []


def test_the_scale_is_chosen_that_keeps_what_features_have_to_say():
    """One feature of 200 counts, and is large: standardised, it drowns."""
    rng = np.random.default_rng(7)
    target, group = np.arange(200) % 2, np.repeat(np.arange(20), 10)
    x = rng.standard_normal((200, 200))
    x[:, 0] = 20 * (target - 0.5 + 0.6 * rng.standard_normal(200))
    train, test = np.arange(100), np.arange(100, 200)

    def found(x):
        return decode(lambda a, b: (x[a], x[b]), train, test, target[:100], [group[:100]], n_classes=2)

    kept = found(x)
    assert kept.choice.scale == "together" and np.mean(kept.value.argmax(axis=1) == target[100:]) > 0.75
    x[:, 1:] *= np.geomspace(1, 1e3, 199)  # sizes that say nothing
    x[:, 0] /= 20
    assert found(x).choice.scale == "each"


def test_confounds_are_fitted_on_the_training_side_alone():
    rng = np.random.default_rng(3)
    confound = rng.standard_normal((60, 1))
    x = 3 * confound + rng.standard_normal((60, 5))
    x[:, 4] = 7.0
    train, test = without_confounds(x[:40], x[40:], confound[:40], confound[40:])
    assert np.abs(np.corrcoef(train[:, 0], confound[:40, 0])[0, 1]) < 1e-9
    other, _ = without_confounds(x[:40], x[40:] + 100, confound[:40], confound[40:])
    assert np.array_equal(train, other) and not train[:, 4].any() and not test[:, 4].any()


@pytest.mark.parametrize("classify", [True, False])
def test_shuffled_targets_know_nothing_of_the_truth(classify):
    rng = np.random.default_rng(4)
    target = np.repeat([0, 1, 2], [50, 100, 150]) if classify else rng.standard_normal(300)
    found = unrelated(target, rng, classify=classify)
    if classify:
        table = np.array([[np.sum((target == a) & (found == b)) for b in range(3)] for a in range(3)])
        assert np.ptp(table / table.sum(axis=1, keepdims=True)) < 0.03
    else:
        assert abs(np.corrcoef(target, found)[0, 1]) < 1e-9


def test_shared_directions_are_those_that_people_have_in_common():
    rng = np.random.default_rng(5)
    course = rng.standard_normal((10, 4))  # ten moments of four volumes, in feature 2 alone
    windows = rng.standard_normal((6, 10, 4, 25))
    windows[..., 2] += 2 * course
    windows[..., 7] *= 10  # what varies most is of no one else
    x = windows.reshape(60, -1)
    moment, person = np.tile(np.arange(10), 6), np.repeat([f"p{i}" for i in range(6)], 10)
    found, _ = shared((x, x), 25, moment, person)
    best = found.reshape(60, 4, -1)[:, :, -1]
    assert abs(np.corrcoef(best.ravel(), windows[..., 2].reshape(60, 4).ravel())[0, 1]) > 0.9
