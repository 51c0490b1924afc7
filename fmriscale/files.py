"""Paths and files: expansion, hashes, and writes that are either whole or absent."""

import hashlib
import os
from pathlib import Path

DEFAULT_DATA = "../shared/data"
"""Where the real data of tests and recipes lie unless FMRISCALE_DATA says otherwise."""


def expand(path: str | Path, relative_to: Path | None = None) -> Path:
    """Expand `~` and environment variables in a path.

    Parameters
    ----------
    path : str or Path
        May hold `$FMRISCALE_DATA`, which defaults to `../shared/data`.
    relative_to : Path, optional
        Folder that a relative path starts from; None = the working directory.

    Returns
    -------
    Path
        The expanded path; it need not exist.
    """
    text = str(path)
    if "FMRISCALE_DATA" in text and not os.environ.get("FMRISCALE_DATA"):
        text = text.replace("${FMRISCALE_DATA}", DEFAULT_DATA).replace("$FMRISCALE_DATA", DEFAULT_DATA)
    expanded = Path(os.path.expandvars(text)).expanduser()
    return expanded if relative_to is None or expanded.is_absolute() else relative_to / expanded


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def atomic_write(path: Path, data: str | bytes) -> None:
    """Write a file under a temporary name, fsync it and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            handle.write(data.encode() if isinstance(data, str) else data)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make a rename in a folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
