"""Files come whole and right from a real HTTP server, whatever happens to connections and bodies."""

import contextlib
import hashlib
import io
import threading

import numpy as np
import pytest
from web import serving

from fmriscale.common.errors import DamageError, UserError
from fmriscale.corpus import servers
from fmriscale.corpus.servers import is_url, open_folder
from fmriscale.corpus.transfer import Backoff, fetch_shard, read_whole

SIZE = 300_000
CONTENT = np.random.default_rng(0).bytes(SIZE)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path):
    (tmp_path / "a" / "b c.tar").parent.mkdir()
    (tmp_path / "a" / "b c.tar").write_bytes(CONTENT)
    with serving(tmp_path) as running:
        yield running


def get(server, part=None, seconds=0.6, size=SIZE):
    part = io.BytesIO() if part is None else part
    backoff = Backoff("the file", seconds)
    fetch_shard(open_folder(server.url), "a/b c.tar", part, size, SHA256, backoff)
    return part.getvalue()


def test_a_file_comes_in_one_request(server):
    assert get(server) == CONTENT
    assert server.requests["a/b c.tar"] == 1 and server.sent["a/b c.tar"] == SIZE


@pytest.mark.parametrize(("lengths", "chunks"), [(True, False), (False, False), (False, True)])
def test_dropped_connections_are_resumed_where_they_broke(server, lengths, chunks):
    server.drop_after, server.lengths, server.chunks = 65_536, lengths, chunks
    assert get(server) == CONTENT
    assert server.requests["a/b c.tar"] == 5
    assert server.sent["a/b c.tar"] == SIZE  # no byte twice


def test_a_server_without_ranges_sends_again_what_is_there_and_it_is_skipped(server):
    server.ranges = False
    assert get(server, io.BytesIO(CONTENT[:200_000])) == CONTENT
    assert server.requests["a/b c.tar"] == 1


def test_errors_that_pass_are_waited_for(server):
    server.errors["a/b c.tar"], server.status = 3, 503
    assert get(server) == CONTENT


def test_a_server_gets_the_rest_that_it_asks_for(server):
    waits = []

    class Clock(threading.Event):
        def wait(self, timeout=None):
            waits.append(timeout)
            return False

    server.errors["a/b c.tar"], server.status, server.retry_after = 1, 503, 7
    part = io.BytesIO()
    fetch_shard(open_folder(server.url), "a/b c.tar", part, SIZE, SHA256, Backoff("the file", 100.0, Clock()))
    assert part.getvalue() == CONTENT
    assert len(waits) == 1 and 0.75 * 7 <= waits[0] <= 7


def test_a_flipped_byte_is_fetched_again(server):
    server.flips["a/b c.tar"] = 2
    assert get(server) == CONTENT
    assert server.requests["a/b c.tar"] == 3


@pytest.mark.parametrize("left", [b"x" * 1000, CONTENT + b"more", CONTENT[:-1] + b"?"])
def test_what_an_earlier_try_left_wrong_is_thrown_away(server, left):
    assert get(server, io.BytesIO(left)) == CONTENT


def test_what_is_complete_is_not_fetched(server):
    assert get(server, io.BytesIO(CONTENT)) == CONTENT
    assert not server.requests


def test_another_content_is_damage_with_both_hashes(server):
    other = CONTENT[:5] + b"?" + CONTENT[6:]
    (server.folder / "a" / "b c.tar").write_bytes(other)
    with pytest.raises(DamageError) as caught:
        get(server)
    message = str(caught.value)
    assert SHA256 in message and hashlib.sha256(other).hexdigest() in message and "a/b c.tar" in message


@pytest.mark.parametrize("content", [CONTENT[:1000], b""])
def test_a_file_cut_short_on_the_server_is_damage(server, content):
    (server.folder / "a" / "b c.tar").write_bytes(content)
    with pytest.raises(DamageError, match=f"has {len(content)} bytes, corpus.json says {SIZE} bytes"):
        get(server)


