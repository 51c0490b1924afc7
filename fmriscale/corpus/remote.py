"""A corpus on a server: shards are downloaded whole into the cache, ahead of need, and mapped from there."""

import contextlib
import hashlib
import json
import re
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from fmriscale.common.console import note
from fmriscale.common.errors import DamageError, UserError
from fmriscale.common.files import allow_open_files, atomic_write, fsync_folder
from fmriscale.corpus.cache import Cache, Download, Item, cache_folder
from fmriscale.corpus.manifest import fingerprint_of, read_manifest
from fmriscale.corpus.servers import RemoteFolder, open_folder
from fmriscale.corpus.transfer import GIVE_UP_AFTER, Backoff, Stopped, fetch_shard, read_whole

FIRST_GIVE_UP = 30.0  # How long the manifest is tried for, s: a wrong URL should be reported soon
THREADS = 3  # Shards that are downloaded at once
_LOOK = 0.2  # Time between two looks for room in the cache, s


class RemoteShards:
    """The shards of a corpus on a server, in the local cache; for the arguments see `Corpus.open`."""

    def __init__(self, url: str, cache: str | None = None, cache_gb: float | None = None) -> None:
        self._server = open_folder(url)
        self.shown = self._server.shown  # The URL as messages have it
        self.give_up_after = GIVE_UP_AFTER  # How long a shard may make no progress, s
        self._cache = Cache(cache_folder(cache), None if cache_gb is None else int(cache_gb * 1e9))
        self.folder = _fetch_manifest(self._server, self._cache.folder)  # Local copy of the manifest
        self._items = _items(json.loads((self.folder / "corpus.json").read_text())["shards"], self.shown)
        allow_open_files(2 * len(self._items))  # one that holds a shard, one that maps it
        self._wanted: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        self._failed: set[str] = set()
        self._starved = False  # A shard that is needed now finds no room: downloads ahead of need pause
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    def locate(self, shard: str) -> Path:
        """Return a shard's file in the cache, and hold it there; blocks until it has come."""
        item, (download, backoff) = self._item(shard), self._download(shard)
        try:
            self._cache.fetch(item, download, backoff, self._spare)
        finally:
            with self._changed:
                self._starved = False
                self._failed.discard(shard)
        return self._cache.path(item)

    def want(self, now: Sequence[str], ahead: Sequence[str] = (), reader: str = "") -> None:
        """Declare the shards that a reader needs: these are held, and downloaded in this order."""
        lists = (tuple(now), tuple(ahead))
        if self._wanted.get(reader) == lists:
            return
        with self._changed:
            self._wanted[reader] = lists
            needed = dict.fromkeys(s for present, _ in self._wanted.values() for s in present)
            self._check_limit(needed)
            self._let_go_of_others()
            self._failed.clear()
            self._changed.notify_all()
        if not self._threads:
            self._announce(needed)
            self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(THREADS)]
            for thread in self._threads:
                thread.start()

    def close(self) -> None:
        """End the downloads and let go of all shards; parts stay and are gone on with."""
        self._stop.set()
        with self._changed:
            self._wanted.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._let_go_of_others()

    def _item(self, shard: str) -> Item:
        if shard not in self._items:
            raise DamageError(f"{self.shown}: corpus.json does not list {shard}; upload the corpus again")
        return self._items[shard]

    def _download(self, shard: str) -> tuple[Download, Backoff]:
        """Return what fills the part of a shard, and its patience."""
        item = self._item(shard)
        backoff = Backoff(f"{self.shown}/{shard}", self.give_up_after, self._stop)
        return lambda part: fetch_shard(self._server, shard, part, item.size, item.sha256, backoff), backoff

    def _in_order(self) -> list[str]:
        """Return all wanted shards, once each: what is needed now before what is needed next."""
        wanted = self._wanted.values()
        return list(dict.fromkeys(s for turn in (0, 1) for lists in wanted for s in lists[turn]))

    def _check_limit(self, needed: Iterable[str]) -> None:
        """Refuse a limit below what has to be there at once."""
        size, limit = sum(self._item(shard).size for shard in needed), self._cache.limit
        if limit is not None and size > limit:
            remedy = f"set it to {1.25 * size / 1e9:.3g}, or take data.shuffle: window with fewer shards"
            what = f"data.cache_gb is {limit / 1e9:g}, but shards of {size / 1e9:.3g} GB are needed at once"
            raise UserError(f"{self.shown}: {what}; {remedy}")

    def _announce(self, needed: Iterable[str]) -> None:
        """Print how much has to be downloaded, once: the first step waits for it."""
        missing = [item.size for item in map(self._item, needed) if not self._cache.hold(item)]
        if missing:
            what = f"{len(missing)} shards, {sum(missing) / 1e9:.3g} GB, into {self._cache.folder}"
            note(f"fmriscale: {self.shown}: to download {what}")

    def _let_go_of_others(self) -> None:
        """Let go of what no reader wants."""
        wanted = set(self._in_order())
        for shard, item in self._items.items():
            if shard not in wanted:
                self._cache.let_go(item)

    def _spare(self) -> bool:
        """Let go of the shard that is needed last of those ahead; downloads ahead pause meanwhile."""
        with self._changed:
            self._starved = True
            needed = {s for now, _ in self._wanted.values() for s in now}
            for shard in reversed(self._in_order()):
                if shard not in needed and self._cache.held(self._items[shard]):
                    self._cache.let_go(self._items[shard])
                    return True
        return False

    def _work(self) -> None:
        """Download wanted shards in order, one at a time, until `close`."""
        while not self._stop.is_set():
            with self._changed:
                try:
                    shard, part, all_here = self._next()
                except UserError:  # the cache cannot be used: who needs a shard says so
                    shard, part, all_here = "", None, False
                if part is None:
                    # Asked again under the lock: `close` may have notified just before this thread took it.
                    if not self._stop.is_set():
                        self._changed.wait(None if all_here else _LOOK)
                    continue
            try:
                self._cache.bring(self._items[shard], part, self._download(shard)[0])
            except (UserError, Stopped):
                self._failed.add(shard)  # who needs the shard tries again, and says what is wrong
            with self._changed:
                if shard not in self._in_order():
                    self._cache.let_go(self._items[shard])

    def _next(self) -> tuple[str, BinaryIO | None, bool]:
        """Claim the next shard that is to be downloaded; where there is none, tell if all are here."""
        all_here = True
        for shard in self._in_order():
            if shard in self._failed or self._cache.hold(self._items[shard]):
                continue
            all_here = False
            if self._starved:
                break
            part, lack = self._cache.claim(self._items[shard])
            if part is not None:
                return shard, part, False
            if lack:  # never a later one before this one: it would take its room
                break
        return "", None, all_here


