"""An encoder by its address: a folder, the Hub (hf://org/name@revision), or a server (https://, s3://, ...).

What comes from a server is checked (config.json names the hash of the weights) and kept in the cache, below
`encoders/`; later calls fetch config.json alone, and without a network take what came last from that address.
"""

import contextlib
import functools
import hashlib
import os
import sys
import tempfile
from pathlib import Path

from fmriscale.common.console import note
from fmriscale.common.errors import DamageError, UserError
from fmriscale.common.files import atomic_write, expand, fsync_folder, writing_to
from fmriscale.corpus.cache import cache_folder
from fmriscale.corpus.servers import RemoteFolder, TransientError, is_url, open_folder
from fmriscale.corpus.transfer import GIVE_UP_AFTER, Backoff, fetch_shard, read_whole
from fmriscale.model import hub

FIRST_GIVE_UP = 30.0  # How long config.json is tried for, s: a wrong URL should be reported soon


def local_folder(where: str | Path) -> Path:
    """Return the folder of an encoder on this machine; one of a server is downloaded, or found in the cache.

    Parameters
    ----------
    where : str or Path
        A folder, hf://org/name (or hf://org/name@revision), or the URL of a folder: https://, s3:// or
        another that fsspec knows.

    Raises
    ------
    UserError
        No encoder lies there, or the server is not reached and nothing came from it before.
    DamageError
        The weights are not those that config.json names.
    """
    if not is_url(where):
        return Path(where)
    url = str(where)
    return hub.download(url) if url.startswith(hub.SCHEME) else _from_server(url)


@functools.cache
def local_copy(where: str) -> Path:
    """Return the folder of an encoder on this machine for a setting; a process asks a server once."""
    return local_folder(where) if is_url(where) else expand(where)


def offline() -> bool:
    """Tell whether HF_HUB_OFFLINE forbids to ask servers for encoders."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _from_server(url: str) -> Path:
    """Return the folder in the cache that holds what a server has, or has had when it was last reached."""
    server, encoders = open_folder(url), cache_folder(None) / "encoders"
    last = encoders / f"last-{hashlib.sha256(server.shown.encode()).hexdigest()}"
    try:
        if offline():
            raise DamageError("HF_HUB_OFFLINE is set")
        config = read_whole(server, "config.json", FIRST_GIVE_UP)
    except FileNotFoundError as error:
        remedy = "give the URL of a folder that fmriscale publish wrote"
        raise UserError(f"{server.shown}: no encoder (no config.json: {error}); {remedy}") from None
    except PermissionError as error:
        remedy = "check the URL and your access: ~/.netrc for https, AWS_* or ~/.aws for s3"
        raise UserError(f"{server.shown}/config.json: the server refuses it ({error}); {remedy}") from None
    except DamageError as error:
        return _came_last(server, last, str(error))
    final = encoders / hashlib.sha256(config).hexdigest()
    with writing_to(encoders):
        if not (final / "config.json").is_file():
            _fetch(server, config, final)
        atomic_write(last, final.name)
    return final


def _came_last(server: RemoteFolder, last: Path, reason: str) -> Path:
    """Return what came from a server before; say what to do where nothing did."""
    with contextlib.suppress(OSError):
        folder = last.parent / last.read_text()
        if folder.parent == last.parent and (folder / "config.json").is_file():
            print(f"fmriscale: {server.shown}: {reason}; taken as it came last", file=sys.stderr, flush=True)
            return folder
    remedy = f"download {' and '.join(hub.FILES)} from {server.shown} into a folder where there is a network"
    raise UserError(f"{server.shown}: not in this machine's cache ({reason}); {remedy}, and give that folder")


def _fetch(server: RemoteFolder, config: bytes, final: Path) -> None:
    """Bring config.json and the weights that it names into the cache, both or none."""
    from fmriscale.model.export import read_meta  # here: torch is slow to import

    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=final.parent) as name:
        draft = Path(name) / "encoder"
        atomic_write(draft / "config.json", config)
        try:
            sha256 = read_meta(draft)["weights_sha256"]
        except UserError as error:
            raise type(error)(str(error).replace(str(draft), server.shown)) from None
        weights, size = hub.FILES[1], _size(server, hub.FILES[1])
        note(f"fmriscale: {server.shown}: to download {size / 1e6:.3g} MB")
        with (draft / weights).open("w+b") as part:
            backoff = Backoff(f"{server.shown}/{weights}", GIVE_UP_AFTER)
            fetch_shard(server, weights, part, size, sha256, backoff, "config.json")
            os.fsync(part.fileno())
        with contextlib.suppress(OSError):  # another process was first
            draft.replace(final)
    fsync_folder(final.parent)


def _size(server: RemoteFolder, name: str) -> int:
    """Return the size of a file on a server, bytes."""
    backoff = Backoff(f"{server.shown}/{name}", FIRST_GIVE_UP)
    while True:
        try:
            return server.look(name).size
        except TransientError as error:
            backoff.retry(str(error), error.after)
        except FileNotFoundError as error:
            raise DamageError(
                f"{server.shown}/{name}: not on the server ({error}); upload it again"
            ) from None
        except PermissionError as error:
            raise UserError(
                f"{server.shown}/{name}: the server refuses it ({error}); check your access"
            ) from None
