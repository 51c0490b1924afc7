"""Jobs of a study: shared by tasks, killed and taken up again, never summed up while a cell is missing."""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from dataclasses import fields, replace

import numpy as np
import psutil
import pytest
import torch
from mlflow.tracking import MlflowClient
from toystudy import V, options, without_times, write_encoder, write_toy

from fmriscale.cli import run
from fmriscale.common.errors import DamageError
from fmriscale.config import DataConfig, PretrainConfig, StudyConfig, TaskConfig
from fmriscale.config.recipe import parse, save_config
from fmriscale.model.classifier import HEAD, PairClassifier, SameLabel, load_classifier, save_classifier
from fmriscale.model.encoder import Encoder
from fmriscale.study.controls import SHUFFLED_ORDER, commands, missing_control, origin_of
from fmriscale.study.data import open_study
from fmriscale.study.jobs import Baselines, Cell, Final, arms, cells, jobs
from fmriscale.study.results import job_hash

N_JOBS = 2 + 12 + 1
"""Baselines of two folds, three arms x two folds x two seeds, the final fit."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = write_toy(tmp_path_factory.mktemp("jobs"))
    write_encoder(root / "other", seed=3)
    return root


def design(place, out, **changed):
    controls = json.dumps({"shuffled_volumes": str(place / "other")})
    return options(place, out, **{"seeds": [0, 1], "controls": controls, "train__epochs": 3, **changed})


@pytest.fixture(scope="module")
def undisturbed(place):
    """The study in one process, from start to end."""
    assert run(design(place, "undisturbed")) == 0
    return place / "undisturbed"


def same_results(folder, other):
    """Compare everything that a study says, but for the time it took and commands that name its folder."""
    for path in sorted((other / "cells").glob("*.json")):
        assert without_times(folder / "cells" / path.name) == without_times(path)
    for name in (
        "baselines/fold0.json",
        "baselines/fold1.json",
        "model/config.json",
        "model/model.safetensors",
    ):
        assert (folder / name).read_bytes() == (other / name).read_bytes()
    mine, theirs = (json.loads((f / "summary.json").read_text()) for f in (folder, other))
    for summary in (mine, theirs):
        del summary["speed"], summary["provenance"]["date"], summary["to_run"]
        for curve in summary["curves"].values():
            for epoch in curve:
                epoch.pop("seconds", None)
    assert mine == theirs
    return True


def config_of(place, **changed) -> StudyConfig:
    return parse(StudyConfig, design(place, "x", **changed)[1:])


def test_every_arm_control_seed_and_size_is_a_cell(place):
    config = config_of(place, train__epochs=1)
    assert arms(config) == ["fresh", "pretrained", "shuffled_volumes"]
    assert len(jobs(config)) == N_JOBS
    sized = cells(config_of(place, train_sizes=[2, 1]))
    assert len(sized) == 24 and len({cell.name for cell in sized}) == 24
    assert sized[0].name == "fresh_fold0_seed0_n1" and sized[-1].size == 2


def test_a_control_is_an_arm_with_its_own_start(undisturbed):
    curves = [
        without_times(undisturbed / f"cells/{arm}_fold0_seed0.json")["epochs"]
        for arm in ("fresh", "pretrained", "shuffled_volumes")
    ]
    assert curves[0] == curves[1] != curves[2]


def test_the_commands_of_the_control_repeat_the_recorded_pre_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for fold in (0, 1):
        data = DataConfig(corpus="corpora/x", holdout_runs=[f"*_run-0{fold}"])
        save_config(
            PretrainConfig(out=f"runs/ntp{fold}", data=data), tmp_path / f"runs/ntp{fold}/config.yaml"
        )
    study_config = StudyConfig(out="a study", corpus="", pretrained="runs/ntp{fold}/encoder", n_folds=2)
    train, again = commands(study_config, SHUFFLED_ORDER)
    # A shell does with them what it does; its deepspeed and fmriscale tell what they were asked.
    asked = 'deepspeed() { printf "%s\\t" "$@"; echo; }; fmriscale() { deepspeed "$@"; }; '
    told = subprocess.run(
        ["bash", "-c", f"{asked}{train}\n{again}"], capture_output=True, text=True, check=True
    )
    *trainings, tune = [line.split("\t")[:-1] for line in told.stdout.splitlines()]
    for fold, (script, *options_of) in enumerate(trainings):
        recipe = parse(PretrainConfig, options_of)
        assert script == "fmriscale/train.py" and recipe.data.holdout_runs == [f"*_run-0{fold}"]
        assert (recipe.data.volume_order, recipe.out) == ("shuffled", f"runs/ntp{fold}_shuffled")
    assert tune == [
        *("finetune", "--config", "a study/config.yaml"),
        *("--controls.shuffled_order", "runs/ntp{fold}_shuffled/encoder"),
    ]


def test_a_pre_training_across_people_calls_for_shifted_clocks():
    within = {"data": {"pairs": {"partner": "same_person"}, "volume_order": "recorded"}, "train": {}}
    by_pairs = {"data": {"pairs": {"partner": "other_person"}, "volume_order": "recorded"}}
    by_groups = {"data": {"stimulus_clock": "recorded"}, "train": {"contrastive_weight": 1.0}}
    shifted = {"data": {"stimulus_clock": "shifted"}, "train": {"contrastive_weight": 1.0}}
    shuffled = {"data": {"volume_order": "shuffled"}}

    def missing(**recipes):
        encoders = {arm: {"every fold": origin_of(recipe)} for arm, recipe in recipes.items()}
        control = missing_control({"provenance": {"encoders": encoders}, "arms": {"pretrained": {}}})
        return control and control.arm

    assert missing(pretrained=within) == missing(pretrained={}) == "shuffled_order"
    assert missing(pretrained=by_pairs) == missing(pretrained=by_groups) == "shifted_clock"
    assert missing(pretrained=by_groups, control=shuffled) == "shifted_clock"
    assert missing(pretrained=by_groups, control=shifted) is missing(pretrained=within, c=shuffled) is None
    assert missing() is None


def test_a_control_that_is_not_there_yet_is_refused_with_its_command_and_may_be_left_out(place, capsys):
    lacking = design(place, "refused", controls='{"shuffled_order": "nowhere/encoder"}')
    assert run(lacking) == 2
    told = capsys.readouterr().err
    assert "no encoder of this control yet: deepspeed fmriscale/train.py --config" in told
    assert "--data.volume_order shuffled" in told and "--controls '{}'" in told and told.count("\n") == 1
    assert arms(parse(StudyConfig, [*lacking[1:], "--controls", "{}"])) == ["fresh", "pretrained"]
    assert arms(parse(StudyConfig, [*lacking[1:], "--pretrained", "null"])) == ["fresh"]


def test_tasks_of_an_array_and_a_finish_are_the_same_study(place, undisturbed, capsys):
    command = design(place, "tasks")
    assert run([*command, "--task-id", "1", "--num-tasks", "2"]) == 0
    assert f"task 1 of 2: its {N_JOBS // 2} of {N_JOBS} results are there" in capsys.readouterr().out
    assert run([*command, "--finish"]) == 2
    told = capsys.readouterr().err
    assert f"8 of {N_JOBS} results are missing" in told and "baselines_fold0" in told
    assert told.count("\n") == 1 and not (place / "tasks/results.tsv").exists()
    assert run([*command, "--task-id", "0", "--num-tasks", "2"]) == 0
    assert run([*command, "--finish"]) == 0
    assert same_results(place / "tasks", undisturbed)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--task-id", "2", "--num-tasks", "2"], "0 to N-1"),
        (["--task-id", "0", "--num-tasks", "2", "--finish"], "one of --task-id and --finish"),
        (["--num-tasks", "2"], "needs --task-id"),
        (["--controls", '{"fresh": "x"}'], "neither fresh nor pretrained"),
    ],
)
def test_wrong_flags(place, capsys, flags, words):
    assert run([*design(place, "refused"), *flags]) == 2
    assert words in capsys.readouterr().err and not (place / "refused").exists()


def test_a_cell_that_fails_is_named_and_nothing_is_summed_up_without_it(place, undisturbed, capsys):
    shutil.copytree(undisturbed, place / "fails")
    assert run(design(place, "fails", train__lr=1e30)) == 2
    out, err = capsys.readouterr()
    assert "fresh_fold0_seed0: FAILED, " in out and "the loss is not finite in epoch" in err
    assert err.count("\n") == 1 and "pretrained_fold1_seed1 (" in err.replace(
        "; and", "pretrained_fold1_seed1 ("
    )
    assert not {"finished.json", "summary.json"} & {path.name for path in (place / "fails").iterdir()}
    # Whoever finishes later is told the same.
    assert run([*design(place, "fails", train__lr=1e30), "--finish"]) == 2
    assert "the loss is not finite" in capsys.readouterr().err
    # One cell alone, of all that are there: the summary waits for it.
    (place / "fails/cells/fresh_fold0_seed0.json").unlink()
    assert run([*design(place, "fails"), "--finish"]) == 2
    assert (
        f"1 of {N_JOBS} results are missing, so there is no summary: fresh_fold0_seed0"
        in capsys.readouterr().err
    )
    assert run([*design(place, "fails"), "--task-id", "2", "--num-tasks", str(N_JOBS)]) == 0
    assert not (place / "fails/failed/fresh_fold0_seed0.txt").exists()


def test_workers_and_the_parent_are_killed_and_the_next_run_does_what_is_missing(place, undisturbed, capsys):
    code = "import sys; from fmriscale import cli; sys.exit(cli.run(sys.argv[1:]))"
    watched = design(place, "killed", jobs=2, tracking__enabled=True)
    command = [sys.executable, "-c", code, *watched]
    log = (place / "log.txt").open("w")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    parent = psutil.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    workers: list[psutil.Process] = []
    try:
        for count, victim in ((2, "worker"), (5, "parent")):
            while len(list((place / "killed").glob("*/*.json"))) < count:
                assert parent.poll() is None, (place / "log.txt").read_text()
                time.sleep(0.01)
            # The server of processes is the parent of the workers.
            workers = [p for p in parent.children(recursive=True) if p.ppid() != parent.pid]
            if victim == "worker":
                max(workers, key=lambda p: p.cpu_times().user).kill()
            else:
                while finished_runs(place / "killed") < 2:  # cells are logged while others are computed
                    assert parent.poll() is None, (place / "log.txt").read_text()
                    time.sleep(0.005)
                parent.kill()
        _, alive = psutil.wait_procs([parent, *workers], timeout=30)
        assert not alive, "workers outlive their parent"
    finally:
        for process in [parent, *workers]:
            if process.is_running():
                process.kill()
    done = {p: p.stat().st_mtime_ns for p in (place / "killed").glob("*/*.json") if p.name != "config.json"}
    assert 5 <= len(done) < N_JOBS and not (place / "killed/results.tsv").exists()
    study_run, before = logged(place / "killed")
    assert study_run.info.status == "RUNNING" and study_run.data.params["n_cells"] == "12"
    whole = {r.data.tags["cell"]: r.info.run_id for r in before if r.info.status == "FINISHED"}
    # One of the child runs is as if the kill had met it half written.
    cut, *kept = whole
    client(place / "killed").update_run(whole[cut], "RUNNING")

    assert run(watched) == 0
    assert f"{len(done)} of {N_JOBS} results are there and reused" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in done} == done
    assert same_results(place / "killed", undisturbed)
    again, children = logged(place / "killed")
    assert (again.info.run_id, again.info.status) == (study_run.info.run_id, "FINISHED")
    assert again.data.metrics["cells_finished"] == len(children) == 12
    by_cell = {r.data.tags["cell"]: r for r in children}
    assert set(by_cell) == {cell.name for cell in cells(config_of(place, train__epochs=3))}
    assert all(by_cell[cell].info.run_id == whole[cell] for cell in kept)
    assert by_cell[cut].info.run_id != whole[cut]
    for cell, child in by_cell.items():
        epochs = json.loads((place / f"killed/cells/{cell}.json").read_text())["epochs"]
        history = client(place / "killed").get_metric_history(child.info.run_id, "auc")
        assert [(m.step, m.value) for m in history] == [(e["epoch"], e["auc"]) for e in epochs]
        assert child.info.status == "FINISHED" and child.info.start_time < child.info.end_time


def finished_runs(folder):
    """Count the finished runs of a store; faster than MLflow itself, which has made it."""
    with contextlib.closing(sqlite3.connect(f"file:{folder / 'mlflow.db'}?mode=ro", uri=True)) as database:
        return database.execute("select count(*) from runs where status = 'FINISHED'").fetchone()[0]


def client(folder):
    """The MLflow store of a study's folder."""
    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def logged(folder):
    """The parent run of the one study in a store, and its child runs."""
    store = client(folder)
    runs = store.search_runs([store.get_experiment_by_name("fmriscale").experiment_id])
    [parent] = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(runs) - 1
    return parent, children


