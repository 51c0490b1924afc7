"""Text as editors and spreadsheets save it: with a byte order mark, in UTF-16, with one odd letter."""

import codecs
import json
from pathlib import Path

from fmriscale.common.quarantine import Rejected


def to_utf8(content: bytes) -> bytes:
    """Take a byte order mark off, and bring UTF-16, as spreadsheets call Unicode, to UTF-8."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace").encode()
    return content.removeprefix(codecs.BOM_UTF8)


def read_json(path: Path) -> dict:
    """Read a JSON object."""
    try:
        value = json.loads(to_utf8(path.read_bytes()))
        if not isinstance(value, dict):
            raise ValueError("it is no object")
        return value
    except (OSError, ValueError) as error:
        raise Rejected("unreadable", f"{path.name}: not readable as JSON ({error}); mend it") from error
