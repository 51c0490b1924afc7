import json

import numpy as np
import pytest
from scipy import stats

from fmriscale.common.errors import UserError
from fmriscale.config import FinetuneTrainConfig, StudyConfig, TaskConfig
from fmriscale.study.jobs import cells
from fmriscale.study.scores import Score
from fmriscale.study.statistics import corrected_t
from fmriscale.study.summary import speed, summarise
from fmriscale.study.wording import on_seeds

PEOPLE = [f"p{i}" for i in range(8)]
EPOCHS = 4


def study(**changed) -> StudyConfig:
    settings = {
        **{"out": "study", "corpus": "c", "pretrained": "e", "n_folds": 4, "seeds": [0, 1]},
        **{"task": TaskConfig(label="timbre", condition="condition")},
        **{"train": FinetuneTrainConfig(epochs=EPOCHS)},
    }
    return StudyConfig(**(settings | changed))


def true_accuracy(arm, person, condition, seed, size=None):
    """Made-up accuracies, in 1 / 40: people differ, seeds too, arms by 4 where heard."""
    place = 20 + 2 * (PEOPLE.index(person) % 3) + seed
    return (place + 4 * (arm == "pretrained" and condition == "heard") + (size or 0)) / 40


def rows_of(arm, fold, seed, size=None, conditions=("heard", "imagined")):
    return [
        {
            **{"condition": condition, "unit": person, "n": 40 if condition == "heard" else 20},
            "accuracy": true_accuracy(arm, person, condition, seed, size),
            "auc": 0.5 + true_accuracy(arm, person, condition, seed, size) / 4,
        }
        for condition in conditions
        for person in PEOPLE[fold::4]
    ]


def record(cell, **changed):
    """What `run_cell` writes, its curve rising faster where pre-trained."""
    pace = 0.1 if cell.arm == "pretrained" else 0.05
    curve = [
        {"epoch": e, "loss": 1 / e, "accuracy": 0.5 + pace * e, "auc": 0.5 + pace * e, "seconds": 2.0 * e}
        for e in range(1, EPOCHS + 1)
    ]
    return {
        **{"hash": "h", "arm": cell.arm, "fold": cell.fold, "seed": cell.seed, "size": cell.size},
        **{"left_out": PEOPLE[cell.fold :: 4], "n_train": 360, "n_test": 120},
        **{"n_parameters": 10, "n_trained": 10, "seconds": 9.0, "epochs": curve, "reported": EPOCHS},
        "scores": rows_of(cell.arm, cell.fold, cell.seed, cell.size),
        "reversed": {"auc": 0.6, "accuracy": 0.55},
    } | changed


def baselines(fold):
    rows = rows_of("svm", fold, 0)
    oracle = [row | {"accuracy": 0.5, "auc": 0.5} for row in rows]
    return {
        "category": Score(0.7, 0.65, rows),
        "same_run": Score(0.5, 0.5, oracle),
        "shuffled": Score(0.5, 0.5, oracle),
    }


@pytest.fixture(scope="module")
def config():
    return study(controls={"shuffled_volumes": "s"})


@pytest.fixture(scope="module")
def done(config):
    records = [record(cell) for cell in cells(config)]
    return summarise(config, records, [baselines(fold) for fold in range(4)], {"date": "today"})


def row(summary, first, second, condition="all"):
    wanted = (condition, first, second)
    rows = summary["comparisons"] + summary["against_chance"]
    return next(r for r in rows if (r["condition"], r["first"], r["second"]) == wanted)


def test_it_is_json_and_says_what_was_done(config, done):
    assert json.loads(json.dumps(done, allow_nan=False)) == done
    assert (done["unit"], done["n_units"], done["conditions"]) == ("subject", 8, ["heard", "imagined"])
    assert list(done["arms"]) == [
        "pretrained",
        "fresh",
        "shuffled_volumes",
        "category",
        "same_run",
        "shuffled",
    ]
    kinds = [content["kind"] for content in done["arms"].values()]
    assert kinds == ["arm", "arm", "control", "baseline", "baseline", "baseline"]
    assert done["provenance"] == {"date": "today"}
    assert done["sizes"] == [None] and done["size_comparisons"] == []
    assert done["verdict"]["survives"] is True


