"""Plain text as Markdown that reads the same on the site and on a git host."""

import re

BANNER = "<!-- Made by `python tools/reference` from the code; edit there, not here. -->\n"
_CODE = re.compile(r"(`[^`]*`)")


def text(plain: str) -> str:
    """Return text in which no sign is taken for Markdown; what stands between backticks stays code."""
    pieces = _CODE.split(plain)
    return "".join(piece if piece.startswith("`") else _escaped(piece) for piece in pieces)


def _escaped(plain: str) -> str:
    plain = re.sub(r"([*\\])", r"\\\1", plain).replace("<", "&lt;")
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", plain)


def cell(plain: str) -> str:
    """Return text for a cell of a table."""
    return text(plain).replace("|", "\\|")
