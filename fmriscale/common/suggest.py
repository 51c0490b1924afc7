"""What a wrong word was meant to be: the nearest of those that are known."""

import difflib
import itertools
from collections.abc import Iterable
from pathlib import Path

MOST_NAMES = 10_000
"""Names of a folder that are compared."""


def nearest(word: str, known: Iterable[str], n: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return up to n of the known words that are most like one, whatever its capitals, the best first."""
    words = {name.lower(): name for name in known}
    return [words[near] for near in difflib.get_close_matches(word.lower(), words, n, cutoff)]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a refusal, "; did you mean 'x'?"; nothing where no known word is near."""
    near = nearest(word, known)
    return f"; did you mean '{near[0]}'?" if near else ""


def did_you_mean_path(path: str | Path, below: str = "") -> str:
    """Return the end of a refusal of a path that is not there: the nearest one that is.

    below: a folder in which a bare name is looked for, too.
    """
    path = Path(path)
    found = next(filter(None, (_nearest_path(path), _nearest_path(below / path))), None)
    return f"; did you mean {found}?" if found not in (None, path) else ""


def _nearest_path(path: Path) -> Path | None:
    """Return the path that is there and most like this one; each missing part may be misspelt."""
    found = Path(path.anchor)
    for part in path.parts[len(found.parts) :]:
        if not (found / part).exists():
            try:
                names = [entry.name for entry in itertools.islice(found.iterdir(), MOST_NAMES)]
            except OSError:  # a file, or a folder that may not be read
                return None
            near = nearest(part, names, cutoff=0.7)
            if not near:
                return None
            part = near[0]
        found /= part
    return found
