"""What a probe refuses, what its folds keep apart, and that it goes on where it was killed."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from probes import options, probe, write_films, write_people
from toystudy import write_encoder

from fmriscale.cli import run
from fmriscale.config import ProbeConfig, WindowConfig
from fmriscale.corpus.reader import Corpus
from fmriscale.study.probe.data import open_probe
from fmriscale.study.probe.decoder import inner_splits
from fmriscale.study.probe.run import groups_of
from fmriscale.transformer import EncoderTransformer


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """36 people, 12 families of three and 4 sites; nothing is planted."""
    rows = [
        {
            "dx": f"{n % 2}",
            "site": f"s{n % 4}",
            "family": f"f{n // 3}",
            "one": "x",
            "gap": "" if n % 3 else "1",
        }
        for n in range(36)
    ]
    return write_people(tmp_path_factory.mktemp("people") / "corpus", rows, group="family")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return write_films(tmp_path_factory.mktemp("films") / "corpus", n_people=4)


@pytest.fixture(scope="module")
def whole(people, tmp_path_factory):
    """The summary of a probe that nothing happened to."""
    return probe(tmp_path_factory.mktemp("whole") / "out", people, target="dx", n_folds=2)


def opened(corpus, **settings):
    config = ProbeConfig(out="x", corpus=str(corpus), **{"target": "dx", **settings})
    return open_probe(config, Corpus.open(corpus))


def test_folds_leave_whole_families_out(people):
    found = opened(people, n_folds=4)
    for fold in found.folds:
        train, test = found.sides(fold)
        assert len(train) + len(test) == 36
        assert not set(found.rows.kin_N[train]) & set(found.rows.kin_N[test])


def test_folds_by_site_keep_families_together_too(people):
    found = opened(people, folds_by="site", n_folds=None)
    assert sorted(fold.left_out[0] for fold in found.folds) == ["s0", "s1", "s2", "s3"]
    for fold in found.folds:
        train, test = found.sides(fold)
        assert len(test) == 9 and not set(found.rows.kin_N[train]) & set(found.rows.kin_N[test])


@pytest.mark.parametrize("n_sites", [2, 4])
def test_inner_folds_part_sites_and_of_one_site_people(tmp_path, n_sites):
    """Where a fold leaves one site to train on, nobody is on both sides of an inner fold."""
    rows = [{"dx": f"{n // n_sites % 2}", "site": f"s{n % n_sites}", "runs": 2} for n in range(16)]
    found = opened(write_people(tmp_path / "corpus", rows), folds_by="site", n_folds=None)
    for fold in found.folds:
        train, _ = found.sides(fold)
        splits = inner_splits(found.rows.target_N[train], groups_of(found, train), classify=True)
        assert splits
        for fitted, applied in splits:
            people = [set(found.rows.kin_N[train][side].tolist()) for side in (fitted, applied)]
            assert not people[0] & people[1] and all(people)
            if n_sites == 4:
                sites = [{int(name.rpartition("/")[2]) % 4 for name in side} for side in people]
                assert not sites[0] & sites[1]


def test_folds_by_stimulus_train_on_one_film_and_test_on_the_other(films):
    windows = WindowConfig(length=5, stride=10)
    found = opened(films, target="loud", rows="window", windows=windows, folds_by="stimulus", n_folds=None)
    assert len(found.folds) == 2
    for fold in found.folds:
        films_of = [set(found.table["stimulus"].loc[found.rows.run_M[side]]) for side in found.sides(fold)]
        assert films_of[1] == set(fold.left_out) and not films_of[0] & films_of[1]


def test_classes_are_shared_alike_over_folds(people):
    found = opened(people, n_folds=3)
    shares = [found.rows.target_N[found.sides(fold)[1]].mean() for fold in found.folds]
    assert max(shares) - min(shares) < 0.2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target": "one"}, ["'one' is 'x' in all of 36 rows"]),
        ({"target": "nothing"}, ["'nothing'", "there are", "dx"]),
        ({"target": "site", "kind": "regress"}, ["'s0', which is no number"]),
        ({"target": "gap"}, ["'1' in all of 12 rows"]),
        ({"values": "[0, 7]"}, ["['7']", "never is"]),
        (
            {"folds_by": "site", "target": "site", "n_folds": 4},
            ["tests site", "which its training side does not have"],
        ),
        ({"folds_by": "run", "n_folds": 2}, ["1 run take"]),
        ({"regress_out": "[weight]"}, ["regress_out names 'weight'"]),
        ({"folds_by": "planet"}, ["folds_by names 'planet'"]),
        ({"train_sizes": "[99]"}, ["train_sizes has 99"]),
        ({"target": "moment", "rows": "window"}, ["needs runs with a stimulus"]),
        ({"target": "moment"}, ["set rows: window"]),
        ({"windows.length": 500}, ["no window of 500"]),
        ({"quantiles": 1}, ["quantiles is 1"]),
        ({"encoders": '{"raw": "x"}'}, ["names an arm 'raw'"]),
        ({"encoders": '{"pretrained": "/nowhere"}'}, ["/nowhere", "no encoder"]),
    ],
)
def test_mistakes_are_one_line(people, tmp_path, capsys, settings, words):
    line = options(tmp_path / "out", people, **{"target": "dx", **settings})
    assert run(line) == 2
    told = capsys.readouterr().err
    assert told.startswith("fmriscale: error: ") and all(word in told for word in words), told
    assert not (tmp_path / "out" / "fits").exists()


def test_missing_values_are_left_out_and_counted(people, tmp_path, capsys):
    probe(tmp_path / "out", people, target="dx", regress_out="[gap]", n_folds=2)
    assert "24 left out: no value of gap" in capsys.readouterr().out


def test_an_encoder_that_saw_the_test_people_or_their_kin_is_refused(people, tmp_path, capsys):
    keys = Corpus.open(people).runs["key"].tolist()
    for seen in (keys, keys[:1]):
        encoder = write_encoder(tmp_path / f"encoder{len(seen)}", seed=0, train_runs=seen)
        line = options(
            tmp_path / "out", people, target="dx", encoders=json.dumps({"pretrained": str(encoder)})
        )
        assert run(line) == 2
        assert "its pre-training saw" in capsys.readouterr().err
    assert run([*line, "--allow_seen_runs", "true", "--n_folds", "2"]) == 0
    assert "pre-training may have seen" in capsys.readouterr().out


def without_times(summary):
    summary = json.loads(json.dumps(summary))
    del summary["provenance"]["date"]
    return summary


def test_a_killed_probe_goes_on_and_ends_the_same(people, whole, tmp_path):
    settings = {"target": "dx", "n_folds": 2}
    out = tmp_path / "killed"
    line = [
        sys.executable,
        "-c",
        "import sys; from fmriscale.cli import main; main()",
        *options(out, people, **settings),
    ]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while len(list((out / "fits").glob("*.json")) if (out / "fits").exists() else ()) < 3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = {path.name: path.stat().st_mtime_ns for path in (out / "fits").glob("*.json")}
    assert not (out / "summary.json").exists()
    again = probe(out, people, **settings)
    assert without_times(again) == without_times(whole)
    assert all((out / "fits" / name).stat().st_mtime_ns == when for name, when in done.items())
    assert not (out / "features").exists()


def test_tasks_of_an_array_make_the_summary_of_one_process(people, whole, tmp_path):
    line = options(tmp_path / "parts", people, target="dx", n_folds=2)
    for task in range(3):
        assert run([*line, "--task-id", str(task), "--num-tasks", "3"]) == 0
    assert run([*line, "--finish"]) == 0
    parts = json.loads((tmp_path / "parts" / "summary.json").read_text())
    assert without_times(parts) == without_times(whole)


@pytest.mark.parametrize("pool", ["mean", "cls", "bins"])
def test_embed_gives_the_vectors_of_the_transformer_to_the_bit(people, tmp_path, pool):
    folder = write_encoder(tmp_path / "encoder", seed=1)
    corpus = Corpus.open(people)
    transformer = EncoderTransformer(folder, t_r=2.0, pool=pool, length=20, standardize=False)
    runs = [np.asarray(corpus.bold(row)) for row in range(len(corpus.runs))]
    common = [str(folder), str(people), "--pool", pool, "--length", "20"]
    assert run(["embed", *common, "--out", str(tmp_path / "runs.npz")]) == 0
    with np.load(tmp_path / "runs.npz", allow_pickle=False) as found:
        assert np.array_equal(found["vectors"], transformer.transform(runs))
        assert found["key"].tolist() == corpus.runs["key"].tolist()
    assert (
        run(["embed", *common, "--rows", "window", "--stride", "10", "--out", str(tmp_path / "w.parquet")])
        == 0
    )
    table = pd.read_parquet(tmp_path / "w.parquet")
    own = table[table["key"] == corpus.runs["key"][3]]
    windows = np.stack([runs[3][start : start + 20] for start in own["start"]])
    assert np.array_equal(own.filter(regex=r"^v\d+$").to_numpy(np.float32), transformer.transform(windows))
    assert own["start"].tolist() == list(range(0, 101, 10))


def test_embed_tells_what_does_not_suit(people, tmp_path, capsys):
    folder = write_encoder(tmp_path / "encoder", seed=1)
    for line, word in [
        ([str(people), str(people), "--out", "x.npz"], "no encoder in it"),
        ([str(folder), str(people), "--out", "x.csv"], ".npz or .parquet"),
        ([str(folder), str(people), "--out", "x.npz", "--length", "500"], "no run of space 'toy' holds"),
    ]:
        assert run(["embed", *line]) == 2
        assert word in capsys.readouterr().err


def test_mlflow_has_a_run_a_method_with_its_figures(people, tmp_path):
    from mlflow.tracking import MlflowClient

    settings = {"target": "dx", "n_folds": 2, "tracking.enabled": True}
    for _ in range(2):  # a finished probe logs nothing more
        summary = probe(tmp_path / "out", people, **settings)
    client = MlflowClient(f"sqlite:///{tmp_path / 'out' / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    children = {run.data.tags["method"]: run for run in runs if "method" in run.data.tags}
    assert children.keys() == summary["methods"].keys() and len(runs) == len(children) + 1
    for name, child in children.items():
        assert child.data.metrics["auc"] == summary["methods"][name]["auc"]["mean"]
        assert child.info.status == "FINISHED"