def test_a_hash_knows_what_a_result_depends_on(place):
    """Every setting of the recipe changes the results of a cell, or is known to change none."""
    config = config_of(place)
    study, cell = open_study(config), Cell("pretrained", 0, 0)

    def changes(job=cell, fingerprint=study.fingerprint, **changed):
        other = replace(study, config=replace(config, **changed), fingerprint=fingerprint)
        return job_hash(other, job) != job_hash(study, job)

    none = {"out": "y", "jobs": 7, "corpus": "elsewhere", "allow_seen_runs": True, "keep_model": False}
    none |= {"seeds": [5], "train_sizes": [1], "controls": {}}
    assert not any(changes(**{name: value}) for name, value in none.items())
    some = {"datasets": ["toy"], "splits": ["train"], "space": "toy", "folds_by": "run", "n_folds": 3}
    some |= {"task": TaskConfig(label="b"), "train": replace(config.train, lr=1.0)}
    some |= {
        "model": replace(config.model, n_layers=7),
        "pretrained": str(place / "other"),
        "fingerprint": "b",
    }
    assert all(changes(**{name: value}) for name, value in some.items())
    assert not changes(Baselines(0), train=some["train"]) and changes(Baselines(0), task=some["task"])
    assert not changes(Cell("fresh", 0, 0), pretrained=some["pretrained"])  # its architecture alone
    assert changes(Cell("shuffled_volumes", 0, 0), controls={"shuffled_volumes": str(place / "encoder")})
    assert not changes(Cell("shuffled_volumes", 0, 0), pretrained=some["pretrained"])
    assert changes(Final(), seeds=[5]) and changes(Final(), pretrained=some["pretrained"])
    known = {*none, *some, "tracking"} - {"fingerprint"}
    assert known == {field.name for field in fields(StudyConfig)}


