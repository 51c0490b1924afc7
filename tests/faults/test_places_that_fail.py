"""Disks that are full or cannot be written, sources that go away: one clear line, nothing half-written."""

import os
import resource
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import yaml
from scans import corpus, dataset, write_atlas, write_fmriprep_run

from fmriscale import cli
from fmriscale.config import FeatureConfig
from fmriscale.config.recipe import to_dict
from fmriscale.corpus.reader import Corpus
from fmriscale.ingest.build import build
from fmriscale.ingest.plan import make_plan
from fmriscale.ingest.run import timed_run


@pytest.fixture
def study(tmp_path):
    """A recipe for voxels, whose shards are large enough to fill a small disk."""
    for subject in ("01", "02", "03", "04"):
        write_fmriprep_run(tmp_path / "in", subject, n_volumes=200)
    mask = write_atlas(tmp_path / "mask.nii.gz")
    features = FeatureConfig(name="voxels", mask_img=str(mask))
    given = dataset(tmp_path / "in", features=features)
    return corpus(tmp_path / "c", given, shard_runs=1)


def shard(folder, config, *flags):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(to_dict(config)))
    return cli.run(["shard", "--config", str(path), *flags])


def content(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file() and ".build" not in p.parts)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 KiB; skips where mounting is not allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk(study, small_disk, tmp_path, capsys):
    config = to_dict(study) | {"out": str(small_disk / "c")}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(config))
    command = ["shard", "--config", str(path)]
    assert cli.run(command) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "No space left on device" in err and "free space" in err
    assert str(small_disk / "c") in err
    left = sorted(p.name for p in (small_disk / "c/.build").iterdir())
    built = [f"toy-00000{i}" for i in range(len(left) // 2)]
    assert 1 <= len(built) < 4 and left == ["lock", *(f"{b}.{e}" for b in built for e in ("json", "tar"))]
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    kept = (small_disk / "c/.build/toy-000000.tar").stat().st_mtime_ns
    assert cli.run(command) == 0
    assert (small_disk / "c/toy/toy-000000.tar").stat().st_mtime_ns == kept
    before = content(small_disk / "c")
    build(study)
    assert content(tmp_path / "c") == before

    # full again while other settings are built: the old corpus stays as it is
    used = sum(map(len, before.values()))
    subprocess.run(["mount", "-o", f"remount,size={used // 1024 + 300}k", str(small_disk)], check=True)
    capsys.readouterr()
    assert cli.run([*command, "--split.val", "0.5", "--shard_runs", "2"]) == 2
    assert "No space left" in capsys.readouterr().err
    assert (
        content(small_disk / "c") == before and cli.run(["verify", str(small_disk / "c"), "--jobs", "1"]) == 0
    )


def test_files_may_not_grow(study, tmp_path, capsys):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))
    try:
        assert shard(tmp_path, study) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "File too large" in err and "ulimit" in err
    assert [p.name for p in (tmp_path / "c/.build").iterdir()] == ["lock"]
    assert shard(tmp_path, study) == 0


def test_a_file_in_the_way(study, tmp_path, capsys):
    (tmp_path / "c").write_text("not a folder")
    assert shard(tmp_path, study) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"{tmp_path}/c" in err and "a file stands where a folder must be" in err
    assert shard(tmp_path, study, "--out", str(tmp_path / "c/below")) == 2
    assert (tmp_path / "c").read_text() == "not a folder"


def test_a_disk_that_can_only_be_read(study, small_disk, tmp_path, capsys):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert shard(tmp_path, study, "--out", str(small_disk / "c")) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "Read-only file system" in err and str(small_disk) in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_permission_denied(study, tmp_path, capsys):
    (tmp_path / "closed").mkdir(mode=0o500)
    assert shard(tmp_path, study, "--out", str(tmp_path / "closed/c")) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "Permission denied" in err and "make it writable" in err


def test_a_source_that_vanishes_while_its_shard_is_built(study, tmp_path, capsys, monkeypatch):
    [run] = make_plan(study)[0][2].runs
    aside = run.path.with_suffix(".aside")

    def vanishing(given, given_dataset):
        if given.key == run.key:
            run.path.rename(aside)
        return timed_run(given, given_dataset)

    with monkeypatch.context() as patch:
        patch.setattr("fmriscale.ingest.shards.timed_run", vanishing)
        assert shard(tmp_path, study, "--task-id", "0", "--num-tasks", "1") == 0
    assert "1 runs rejected" in capsys.readouterr().out
    assert shard(tmp_path, study, "--finish") == 2  # the plan has changed: its shards are not those
    aside.rename(run.path)
    capsys.readouterr()
    assert shard(tmp_path, study, "--finish") == 3
    assert "vanished" in capsys.readouterr().out
    quarantine = pd.read_csv(tmp_path / "c/quarantine.tsv", sep="\t")
    assert list(quarantine.reason) == ["vanished"] and "put it back" in quarantine.detail[0]
    assert shard(tmp_path, study) == 0  # it is back, and tried again
    assert len(Corpus.open(tmp_path / "c").runs) == 4


def test_a_run_that_kills_its_process(study, tmp_path, capsys):
    # Whoever reads subject 02 is killed, as a kernel that is out of memory does it.
    script = tmp_path / "doomed.py"
    script.write_text(DOOMED)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(to_dict(study) | {"jobs": 2, "shard_runs": 4}))
    done = subprocess.run([sys.executable, script, tmp_path / "recipe.yaml"], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    quarantine = pd.read_csv(tmp_path / "c/quarantine.tsv", sep="\t")
    assert list(quarantine.reason) == ["crashed"] and quarantine.source[0].startswith("sub-02")
    assert list(Corpus.open(tmp_path / "c").runs.subject) == ["01", "03", "04"]
    assert shard(tmp_path, study) == 0  # on a larger machine: tried again
    shutil.rmtree(tmp_path / "c")


DOOMED = """
import os, signal, sys
from fmriscale import cli
from fmriscale.ingest import shards
from fmriscale.ingest.run import process_run

def doomed(run, dataset):
    if run.entities["sub"] == "02":
        os.kill(os.getpid(), signal.SIGKILL)
    return process_run(run, dataset), 0.0

if __name__ == "__main__":
    shards.timed_run = doomed
    sys.exit(cli.run(["shard", "--config", sys.argv[1]]))
"""
