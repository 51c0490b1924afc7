"""What a study must find, and must not, in simulated data whose truth is known.

Small and fast: light models, and one tiny encoder; benchmarks/simulation.py has the whole of it.
"""

from functools import cache

import numpy as np
import pytest
from scipy.stats import binom

from fmriscale.config import FinetuneTrainConfig, ModelConfig, SimulateConfig, StudyConfig, TaskConfig
from fmriscale.simulate.build import simulate
from fmriscale.study.baselines import baselines
from fmriscale.study.data import open_study
from fmriscale.study.encoders import build_model
from fmriscale.study.fit import fit
from fmriscale.study.jobs import Cell
from fmriscale.study.scores import by_unit
from fmriscale.study.statistics import compare, interval

OFFSETS = {"timbre": 0.0, "run_offset": 1.0}
TIMBRE = {"timbre": 1.0, "run_offset": 0.0}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A function from strengths and seed to a simulated corpus of nine people with a small ROI."""
    root = tmp_path_factory.mktemp("simulated")

    @cache
    def written(timbre, run_offset, seed=0, n_subjects=9):
        folder = root / f"{timbre}_{run_offset}_{seed}_{n_subjects}"
        strengths = {"timbre": timbre, "run_offset": run_offset, "individual": 0.3}
        size = {"n_subjects": n_subjects, "n_roi_voxels": 24, "shape": [9, 10, 8]}
        simulate(SimulateConfig(out="", form="corpus", seed=seed, **strengths, **size), folder)
        return folder

    return written


def study(corpus, protocol, conditions=("heard", "imagined"), **changed):
    published = protocol == "paper"
    task = TaskConfig(
        label="timbre",
        condition="condition",
        conditions=list(conditions),
        protocol=protocol,
        pairs_per_window=2,
        delay=0.0 if published else 4.0,
        standardize="subject" if published else "run",
    )
    folds = {"folds_by": "half", "n_folds": 2} if published else {"folds_by": "subject", "n_folds": 3}
    # A siamese encoder learns from few pairs; how fast is not the question here.
    training = FinetuneTrainConfig(epochs=3, lr=3e-3, pair="siamese", pool="mean")
    model = ModelConfig(preset="tiny", d_model=16, n_layers=1, n_heads=2)
    settings = {"task": task, "train": training, "model": model, **folds, **changed}
    return StudyConfig(out="", corpus=str(corpus), pretrained=None, **settings)


def light(config) -> dict[str, dict[str, float]]:
    """Accuracy by person of every baseline, over all folds."""
    opened = open_study(config)
    rows: dict[str, list[dict]] = {}
    for fold in opened.folds:
        train, test = opened.pairs(fold)
        of_test = opened.units(fold, test), opened.conditions(test)
        for name, found in baselines(opened.windows, train, test, *of_test, seed=fold.number).items():
            rows.setdefault(name, []).extend({**row, "seed": 0} for row in found.rows)
    return {name: by_unit(found, "accuracy") for name, found in rows.items()}


def encoder(config) -> dict[str, float]:
    """Accuracy by person of a fresh encoder, over all folds."""
    opened = open_study(config)
    rows = []
    for fold in opened.folds:
        cell = Cell("fresh", fold.number, 0)
        fitted = fit(opened, cell, *build_model(opened, cell), *opened.pairs(fold))
        rows += [{**row, "seed": 0} for row in fitted.score.rows]
    return by_unit(rows, "accuracy")


def test_offsets_without_timbre_look_good_in_published_pairs_and_are_nothing_in_cross_run_pairs(experiment):
    corpus = experiment(**OFFSETS)
    published, cross_run = light(study(corpus, "paper")), light(study(corpus, "cross_run"))
    assert min(published["same_run"].values()) == 1
    for name in ("pair_logistic", "run_means", "category"):
        assert interval(list(published[name].values()))[0] > 0.55, name
    assert set(cross_run["same_run"].values()) == {0.5}
    for name in ("pair_logistic", "category", "shuffled"):
        low, high = interval(list(cross_run[name].values()))
        assert low <= 0.5 <= high, name
    assert interval(list(encoder(study(corpus, "paper")).values()))[0] > 0.6
    low, high = interval(list(encoder(study(corpus, "cross_run")).values()))
    assert low <= 0.5 <= high


def test_timbre_without_offsets_is_found_by_both(experiment):
    corpus = experiment(**TIMBRE)
    for protocol in ("paper", "cross_run"):
        config = study(corpus, protocol)
        found = light(config)
        assert interval(list(found["category"].values()))[0] > 0.7, protocol
        assert interval(list(encoder(config).values()))[0] > 0.6, protocol
        low, high = interval(list(found["shuffled"].values()))
        assert low - 0.02 <= 0.5 <= high + 0.02


def test_studies_of_nothing_find_something_as_rarely_as_their_level_says(experiment):
    """Twenty studies without timbre: the test and its interval, and shuffled labels, all keep their level.

    Heard and imagined tones are studies of their own, as their noise is.
    """
    p, covered, shuffled = [], [], []
    for number in range(20):
        corpus = experiment(0.0, 0.5, number // 2 + 10, 6)
        condition = ("heard", "imagined")[number % 2]
        found = light(study(corpus, "cross_run", [condition], n_folds=2))
        tested = compare(list(found["category"].values()), [0.5] * 6)
        p.append(tested.p)
        covered.append(tested.low <= 0 <= tested.high)
        shuffled.append(compare(list(found["shuffled"].values()), [0.5] * 6).p)
    # More than this many of 20 happen once in 10,000 times where the level is kept.
    most = int(binom.isf(1e-4, 20, 0.05))
    assert np.sum(np.array(p) < 0.05) <= most
    assert 20 - sum(covered) <= most
    assert np.sum(np.array(shuffled) < 0.05) <= most
