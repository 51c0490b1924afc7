"""slurm/finetune.sh on a real Slurm: a node loses power in the middle of a cell; the study is the same."""

import json
import sys
import time
from pathlib import Path

import pytest
import yaml
from toystudy import options, without_times, write_toy

from fmriscale.cli import run
from fmriscale.config import StudyConfig
from fmriscale.config.recipe import parse, to_dict
from fmriscale.study.jobs import jobs

pytestmark = pytest.mark.slurm

N_TASKS = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A corpus, an encoder, and the study of both as one process makes it."""
    root = write_toy(tmp_path_factory.mktemp("study"))
    assert run(design(root, root / "local")) == 0
    return root


def design(place, out):
    return options(place, out, seeds=[0, 1], train__epochs=6)


def numbers(folder):
    """Return what a study says, but for times, dates, and commands that name its folder."""
    summary = json.loads((folder / "summary.json").read_text())
    del summary["speed"], summary["provenance"]["date"], summary["to_run"]
    for epoch in (epoch for curve in summary["curves"].values() for epoch in curve):
        epoch.pop("seconds", None)
    cells = {path.name: without_times(path) for path in sorted((folder / "cells").glob("*.json"))}
    return summary, cells, (folder / "model/model.safetensors").read_bytes()


def test_a_node_loses_power_in_the_middle_of_a_cell(slurm_cluster, place, tmp_path, repository):
    config = parse(StudyConfig, design(place, tmp_path / "c")[1:])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(to_dict(config)))
    job = slurm_cluster.sbatch(
        *(f"--array=0-{N_TASKS - 1}", "--exclusive", "--cpus-per-task=1", f"--output={tmp_path}/task-%a.txt"),
        *("slurm/finetune.sh", recipe),
        cwd=repository,
        PATH=f"{Path(sys.executable).parent}:{slurm_cluster.path}",
    )
    mine = [tmp_path / "c" / each.file for each in jobs(config)[1::N_TASKS]]
    end = time.monotonic() + 60
    while not mine[0].exists():
        assert time.monotonic() < end, (tmp_path / "task-1.txt").read_text()
        time.sleep(0.005)
    node = slurm_cluster.freeze("finetune", tmp_path, 1)
    done = {path: path.stat().st_mtime_ns for path in mine if path.exists()}
    assert len(done) < len(mine)
    slurm_cluster.node("poweroff", node)
    try:
        finish = slurm_cluster.finish_job(job)
        fields = slurm_cluster.wait(finish, timeout=150)
    finally:
        slurm_cluster.mend()
        log = repository / f"finetune-{job}.out"
        told = log.read_text() if log.exists() else ""
        log.unlink(missing_ok=True)
    task = (tmp_path / "task-1.txt").read_text()
    assert fields["JobState"] == "COMPLETED", task + told
    assert f"start 1, on {node}" in task and "start 2, on node" in task
    assert f"{len(done)} of {len(mine)} results are there and reused" in task
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert "task 1 of 3" in task and "report.html" in told
    assert numbers(tmp_path / "c") == numbers(place / "local")
