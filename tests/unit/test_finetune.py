"""The study end to end on a toy corpus: files, MLflow, reuse, and what it must refuse."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from factory import write_corpus
from toystudy import TINY, V, options, without_times, write_encoder, write_toy

from fmriscale.cli import run
from fmriscale.common.files import atomic_write
from fmriscale.config import ModelConfig, StudyConfig, TaskConfig
from fmriscale.config.recipe import parse
from fmriscale.corpus.manifest import FeatureSpace
from fmriscale.corpus.reader import Corpus
from fmriscale.finetune import headlines
from fmriscale.model.classifier import PairClassifier, build
from fmriscale.model.presets import resolve_encoder
from fmriscale.study import data, encoders, results
from fmriscale.study.data import open_study
from fmriscale.study.encoders import build_model
from fmriscale.study.fit import PairReader, fit
from fmriscale.study.jobs import Cell, jobs


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def done(place):
    assert run(options(place, tracking__enabled=True)) == 0
    return place / "out"


def test_the_tables_hold_every_arm_fold_and_baseline(done):
    results = pd.read_csv(done / "results.tsv", sep="\t")
    known = {"pretrained", "fresh", "category", "pair_logistic", "correlation", "same_run", "shuffled"}
    assert known <= set(results.arm)
    assert (results.groupby("arm").fold.nunique() == 2).all()
    assert results.auc.between(0, 1).all() and results.accuracy.between(0, 1).all()
    assert (results[results.arm == "same_run"].auc == 0.5).all()
    assert results[results.arm == "category"].auc.min() > 0.9
    left_out = " ".join(results.groupby("fold").left_out.first()).split()
    assert sorted(left_out) == [f"toy/0{i}" for i in range(1, 5)]
    curves = pd.read_csv(done / "curves.tsv", sep="\t")
    assert len(curves) == 2 * 2 * 2
    report = (done / "report.txt").read_text()
    summary = json.loads((done / "summary.json").read_text())
    assert summary["verdict"]["sentence"].split(".")[0][:60] in report and summary["n_units"] == 4
    assert "<html" in (done / "report.html").read_text()
    units = pd.read_csv(done / "units.tsv", sep="\t")
    fresh = units[units.arm == "fresh"].groupby("unit").accuracy.mean().to_dict()
    assert summary["arms"]["fresh"]["by_condition"]["all"]["by_unit"] == pytest.approx(fresh)


def test_arms_differ_in_their_first_weights_alone(done):
    """An encoder 'pre-trained' to exactly the fresh weights gives exactly the fresh results."""
    for fold in (0, 1):
        fresh, pretrained = (
            without_times(done / "cells" / f"{arm}_fold{fold}_seed0.json") for arm in ("fresh", "pretrained")
        )
        assert fresh["epochs"] == pretrained["epochs"]
        assert fresh["scores"] == pretrained["scores"]


def test_mlflow_has_the_study_and_its_cells_by_epoch(done):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{done / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("fmriscale").experiment_id])
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    assert len(parents) == 1 and len(runs) == 1 + 4
    assert all(r.info.status == "FINISHED" for r in runs)
    parent = parents[0]
    assert parent.data.params["task.label"] == "timbre"
    arms = json.loads((done / "summary.json").read_text())["arms"]
    fresh = arms["fresh"]["by_condition"]["all"]["auc"]["mean"]
    assert parent.data.metrics["fresh_auc"] == pytest.approx(fresh)
    kept = {f.path for f in client.list_artifacts(parent.info.run_id)}
    assert {"report.html", "summary.json", "results.tsv", "config.yaml"} <= kept
    [data] = [used.dataset for used in parent.inputs.dataset_inputs]
    assert (data.name, data.digest) == ("corpus", parent.data.params["corpus_fingerprint"][:36])
    for child in (r for r in runs if r is not parent):
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        history = client.get_metric_history(child.info.run_id, "accuracy")
        cell = f"{child.data.params['arm']}_fold{child.data.params['fold']}_seed0.json"
        epochs = json.loads((done / "cells" / cell).read_text())["epochs"]
        assert [(m.step, m.value) for m in history] == [(e["epoch"], e["accuracy"]) for e in epochs]


def test_a_finished_study_is_told_again_and_logged_once(done, place, capsys):
    from mlflow.tracking import MlflowClient

    assert run(options(place, tracking__enabled=True)) == 0
    told = capsys.readouterr().out
    assert "finished already" in told and (done / "report.txt").read_text().strip() in told
    client = MlflowClient(f"sqlite:///{done / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("fmriscale").experiment_id
    first = client.search_runs([experiment])
    assert len(first) == 1 + 4
    # Killed while it logged: the next attempt is the same study, logged anew.
    (done / "finished.json").unlink()
    capsys.readouterr()
    assert run([*options(place, tracking__enabled=True), "--quiet"]) == 0
    verdict, report = capsys.readouterr().out.splitlines()
    assert verdict == json.loads((done / "summary.json").read_text())["verdict"]["sentence"]
    assert report.split() == ["report", str(done / "report.html")]
    again = client.search_runs([experiment])
    parents = [
        {r.info.run_id for r in runs if "mlflow.parentRunId" not in r.data.tags} for runs in (first, again)
    ]
    assert len(again) == 1 + 4 and parents[0] == parents[1]
    assert len(client.search_model_versions("name = 'out'")) == 1
    assert all(r.info.status == "FINISHED" for r in again)


def test_finished_cells_are_reused_and_others_run(done, place, capsys):
    times = {f.name: f.stat().st_mtime_ns for f in (done / "cells").iterdir()}
    assert run(options(place)) == 0
    assert "7 of 7 results are there" in capsys.readouterr().out
    assert {f.name: f.stat().st_mtime_ns for f in (done / "cells").iterdir()} == times
    atomic_write(done / "cells" / "fresh_fold0_seed0.json", "[]")
    assert run(options(place)) == 0
    assert "6 of 7 results are there" in capsys.readouterr().out


def test_windows_are_cut_and_encoders_read_once_and_a_job_is_hashed_once(place, monkeypatch):
    calls = {"cut_windows": 0, "read_meta": 0, "in_space": 0, "job_hash": 0}

    def count(module, name):
        function = getattr(module, name)

        def counting(*args):
            calls[name] += 1
            return function(*args)

        monkeypatch.setattr(module, name, counting)

    for module, name in ((data, "cut_windows"), (data, "read_meta"), (encoders, "in_space")):
        count(module, name)
    count(results, "job_hash")
    command = options(place, "counted", seeds=[0, 1])
    assert run(command) == 0
    n_jobs = len(jobs(parse(StudyConfig, command[1:])))
    # Weights are read for four pre-trained cells and the final fit.
    assert calls == {"cut_windows": 1, "read_meta": 1, "in_space": 5, "job_hash": n_jobs}


def test_parallel_cells_are_the_same_cells(done, place):
    assert run(options(place, "parallel", jobs=2)) == 0
    for path in (done / "cells").iterdir():
        assert without_times(path) == without_times(place / "parallel/cells" / path.name)


@pytest.fixture(scope="module")
def fitted(place):
    """Fit one fresh cell of two blocks with some settings; return what came of it, and the weights before."""
    model = replace(TINY, n_layers=2)
    config = StudyConfig(
        out="", corpus=str(place / "corpus"), pretrained=None, task=TaskConfig(label="timbre"), n_folds=2
    )
    config = replace(config, model=model, train=replace(config.train, lr=0.02, batch=32))
    study, cell = open_study(config), Cell("fresh", 0, 0)
    train, test = study.pairs(study.folds[0])

    def fitted(**settings):
        changed = replace(study, config=replace(config, train=replace(config.train, **settings)))
        model, space = build_model(changed, cell)
        before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
        return fit(changed, cell, model, space, train, test), before

    return fitted


def moved(done, before):
    after = done.model.encoder.state_dict()
    assert after.keys() == before.keys()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def test_training_learns(fitted):
    done, before = fitted(epochs=12, lr=0.005)
    assert moved(done, before) == set(before) and done.curve[-1]["loss"] < 0.8 * done.curve[0]["loss"]
    assert done.n_trained == sum(p.numel() for p in done.model.parameters())


MATRICES = ("attention.qkv_weight", "attention.out.weight", "up.weight", "down.weight")


def test_what_should_learn_learns_and_nothing_else(fitted):
    head = 2 * (16 + 1)
    done, before = fitted(epochs=2, adapt="probe")
    assert (moved(done, before), done.n_trained) == (set(), head)

    done, before = fitted(epochs=3, adapt="lora", lora_rank=2)
    assert moved(done, before) == {f"blocks.{i}.{name}" for i in (0, 1) for name in MATRICES}
    shapes = {name: value.shape for name, value in before.items() if name.endswith(MATRICES)}
    assert done.n_trained == head + sum(2 * sum(shape) for shape in shapes.values())
    for name in shapes:
        change = done.model.encoder.state_dict()[name] - before[name]
        assert torch.linalg.matrix_rank(change, rtol=1e-4) <= 2


@pytest.mark.parametrize("pair", ["joint", "siamese"])
def test_pairs_are_read_alike_whether_the_encoder_learns_or_is_frozen(place, pair):
    config = StudyConfig(
        out="", corpus=str(place / "corpus"), pretrained=None, task=TaskConfig(label="timbre"), n_folds=2
    )
    study = open_study(config)
    pairs, _ = study.pairs(study.folds[0])
    encoder = build(resolve_encoder(TINY, {"toy": V}, 5), 1).encoder
    model = PairClassifier(encoder, pair=pair, pool="mean").eval()
    reader = PairReader(model, study.windows, "toy", torch.device("cpu"))
    places = np.array([30, 2, 7, 100])
    bold = torch.from_numpy(study.windows.bold_NLV)
    left, right = bold[pairs.left_P[places]], bold[pairs.right_P[places]]
    for backwards in (False, True):
        sides = (left.flip(1), right.flip(1)) if backwards else (left, right)
        expected = model.features(*sides, torch.full((4,), 2.0), "toy")
        for frozen in (False, True):
            reader.frozen = frozen
            found = reader.features(pairs, places, backwards)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_two_windows_apart_are_compared_in_either_order(fitted):
    done, _ = fitted(epochs=6, pair="siamese", pool="mean", lr=0.005)
    assert done.curve[-1]["auc"] > 0.9
    left, right, t_r = torch.randn(3, 5, V), torch.randn(3, 5, V), torch.full((3,), 2.0)
    assert torch.equal(done.model(left, right, t_r), done.model(right, left, t_r))


def test_what_is_reported_is_the_last_epoch_or_the_best_with_its_weights(fitted):
    (last, _), (best, _) = fitted(epochs=4), fitted(epochs=4, report="best")
    curve = [epoch["accuracy"] for epoch in last.curve]
    assert curve == [epoch["accuracy"] for epoch in best.curve]
    assert (last.reported, last.score.accuracy) == (4, curve[-1])
    assert (best.reported, best.score.accuracy) == (1 + int(np.argmax(curve)), max(curve))
    # The model is that of the reported epoch.
    shorter, _ = fitted(epochs=best.reported)
    for name, weights in shorter.model.state_dict().items():
        assert torch.equal(weights, best.model.state_dict()[name])
    # The patterns of these windows do not change in time: backwards they are told apart as well.
    assert best.reversed.auc > 0.6


def test_what_would_fool_us_is_refused(place, capsys):
    saw = ["toy_sub-01_task-rest_run-01"]
    write_encoder(place / "saw", 0, train_runs=saw)
    assert run(options(place, "refused", pretrained=place / "saw")) == 2
    assert "pre-training saw 1 of the" in capsys.readouterr().err
    write_encoder(place / "other", 0, feature_spaces={"atlas": FeatureSpace("atlas", 7).to_dict()})
    assert run(options(place, "refused", pretrained=place / "other")) == 2
    told = capsys.readouterr().err
    assert "reads feature space(s) atlas (7 features)" in told and "projection_epochs" in told
    assert run(options(place, "refused", pretrained=place / "nowhere")) == 2
    assert "no encoder" in capsys.readouterr().err
    assert run(options(place, "refused", task__label="genre")) == 2
    assert "no column 'genre'" in capsys.readouterr().err
    assert run(options(place, "refused", folds_by="run", n_folds=3)) == 2
    assert "no cross_run pairs" in capsys.readouterr().err
    assert not (place / "refused").exists()
    (place / "file").write_text("mine")
    assert run(options(place, "file")) == 2
    assert "file" in capsys.readouterr().err and (place / "file").read_text() == "mine"
    before = sorted(path.name for path in (place / "corpus").iterdir())
    assert run(options(place, "corpus")) == 2
    assert "holds a corpus" in capsys.readouterr().err
    assert sorted(path.name for path in (place / "corpus").iterdir()) == before


def test_a_flipped_byte_in_a_run_that_takes_part_stops_the_study(place, tmp_path, capsys):
    damaged = shutil.copytree(place / "corpus", tmp_path / "corpus")
    runs = Corpus.open(damaged).runs
    shard = damaged / runs["shard"].iloc[0]
    content = bytearray(shard.read_bytes())
    content[int(runs.offset.iloc[0]) + 7] ^= 1
    shard.write_bytes(bytes(content))
    assert run(options(tmp_path, "out", pretrained=place / "encoder")) == 4
    assert f"run {runs.key.iloc[0]}" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_encoder_with_learned_positions_needs_its_own_window_length(place, capsys):
    config = resolve_encoder(ModelConfig(preset="paper"), {"toy": V}, 4)
    spaces = {"feature_spaces": {"toy": FeatureSpace("toy", V).to_dict()}}
    build(config, 0).encoder.save_pretrained(place / "paper", spaces)
    assert run(options(place, "refused", pretrained=place / "paper")) == 2
    assert "set task.length: 4" in capsys.readouterr().err
    fitting = options(place, "paper_out", pretrained=place / "paper", task__length=4, train__epochs=1)
    assert run(fitting) == 0


def test_an_unseen_feature_space_gets_a_projection_that_is_trained_alone_first(place, capsys):
    """The corpus has 12 features, the encoder was pre-trained on 7 others."""
    encoder = build(resolve_encoder(TINY, {"atlas": 7}, 5), 3).encoder
    spaces = {"feature_spaces": {"atlas": FeatureSpace("atlas", 7).to_dict()}}
    encoder.save_pretrained(place / "seven", spaces)
    config = StudyConfig(
        out=str(place / "unseen"),
        corpus=str(place / "corpus"),
        pretrained=str(place / "seven"),
        task=TaskConfig(label="timbre"),
        n_folds=2,
    )
    study = open_study(config)
    train, test = study.pairs(study.folds[0])
    pretrained, fresh = Cell("pretrained", 0, 0), Cell("fresh", 0, 0)
    old = {k: v.clone() for k, v in encoder.state_dict().items()}

    def learned(cell, epochs, **settings):
        settings |= {"epochs": epochs, "projection_epochs": 2, "weight_decay": 0.0, "lr": 0.01}
        changed = replace(study, config=replace(config, train=replace(config.train, **settings)))
        model, space = build_model(changed, cell)
        assert list(model.encoder.config.spaces.values()) == [V]
        before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
        if cell == pretrained:
            assert all(torch.equal(before[k], v) for k, v in old.items() if not k.startswith("embedding."))
            assert torch.equal(before["embedding.marks"], old["embedding.marks"])
        return moved(fit(changed, cell, model, space, train, test), before)

    projection = {"embedding.weight", "embedding.bias"}
    assert learned(pretrained, 2) == projection
    assert len(learned(pretrained, 3)) > 5 and len(learned(fresh, 1)) > 5
    # What is new learns all the time, whatever becomes of the rest.
    assert learned(pretrained, 3, adapt="probe") == projection

    # From the command line; refused where it was not asked for, or where there is no projection.
    assert run(options(place, "unseen", pretrained=place / "seven", train__projection_epochs=1)) == 0
    assert run(options(place, "not_asked", pretrained=place / "seven")) == 2
    flat = build(resolve_encoder(ModelConfig(preset="paper"), {"atlas": 7}, 5), 0).encoder
    flat.save_pretrained(place / "flat", spaces)
    assert run(options(place, "flat_out", pretrained=place / "flat", train__projection_epochs=1)) == 2
    assert "reads feature space(s) atlas (7 features)" in capsys.readouterr().err


@pytest.mark.parametrize("t_r", [2.0, 1.5])
def test_labels_of_runs_whose_repetition_times_differ_are_warned_of(tmp_path, t_r):
    datasets = {name: {"subjects": 4, "runs": 2, "n_volumes": 60} for name in ("one", "two")}
    datasets["two"]["t_r"] = t_r
    corpus = write_corpus(tmp_path / "corpus", datasets=datasets, n_features=4)
    task = TaskConfig(label="dataset", label_of="run", partners="other_person", length=5, windows_per_run=2)
    config = StudyConfig(out=str(tmp_path), corpus=str(corpus.folder), pretrained=None, task=task, n_folds=2)
    said = headlines(open_study(config))
    assert ("repetition time (1.5, 2 s)" in said) == (t_r != 2.0)
