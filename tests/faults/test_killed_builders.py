"""200 runs, 20 of them damaged, builders and their workers killed at random: not a byte is different."""

import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml
from scans import AFFINE, N_LABELS, brain_like, write_image

from fmriscale import cli

SHAPE = (5, 6, 4)
N_RUNS, N_TASKS = 200, 2
COMMAND = [
    sys.executable,
    "-c",
    "import sys; from fmriscale import cli; sys.exit(cli.run(sys.argv[1:]))",
    "shard",
]


def image(root, subject, **options):
    """Write one small run."""
    voxels = options.get("voxels", brain_like(20, subject, SHAPE))
    name = f"sub-{subject:03d}_task-rest_bold.nii.gz"
    path = root / f"sub-{subject:03d}" / "func" / name
    return write_image(path, voxels, options.get("affine", AFFINE), options.get("t_r", 2.0))


def damage(root, kind, subject):
    """Write one damaged run; return the reason it must be given."""
    if kind == 0:
        image(root, subject, t_r=None)
        return "no_t_r"
    if kind == 1:
        path = image(root, subject)
        path.write_bytes(path.read_bytes()[:-500])  # cut short
    if kind == 2:
        image(root, subject).write_bytes(b"")
    if kind == 3:
        voxels = brain_like(20, subject, SHAPE).astype(np.float32)
        voxels[2, 2, 2, 7] = np.nan
        image(root, subject, voxels=voxels)
        return "not_finite"
    if kind == 4:
        image(root, subject, voxels=brain_like(5, subject, SHAPE))
        return "too_short"
    if kind == 5:
        far = AFFINE.copy()
        far[:3, 3] += 500
        image(root, subject, affine=far)
        return "other_space"
    if kind == 6:
        image(root, subject, voxels=np.full((*SHAPE, 20), 100 + subject, np.int16))
        return "constant"
    if kind == 7:
        path = image(root, subject)
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text('{"RepetitionTime": 1.5}')
        return "t_r_conflict"
    if kind == 8:
        shutil.copyfile(image(root, 1), image(root, subject))
        return "duplicate_content"
    if kind == 9:
        path = image(root, subject)
        path.with_name(path.name.replace("bold.nii.gz", "events.tsv")).write_text("when\tduration\n1\t2\n")
        return "bad_events"
    return "unreadable"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The runs, the reasons expected, and the corpus that nobody disturbed."""
    root = tmp_path_factory.mktemp("study")
    labels = np.zeros(SHAPE, np.int16)
    labels[:] = (1 + np.arange(SHAPE[1]) * N_LABELS // SHAPE[1])[:, None]
    nib.Nifti1Image(labels, AFFINE).to_filename(root / "atlas.nii.gz")
    bad = random.Random(0).sample(range(2, N_RUNS + 1), 20)
    expected = {f"{s:03d}": damage(root / "in", i % 10, s) for i, s in enumerate(bad)}
    for subject in set(range(1, N_RUNS + 1)) - set(bad):
        image(root / "in", subject)
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe(root)))
    arguments = [
        "shard",
        "--config",
        str(root / "recipe.yaml"),
        "--out",
        str(root / "undisturbed"),
        "--jobs",
        "2",
    ]
    assert cli.run(arguments) == 3
    return root, expected


def recipe(root):
    features = {"name": "slabs", "labels_img": str(root / "atlas.nii.gz")}
    given = {"name": "many", "kind": "bids", "root": str(root / "in"), "features": features}
    return {
        "datasets": [given | {"quality": {"min_volumes": 10}}],
        "out": str(root / "c"),
        "shard_runs": 5,
        "jobs": 2,
    }


def content(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file() and ".build" not in p.parts)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def start(root, *flags):
    command = [*COMMAND, "--config", str(root / "recipe.yaml"), *flags]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def descendants(pid):
    """Processes below one, as /proc tells."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                child = int(path.parent.name)
                found += [child, *descendants(child)]
    return found


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_killed_at_random_then_twice_as_many_tasks(study, capsys):
    root, expected = study
    chance, folder, kills = random.Random(1), root / "c", 0
    for _ in range(2):  # lives in which everybody is killed, workers at any time, parents after some progress
        tasks = [start(root, "--task-id", str(i), "--num-tasks", str(N_TASKS)) for i in range(N_TASKS)]
        built = len(list(folder.glob(".build/*.json")))
        doom = [built + chance.randint(4, 9) for _ in tasks]
        while any(task.poll() is None for task in tasks):
            before, built = built, len(list(folder.glob(".build/*.json")))
            for task, end in zip(tasks, doom, strict=True):
                if task.poll() is None and built >= end:
                    kill(task.pid)  # its workers must follow by themselves
                    kills += 1
                elif built > before and (workers := descendants(task.pid)):
                    kill(chance.choice(workers))
                    kills += 1
            time.sleep(chance.uniform(0.01, 0.05))
        for task in tasks:
            assert task.stderr and "Traceback" not in task.stderr.read()
            task.stderr.close()
    assert kills > 4 and not (folder / "corpus.json").exists()
    kept = {p.name: p.stat().st_mtime_ns for p in folder.glob(".build/*.tar")}
    (folder / ".build/.many-000007.tar.1.tmp").write_bytes(b"left by a builder that died")

    twice = ["--num-tasks", str(2 * N_TASKS), "--jobs", "1"]
    tasks = [start(root, "--task-id", str(i), *twice) for i in range(2 * N_TASKS)]
    assert [task.wait() for task in tasks] == [0] * 2 * N_TASKS
    assert start(root, "--finish").wait() == 3

    undisturbed = content(root / "undisturbed")
    assert content(folder) == undisturbed and len(undisturbed) == 40 + 4
    again = {p.name: p.stat().st_mtime_ns for p in (folder / "many").iterdir()}
    assert sum(again[name] == stamp for name, stamp in kept.items()) >= 3  # what was finished was kept
    assert {p.suffix for p in (folder / ".build").iterdir()} == {"", ".json"}

    quarantine = pd.read_csv(folder / "quarantine.tsv", sep="\t")
    found = dict(zip(quarantine.source.str[4:7], quarantine.reason, strict=True))
    assert found == expected and len(set(expected.values())) == 9
    assert cli.run(["verify", str(folder), "--jobs", "1"]) == 0
    capsys.readouterr()


