"""Files on a server are copied to this machine while a run is read, and deleted afterwards."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmriscale.common.errors import DamageError, UserError
from fmriscale.common.quarantine import Rejected
from fmriscale.corpus import transfer
from fmriscale.corpus.transfer import Backoff, fetch_file
from fmriscale.ingest.read.mirror import Mirror, is_placeholder, mirror_of, scratch_folder, sources_folder

if TYPE_CHECKING:
    from fmriscale.ingest.find.sources import RunSource

AFTER_A_FAILURE = 10.0  # How long a server is tried, s, that was given up for a run before
_THREADS = 4  # Files of a run that are fetched at once


class NoRoom(UserError):
    """The disk of the cache is full: the build ends."""


_archive, _archive_files = dict[Path, Path](), ExitStack()
_failed: set[str] = set()


def delete_archive() -> None:
    """Delete the copy of an archive, which is kept as long as runs in it come one after the other."""
    _archive.clear()
    _archive_files.close()


@contextmanager
def fetched(run: "RunSource") -> Iterator["RunSource"]:
    """Yield the run with local copies of its files on a server, which are deleted afterwards."""
    remote = [file for file in dict.fromkeys(run.inputs()) if mirror_of(file)]
    if run.path not in _archive:
        delete_archive()
    if not remote:
        yield run
        return
    with ExitStack() as stack:
        if run.array is not None and run.path not in _archive:
            _archive.update(_fetch_all([run.path], _archive_files))
        described = [] if run.confounds is None else [run.confounds.with_suffix(".json")]  # CompCor's masks
        remote += [file for file in described if file.exists()]
        copies = _fetch_all([file for file in remote if file not in _archive], stack)
        yield _with_copies(run, _archive | copies)


@contextmanager
def present(path: Path) -> Iterator[Path]:
    """Fetch a single file; raises as `fetched`."""
    with ExitStack() as stack:
        yield _fetch_all([path], stack)[path] if mirror_of(path) else path


def readable(path: Path) -> Path:
    """Return a file that planning reads; one on a server is fetched for good, over its placeholder."""
    mirror = mirror_of(path)
    if mirror is None:
        return path
    if not path.exists():
        mirror.renew(path.parent)
    if is_placeholder(path):
        try:
            with present(path) as copy:
                status = path.stat()
                os.utime(copy, ns=(status.st_mtime_ns, status.st_mtime_ns))
                copy.replace(path)
        except Rejected as why:
            raise UserError(why.detail) from None
    return path


def _with_copies(run: "RunSource", copies: dict[Path, Path]) -> "RunSource":
    """Return a run whose files are local copies."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(run):
        value = getattr(run, field.name)
        if isinstance(value, Path):
            changes[field.name] = copies.get(value, value)
        elif isinstance(value, tuple):
            changes[field.name] = tuple(copies.get(v, v) if isinstance(v, Path) else v for v in value)
    return dataclasses.replace(run, **changes)


def _fetch_all(files: Iterable[Path], stack: ExitStack) -> dict[Path, Path]:
    """Fetch files into a scratch folder of this process; the stack empties it."""
    sources = sources_folder()
    try:
        folder = stack.enter_context(scratch_folder())
        copies = {file: folder / file.relative_to(sources) for file in files}
        with ThreadPoolExecutor(_THREADS) as threads:
            list(threads.map(_fetch, copies.keys(), copies.values()))
        return copies
    except OSError as error:
        remedy = "free some, or put the cache elsewhere (FMRISCALE_CACHE), then run this again"
        raise NoRoom(f"{sources}: {error.strerror}; {remedy}: what is finished is kept") from error


def _fetch(file: Path, to: Path) -> None:
    mirror = mirror_of(file)
    assert isinstance(mirror, Mirror)
    url = mirror.shown(file)
    backoff = Backoff(url, AFTER_A_FAILURE if mirror.url in _failed else transfer.GIVE_UP_AFTER)
    to.parent.mkdir(parents=True, exist_ok=True)
    with to.open("w+b") as part:
        try:
            fetch_file(mirror.source, mirror.name(file), part, backoff)
        except FileNotFoundError:
            raise Rejected("vanished", f"{url}: was there when listed, and is gone; put it back") from None
        except PermissionError as error:
            detail = f"{url}: the server refuses it ({error}); check your access"
            raise Rejected("unreachable", detail) from None
        except DamageError as error:
            _failed.add(mirror.url)
            raise Rejected("unreachable", str(error)) from None
    _failed.discard(mirror.url)
