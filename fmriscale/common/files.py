"""Paths, hashes, and writes that are either whole or absent."""

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from fmriscale.common.errors import UserError


def expand_variables(text: str, shown: str | None = None) -> str:
    """Fill in environment variables; one that is not set is a `UserError` about `shown`."""
    for name in re.findall(r"\$\{?(\w+)", text):
        if not os.environ.get(name) and not Path(text).exists():
            what = f"the environment variable {name} is not set; export {name}=/path/to/data"
            raise UserError(f"{shown or text}: {what}")
    return os.path.expandvars(text)


def expand(path: str | Path, relative_to: Path | None = None) -> Path:
    """Expand `~` and environment variables in a path."""
    expanded = Path(expand_variables(str(path))).expanduser()
    return expanded if relative_to is None or expanded.is_absolute() else relative_to / expanded


def printable(text: str) -> str:
    """Write control characters, line ends and broken bytes of a name as escapes, so that a table holds it."""

    def escape(character: str) -> str:
        code = ord(character)  # bytes that are no UTF-8 come as U+DC80 to U+DCFF
        return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else ascii(character)[1:-1]

    return text if text.isprintable() else "".join(c if c.isprintable() else escape(c) for c in text)


def sha256_file(*paths: Path) -> str:
    """Return the sha256 of a file, or of several one after the other, in hexadecimal; read in blocks."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as handle:
            hashlib.file_digest(handle, lambda: digest)
    return digest.hexdigest()


def write_durably(path: Path, data: str | bytes) -> None:
    """Write a file and make it last through a power cut; its folder is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as handle:
        handle.write(data.encode() if isinstance(data, str) else data)
        handle.flush()
        os.fsync(handle.fileno())


def atomic_write(path: Path, data: str | bytes) -> None:
    """Write a file under a temporary name, fsync it and rename it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_durably(temporary, data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make a rename in a folder last through a power cut, where the system lets one."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_REMEDIES = {
    errno.ENOSPC: "free space on that disk, or choose another place",
    errno.EDQUOT: "free some of your quota, or choose another place",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EACCES: "make it writable, or choose another place",
    errno.EPERM: "make it writable, or choose another place",
    errno.EROFS: "that disk can only be read: choose another place",
    errno.ENOTDIR: "a file stands where a folder must be: choose another place",
    errno.EEXIST: "a file stands where a folder must be: choose another place",
}


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write below a folder into a `UserError` with the remedy."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "correct that")
        again = f"{remedy}, then run this again: what is finished is kept"
        raise UserError(f"{error.filename or folder}: {error.strerror}; {again}") from error


def allow_open_files(count: int) -> None:
    """Raise this process's limit of open files, as far as it may, so that so many shards can be mapped."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 512
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