def test_a_units_figure_is_that_of_all_its_pairs_and_the_mean_of_its_seeds(done):
    arm = done["arms"]["pretrained"]["by_condition"]
    # p1: 22, 23 of 40 imagined (20 pairs), 26, 27 heard (40 pairs); over all (22.5 + 2 * 26.5) / 3
    assert arm["imagined"]["by_unit"]["p1"] == pytest.approx(22.5 / 40)
    assert arm["heard"]["by_unit"]["p1"] == pytest.approx(26.5 / 40)
    assert arm["all"]["by_unit"]["p1"] == pytest.approx((22.5 + 2 * 26.5) / 3 / 40)
    values = list(arm["all"]["by_unit"].values())
    wanted = stats.ttest_1samp(values, 0).confidence_interval()
    assert arm["all"]["accuracy"] == {
        **{"mean": pytest.approx(np.mean(values)), "n": 8},
        **{"low": pytest.approx(wanted.low), "high": pytest.approx(wanted.high)},
    }
    assert arm["all"]["auc"]["mean"] == pytest.approx(0.5 + np.mean(values) / 4)


def test_conditions_are_compared_apart_and_adjusted_and_all_pairs_too(done):
    heard, imagined = (row(done, "pretrained", "fresh", condition) for condition in ("heard", "imagined"))
    assert (heard["effect"], imagined["effect"]) == (pytest.approx(0.1), 0)
    assert (heard["p"], imagined["p"]) == (pytest.approx(2 / 2**8), 1)
    assert heard["p_holm"] == pytest.approx(2 * heard["p"])
    every = row(done, "pretrained", "fresh")
    assert every["effect"] == pytest.approx(0.1 * 2 / 3)
    assert every["by_seed"] == pytest.approx([0.1 * 2 / 3] * len(done["seeds"]))
    assert f"by seed, a draw of the fresh weights each: {', '.join(['+6.7'] * 2)} points." in on_seeds(done)
    assert every["p_holm"] == every["p"]


def test_seeds_and_folds_are_no_units_but_meet_in_the_corrected_t(done):
    compared = row(done, "pretrained", "category")
    assert compared["n"] == 8
    # The baseline has no seed: heard 4, mean over seeds .5 more, in 1 / 40
    assert compared["effect"] == pytest.approx((4 * 2 / 3 + 0.5) / 40)
    differences = [(4 * 2 / 3 + seed) / 40 for _ in range(4) for seed in (0, 1)]
    assert compared["corrected_t"] == pytest.approx(corrected_t(differences, 120 / 360)[0])
    chance = row(done, "same_run", "chance")
    assert (chance["effect"], chance["p"], chance["corrected_t"]) == (0, 1, None)


def test_folds_and_curves(done):
    assert [fold["left_out"] for fold in done["folds"]] == [PEOPLE[fold::4] for fold in range(4)]
    assert done["folds"][0]["auc"]["fresh"] == pytest.approx(0.7)
    assert done["folds"][0]["auc"]["category"] == 0.7
    last = done["curves"]["fresh"][-1]
    assert last == {
        **{"epoch": 4, "loss": 0.25, "seconds": 8.0, "accuracy": pytest.approx(0.7)},
        **{name: pytest.approx(0.7) for name in ("auc", "auc_low", "auc_high")},
    }
    backwards = done["arms"]["pretrained"]["reversed"]
    assert (backwards["auc"], backwards["forward_auc"]) == (pytest.approx(0.6), pytest.approx(0.9))
    assert backwards["drop"]["effect"] == pytest.approx(0.35)
    assert done["arms"]["category"]["reversed"] is None


def test_sizes_of_the_training_side():
    config = study(train_sizes=[6, 1, 3])
    records = [record(cell) for cell in cells(config)]
    done = summarise(config, records, [baselines(fold) for fold in range(4)], {})
    assert done["sizes"] == [1, 3, 6]
    fresh = [r["accuracy"] for r in done["by_size"] if r["arm"] == "fresh"]
    assert np.diff(fresh) == pytest.approx([2 / 40, 3 / 40])
    assert [r["size"] for r in done["size_comparisons"]] == [1, 3, 6]
    assert all(r["p_holm"] == pytest.approx(3 * 2 / 2**8) for r in done["size_comparisons"])
    # What the study says of its arms is said of the largest size.
    assert done["arms"]["fresh"]["by_condition"]["all"]["accuracy"]["mean"] == pytest.approx(fresh[-1])


