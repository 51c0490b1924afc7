"""slurm/shard.sh on a real Slurm: a node loses power in the middle; a task that failed; no byte differs."""

import sys
import time
from pathlib import Path

import pytest
import yaml
from scans import brain_like, corpus, dataset, write_atlas, write_image

from fmriscale.config import FeatureConfig
from fmriscale.config.recipe import to_dict
from fmriscale.ingest.build import build
from fmriscale.ingest.plan import make_plan, shards_of_task

pytestmark = pytest.mark.slurm

N_TASKS = 3
SHAPE = (24, 24, 20)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Runs that take about a tenth of a second each, one of them damaged, and their corpus built here."""
    root = tmp_path_factory.mktemp("study")
    for subject in range(1, 37):
        name = f"in/sub-{subject:02d}/func/sub-{subject:02d}_task-rest_bold.nii"
        voxels = brain_like(5 if subject == 7 else 60, subject, SHAPE)
        write_image(root / name, voxels)
    mask = write_atlas(root / "mask.nii.gz", SHAPE)
    features = FeatureConfig(name="voxels", mask_img=str(mask))
    given = dataset(root / "in", kind="bids", features=features)
    local = corpus(root / "local", given, shard_runs=2, jobs=2)
    build(local)
    return local


def submit(cluster, config, folder, repository, *options):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(to_dict(config) | {"out": str(folder / "c")}))
    return cluster.sbatch(
        *(f"--output={folder}/task-%a.txt", "--cpus-per-task=1", *options, "slurm/shard.sh", path),
        cwd=repository,
        PATH=f"{Path(sys.executable).parent}:{cluster.path}",
    )


def content(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file() and ".build" not in p.parts)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def test_a_node_loses_power_in_the_middle(slurm_cluster, study, tmp_path, repository):
    job = submit(slurm_cluster, study, tmp_path, repository, f"--array=0-{N_TASKS - 1}", "--exclusive")
    mine = shards_of_task(make_plan(study)[0], 1, N_TASKS)
    states = [tmp_path / "c/.build" / f"{Path(shard.name).stem}.json" for shard in mine]
    end = time.monotonic() + 60
    while not any(state.exists() for state in states):
        assert time.monotonic() < end, (tmp_path / "task-1.txt").read_text()
        time.sleep(0.005)
    node = slurm_cluster.freeze("fmriscale-shard", tmp_path, 1)
    built = sum(state.exists() for state in states)
    assert 0 < built < len(mine)
    slurm_cluster.node("poweroff", node)
    try:
        finish = slurm_cluster.finish_job(job)
        done = slurm_cluster.wait(finish, timeout=120)
    finally:
        slurm_cluster.mend()
    told = (tmp_path / "task-1.txt").read_text()
    assert done["JobState"] == "COMPLETED", told
    assert f"start 1, on {node}" in told and "start 2, on node" in told
    assert f"task 1 of 3: {len(mine)} of 18 shards, {len(mine) - built} built now" in told
    assert content(tmp_path / "c") == content(Path(study.out))


def test_a_task_that_fails_is_told_and_made_good_by_the_next_array(
    slurm_cluster, study, tmp_path, repository
):
    job = submit(slurm_cluster, study, tmp_path, repository, "--array=0-1", "--hold")
    slurm_cluster.run("scancel", f"{job}_1")
    slurm_cluster.run("scontrol", "release", job)
    finish = slurm_cluster.finish_job(job)
    log = repository / f"shard-{job}.out"
    try:
        fields = slurm_cluster.wait(finish, timeout=90)
        told = log.read_text()
    finally:
        log.unlink(missing_ok=True)
    assert (fields["JobState"], fields["ExitCode"]) == ("FAILED", "2:0"), told
    assert "9 of 18 shards are not built" in told and "fmriscale-shard --config" in told
    assert not (tmp_path / "c/corpus.json").exists()

    alone = submit(slurm_cluster, study, tmp_path, repository)
    assert slurm_cluster.wait(alone, timeout=90)["JobState"] == "COMPLETED"
    assert content(tmp_path / "c") == content(Path(study.out))
