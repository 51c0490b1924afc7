"""`fmriscale probe`: each method finds what was planted for it, and nothing else does."""

import json

import numpy as np
import pytest
from probes import figures, probe, write_films, write_people
from toystudy import write_encoder

from fmriscale.cli import run


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return write_films(tmp_path_factory.mktemp("films") / "corpus")


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    """60 people of two diagnoses, of which one couples four features; age goes with nothing."""
    people = [{"dx": f"{n % 2 + 1}", "coupled": n % 2, "age": 20 + n % 7} for n in range(60)]
    return write_people(tmp_path_factory.mktemp("patients") / "corpus", people)


def test_a_linear_effect_is_found_by_raw_windows_and_pca(films, tmp_path):
    summary = probe(
        tmp_path / "out",
        films,
        target="loud",
        rows="window",
        windows__length=5,
        windows__stride=10,
        n_folds=2,
    )
    found = figures(summary)
    assert summary["figures"][0] == "auc" and summary["main"] is None
    assert min(found["raw"], found["pca"], found["window_mean"], found["whitening"]) > 0.9
    assert abs(found["run_mean"] - 0.5) < 0.1, "every run holds both"
    assert abs(found["shuffled"] - 0.5) < 0.12
    assert (
        summary["best_baseline"] in summary["verdict"]["sentence"]
        or "best baseline" in summary["verdict"]["sentence"]
    )


def test_connectivity_is_found_by_connectivity_alone(patients, tmp_path):
    summary = probe(tmp_path / "out", patients, target="dx", n_folds=2)
    found = figures(summary)
    assert min(found["connectivity"], found["tangent"]) > 0.95
    assert abs(found["run_mean"] - 0.5) < 0.01 and abs(found["shuffled"] - 0.5) < 0.2
    assert summary["methods"]["connectivity"]["balanced_accuracy"]["mean"] > 0.9
    assert summary["values"]["rows"] == {"1": 30, "2": 30}
    assert "motion" not in found, "no run has any"


def test_a_number_is_predicted_with_r_and_error(tmp_path):
    people = [{"age": f"{20 + 10 * (n % 2) + n % 3}", "coupled": n % 2} for n in range(60)]
    people[5]["age"] = "n/a"
    corpus = write_people(tmp_path / "corpus", people)
    summary = probe(tmp_path / "out", corpus, target="age", kind="regress", n_folds=2)
    assert summary["figures"] == ["r", "mae"] and summary["left_out"] == {"no value of age": 1}
    assert figures(summary)["connectivity"] > 0.85
    error = figures(summary, "mae")["connectivity"]
    assert error < 2.2 < 4 < summary["chance"]["mae"]


def test_what_the_site_makes_vanishes_when_it_is_regressed_out(tmp_path):
    # The label goes with the site in 85 of 100 people, and signals tell the site alone.
    rng = np.random.default_rng(2)
    sites = rng.permutation(np.arange(100) % 2)
    labels = np.where(rng.permutation(100) < 85, sites, 1 - sites)
    people = [{"dx": str(d), "site": f"s{s}", "coupled": s} for d, s in zip(labels, sites, strict=True)]
    corpus = write_people(tmp_path / "corpus", people)
    plain = figures(probe(tmp_path / "plain", corpus, target="dx", n_folds=2))
    freed = figures(probe(tmp_path / "freed", corpus, target="dx", n_folds=2, regress_out="[site]"))
    assert plain["connectivity"] > 0.75
    assert freed["connectivity"] < 0.6


def test_moments_are_told_across_people_and_best_by_directions_that_they_share(films, tmp_path):
    summary = probe(
        tmp_path / "out",
        films,
        target="moment",
        rows="window",
        windows__length=5,
        n_folds=2,
        train_sizes="[2]",
    )
    found = figures(summary)
    assert summary["figures"][0] == "balanced_accuracy" and summary["chance"]["balanced_accuracy"] == 1 / 40
    assert found["raw"] > 0.6 and found["shuffled"] < 0.1
    few = {row["method"]: row["balanced_accuracy"]["mean"] for row in summary["by_size"] if row["size"] == 2}
    assert few["connectivity"] < found["connectivity"] and "shared" in few


def test_other_people_and_another_film_at_once(films, tmp_path):
    summary = probe(
        tmp_path / "out",
        films,
        target="loud",
        rows="window",
        windows__length=5,
        windows__stride=10,
        folds_by="[subject, stimulus]",
        n_folds=2,
    )
    assert figures(summary)["raw"] > 0.85, "the pattern is the same in both films"
    for fold in summary["folds"]:
        assert len(fold["left_out"]) == 4 and (fold["n_train"], fold["n_test"]) == (30, 30)


def test_encoders_are_judged_against_fresh_ones_and_the_best_baseline(films, tmp_path):
    encoder = write_encoder(tmp_path / "encoder", seed=4)
    for seed in (0, 4):  # trained twice
        write_encoder(tmp_path / f"encoder{seed}", seed=seed)
    settings = {"target": "loud", "rows": "window", "windows__length": 5, "windows__stride": 10, "n_folds": 2}
    summary = probe(
        tmp_path / "out",
        films,
        **settings,
        encoders=json.dumps({"pretrained": str(encoder), "other": str(tmp_path / "encoder{seed}")}),
        seeds="[0, 4]",
    )
    found = figures(summary)
    assert list(found)[:3] == ["pretrained", "fresh", "other"] and found["fresh"] == found["other"]
    assert found["pretrained"] > 0.7, "random projections keep a strong pattern"
    assert summary["verdict"]["survives"] is False
    assert summary["methods"][summary["best_baseline"]]["title"] in summary["verdict"]["sentence"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "best baseline" in page and "Every fold" in page
    assert run(["report", str(tmp_path / "out"), "--out", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_text() == page
    # Seed 4 of the fresh arm has the weights of the encoder.
    fits = tmp_path / "out" / "fits"
    fresh, same = (
        json.loads((fits / f"{name}.json").read_text()) for name in ("fresh_fold0_seed4", "pretrained_fold0")
    )
    assert fresh["area"] == same["area"]
    assert len(list(fits.glob("pretrained_*"))) == 2 and len(list(fits.glob("other_*"))) == 2 * 2


def test_a_person_is_the_mean_over_the_runs(tmp_path):
    people = [{"dx": f"{n % 2}", "coupled": n % 2, "runs": 2} for n in range(24)]
    corpus = write_people(tmp_path / "corpus", people)
    summary = probe(tmp_path / "out", corpus, target="dx", rows="person", n_folds=2)
    assert (summary["n_rows"], summary["n_runs"]) == (24, 48)
    assert figures(summary)["connectivity"] > 0.9


def test_quantiles_make_classes_of_a_number(films, tmp_path):
    settings = {"target": "level", "rows": "window", "windows__length": 5, "windows__stride": 10}
    summary = probe(tmp_path / "out", films, **settings, quantiles=2, n_folds=2)
    assert (
        len(summary["values"]["rows"]) == 2 and sum(summary["values"]["rows"].values()) == summary["n_rows"]
    )
