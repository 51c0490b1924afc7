"""The truth table of the verdict: made-up accuracies go through the summary, and the sentence is read."""

import re
from typing import Any

import numpy as np
import pytest

from fmriscale.config import FinetuneTrainConfig, StudyConfig, TaskConfig
from fmriscale.study.jobs import cells
from fmriscale.study.plain import answer
from fmriscale.study.scores import Score
from fmriscale.study.summary import summarise
from fmriscale.study.verdict import verdict

CHANCE = {
    name: 0.5 for name in ("pair_logistic", "correlation", "run_means", "persistence", "same_run", "shuffled")
}
N_PAIRS = 1000
SLOW, FAST = [0.5, 0.55, 0.6, 0.65], [0.6, 0.66, 0.68, 0.68]


def people_of(mean: float, n: int, spread: float, name: str) -> np.ndarray:
    """Accuracies of n people: people differ alike in every arm, and each arm has a noise of its own."""
    if name == "same_run":
        return np.full(n, mean)
    noise = np.random.default_rng([len(name), *name.encode()]).standard_normal(n)
    noise = (noise - noise.mean()) / noise.std()
    alike = np.sin(np.arange(n))
    return mean + spread * noise + 0.02 * (mean > 0.5) * (alike - alike.mean())


def judged(n=12, spread=0.01, backwards=0.5, curves=None, **changed) -> dict[str, Any]:
    """Summarise a study whose arms and baselines have the given mean accuracies."""
    settings = {key: changed.pop(key) for key in list(changed) if key in StudyConfig.__dataclass_fields__}
    task = {key: changed.pop(key) for key in list(changed) if key in TaskConfig.__dataclass_fields__}
    train = {key: changed.pop(key) for key in list(changed) if key == "report"}
    unusual = [name for name in changed if name.startswith("connectivity")]
    means = {"gained": 0.65, "fresh": 0.6, "category": 0.58} | CHANCE | changed
    means["pretrained"] = means.pop("gained")
    config = StudyConfig(
        **{"out": "s", "corpus": "c", "pretrained": "e", "n_folds": 6, "seeds": [0]} | settings,
        task=TaskConfig(label="timbre", **task),
        train=FinetuneTrainConfig(epochs=4, **train),
    )
    curves = {"fresh": SLOW, "pretrained": FAST} | (curves or {})
    people = {name: people_of(mean, n, spread, name) for name, mean in means.items()}

    def rows(name: str, fold: int) -> list[dict[str, Any]]:
        return [
            {"condition": "", "unit": f"p{i}", "n": N_PAIRS, "accuracy": float(people[name][i]), "auc": 0.6}
            for i in range(fold, n, config.n_folds)
        ]

    def record(cell) -> dict[str, Any]:
        scores = rows(cell.arm, cell.fold)
        end = float(np.mean([row["accuracy"] for row in scores]))
        epochs = [
            {"epoch": e, "loss": 0.7, "accuracy": end, "auc": auc, "seconds": 1.0 * e}
            for e, auc in enumerate(curves.get(cell.arm, SLOW), 1)
        ]
        return {
            **{"arm": cell.arm, "fold": cell.fold, "seed": cell.seed, "size": cell.size, "left_out": []},
            **{"n_train": 5000, "n_test": 1000, "epochs": epochs, "reported": 4, "scores": scores},
            "reversed": {"auc": backwards, "accuracy": backwards},
        }

    baselines = [
        {name: Score(0.5, means[name], rows(name, fold)) for name in ("category", *CHANCE, *unusual)}
        for fold in range(config.n_folds)
    ]
    return summarise(config, [record(cell) for cell in cells(config)], baselines, {})


def said(**changed) -> tuple[bool | None, str]:
    summary = judged(**changed)
    found = summary["verdict"]
    told = answer(summary)
    assert told.word == {True: "Yes", False: "No", None: "Open"}[found["survives"]]
    assert not re.search(r"p [=<]|\[|Holm|\bt \d", told.why) and told.why.endswith("."), told.why
    assert found["sentence"].endswith(".") and "nan" not in found["sentence"]
    return found["survives"], found["sentence"]


