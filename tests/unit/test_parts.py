"""Shards dealt out to tasks, built by whoever comes, finished together; duplicates out and back in."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from scans import corpus, dataset, write_atlas, write_fmriprep_run

from fmriscale import cli
from fmriscale.common.errors import UserError
from fmriscale.config import FeatureConfig
from fmriscale.config.recipe import to_dict
from fmriscale.corpus.building import FolderLock
from fmriscale.corpus.reader import Corpus
from fmriscale.ingest.build import build
from fmriscale.ingest.plan import make_plan, shards_of_task

HOLD = """
import sys, time
from pathlib import Path
from fmriscale.corpus.building import FolderLock
with FolderLock(Path(sys.argv[1])) as lock:
    lock.claim(sys.argv[2])
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two data sets of unequal runs."""
    root = tmp_path_factory.mktemp("sources")
    for subject in range(1, 8):
        write_fmriprep_run(root / "a", f"{subject:02d}", n_volumes=20 + 10 * subject)
    for subject in range(1, 4):
        write_fmriprep_run(root / "b", f"{subject:02d}", run=2)
    write_atlas(root / "atlas.nii.gz")
    return root


def recipe(sources, out, *names, **settings):
    names = names or ("a", "b")
    found = [dataset(sources / n, sources / "atlas.nii.gz", name=n) for n in names]
    return corpus(out, *found, **{"shard_runs": 2, **settings})


def shard(folder, config, *flags):
    path = folder / f"{config.out.rpartition('/')[2]}.yaml"
    path.write_text(yaml.safe_dump(to_dict(config)))
    return cli.run(["shard", "--config", str(path), *flags])


def content(folder):
    """Every byte of a corpus but the notes of its making."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and ".build" not in p.parts)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def test_parts_are_disjoint_complete_balanced_and_the_same_for_every_task(sources, tmp_path):
    plan = make_plan(recipe(sources, tmp_path, shard_runs=1)).shards
    for n in (1, 2, 3, 20):
        parts = [shards_of_task(plan, i, n) for i in range(n)]
        assert sorted(s.name for part in parts for s in part) == [s.name for s in plan]
        loads = [sum(s.bytes_in for s in part) for part in parts]
        assert max(loads) - min(loads) <= max(s.bytes_in for s in plan)


@pytest.mark.parametrize("n", [1, 3, 9])
def test_any_number_of_tasks_gives_the_same_bytes(sources, tmp_path, n):
    build(recipe(sources, tmp_path / "whole", jobs=2))
    config = recipe(sources, tmp_path / "parts")
    for task in reversed(range(n)):
        assert shard(tmp_path, config, "--task-id", str(task), "--num-tasks", str(n)) == 0
    assert not (tmp_path / "parts/corpus.json").exists()
    assert shard(tmp_path, config, "--finish") == 0
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_finish_names_missing_shards_and_the_command(sources, tmp_path, capsys):
    config = recipe(sources, tmp_path / "c")
    assert shard(tmp_path, config, "--task-id", "1", "--num-tasks", "2") == 0
    capsys.readouterr()
    assert shard(tmp_path, config, "--finish") == 2
    err = capsys.readouterr().err
    assert "3 of 6 shards are not built" in err and "a/a-0000" in err
    assert err.rstrip().endswith(f"fmriscale-shard --config {tmp_path}/c.yaml")
    assert not (tmp_path / "c/corpus.json").exists()


def test_a_data_set_that_the_recipe_drops_is_named_before_it_goes(sources, tmp_path, capsys):
    assert shard(tmp_path, recipe(sources, tmp_path / "c")) == 0
    assert "warning" not in capsys.readouterr().err
    assert shard(tmp_path, recipe(sources, tmp_path / "c", "a")) == 0
    assert "holds data set b, which the recipe does not list" in capsys.readouterr().err
    assert set(Corpus.open(tmp_path / "c").runs.dataset) == {"a"}


def test_slurm_array_says_which_part(sources, tmp_path, monkeypatch, capsys):
    config = recipe(sources, tmp_path / "c")
    array = {"ID": "2", "MIN": "1", "MAX": "3", "COUNT": "3"}
    for name, value in array.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert shard(tmp_path, config) == 0
    assert "task 1 of 3: 2 of 6 shards, 2 built now" in capsys.readouterr().out
    assert shard(tmp_path, config, "--finish") == 2  # is no task, though it inherits the environment
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    assert shard(tmp_path, config) == 2
    assert "gaps" in capsys.readouterr().err
    monkeypatch.delenv("SLURM_ARRAY_TASK_MIN")
    assert shard(tmp_path, config) == 2
    assert "SLURM_ARRAY_TASK_MIN" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--task-id", "2", "--num-tasks", "2"], "0 to N-1"),
        (["--task-id", "1"], "needs --num-tasks"),
        (["--num-tasks", "2"], "needs --task-id"),
        (["--finish", "--plan"], "one of"),
        (["--task-id", "x"], "invalid int"),
        (["--shard_runs", "0"], "shard_runs must be 1 or more"),
    ],
)
def test_wrong_flags(sources, tmp_path, capsys, flags, words):
    assert shard(tmp_path, recipe(sources, tmp_path / "c"), *flags) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1 and not (tmp_path / "c").exists()