def test_a_smaller_training_side_is_corrected_as_the_folds_are_cut():
    config = study(train_sizes=[1, 6])
    records = [
        record(
            cell,
            n_train=60 * (cell.size or 0),
            scores=[
                row | {"accuracy": 0.6 + 0.01 * cell.fold * (cell.arm == "pretrained")}
                for row in rows_of(cell.arm, cell.fold, cell.seed)
            ],
        )
        for cell in cells(config)
    ]
    done = summarise(config, records, [baselines(fold) for fold in range(4)], {})
    # Two people of eight are left out, however few of the other six train: 2 / 6.
    wanted = corrected_t([0, 0, 0.01, 0.01, 0.02, 0.02, 0.03, 0.03], 2 / 6)
    for row in done["size_comparisons"]:
        assert (row["corrected_t"], row["corrected_p"]) == pytest.approx(wanted)
        assert row["corrected_p_holm"] == pytest.approx(2 * row["corrected_p"])


def test_runs_left_out_are_one_unit_a_fold_and_one_condition_is_all():
    config = study(folds_by="run", n_folds=2, seeds=[0], pretrained=None)
    rows = {f: [{"condition": "", "unit": f"fold {f}", "n": 9, "accuracy": 0.6, "auc": None}] for f in (0, 1)}
    records = [record(cell, scores=rows[cell.fold]) for cell in cells(config)]
    done = summarise(config, records, [{"category": Score(0.6, 0.6, rows[f])} for f in (0, 1)], {})
    assert (done["unit"], done["n_units"], done["conditions"]) == ("fold", 2, [""])
    assert list(done["arms"]["fresh"]["by_condition"]) == ["all"]
    assert done["arms"]["fresh"]["by_condition"]["all"]["auc"] == {"mean": None, "sd": None}
    assert [(r["first"], r["second"]) for r in done["comparisons"]] == [("fresh", "category")]


def curves(arm, fold, seed, auc):
    epochs = [{"auc": value, "seconds": 3.0 * e} for e, value in enumerate(auc, 1)]
    return {"arm": arm, "fold": fold, "seed": seed, "epochs": epochs}


def test_speed_pairs_cells_and_counts_one_that_never_arrives_as_one_epoch_beyond():
    records = [
        *(curves("fresh", fold, seed, [0.5, 0.6, 0.8]) for fold in (0, 1) for seed in (0, 1)),
        curves("pretrained", 0, 0, [0.8, 0.7, 0.7]),
        curves("pretrained", 0, 1, [0.6, 0.8, 0.8]),
        curves("pretrained", 1, 0, [0.6, 0.9, 0.8]),
        curves("pretrained", 1, 1, [0.5, 0.6, 0.7]),
    ]
    found = speed(records, 0.5)
    assert found["target_auc"] == pytest.approx(0.8)
    assert found["reached"]["fresh"] == {"median_epochs": 3, "median_seconds": 9, "n_never": 0, "n": 4}
    assert found["reached"]["pretrained"] == {"median_epochs": 2, "median_seconds": 6, "n_never": 1, "n": 4}
    # Of fold 0: -2 and -1 epochs; of fold 1: -1 and, never, 4 - 3 = +1.
    assert found["epochs"]["effect"] == pytest.approx((-1.5 + 0) / 2)
    assert found["epochs"]["n"] == 2
    assert found["epochs"]["corrected_t"] == pytest.approx(corrected_t([-2, -1, -1, 1], 0.5)[0])
    assert found["seconds"]["effect"] == pytest.approx(3 * found["epochs"]["effect"])


def test_speed_has_no_median_where_half_never_arrive():
    flat = [curves("pretrained", fold, 0, [0.5, 0.5]) for fold in (0, 1)]
    found = speed([curves("fresh", fold, 0, [0.5, 0.9]) for fold in (0, 1)] + flat, None)
    assert found["reached"]["pretrained"] == {
        **{"median_epochs": None, "median_seconds": None, "n_never": 2, "n": 2}
    }
    assert found["epochs"]["effect"] == 1
    assert found["epochs"]["corrected_t"] is None


def test_cells_of_one_fold_that_tested_different_pairs_are_refused(config):
    records = [record(cell) for cell in cells(config)]
    other = records[0] | {"scores": records[0]["scores"][1:]}
    with pytest.raises(UserError, match="tested different pairs"):
        summarise(config, [other, *records[1:]], [baselines(fold) for fold in range(4)], {})