def test_an_advantage_that_survives():
    survives, sentence = said()
    assert survives is True
    assert sentence.startswith(
        "Yes: the pre-trained arm's advantage survives cross_run: +5.0 points of accuracy [+"
    )
    assert "12 subjects" in sentence and "p = 0.000" in sentence
    assert (
        "to reach the fresh arm's best AUC it needs -2.0 epochs [-2.0, -2.0] (p = 0.031, 6 folds)" in sentence
    )
    assert "it also beats the best simple baseline, a linear SVM on single windows (58.0 %)" in sentence
    for absent in ("backwards", "at chance", "may be run", "chosen on the test"):
        assert absent not in sentence


@pytest.mark.parametrize(
    ("changed", "survives", "words"),
    [
        # What forbids every figure comes first.
        ({"shuffled": 0.6}, None, ["Open", "shuffled labels score 60.0 %", "something but the timbre"]),
        (
            {"same_run": 1.0, "protocol": "paper"},
            None,
            ["(paper) cannot tell timbre from run", "scores 100 %"],
        ),
        ({"same_run": 0.0, "protocol": "any"}, None, ["cannot tell timbre from run", "scores 100 %"]),
        # Then whether the units can show anything.
        (
            {"n": 5, "n_folds": 5},
            None,
            ["Open: 5 subjects cannot give p below 0.062", "corrected resampled t"],
        ),
        # Then the arms.
        ({"gained": 0.5, "fresh": 0.5, "category": 0.5}, False, ["No: both arms are at chance", "80 %"]),
        ({"gained": 0.5, "fresh": 0.5}, False, ["yet there is something to decode: a linear SVM"]),
        ({"gained": 0.601}, False, ["No: the pre-trained arm's advantage does not survive", "80 %"]),
        ({"gained": 0.55}, False, ["worse than the fresh one: -5.0"]),
        ({"gained": 0.5}, False, ["worse than the fresh one: -10.0"]),
        (
            {"gained": 0.55, "spread": 0.05},
            False,
            ["advantage does not survive", "-5.0", "corrected resampled t"],
        ),
        # A gain may be that of runs.
        ({"run_means": 0.65}, None, ["ahead of the fresh one by +5.0", "run means alone score 65.0 %"]),
        ({"run_means": 0.6}, True, ["Yes"]),
        # What weakens it.
        (
            {"same_run": 0.6, "protocol": "any"},
            True,
            ["Yes", "part may be run: a same-run oracle scores 60.0 %"],
        ),
        # A gain counts only beside the best simple baseline.
        (
            {"category": 0.75},
            False,
            [
                "No",
                "ahead of the fresh one by +5.0",
                "single windows, does better (75.0 %",
                "gain counts only",
            ],
        ),
        ({"category": 0.649}, None, ["Open", "a linear SVM on single windows, is not told apart from it"]),
        (
            {"connectivity": 0.75},
            False,
            ["No", "a linear SVM on the connectivity of single windows, does better (75.0 %", "65.0 %)"],
        ),
        (
            {"connectivity": 0.6},
            True,
            ["Yes", "it also beats the best simple baseline", "connectivity of single"],
        ),
        (
            {"connectivity_correlation": 0.651},
            None,
            ["correlation of the windows' connectivity, does as well"],
        ),
        (
            {"gained": 0.55, "connectivity": 0.7},
            False,
            ["worse than the fresh one", "connectivity", "does better"],
        ),
        (
            {"persistence": 0.7},
            False,
            ["No", "persistence (does one window continue the other?), does better"],
        ),
        ({"backwards": 0.648}, True, ["windows that run backwards score the same (64.8 %)"]),
        ({"allow_seen_runs": True}, True, ["pre-training may have seen the test runs"]),
        ({"report": "best"}, True, ["the reported epoch was chosen on the test pairs"]),
        ({"standardize": "subject"}, True, ["test runs took part in standardisation"]),
        (
            {"spread": 0.05},
            None,
            ["Open", "+5.0", "trainings do not agree (corrected resampled t over folds"],
        ),
        ({"n_folds": 1, "folds_by": "half"}, None, ["Open", "all share the trained models of one fold"]),
        (
            {"curves": {"pretrained": [0.5] * 4}},
            True,
            ["+1.0 epochs", "6 pre-trained and 0 fresh cells never do"],
        ),
        # Nothing pre-trained.
        ({"pretrained": None}, None, ["No pre-trained arm to judge: fresh 60.0 %", "above chance"]),
        ({"pretrained": None, "fresh": 0.5}, None, ["12 subjects, at chance"]),
        ({"pretrained": None, "n": 4, "n_folds": 4}, None, ["too few to tell from chance"]),
    ],
)
def test_truth_table(changed, survives, words):
    found = said(**changed)
    assert found[0] is survives, found
    for word in words:
        assert word in found[1], found[1]