def test_plan_writes_nothing_and_knows_what_is_there(sources, tmp_path, capsys):
    config = recipe(sources, tmp_path / "c", shard_runs=4)
    assert shard(tmp_path, config, "--plan", "--num-tasks", "8") == 0
    before = capsys.readouterr().out
    assert not (tmp_path / "c").exists() and "with 8 tasks" in before
    cells = {line.split()[0]: line.split() for line in before.splitlines()}
    assert cells["a"][2:5] == ["2", "2", "7"] and cells["b"][2:5] == ["1", "1", "3"]
    build(config)
    after = content(tmp_path / "c")
    assert shard(tmp_path, config, "--plan") == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = (words for words in map(str.split, lines) if words[0] == "all")
    hours = sum(Corpus.open(tmp_path / "c").runs.eval("t_r * n_volumes")) / 3600
    assert line[:4] == ["all", "3", "0", "10"] and float(line[6]) == pytest.approx(hours, rel=0.01)
    assert "a: 7 listed = 7 in runs + 0 quarantined" in lines
    assert content(tmp_path / "c") == after


def test_two_builders_on_one_shard(sources, tmp_path, capsys):
    config = recipe(sources, tmp_path / "c")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, config.out, "a/a-000001.tar"], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout and holder.stdout.readline() == b"held\n"
        assert shard(tmp_path, config) == 2
        err = capsys.readouterr().err
        assert f"a/a-000001.tar is being built by process {holder.pid} on " in err and err.count("\n") == 1
        with FolderLock(tmp_path / "c") as lock:
            lock.claim("b/b-000000.tar")  # another shard is free
    finally:
        holder.kill()
        holder.wait()
    assert shard(tmp_path, config) == 0  # the lock went with its holder
    build(recipe(sources, tmp_path / "d"))
    assert content(tmp_path / "c") == content(tmp_path / "d")
    assert {p.suffix for p in (tmp_path / "c/.build").iterdir()} == {"", ".json"}


def test_adding_a_data_set_builds_nothing_else(sources, tmp_path):
    build(recipe(sources, tmp_path, "b"))
    time = (tmp_path / "b/b-000000.tar").stat().st_mtime_ns
    build(recipe(sources, tmp_path))
    assert (tmp_path / "b/b-000000.tar").stat().st_mtime_ns == time


def test_data_that_moved_are_the_same_data(sources, tmp_path):
    shutil.copytree(sources, tmp_path / "elsewhere")
    build(recipe(sources, tmp_path / "c"))
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "c/a").iterdir()}
    build(recipe(tmp_path / "elsewhere", tmp_path / "c"))
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "c/a").iterdir()} == times


def test_a_copied_corpus_is_not_built_again_but_a_changed_one_is(sources, tmp_path):
    build(recipe(sources, tmp_path / "c"))
    shutil.copytree(tmp_path / "c", tmp_path / "d", copy_function=shutil.copyfile)  # all times are new
    harmed = tmp_path / "d/a/a-000001.tar"
    harmed.write_bytes(harmed.read_bytes()[::-1])  # the same size
    numbers = {p: p.stat().st_ino for p in (tmp_path / "d/a").iterdir()}
    build(recipe(sources, tmp_path / "d"))
    assert {p.name for p, n in numbers.items() if p.stat().st_ino != n} == {"a-000001.tar"}
    assert content(tmp_path / "c") == content(tmp_path / "d")


def test_until_finish_the_old_corpus_stays(sources, tmp_path, capsys):
    config = recipe(sources, tmp_path / "c")
    build(config)
    before = content(tmp_path / "c")
    changed = [
        dataclasses.replace(d, denoise=dataclasses.replace(d.denoise, detrend=False)) for d in config.datasets
    ]
    config = dataclasses.replace(config, datasets=changed)
    assert shard(tmp_path, config, "--task-id", "0", "--num-tasks", "2") == 0
    assert content(tmp_path / "c") == before and cli.run(["verify", config.out, "--jobs", "1"]) == 0
    assert shard(tmp_path, config) == 0
    build(dataclasses.replace(config, out=str(tmp_path / "d")))
    assert content(tmp_path / "c") == content(tmp_path / "d") != before


