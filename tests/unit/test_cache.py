"""The cache of shards: one download whatever the number of users, a limit, and nothing in use deleted."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fmriscale.common.errors import UserError
from fmriscale.corpus.cache import Cache, Item, cache_folder
from fmriscale.corpus.transfer import Backoff

SIZE = 1000


def content(number):
    return np.random.default_rng(number).bytes(SIZE)


def item(number):
    return Item(hashlib.sha256(content(number)).hexdigest(), SIZE)


def get(cache, number, seconds=0.3, **settings):
    cache.fetch(item(number), lambda part: part.write(content(number)), Backoff("it", seconds), **settings)


def there(cache):
    return {n for n in range(10) if cache.path(item(n)).exists()}


def test_the_longest_unused_is_deleted_and_never_what_is_held(tmp_path):
    cache = Cache(tmp_path, limit=3 * SIZE)
    for n in range(3):
        get(cache, n)
        os.utime(cache.path(item(n)), (n, n))
    for n in (0, 2):
        cache.let_go(item(n))
    get(cache, 3)  # 0 is older than 2, and 1 is held
    assert there(cache) == {1, 2, 3}
    assert cache.path(item(3)).read_bytes() == content(3)
    cache.hold(item(2))
    with pytest.raises(UserError, match=r"files in use fill its limit.*data.cache_gb by at least 1e-06 GB"):
        get(cache, 4)
    assert there(cache) == {1, 2, 3} and not list(tmp_path.glob("*.part"))


def test_using_a_file_again_makes_it_young(tmp_path):
    cache = Cache(tmp_path, limit=2 * SIZE)
    for n in range(2):
        get(cache, n)
        cache.let_go(item(n))
        os.utime(cache.path(item(n)), (n, n))
    get(cache, 0)
    cache.let_go(item(0))
    get(cache, 2)
    assert there(cache) == {0, 2}


def test_another_cache_of_the_folder_keeps_its_files_too(tmp_path):
    ours, theirs = Cache(tmp_path, limit=2 * SIZE), Cache(tmp_path, limit=2 * SIZE)
    get(theirs, 0)
    get(ours, 1)
    ours.let_go(item(1))
    get(ours, 2)
    assert there(ours) == {0, 2}
    del theirs._held[item(0).sha256]  # as the operating system does when its process dies
    ours.let_go(item(2))
    get(ours, 3)
    assert there(ours) == {2, 3}


def test_a_file_deleted_or_cut_short_by_others_is_fetched_again(tmp_path):
    for damage in (lambda path: path.unlink(), lambda path: (path.chmod(0o644), os.truncate(path, 10))):
        cache = Cache(tmp_path)
        get(cache, 0)
        cache.let_go(item(0))
        damage(cache.path(item(0)))
        get(cache, 0)
        assert cache.path(item(0)).read_bytes() == content(0)


def test_a_part_counts_at_its_full_size_and_is_gone_on_with(tmp_path):
    cache = Cache(tmp_path, limit=2 * SIZE)
    part, lack = cache.claim(item(0))
    part.write(content(0)[:10])
    part.flush()
    assert lack == 0 and cache.claim(item(0)) == (None, 0)
    get(cache, 1)
    assert cache.claim(item(2)) == (None, SIZE)
    part.close()  # its process dies
    part, lack = cache.claim(item(0))
    part.seek(0)
    assert (part.read(), lack) == (content(0)[:10], 0)
    cache.bring(item(0), part, lambda part: part.write(content(0)[10:]))
    assert cache.path(item(0)).read_bytes() == content(0)
    assert cache.path(item(0)).stat().st_mode & 0o777 == 0o444


def test_a_part_that_nobody_fills_makes_room(tmp_path):
    cache = Cache(tmp_path, limit=SIZE)
    part, _ = cache.claim(item(0))
    part.write(b"x")
    part.close()
    get(cache, 1)
    assert there(cache) == {1} and not list(tmp_path.glob("*.part"))


def test_a_failed_download_keeps_what_came_and_gives_up_its_claim(tmp_path):
    cache = Cache(tmp_path)

    def breaks(part):
        part.write(b"some")
        raise UserError("gone")

    with pytest.raises(UserError, match="gone"):
        cache.fetch(item(0), breaks, Backoff("it", 1))
    assert cache.part_size(item(0)) == 4
    assert cache.claim(item(0))[0] is not None


def test_a_full_disk_is_named(tmp_path):
    cache = Cache(tmp_path)

    def fills(part):
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")

    with pytest.raises(UserError, match=r"No space left on device.*data.cache_gb"):
        cache.fetch(item(0), fills, Backoff("it", 1))


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"set data.cache or FMRISCALE_CACHE"):
        Cache(tmp_path / "file" / "cache")


def test_a_folder_that_is_deleted_in_between_is_made_again(tmp_path):
    cache = Cache(tmp_path / "cache")
    get(cache, 0)
    shutil.rmtree(tmp_path / "cache")
    get(cache, 1)
    assert there(cache) == {1}


def test_what_is_needed_less_is_let_go_of_first(tmp_path):
    cache = Cache(tmp_path, limit=2 * SIZE)
    get(cache, 0)
    get(cache, 1)
    spare = [item(1)]
    get(cache, 2, spare=lambda: bool(spare) and (cache.let_go(spare.pop()), True)[1])
    assert there(cache) == {0, 2}


def test_threads_download_a_file_once(tmp_path):
    cache, started = Cache(tmp_path), []

    def slowly(part):
        started.append(1)
        time.sleep(0.2)
        part.write(content(0))

    threads = [
        threading.Thread(target=cache.fetch, args=(item(0), slowly, Backoff("it", 5))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert started == [1] and there(cache) == {0}


STOPPED = """
import sys, time
from pathlib import Path
from fmriscale.corpus.cache import Cache, Item
part, _ = Cache(Path(sys.argv[1])).claim(Item(sys.argv[2], int(sys.argv[3])))
part.write(b"begun"); part.flush()
print("claimed", flush=True)
time.sleep(60)
"""


def test_another_process_that_makes_no_progress_is_named_and_a_dead_one_followed(tmp_path):
    cache = Cache(tmp_path)
    command = [sys.executable, "-c", STOPPED, str(tmp_path), item(0).sha256, str(SIZE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"claimed\n"
        with pytest.raises(UserError, match="another thread or process tries to bring it into"):
            get(cache, 0)
        other.send_signal(signal.SIGKILL)
    found = []
    cache.fetch(
        item(0),
        lambda part: (found.append(part.seek(0, 2)), part.truncate(0), part.write(content(0))),
        Backoff("it", 5),
    )
    assert found == [5] and cache.path(item(0)).read_bytes() == content(0)


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FMRISCALE_CACHE", raising=False)
    assert cache_folder(None) == tmp_path / ".cache" / "fmriscale"
    monkeypatch.setenv("FMRISCALE_CACHE", "~/elsewhere")
    assert cache_folder(None) == tmp_path / "elsewhere"
    assert cache_folder("$HOME/mine") == tmp_path / "mine"
