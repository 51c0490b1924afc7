"""What comes from others: names of files that must stay in their folder, and content of the wrong shape."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any

from fmriscale.common.errors import DamageError
from fmriscale.common.files import printable

_ODD = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What Python raises where parsed content has another shape than the code that reads it expects."""
_SHOWN = 80  # Most characters of a foreign name or message that an error repeats
_DRIVE = re.compile(r"[A-Za-z]:")


def is_file_name(name: str) -> bool:
    """Tell what may be the name of a file here: stores and archives allow names that no file system has."""
    strange = set(name) & set("/\\\0") or (os.name == "nt" and ":" in name)
    return name not in ("", ".", "..") and not strange


def inside(name: Any, listed_in: Any, remedy: str) -> str:
    """Return the path that a manifest gives to a file below its folder.

    Raises
    ------
    DamageError
        It is no text, absolute, a URL, a Windows path, or leads out of the folder with `..`.
    """
    text = name if isinstance(name, str) else ""
    if "://" in text or _DRIVE.match(text) or not all(map(is_file_name, text.split("/"))):
        shown = printable(repr(name))[:_SHOWN]
        what = f"{shown} is no path below its own folder, and nothing outside is read"
        raise DamageError(f"{listed_in}: {what}; {remedy}")
    return text


@contextlib.contextmanager
def understood(where: Any, remedy: str) -> Iterator[None]:
    """Turn what is raised by parsed content of the wrong shape into a `DamageError` that names its file."""
    try:
        yield
    except _ODD as error:
        words = printable(" ".join(str(error).split()))[:_SHOWN]
        what = f"not what fmriscale writes ({type(error).__name__}: {words})"
        raise DamageError(f"{where}: {what}; {remedy}") from error


_URL = re.compile(r"(\b[A-Za-z][\w+.-]*://)(?:[^\s/@?#]*@)?([^\s?#]*)(?:[?#]\S*)?")


def without_login(text: str) -> str:
    """Take user names, passwords and tokens out of the URLs in a text; `$NAME` stands for one and stays."""
    return _URL.sub(lambda url: url[0] if "$" in url[0] else url[1] + url[2], text)


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; whatever is wrong with it, too deep nesting too, is a ValueError."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
