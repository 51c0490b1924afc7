"""Text as editors and spreadsheets save it: with a byte order mark, in UTF-16, with quoted cells."""

import codecs
import csv
import re
from pathlib import Path

from fmriscale.common.quarantine import Rejected
from fmriscale.common.trust import parse_json

MISSING = ("", "n/a", "na", "nan", "<na>", "null", "none")  # Lower-case words for a missing number


def to_utf8(content: bytes) -> bytes:
    """Remove a byte order mark, and convert UTF-16, which spreadsheets call Unicode, to UTF-8."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace").encode()
    return content.removeprefix(codecs.BOM_UTF8)


def read_json(path: Path) -> dict:
    """Read a JSON object."""
    try:
        value = parse_json(to_utf8(path.read_bytes()))
        if not isinstance(value, dict):
            raise ValueError("it is no object")
        return value
    except (OSError, ValueError) as error:
        raise Rejected("unreadable", f"{path.name}: not readable as JSON ({error}); correct it") from error


def split_cells(line: str, separator: str | None) -> list[str]:
    """Split a line into cells without blanks and quotes; separator None = blanks."""
    if separator is None:
        return [cell.strip('"') for cell in re.findall(r'"[^"]*"|[^\s"]+', line)]
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])]


def is_number(cell: str, decimal: str = ".") -> bool:
    """Return whether a cell is a number, or stands for a missing one."""
    if cell.lower() in MISSING:
        return True
    try:
        float(cell if decimal == "." else re.sub(r"^([^.]*),", r"\1.", cell))
    except ValueError:
        return False
    return "_" not in cell  # 1_000 is a number in Python alone
