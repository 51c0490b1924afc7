"""numba's `njit`, which keeps what it compiled: in a folder that can be written, and through an update.

numba keeps it in the package or in the home folder, and refuses to start where it can write neither.
"""

import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from numba import njit
from numba.core import caching, config

__all__ = ["njit"]

_VARIABLE = "NUMBA_CACHE_DIR"


def can_write(folder: Path) -> bool:
    """Tell whether files can be made in a folder, or in the nearest one above it that exists."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def private_folder(places: Iterable[Path], temporary: Path) -> Path | None:
    """Return this user's own folder below `temporary`; None if one of the places will do.

    Compiled functions are code. So a folder that others have made or can write is not taken, either.
    """
    if any(map(can_write, places)) or not hasattr(os, "getuid"):
        return None
    folder = temporary / f"fmriscale-compiled-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if private else None


def _choose_folder() -> None:
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 (Path fails without a home)
    places = [Path(os.environ.get(_VARIABLE) or caches), Path(caches), Path(__file__).parent]
    folder = private_folder(places, Path(tempfile.gettempdir()))
    if folder:
        os.environ[_VARIABLE] = str(folder)  # for the processes that this one starts
        config.CACHE_DIR = str(folder)  # pyright: ignore[reportAttributeAccessIssue]


def _forgive_old_indices() -> None:
    load = caching.IndexDataCacheFile._load_index

    def load_index(file: caching.IndexDataCacheFile) -> dict:
        try:
            return load(file)
        except (AttributeError, ImportError):  # of an older version, with a class that has gone or moved
            return {}

    caching.IndexDataCacheFile._load_index = load_index  # pyright: ignore[reportAttributeAccessIssue]


_choose_folder()
_forgive_old_indices()