def test_a_missing_file_and_a_refusal_are_named_at_once(server):
    server.errors["a/b c.tar"], server.status = 1, 403
    with pytest.raises(DamageError, match=r"refuses it .HTTP 403"):
        get(server, seconds=60)
    (server.folder / "a" / "b c.tar").unlink()
    with pytest.raises(DamageError, match=r"a/b c.tar: not on the server .HTTP 404"):
        get(server, seconds=60)


def test_a_dead_server_is_given_up(server):
    server.die()
    with pytest.raises(DamageError, match="Connection refused; given up after"):
        get(server, seconds=0.3)


def test_a_connection_that_crawls_is_dropped(server, monkeypatch):
    monkeypatch.setattr(servers, "CRAWL", (0.1, 1 << 20))
    server.pause = 0.06
    with pytest.raises(servers.TransientError, match="bytes in"):
        list(open_folder(server.url).blocks("a/b c.tar", 0, SIZE))


def test_a_server_that_says_nothing_is_left(server, monkeypatch):
    monkeypatch.setattr(servers, "TIMEOUT", (0.2, 0.2))
    server.pause = 1.0
    with pytest.raises(servers.TransientError):
        list(open_folder(server.url).blocks("a/b c.tar", 0, SIZE))


@pytest.mark.parametrize("chunks", [False, True])
def test_a_body_cut_short_is_not_taken_for_a_small_file(server, chunks):
    server.drop_after, server.chunks, server.lengths = 16_384, chunks, not chunks
    with pytest.raises(DamageError, match="given up"):
        read_whole(open_folder(server.url), "a/b c.tar", 0.3)
    server.drop_after = None
    assert read_whole(open_folder(server.url), "a/b c.tar", 0.3) == CONTENT


def test_urls_are_told_from_folders_and_commands_refused():
    assert is_url("https://host/corpus") and is_url("s3://bucket/corpus")
    assert not is_url("corpora/mine") and not is_url("~/corpus")
    with pytest.raises(UserError, match="pipe: URLs run commands"):
        is_url("pipe:curl https://host/corpus")


@pytest.mark.parametrize("url", ["https://me:secret@host/corpus", "https://host/corpus?sig=secret"])
def test_secrets_have_no_place_in_a_recipe(url):
    with pytest.raises(UserError, match=r"https://host/corpus: the URL holds") as caught:
        open_folder(url)
    assert "secret" not in str(caught.value)


def test_secrets_from_the_environment_reach_the_server_and_no_message(server, monkeypatch, capsys):
    monkeypatch.setenv("TOKEN", "hush-hush")
    source = open_folder(f"{server.url}?sig=$TOKEN")
    assert read_whole(source, "a/b c.tar", 1) == CONTENT
    server.die()
    messages = []
    for action in (lambda: read_whole(source, "a/b c.tar", 0.1), lambda: list(source.blocks("x", 0, 5))):
        with contextlib.suppress(Exception):
            action()
        with pytest.raises((DamageError, servers.TransientError)) as caught:
            action()
        messages += [str(caught.value), repr(caught.value), repr(caught.value.__cause__)]
    messages += capsys.readouterr()
    assert not any("hush" in message for message in messages)


def test_unknown_protocols_and_missing_packages_are_named():
    with pytest.raises(UserError, match="nothing://host/corpus: Protocol not known"):
        open_folder("nothing://host/corpus")


def test_every_file_system_of_fsspec_is_a_source(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/corpus/x.tar", CONTENT)
    source = open_folder("memory://corpus")
    part = io.BytesIO(CONTENT[:1234])
    fetch_shard(source, "x.tar", part, SIZE, SHA256, Backoff("x", 0.2))
    assert part.getvalue() == CONTENT
    with pytest.raises(DamageError, match=r"y.tar: not on the server"):
        fetch_shard(source, "y.tar", io.BytesIO(), SIZE, SHA256, Backoff("x", 0.2))
    memory.pipe("/corpus/x.tar", CONTENT[:-9])
    with pytest.raises(DamageError, match=f"ends at byte {SIZE - 9}"):
        fetch_shard(source, "x.tar", io.BytesIO(), SIZE, SHA256, Backoff("x", 0.2))
