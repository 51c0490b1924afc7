"""Data sets read from a server: the same bytes as from a disk, and every fault is a line."""

import contextlib
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
import s3fs
import yaml
from scans import brain_like, confounds, corpus, dataset, write_atlas, write_fmriprep_run
from web import cutting_network, serving

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejection
from fmriscale.common.workers import map_in_order
from fmriscale.config import DenoiseConfig, FeatureConfig, QualityConfig
from fmriscale.config.recipe import to_dict
from fmriscale.corpus import servers, transfer
from fmriscale.ingest import repair
from fmriscale.ingest.build import build
from fmriscale.ingest.find import fetch
from fmriscale.ingest.find.sources import find_runs
from fmriscale.ingest.find.tree import Tree
from fmriscale.ingest.read import mirror
from fmriscale.ingest.run import process_run

COMMAND = [
    sys.executable,
    "-c",
    "import sys; from fmriscale import cli; sys.exit(cli.run(sys.argv[1:]))",
    "shard",
]
EVENTS = "onset\tduration\ttrial_type\n1\t2\ta\n"
MANIFEST = ("corpus.json", "runs.tsv", "quarantine.tsv")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Folder of the cache; a server that does not answer is given up within a second."""
    monkeypatch.setenv("FMRISCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transfer, "GIVE_UP_AFTER", 0.5)
    monkeypatch.setattr(fetch, "AFTER_A_FAILURE", 0.2)
    monkeypatch.setattr(mirror, "LISTING_PATIENCE", 0.5)
    yield tmp_path / "cache"
    fetch.delete_archive()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A data set on disk: two people, three runs, a table and metadata of all runs."""
    root = tmp_path_factory.mktemp("disk") / "ds"
    for subject, run in (("01", 1), ("01", 2), ("02", 1)):
        write_fmriprep_run(root, subject, run, space="MNI", events=EVENTS)
    for sidecar in root.rglob("*_bold.json"):
        sidecar.unlink()
    (root / "task-rest_bold.json").write_text(json.dumps({"RepetitionTime": 2.0}))
    (root / "participants.tsv").write_text("participant_id\tage\nsub-01\t30\nsub-02\t40\n")
    (root / "sub-02" / "figures").mkdir()
    (root / "sub-02" / "figures" / "report.svg").write_text("<svg/>")
    return root


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    return write_atlas(tmp_path_factory.mktemp("atlas") / "atlas.nii.gz")


@pytest.fixture
def recipe(atlas, tmp_path):
    """Make a recipe of the data set at a place."""

    def of(root, out="far", jobs=1, **settings):
        table = {"participants": "participants.tsv", "participants_columns": ["age"]}
        return corpus(tmp_path / out, dataset(str(root), atlas, **(table | settings)), jobs=jobs)

    return of


