import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset
import yaml
from scans import T_R, confounds, corpus, dataset, fragile, write_atlas, write_fmriprep_run

from fmriscale.common.workers import WorkerDied, map_in_order
from fmriscale.config import DenoiseConfig, SplitConfig
from fmriscale.corpus.reader import Corpus
from fmriscale.corpus.writer import EncodedRun, ShardWriter
from fmriscale.ingest import finish as finishing
from fmriscale.ingest.build import build

EVENTS = "onset\tduration\ttrial_type\n6\t2\tface\n"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Three people, two runs each, one run with two censored volumes."""
    root = tmp_path_factory.mktemp("study")
    for subject in ("01", "02", "03"):
        for run in (1, 2):
            table = confounds(40, run)
            if (subject, run) == ("02", 1):
                table.loc[[10, 30], "framewise_displacement"] = 3.0
            write_fmriprep_run(root, subject, run, table=table, events=EVENTS)
    return dataset(
        root,
        write_atlas(root / "atlas.nii.gz"),
        denoise=DenoiseConfig(strategy=["motion", "scrub"], motion="basic", scrub=0, dummy_volumes=2),
    )


def elsewhere(study, name):
    """The same scans in a feature space of their own."""
    features = dataclasses.replace(study.features, name=f"slabs_{name}")
    return dataclasses.replace(study, name=name, features=features)


def content(folder):
    """Every byte of a corpus but the notes of its making."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and ".build" not in p.parts)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def test_a_corpus_holds_what_the_scans_say(tmp_path, study):
    _, quarantine = build(corpus(tmp_path / "c", study))
    opened = Corpus.open(tmp_path / "c")
    assert len(quarantine) == 0 and len(opened.runs) == 6
    scrubbed = list(opened.runs.key).index("toy_sub-02_task-rest_run-01")
    row, record, bold = opened.runs.iloc[scrubbed], opened.record(scrubbed), opened.bold(scrubbed)
    assert bold.shape == (38, 6) and record["n_volumes"] == 38
    assert row.segments == "0:8,9:28,29:38" and row.n_censored == 2
    assert (bold[[8, 28]] == 0).all()
    assert record["sample_mask"] == [t for t in range(38) if t not in (8, 28)]
    kept = bold[record["sample_mask"]].astype(float)
    np.testing.assert_allclose(kept.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(kept.std(axis=0, ddof=1), 1, atol=1e-3)
    assert record["events"] == [{"onset": 6 - 2 * T_R, "duration": 2.0, "trial_type": "face"}]
    assert record["denoise"]["regressors"] == ["rot_x", "rot_y", "rot_z", "trans_x", "trans_y", "trans_z"]
    mean, std = opened.mean_std(scrubbed)
    assert mean == pytest.approx(1000, abs=20) and (std > 0).all()
    assert opened.spaces["slabs"].coordinates is not None


def test_same_input_same_bytes_whatever_the_jobs(tmp_path, study):
    for name, jobs in (("one", 1), ("two", 2)):
        build(corpus(tmp_path / name, study, jobs=jobs, shard_mb=1))
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_webdataset_reads_the_shards_and_data_are_aligned(tmp_path, study):
    manifest, _ = build(corpus(tmp_path, study))
    paths = [str(tmp_path / shard["path"]) for shard in manifest["shards"]]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False).decode())
    opened = Corpus.open(tmp_path)
    assert [s["__key__"] for s in samples] == list(opened.runs.key)
    for i, sample in enumerate(samples):
        np.testing.assert_array_equal(sample["bold.npy"], opened.bold(i))
        assert sample["json"] == opened.record(i)
        assert sample["std.npy"].dtype == np.float32
        assert opened.runs.offset[i] % 64 == 0


def test_finished_shards_are_not_built_again(tmp_path, study, monkeypatch):
    root = tmp_path / "in"
    shutil.copytree(study.root, root)
    given = dataset(root, root / "atlas.nii.gz", denoise=study.denoise)
    monkeypatch.setattr("fmriscale.ingest.plan.MEMBER_BYTES", 2**19)  # two runs a shard of 1 MiB
    recipe = corpus(tmp_path / "c", given, shard_mb=1)
    build(recipe)
    shards = sorted((tmp_path / "c" / "toy").iterdir())
    assert len(shards) >= 3
    before, times = content(tmp_path / "c"), [p.stat().st_mtime_ns for p in shards]

    build(recipe)
    assert [p.stat().st_mtime_ns for p in shards] == times

    events = root / "sub-03/func/sub-03_task-rest_run-02_events.tsv"
    events.write_text(EVENTS.replace("face", "house"))
    build(recipe)
    changed = [p.stat().st_mtime_ns != t for p, t in zip(shards, times, strict=True)]
    assert changed[:-1] == [False] * (len(shards) - 1) and changed[-1]

    events.write_text(EVENTS)
    shards[0].unlink()  # lost: built again, to the same bytes
    build(recipe)
    assert content(tmp_path / "c") == before


