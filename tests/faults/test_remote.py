"""A corpus on a server: the same batches as from a local disk, whatever happens to servers and processes."""

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import s3fs
from factory import write_corpus
from web import cutting_network, serving

from fmriscale.common.errors import DamageError, UserError
from fmriscale.config import DataConfig, PairConfig
from fmriscale.corpus import remote
from fmriscale.corpus.reader import Corpus
from fmriscale.reports.inspect import main as inspect
from fmriscale.sampling.loader import NTPLoader

DATASETS = {
    "alpha": {"subjects": 8, "runs": 3, "n_volumes": 50, "shards": 12},
    "beta": {"subjects": 4, "runs": 2, "n_volumes": 70, "t_r": 1.5, "shards": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("server"), datasets=DATASETS, n_features=40).folder


@pytest.fixture
def server(folder):
    with serving(folder) as running:
        yield running


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Folder of the cache; what a test says is not found is told within a second."""
    monkeypatch.setenv("FMRISCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "FIRST_GIVE_UP", 0.5)
    return tmp_path / "cache"


@pytest.fixture
def far(server, cache):
    """Open the corpus on the server, with a patience of a second; closed at the end."""
    opened = []

    def open_corpus(url=None, **settings):
        corpus = Corpus.open(url or server.url, **settings)
        corpus.remote.give_up_after = 1.0
        opened.append(corpus)
        return corpus

    yield open_corpus
    for corpus in opened:
        corpus.close()


def loader_of(corpus, same_subject=0.0, **settings):
    negatives = {"same_run": 0.4, "same_dataset": 0.3, "other_dataset": 0.3, "same_subject": same_subject}
    pairs = PairConfig(negatives=negatives)
    return NTPLoader(corpus, DataConfig(corpus=str(corpus), pairs=pairs, **settings), "train", seed=3)


def same(one, other):
    names = one._fields
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def shards_of(corpus):
    return {shard["path"]: shard["bytes"] for shard in corpus.manifest["shards"]}


def taken(cache):
    """Bytes of whole shards; one may be deleted while this looks."""
    with os.scandir(cache) as entries:
        found = [entry for entry in entries if entry.name.endswith(".tar")]
    sizes = []
    for entry in found:
        with contextlib.suppress(FileNotFoundError):
            sizes.append(entry.stat().st_size)
    return sum(sizes)


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("access", ["mmap", "memory"])
def test_batches_are_those_of_the_local_corpus_to_the_bit(folder, server, far, access):
    server.drop_after, server.flips["alpha/alpha-000001.tar"] = 32_768, 1
    server.errors |= {"corpus.json": 1, "runs.tsv": 2, "beta/beta-000000.tar": 2}
    local, remote_corpus = Corpus.open(folder), far()
    assert (remote_corpus.fingerprint, str(remote_corpus)) == (local.fingerprint, server.url)
    ours, theirs = loader_of(local, access=access), loader_of(remote_corpus, access=access)
    assert ours.fingerprint == theirs.fingerprint
    assert all(same(ours.batch(first, 64), theirs.batch(first, 64)) for first in range(0, 1024, 64))
    assert remote_corpus.record(5) == local.record(5)
    for shard in shards_of(local):
        assert remote_corpus.locate(shard).read_bytes() == (folder / shard).read_bytes()


def test_a_window_of_shards_needs_its_share_of_the_disk_and_no_more(folder, far, cache):
    local = Corpus.open(folder)
    total = sum(shards_of(local).values())
    settings = {"shuffle": "window", "shuffle_shards": 2}
    ours, theirs = loader_of(local, **settings), loader_of(far(cache_gb=0.75 * total / 1e9), **settings)
    n, most = 2 * ours.n_windows, 0
    for first in range(0, 2 * n, 32):
        assert same(ours.batch(first, 32), theirs.batch(first, 32))
        most = max(most, taken(cache))
    assert 0.3 * total < most <= 0.75 * total
    for first in (n // 2, 7, n + 100):  # resume anywhere
        assert same(ours.batch(first, 32), theirs.batch(first, 32))


@pytest.mark.parametrize("same_subject", [0.0, 1.0])
def test_a_window_of_shards_waits_for_nothing_that_could_have_come_before(far, same_subject):
    corpus = far()  # in which some subjects are in two shards
    loader = loader_of(corpus, same_subject, shuffle="window", shuffle_shards=2)
    group, needed = loader.groups[0], []
    names = corpus.runs["shard"].to_numpy()[group.rows]
    for first in range(0, 2 * loader.n_windows, 32):
        ahead = set(corpus.remote._in_order())
        draw = group.draw(first, 32)
        now = set(names[np.r_[draw.run_left, draw.run_right]])
        needed.append(now - ahead if first else set())
        loader.batch(first, 32)
    assert not set().union(*needed)


def test_a_limit_below_what_is_needed_at_once_is_refused(folder, far):
    total = sum(shards_of(Corpus.open(folder)).values())
    corpus = far(cache_gb=0.5 * total / 1e9)
    with pytest.raises(UserError, match=r"data.cache_gb is .* needed at once; set it to .*shuffle: window"):
        loader_of(corpus)
    with pytest.raises(UserError, match=r"data.standardize: subject reads all runs"):
        loader_of(corpus, shuffle="window", shuffle_shards=2, standardize="subject")


# ---------------------------------------------------------------- downloads


def test_shards_come_ahead_of_need_and_in_its_order(server, far, cache):
    corpus = far()
    names = list(reversed(shards_of(corpus)))
    server.pause = 0.01
    corpus.want(names[:2], names[2:6])
    wait_for(lambda: len(list(cache.glob("*.tar"))) == 6)
    started = [name for name in server.requests if name.endswith(".tar")]
    assert set(started) == set(names[:6])
    assert all(abs(started.index(name) - i) < remote.THREADS for i, name in enumerate(names[:6]))
    server.die()
    for name in names[:6]:
        assert corpus.locate(name).stat().st_size == shards_of(corpus)[name]


def test_what_is_needed_now_takes_the_room_of_what_comes_next(folder, far, cache):
    sizes = shards_of(Corpus.open(folder))
    names = [name for name in sizes if name.startswith("alpha")]
    corpus = far(cache_gb=3.5 * sizes[names[0]] / 1e9)
    corpus.want(names[:1], names[1:3])
    wait_for(lambda: len(list(cache.glob("*.tar"))) == 3)
    corpus.locate(names[5])
    corpus.want(names[:1], names[1:3])
    assert corpus.locate(names[0]).exists() and corpus.locate(names[5]).exists()
    assert len(list(cache.glob("*.tar"))) <= 3


LOCATE = """
import sys
from fmriscale.corpus.reader import Corpus
corpus = Corpus.open(sys.argv[1])
corpus.want(sys.argv[2:])
print(*[corpus.locate(shard).stat().st_ino for shard in sys.argv[2:]], flush=True)
"""


def start(url, shards):
    command = [sys.executable, "-c", LOCATE, url, *shards]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_that_share_a_cache_download_each_shard_once(server, far, cache):
    names = list(shards_of(far()))
    server.requests.clear()
    server.pause = 0.01
    with start(server.url, names) as one, start(server.url, reversed(names)) as other:
        first, second = one.communicate()[0].split(), other.communicate()[0].split()
    assert first and first == second[::-1]
    assert {name: server.requests[name] for name in names} == dict.fromkeys(names, 1)
    assert not list(cache.glob("*.part"))


def test_a_killed_download_is_gone_on_with(folder, server, far, cache):
    name, size = max(shards_of(Corpus.open(folder)).items(), key=lambda shard: shard[1])
    server.pause = 0.2
    with start(server.url, [name]) as process:
        wait_for(lambda: any(part.stat().st_size > 20_000 for part in cache.glob("*.part")))
        process.send_signal(signal.SIGKILL)
    (part,) = cache.glob("*.part")
    left, server.pause = part.stat().st_size, 0.0
    assert 20_000 < left < size
    wait_for(lambda: server.busy == 0)
    server.sent.clear()
    assert far().locate(name).read_bytes() == (folder / name).read_bytes()
    assert server.sent[name] == size - left
    assert not list(cache.glob("*.part"))


# ---------------------------------------------------------------- servers


def test_a_server_that_dies_in_mid_epoch_is_a_named_error_and_no_hang(server, far):
    loader = loader_of(far(), shuffle="window", shuffle_shards=2)
    loader.batch(0, 32)
    server.die()
    begin = time.monotonic()
    with pytest.raises(DamageError, match=r"/corpus/\w+/\w+-\d+.tar: .*given up after 1 s; check the server"):
        for first in range(32, 2 * loader.n_windows, 32):
            loader.batch(first, 32)
    assert time.monotonic() - begin < 20


def test_a_close_between_two_looks_of_a_download_thread_is_noticed(far, monkeypatch):
    remote = far().remote

    def closed_meanwhile():
        remote._stop.set()
        return "", None, True

    monkeypatch.setattr(remote, "_next", closed_meanwhile)
    remote.want([next(iter(remote._items))])
    for thread in remote._threads:
        thread.join(10)
        assert not thread.is_alive()


def test_a_server_that_comes_back_is_waited_for(folder, far):
    with serving(folder) as server:
        corpus = far(server.url)
        name = next(iter(shards_of(corpus)))
        server.errors[name] = 4
        server.drop_after = 16_384
        assert corpus.locate(name).read_bytes() == (folder / name).read_bytes()


def test_a_shard_of_another_corpus_on_the_server_is_damage_and_not_kept(folder, tmp_path, far, cache):
    wrong = shutil.copytree(folder, tmp_path / "wrong")
    name = "alpha/alpha-000002.tar"
    (wrong / name).chmod(0o644)
    with (wrong / name).open("r+b") as handle:
        handle.seek(5000)
        handle.write(b"another value")
    with serving(wrong) as server:
        corpus = far(server.url)
        with pytest.raises(DamageError, match=rf"{name}: sha256 is \w+, corpus.json says .*fetched 3 times"):
            loader_of(corpus)
    assert not any(path.stat().st_size for path in cache.glob("*.part"))


def test_what_is_no_corpus_is_told_and_not_kept(folder, tmp_path, server, far, cache):
    with pytest.raises(UserError, match=r"/corpus/alpha: not a corpus .no corpus.json: HTTP 404"):
        far(f"{server.url}/alpha")
    server.errors["corpus.json"], server.status = 1, 403
    with pytest.raises(UserError, match=r"the server refuses it .HTTP 403.*netrc"):
        far()
    wrong = shutil.copytree(folder, tmp_path / "wrong")
    with serving(wrong) as other:
        text = (wrong / "runs.tsv").read_text()
        (wrong / "runs.tsv").write_text(text.replace("alpha_sub-01", "alpha_sub-91"))
        with pytest.raises(DamageError, match=r"runs.tsv does not fit the fingerprint"):
            far(other.url)
        (wrong / "corpus.json").write_text("<html>")
        with pytest.raises(UserError, match=rf"{other.url}/corpus.json: not readable as JSON"):
            far(other.url)
        (wrong / "corpus.json").write_text((folder / "corpus.json").read_text())
        (wrong / "runs.tsv").write_text(text)
        assert far(other.url).fingerprint == far().fingerprint
    with pytest.raises(UserError, match=r"corpus.json: Connection refused; given up"):
        far(other.url)
    assert len(list((cache / "manifests").iterdir())) == 1


def test_the_name_of_a_file_cannot_leave_the_cache(folder, tmp_path, far):
    evil = shutil.copytree(folder, tmp_path / "evil")
    manifest = json.loads((evil / "corpus.json").read_text())
    manifest["shards"][0]["sha256"] = "../../evil"
    (evil / "corpus.json").write_text(json.dumps(manifest))
    with serving(evil) as server, pytest.raises(DamageError, match=r"the sha256 of .* is none"):
        far(server.url)


def test_inspect_reads_a_url(folder, tmp_path, cache, capsys):
    told = shutil.copytree(folder, tmp_path / "told")
    manifest = json.loads((told / "corpus.json").read_text())
    numbers = {"n_subjects": 8, "n_runs": 24, "n_quarantined": 0, "hours": 0.7}
    for entry in manifest["datasets"].values():
        entry |= {"t_r": [2.0], **numbers}
    manifest["totals"] = {"n_people": 8, "bytes": 1, **numbers}
    (told / "corpus.json").write_text(json.dumps(manifest))
    with serving(told) as server:
        assert inspect([server.url]) == 0
    assert "alpha" in capsys.readouterr().out
    with pytest.raises(UserError, match="pipe: URLs run commands"):
        inspect(["pipe:cat corpus.json"])


# ---------------------------------------------------------------- S3


@pytest.fixture
def store(folder, monkeypatch):
    """The corpus in a real S3 server, which is reached through a network that can be cut."""
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test-hush")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with cutting_network(server.get_host_and_port()) as network:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{network.port}")
        network.files = s3fs.S3FileSystem(skip_instance_cache=True)
        network.files.makedirs("bucket", exist_ok=True)  # the server's memory outlives it
        network.files.put(str(folder), "bucket/corpora/mine", recursive=True)
        yield network
    server.stop()


def test_batches_from_an_s3_store_whose_connections_break(folder, far, store):
    ours, corpus = loader_of(Corpus.open(folder)), far("s3://bucket/corpora/mine")
    corpus.remote.give_up_after, store.cuts = 20.0, 12
    theirs = loader_of(corpus)
    assert store.cuts == 0
    assert all(same(ours.batch(first, 64), theirs.batch(first, 64)) for first in range(0, 512, 64))


def test_what_an_s3_store_lacks_or_has_wrong_is_named(folder, far, store):
    corpus = far("s3://bucket/corpora/mine")
    missing, short, other = list(shards_of(corpus))[:3]
    store.files.rm(f"bucket/corpora/mine/{missing}")
    store.files.pipe(f"bucket/corpora/mine/{short}", (folder / short).read_bytes()[:-512])
    store.files.pipe(f"bucket/corpora/mine/{other}", (folder / short).read_bytes())
    with pytest.raises(DamageError, match=f"{missing}: not on the server"):
        corpus.locate(missing)
    with pytest.raises(DamageError, match=f"{short}: the file on the server ends at byte"):
        corpus.locate(short)
    with pytest.raises(DamageError, match=f"{other}: .*fetched 3 times"):
        corpus.locate(other)
    with pytest.raises(UserError, match="s3://bucket/corpora: not a corpus"):
        far("s3://bucket/corpora")


def test_an_s3_store_that_is_gone_is_named_without_secrets(far, store):
    corpus = far("s3://bucket/corpora/mine")
    store.die()
    with pytest.raises(DamageError, match=r"s3://bucket/corpora/mine/alpha/\S+: .*given up") as caught:
        corpus.locate(next(iter(shards_of(corpus))))
    assert "hush" not in str(caught.value)
