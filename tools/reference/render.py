"""All generated pages of docs/, and which of them are not what the code says."""

from collections.abc import Callable, Iterator
from pathlib import Path

import command_line
import settings
import troubleshooting

ROOT = Path(__file__).resolve().parents[2]
PARTS: tuple[Callable[[], dict[str, str]], ...] = (settings.pages, command_line.pages, troubleshooting.pages)
"""Each gives pages by their name below docs/."""


def stale() -> Iterator[tuple[Path, str]]:
    """Yield every page that is not what the code says, and its text."""
    for part in PARTS:
        for name, text in part().items():
            path = ROOT / "docs" / name
            if not path.is_file() or path.read_text() != text:
                yield path, text