def test_the_final_model_saw_everybody_and_answers_in_numpy(undisturbed, place):
    told = json.loads((undisturbed / "model/fit.json").read_text())
    config = config_of(place)
    assert told["arm"] == "pretrained" and len(told["epochs"]) == 3
    model = SameLabel(undisturbed / "model")
    meta = model.model.encoder.meta
    assert len(meta["train_runs"]) == 12 and meta["labels"] == ["a", "b"]
    windows = open_study(config).windows
    pairs = {"left": windows.bold_NLV[:6], "right": windows.bold_NLV[-6:], "t_r": windows.t_r_N[:6]}
    chance = model.predict(pairs)
    assert chance.dtype == np.float32 and chance.shape == (6,) and 0 < chance.min() < chance.max() < 1
    encoder = Encoder.from_pretrained(undisturbed / "model")  # is an encoder/ folder as well
    for name, weights in encoder.state_dict().items():
        assert torch.equal(weights, model.model.encoder.state_dict()[name])


@pytest.mark.parametrize(("pair", "pool"), [("joint", "cls"), ("siamese", "mean")])
def test_a_saved_classifier_gives_equal_logits(place, tmp_path, pair, pool):
    encoder = Encoder.from_pretrained(place / "encoder")
    meta = encoder.meta
    model = PairClassifier(encoder, 2, pair, pool).eval()
    torch.nn.init.normal_(model.head.weight)
    save_classifier(tmp_path / "m", model, {**meta, "space": "toy"})
    again = load_classifier(tmp_path / "m")
    left, right, t_r = torch.randn(3, 5, V), torch.randn(3, 5, V), torch.full((3,), 2.0)
    with torch.inference_mode():
        assert torch.equal(model(left, right, t_r, "toy"), again(left, right, t_r, "toy"))
    (tmp_path / "m" / HEAD).write_bytes(b"damaged")
    with pytest.raises(DamageError, match="is not the file"):
        load_classifier(tmp_path / "m")
    (tmp_path / "m" / HEAD).unlink()
    with pytest.raises(DamageError, match="without a head"):
        load_classifier(tmp_path / "m")