# ---------------------------------------------------------------- duplicates


def twin(sources, root, subject):
    """Give subject 05's scan a second name."""
    for path in (sources / "a/sub-05/func").iterdir():
        target = root / f"sub-{subject}/func" / path.name.replace("sub-05", f"sub-{subject}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)


def test_duplicates_leave_and_come_back(sources, tmp_path, capsys):
    root = tmp_path / "in"
    shutil.copytree(sources, root)
    twin(sources, root / "a", "06")  # in place of another run
    twin(sources, root / "a", "11")
    twin(sources, root / "b", "01")
    assert shard(tmp_path, recipe(root, tmp_path / "c")) == 3
    assert "3 duplicate_content" in capsys.readouterr().out
    quarantine = pd.read_csv(tmp_path / "c/quarantine.tsv", sep="\t")
    assert set(quarantine.source.str[:6]) == {"sub-06", "sub-11", "sub-01"}
    assert quarantine.detail.str.contains("the same file as a_sub-05_task-rest_run-01").all()
    assert {"06", "11"}.isdisjoint(Corpus.open(tmp_path / "c").runs.query("dataset == 'a'").subject)
    assert b"sub-11" not in b"".join(v for k, v in content(tmp_path / "c").items() if k.endswith(".tar"))

    # other tasks in another order, in two lives: the same bytes
    config = recipe(root, tmp_path / "d")
    for task in (3, 1, 2, 0):
        shard(tmp_path, config, "--task-id", str(task), "--num-tasks", "4")
    assert shard(tmp_path, config, "--finish") == 3
    assert content(tmp_path / "d") == content(tmp_path / "c")
    assert cli.run(["verify", config.out, "--jobs", "1"]) == 0
    assert cli.run(["verify", config.out, "--jobs", "1", "--repair"]) == 0

    # the first one goes: the next in corpus order stands in for it
    shutil.rmtree(root / "a/sub-05")
    assert shard(tmp_path, recipe(root, tmp_path / "c")) == 3
    runs = Corpus.open(tmp_path / "c").runs
    assert list(runs.query("dataset == 'a'").subject) == ["01", "02", "03", "04", "06", "07"]
    build(recipe(root, tmp_path / "fresh"))
    assert content(tmp_path / "c") == content(tmp_path / "fresh")


def test_a_twin_in_another_data_set_comes_back_when_the_first_data_set_goes(sources, tmp_path):
    root = tmp_path / "in"
    shutil.copytree(sources, root)
    twin(sources, root / "b", "01")
    manifest, quarantine = build(recipe(root, tmp_path / "c"))
    assert list(quarantine.reason) == ["duplicate_content"] and manifest["datasets"]["b"]["n_runs"] == 3
    state = json.loads((tmp_path / "c/.build/b-000000.json").read_text())
    assert len(state["rows"]) == 2 and state["excluded"] == ["b_sub-01_task-rest_run-01"]
    _, quarantine = build(recipe(root, tmp_path / "c", "b"))
    assert not len(quarantine)
    build(recipe(root, tmp_path / "fresh", "b"))
    assert content(tmp_path / "c") == content(tmp_path / "fresh")


def test_equal_signals_under_two_names_and_equal_archives_told_apart(tmp_path):
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 40, 5))
    np.savez(tmp_path / "first.npz", **{"sub-1": one, "sub-2": two})
    np.savez(tmp_path / "second.npz", **{"sub-3": one * 2, "sub-4": rng.normal(size=(40, 5))})
    os.link(tmp_path / "first.npz", tmp_path / "third.npz")
    given = dataset(
        tmp_path, kind="arrays", files="*.npz", t_r=2.0, features=FeatureConfig(name="five", columns=5),
        name_pattern=r"(?P<session>\w+)\.npz:",
    )  # fmt: skip
    _, quarantine = build(corpus(tmp_path / "c", given))
    reasons = dict(zip(quarantine.source, quarantine.detail.str.split(" as ").str[0], strict=True))
    assert reasons == {
        "third.npz:sub-1": "the same file",
        "third.npz:sub-2": "the same file",
        "second.npz:sub-3": "the same signals",
    }


def test_locks_of_the_whole_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr("fmriscale.corpus.building.LOCK_TIMEOUT", 0.2)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), "a/a-000001.tar"], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout and holder.stdout.readline() == b"held\n"
        with FolderLock(tmp_path) as lock, pytest.raises(UserError, match=f"process {holder.pid} on "):
            lock.claim_all()
    finally:
        holder.kill()
        holder.wait()
    with FolderLock(tmp_path) as lock:
        lock.claim_all()
    assert [p.name for p in (tmp_path / ".build").iterdir()] == ["lock"]