def _fetch_manifest(server: RemoteFolder, cache: Path) -> Path:
    """Copy the manifest into a folder of the cache, named by its hash: one found whole stays as it is."""
    corpus_json = _read(server, "corpus.json")
    final = cache / "manifests" / hashlib.sha256(corpus_json).hexdigest()
    if (final / "corpus.json").is_file():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=final.parent) as name:
        draft = Path(name) / "manifest"
        atomic_write(draft / "runs.tsv", _read(server, "runs.tsv"))
        with contextlib.suppress(UserError):  # training does not need it
            atomic_write(draft / "quarantine.tsv", _read(server, "quarantine.tsv"))
        atomic_write(draft / "corpus.json", corpus_json)
        try:
            corpus, runs = read_manifest(draft)
        except UserError as error:
            raise type(error)(str(error).replace(str(draft), server.shown)) from None
        if fingerprint_of(corpus, runs) != corpus["fingerprint"]:
            raise DamageError(f"{server.shown}: runs.tsv does not fit the fingerprint; upload it again")
        with contextlib.suppress(OSError):  # another process was first
            draft.replace(final)
    fsync_folder(final.parent)
    return final


def _read(server: RemoteFolder, name: str) -> bytes:
    """Return a file of the manifest."""
    try:
        return read_whole(server, name, FIRST_GIVE_UP)
    except FileNotFoundError as error:
        remedy = "give the URL of a folder that fmriscale-shard wrote"
        raise UserError(f"{server.shown}: not a corpus (no {name}: {error}); {remedy}") from None
    except PermissionError as error:
        remedy = "check the URL and your access: ~/.netrc for https, AWS_* or ~/.aws for s3"
        raise UserError(f"{server.shown}/{name}: the server refuses it ({error}); {remedy}") from None
    except DamageError as error:
        raise UserError(str(error)) from None


def _items(shards: list[dict[str, Any]], shown: str) -> dict[str, Item]:
    """Return what each shard holds; a hash becomes the name of a file here, so it must be one."""
    items = {str(s["path"]): Item(str(s["sha256"]), int(s["bytes"])) for s in shards}
    wrong = [path for path, item in items.items() if not re.fullmatch("[0-9a-f]{64}", item.sha256)]
    if wrong:
        raise DamageError(f"{shown}/corpus.json: the sha256 of {wrong[0]} is none; upload the corpus again")
    return items