def life(arguments, fatal):
    """Run the command in a process that is killed at its n-th change of the disk; return its exit status."""
    pid = os.fork()
    if pid == 0:
        changes = itertools.count(1)

        def deadly(function):
            def call(*args, **kwargs):
                if next(changes) == fatal:
                    kill(os.getpid())
                return function(*args, **kwargs)

            return call

        for name in ("fsync", "replace", "unlink", "mkdir"):
            setattr(os, name, deadly(getattr(os, name)))
        code = 99
        try:
            code = cli.run(arguments)
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def test_killed_at_every_change_of_the_disk(study, tmp_path, capsys):
    root, _ = study
    few = [p for p in (root / "in").iterdir() if p.name[4:] < "015"]
    for path in few:
        shutil.copytree(path, tmp_path / "in" / path.name)
    shutil.copy(root / "atlas.nii.gz", tmp_path)
    old = recipe(tmp_path) | {"jobs": 1}
    new = recipe(tmp_path) | {"jobs": 1, "shard_runs": 4}
    for name, content_ in (("old", old), ("new", new)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content_))
        cli.run(["shard", "--config", str(tmp_path / f"{name}.yaml"), "--out", str(tmp_path / name)])
    cli.run(["shard", "--config", str(tmp_path / "old.yaml")])
    whole = {name: content(tmp_path / name) for name in ("old", "new")}
    seen, status, fatal = set(), signal.SIGKILL, 0
    while status == signal.SIGKILL:
        fatal += 1
        status = life(["shard", "--config", str(tmp_path / "new.yaml")], fatal)
        now = content(tmp_path / "c")
        now = {k: v for k, v in now.items() if not k.endswith(".tmp")}
        seen |= {name for name, files in whole.items() if now == files}
        assert "corpus.json" not in now or now in whole.values()
    assert os.waitstatus_to_exitcode(status) in (0, 3) and seen == {"old", "new"} and fatal > 15
    assert content(tmp_path / "c") == whole["new"]
    assert cli.run(["verify", str(tmp_path / "c"), "--jobs", "1"]) == 0
    capsys.readouterr()