def test_a_control_that_does_as_well_takes_the_credit():
    survives, sentence = said(controls={"shuffled_volumes": "x"}, shuffled_volumes=0.65)
    assert survives is True
    assert (
        "the control 'shuffled volumes' " in sentence and "so what it lacks is not shown to help" in sentence
    )
    assert "shuffled volumes" not in said(controls={"shuffled_volumes": "x"}, shuffled_volumes=0.6)[1]


def test_what_is_open_by_its_protocol_says_no_more_of_the_arms():
    sentence = said(same_run=1.0, protocol="paper", category=0.9, backwards=0.65)[1]
    assert "SVM" not in sentence and "backwards" not in sentence


def test_the_reason_is_told_in_plain_words():
    yes = answer(judged())
    assert (yes.question, yes.word) == ("Does pre-training help to decode timbre from brain activity?", "Yes")
    assert yes.why == (
        "The pre-trained network is right in 65.0 % of the cases, more often than the same network without "
        "pre-training (60.0 %) and than the best simple method, a linear SVM on single windows (58.0 %); "
        "over 12 subjects luck cannot explain it."
    )
    nothing = answer(judged(gained=0.5, fresh=0.5, category=0.5)).why
    assert "no better than guessing" in nothing and "what only tells runs apart" in nothing
    assert "a simple method without any network does better" in answer(judged(category=0.75)).why
    assert "a difference that luck can make" in answer(judged(gained=0.601)).why
    older = judged(category=0.75)
    older["verdict"] = {"sentence": "Yes: by older rules; and more.", "survives": True}
    assert answer(older)[1:3] == ("Yes", "Yes: by older rules."), "a verdict of its time keeps its words"


def test_small_training_sides_are_told_apart():
    summary = judged()
    row = next(r for r in summary["comparisons"] if r["second"] == "fresh")
    found = ((1, 0.001, 0.02), (2, 0.001, 0.06), (4, 0.3, 0.02), (10, 0.001, 0.02))
    sizes = [{**row, "size": size, "p_holm": p, "corrected_p_holm": q} for size, p, q in found]
    summary |= {"sizes": [1, 2, 4, 10], "size_comparisons": sizes}
    told = verdict(summary)["sentence"]
    assert "trained on fewer, it is ahead (Holm-adjusted, both tests): +5.0 with 1 subject;" in told


def test_conditions_are_given_with_their_adjusted_p():
    summary = judged()
    row = next(r for r in summary["comparisons"] if r["second"] == "fresh")
    summary["comparisons"] += [
        {**row, "condition": "heard", "effect": 0.06, "p_holm": 0.002},
        {**row, "condition": "imagined", "effect": 0.01, "p_holm": 0.4},
    ]
    told = verdict(summary)["sentence"]
    assert "by condition, Holm-adjusted: heard +6.0 (p = 0.002), imagined +1.0 (p = 0.400)" in told