@pytest.fixture
def near(recipe, study, tmp_path):
    """Bytes of the corpus that comes from the disk."""
    build(recipe(study, "near"))
    return files_of(tmp_path / "near")


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of a corpus: manifest and shards."""
    shards = {path.relative_to(folder).as_posix() for path in folder.glob("*/*.tar")}
    return {name: (folder / name).read_bytes() for name in (*MANIFEST, *shards)}


def held(cache: Path) -> int:
    """Return the bytes that the cache takes on the disk for scans."""
    return sum(p.stat().st_blocks * 512 for p in cache.rglob("*.nii.gz"))


@contextlib.contextmanager
def s3(study, monkeypatch):
    """A public bucket that holds the data set, behind a network that can be cut; nobody has credentials."""
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with cutting_network(server.get_host_and_port()) as network:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{network.port}")
        network.files = s3fs.S3FileSystem(
            key="test", secret="test", s3_additional_kwargs={"ACL": "public-read"}, skip_instance_cache=True
        )
        network.files.makedirs("derivatives", exist_ok=True)  # the server's memory outlives it
        with contextlib.suppress(FileNotFoundError):
            network.files.rm("derivatives/fmriprep", recursive=True)
        network.files.put(f"{study}/", "derivatives/fmriprep/ds", recursive=True)
        network.url = "s3://derivatives/fmriprep/ds"
        yield network
    server.stop()


@contextlib.contextmanager
def places(kind, study, monkeypatch):
    """Put the data set where a URL of some kind finds it."""
    if kind == "s3":
        with s3(study, monkeypatch) as network:
            yield network.url
    elif kind == "http":
        with serving(study) as server:
            yield server.url
    elif kind == "memory":
        fsspec.filesystem("memory").put(str(study), "/store/ds", recursive=True)
        yield "memory://store/ds"
    else:
        yield f"file://{study}/"


@pytest.mark.parametrize("kind", ["s3", "http", "memory", "file"])
def test_the_same_bytes_from_a_server_as_from_a_disk(kind, study, recipe, near, cache, tmp_path, monkeypatch):
    with places(kind, study, monkeypatch) as url:
        build(recipe(url))
        assert files_of(tmp_path / "far") == near
        assert held(cache) == 0 and not list((cache / "sources" / "scratch").iterdir())
        shard = next((tmp_path / "far").glob("*/*.tar"))
        written = shard.stat().st_mtime_ns
        build(recipe(url))  # nothing has changed, so nothing is built
        assert shard.stat().st_mtime_ns == written


def test_workers_read_a_bucket_by_an_environment_variable_through_a_bad_network(
    study, recipe, near, tmp_path, monkeypatch
):
    with s3(study, monkeypatch) as network:
        monkeypatch.setattr(transfer, "GIVE_UP_AFTER", 20.0)
        monkeypatch.setenv("BUCKET", "derivatives")
        network.cuts = 4
        build(recipe("s3://$BUCKET/fmriprep/ds", jobs=2))
        assert network.cuts == 0 and files_of(tmp_path / "far") == near
    assert "root: s3://$BUCKET/fmriprep/ds\n" in (tmp_path / "far" / "recipe.yaml").read_text()


def test_a_changed_file_is_read_again(study, recipe, tmp_path):
    store = fsspec.filesystem("memory")
    store.put(str(study), "/changing/ds", recursive=True)
    build(recipe("memory://changing/ds"))
    before = files_of(tmp_path / "far")
    events = "/changing/ds/sub-02/func/sub-02_task-rest_run-01_events.tsv"
    store.pipe(events, EVENTS.replace("a", "b").encode())  # as long as it was
    build(recipe("memory://changing/ds"))
    shard = "toy/toy-000000.tar"
    assert before[shard] != files_of(tmp_path / "far")[shard]
    store.rm("/changing/ds/sub-02", recursive=True)
    manifest, _ = build(recipe("memory://changing/ds"))
    assert manifest["totals"]["n_runs"] == 2


def test_a_server_that_goes_away_leaves_lines_and_the_next_build_completes(
    study, recipe, near, cache, tmp_path
):
    second = "sub-01/func/sub-01_task-rest_run-02_space-MNI_desc-preproc_bold.nii.gz"
    with serving(study) as server:
        server.status, server.errors[second] = 503, 10**6
        manifest, quarantine = build(recipe(server.url))
        assert manifest["totals"]["n_runs"] == 2 and list(quarantine.reason) == ["unreachable"]
        assert f"{server.url}/{second}: HTTP 503; given up" in quarantine.detail[0]
        assert not list((cache / "sources" / "scratch").iterdir())
        server.errors.clear()
        build(recipe(server.url))
        assert files_of(tmp_path / "far") == near


def test_a_server_that_dies_in_mid_build_ends_in_lines(study, recipe, atlas, tmp_path):
    with serving(study) as server:
        data = dataset(server.url, atlas)
        runs, *_ = find_runs(data)
        first = process_run(runs[0], data)
        server.die()
        others = [process_run(run, data) for run in runs[1:]]
        assert not isinstance(first, Rejection)
        assert [o.reason for o in others if isinstance(o, Rejection)] == ["unreachable"] * 2
    with pytest.raises(UserError, match=r"http://127\S+/corpus: Connection refused; given up after"):
        build(recipe(server.url))


def test_what_is_gone_cut_short_or_refused(study, atlas, monkeypatch):
    with s3(study, monkeypatch) as network:
        data = dataset(network.url, atlas)
        (one, two, three), *_ = find_runs(data)
        place = "derivatives/fmriprep/ds"
        network.files.rm(f"{place}/{one.source}")
        network.files.pipe(f"{place}/{two.source}", (study / two.source).read_bytes()[:-500])
        results = [process_run(run, data) for run in (one, two, three)]
        assert [getattr(result, "reason", "") for result in results] == ["vanished", "unreadable", ""]
        assert f"{network.url}/{one.source}: was there" in results[0].detail
    with serving(study) as server:
        data = dataset(server.url, atlas)
        (one, *_), *_ = find_runs(data)
        server.status, server.errors[one.source] = 403, 10
        refused = process_run(one, data)
        assert refused.reason == "unreachable" and "the server refuses it (HTTP 403)" in refused.detail


@pytest.mark.parametrize(
    ("url", "refusal"),
    {
        "s3://derivatives/fmriprep/other": "nothing is at s3://derivatives/fmriprep/other; set root",
        "s3://no-such-bucket/ds": "nothing is at s3://no-such-bucket/ds; set root",
        "s3://$NO_SUCH_VARIABLE/ds": "the environment variable NO_SUCH_VARIABLE is not set",
        "s3://me:hush@derivatives/ds": "the URL holds a user name, password or token",
        "sftpp://host/ds": "give https://, s3:// or another URL of fsspec",
        "pipe:cat ds": "pipe: URLs run commands",
        "s3://derivatives/fmriprep": "there are subjects in s3://derivatives/fmriprep/ds: set root to it",
        "s3://derivatives/fmriprep/ds/sub-01": "s3://derivatives/fmriprep/ds/sub-01",
    }.items(),
)
def test_a_wrong_root_is_one_line(url, refusal, study, recipe, monkeypatch):
    server = s3(study, monkeypatch) if "derivatives/f" in url or "bucket" in url else contextlib.nullcontext()
    with server, pytest.raises(UserError) as told:
        build(recipe(url))
    assert refusal in str(told.value) and "\n" not in str(told.value) and "hush" not in str(told.value)
    assert "/sources/" not in str(told.value)


def test_events_of_the_raw_data_set_come_from_another_url(study, recipe, near, tmp_path, monkeypatch):
    derivatives, raw = tmp_path / "both" / "derivatives", tmp_path / "both" / "raw"
    shutil.copytree(study, derivatives)
    for file in list(derivatives.rglob("*_events.tsv")):
        to = raw / file.relative_to(derivatives)
        to.parent.mkdir(parents=True, exist_ok=True)
        file.rename(to)
    with serving(tmp_path / "both") as server:
        template = "sub-{subject}/func/sub-{subject}_task-{task}_run-{run}_events.tsv"
        for number, events in enumerate((f"{server.url}/raw", f"{server.url}/raw/{template}")):
            build(recipe(f"{server.url}/derivatives", f"far{number}", events=events))
            shard = "toy/toy-000000.tar"
            assert files_of(tmp_path / f"far{number}")[shard] == near[shard]


def test_compcor_comes_with_the_file_that_describes_it(recipe, tmp_path):
    table = confounds(40)
    table["a_comp_cor_00"] = np.random.default_rng(0).normal(size=40)
    study = tmp_path / "compcor"
    path = write_fmriprep_run(study, "01", table=table)
    about = {"a_comp_cor_00": {"Mask": "combined", "Method": "aCompCor", "Retained": True}}
    (path.parent / "sub-01_task-rest_run-01_desc-confounds_timeseries.json").write_text(json.dumps(about))
    denoise = DenoiseConfig(strategy=["high_pass", "compcor"], n_compcor=1)
    settings = {"denoise": denoise, "participants": None, "participants_columns": []}
    with serving(study) as server:
        for out, root in (("far", server.url), ("near", study)):
            assert build(recipe(root, out, **settings))[0]["totals"]["n_runs"] == 1
    assert files_of(tmp_path / "far") == files_of(tmp_path / "near")


def test_an_archive_of_many_runs_is_fetched_once(tmp_path):
    arrays = {f"sub-{n:02d}": brain_like(40, n)[0, 0].T.astype(float) for n in range(1, 6)}
    (tmp_path / "arrays").mkdir()
    np.savez(tmp_path / "arrays" / "all.npz", **arrays)
    columns = FeatureConfig(name="given", columns=7)
    settings = {"kind": "arrays", "files": "*.npz", "t_r": 2.0, "quality": QualityConfig(min_volumes=10)}
    with serving(tmp_path / "arrays") as server:
        for out, root in (("far", server.url), ("near", tmp_path / "arrays")):
            build(corpus(tmp_path / out, dataset(str(root), features=columns, **settings)))
        size = (tmp_path / "arrays" / "all.npz").stat().st_size
        assert server.sent["all.npz"] <= 3 * size  # listed, measured, read
    assert files_of(tmp_path / "far") == files_of(tmp_path / "near")


def test_a_full_disk_ends_the_build_in_one_line(study, atlas):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with serving(study) as server:
        data = dataset(server.url, atlas)
        (run, *_), *_ = find_runs(data)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        try:
            with pytest.raises(UserError, match=r"/sources: File too large; .*FMRISCALE_CACHE\), then run"):
                process_run(run, data)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def scans_under(folder) -> list[str]:
    """The scans below `folder`. `os.walk`, unlike `rglob`, outlives a folder that is deleted meanwhile."""
    return [name for _, _, names in os.walk(folder) for name in names if name.endswith("bold.nii.gz")]


def test_a_killed_build_leaves_nothing_that_the_next_one_does_not_sweep_up(
    study, recipe, near, cache, tmp_path
):
    scratch = cache / "sources" / "scratch"
    with serving(study) as server:
        config = recipe(server.url)
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(to_dict(config)))
        server.pause = 0.3
        command = [*COMMAND, "--config", str(tmp_path / "recipe.yaml")]
        builder = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while not scans_under(scratch) and time.monotonic() < end:
            time.sleep(0.02)
        builder.send_signal(signal.SIGKILL)
        builder.wait()
        assert scans_under(scratch)
        server.pause = 0.0
        build(config)
        assert not list(scratch.iterdir()) and files_of(tmp_path / "far") == near


def test_a_damaged_shard_is_repaired_from_the_url(study, recipe, near, tmp_path, monkeypatch):
    with s3(study, monkeypatch) as network:
        build(recipe(network.url))
        shard = tmp_path / "far" / "toy" / "toy-000000.tar"
        shard.write_bytes(shard.read_bytes()[:-5000] + bytes(5000))
        assert repair.main([str(tmp_path / "far"), "--repair", "--jobs", "1"]) == 0
    assert files_of(tmp_path / "far") == near


def test_the_time_of_a_file_tells_its_content_apart():
    same = servers._time_ns(1e9, "tag")
    assert same == servers._time_ns(1e9, "tag") and same // 10**9 == 10**9
    others = [servers._time_ns(*of) for of in ((1e9, "other"), (1e9 + 1, "tag"), (None, "tag"), (1e9, ""))]
    assert len({same, *others}) == 5


def test_placeholders_follow_the_server(study, cache):
    store = fsspec.filesystem("memory")
    store.put(str(study), "/follow/ds", recursive=True)
    root = mirror.local_path("memory://follow/ds")
    assert Tree().folder(root).folders == ["sub-01", "sub-02"]
    store.rm("/follow/ds/sub-01", recursive=True)
    store.pipe("/follow/ds/sub-02/func/new.txt", b"12345")
    store.pipe("/follow/ds/sub-02/func/../odd", b"1")
    tree = Tree()
    assert tree.folder(root).folders == ["sub-02"]
    assert "new.txt" in tree.folder(root / "sub-02" / "func").files
    assert (root / "sub-02" / "func" / "new.txt").stat().st_size == 5
    assert mirror.is_placeholder(root / "sub-02" / "func" / "new.txt")


def test_processes_may_list_at_once(study, recipe, cache):
    with serving(study) as server:
        for runs, *_ in map_in_order(find_runs, [(recipe(server.url).datasets[0],)] * 3, jobs=3):
            assert len(runs) == 3