def test_shards_of_an_earlier_recipe_go_away(tmp_path, study):
    other = elsewhere(study, "other")
    build(corpus(tmp_path, study, other))
    assert (tmp_path / "other").is_dir()
    build(corpus(tmp_path, study))
    assert not (tmp_path / "other").exists()
    assert set(Corpus.open(tmp_path).runs.dataset) == {"toy"}


def test_adding_a_data_set_moves_nobody(tmp_path, study):
    split = SplitConfig(val=0.4, test=0.3)
    build(corpus(tmp_path / "a", study, split=split))
    same = dataclasses.replace(elsewhere(study, "same"), people="toy")
    build(corpus(tmp_path / "b", elsewhere(study, "also"), study, same, split=split))
    before = Corpus.open(tmp_path / "a").runs.set_index("key")
    after = Corpus.open(tmp_path / "b").runs.set_index("key")
    assert (after.loc[before.index, "split"] == before.split).all()
    assert len(set(before.split)) > 1
    # people shared by name share their split
    pairs = after[after.person.str.startswith("toy/")].groupby("person").split.nunique()
    assert (pairs == 1).all()


def test_people_and_licence_change_the_manifest_alone(tmp_path, study):
    build(corpus(tmp_path, study))
    shard = tmp_path / "toy/toy-000000.tar"
    time = shard.stat().st_mtime_ns
    given = dataset(study.root, study.features.labels_img, denoise=study.denoise, people="lab", licence="CC0")
    manifest, _ = build(corpus(tmp_path, given))
    assert shard.stat().st_mtime_ns == time
    assert manifest["datasets"]["toy"]["licence"] == "CC0"
    assert set(Corpus.open(tmp_path).runs.person) == {"lab/01", "lab/02", "lab/03"}


def test_an_interrupted_shard_leaves_nothing(tmp_path):
    run = EncodedRun("a_sub-1", {}, {"bold.npy": bytes(2000)})
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path / "a.tar", "a/a-000000.tar") as writer:
        writer.add(run)
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_killed_before_the_manifest_then_run_again(tmp_path, study, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(finishing, "install", killed)
        with pytest.raises(KeyboardInterrupt):
            build(corpus(tmp_path / "c", study))
    assert not (tmp_path / "c/corpus.json").exists()
    build(corpus(tmp_path / "c", study))
    build(corpus(tmp_path / "fresh", study))
    assert content(tmp_path / "c") == content(tmp_path / "fresh")


def test_work_that_kills_its_process_is_named_and_the_rest_goes_on():
    results = list(map_in_order(fragile, [(n,) for n in range(5)], jobs=2))
    assert isinstance(results[2], WorkerDied)
    assert [r for r in results if not isinstance(r, WorkerDied)] == [0, 1, 3, 4]


def test_json_of_a_run_is_plain(tmp_path, study):
    build(corpus(tmp_path, study))
    line = (tmp_path / ".build/toy-000000.json").read_text()
    assert json.loads(line)["shard"]["n_runs"] == 6
    assert "NaN" not in line


IMPORTS_SLOWLY = "import time\ntime.sleep(1)\n\ndef work(seconds):\n    time.sleep(seconds)\n"
INTERRUPTED = """
import signal, slow
from fmriscale.common.errors import exit_code_of
from fmriscale.common.workers import map_in_order
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
print("go", flush=True)
raise SystemExit(exit_code_of(lambda: list(map_in_order(slow.work, [(60,)] * 2, 2))))
"""


@pytest.mark.parametrize("seconds", [0.3, 2])  # while the processes' server imports, and while they work
def test_ctrl_c_ends_all_processes_in_one_line(tmp_path, seconds):
    (tmp_path / "slow.py").write_text(IMPORTS_SLOWLY)
    job = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert job.stdout and job.stdout.readline() == "go\n"
    time.sleep(seconds)
    os.killpg(job.pid, signal.SIGINT)
    _, error = job.communicate(timeout=30)
    assert (job.returncode, error) == (130, "fmriscale: interrupted\n")


def test_a_file_called_like_a_feature_space_or_label_is_nothing_to_a_corpus(tmp_path, study, monkeypatch):
    labels = ["a", "b", "c", "d", "e", "f"]
    given = dataclasses.replace(study, features=dataclasses.replace(study.features, labels=labels))
    monkeypatch.chdir(tmp_path)
    build(corpus(Path("made"), given))
    before = content(tmp_path / "made")
    for name in ("slabs", *labels):
        (tmp_path / name).write_text("chance")
    build(corpus(Path("made"), given))
    assert content(tmp_path / "made") == before
    kept = yaml.safe_load((tmp_path / "made/recipe.yaml").read_text())["datasets"][0]["features"]
    assert (kept["name"], kept["labels"]) == ("slabs", labels)
    assert kept["labels_img"] == given.features.labels_img
