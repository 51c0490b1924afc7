"""The first screen of every page: a question, the answer in a word, why, and one picture; and its scales."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from fmriscale.study.wording import plural

Figure = dict[str, Any]

MOODS = {"Yes": "yes", "No": "no", "Open": "open"}


@dataclass(frozen=True)
class Scale:
    """A horizontal axis of shares, drawn from 0 to 100 % of a cell's width."""

    low: float
    high: float
    ticks: tuple[tuple[float, bool, str], ...]
    """Value, whether it may go where there is little room, and its label."""

    def at(self, value: float) -> str:
        """Return where a value is, as an SVG length."""
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"


def scale_of(
    figures: Iterable[Figure], line: float | None, sign: str = "+", factor: float = 100, most: int = 6
) -> Scale:
    """Return an axis on which figures and a line have room, with round ticks.

    factor: from a value to its label (100: percent).
    """
    values = ends(figures) + ([] if line is None else [line])
    low, high = min(values), max(values)
    room = max(0.1 * (high - low), 0.005)
    low, high = low - room, high + room
    begin = line if line and round(20 * line, 6) % 1 == 0 else 0.0  # a line at no round place is no tick
    steps = np.array(MaxNLocator(nbins=most, steps=[1, 2, 5, 10]).tick_values(low - begin, high - begin))
    ticks = []
    for step in steps.tolist():
        value = round(begin + step, 6)
        if low + room / 2 <= value <= high - room / 2:  # a tick's number has to fit
            odd = round(step / (steps[1] - steps[0])) % 2 == 1
            ticks.append((value, odd, f"{factor * value:{sign if value else ''}.4g}"))
    return Scale(low, high, tuple(ticks))


def ends(figures: Iterable[Figure]) -> list[float]:
    """Return all that an axis has to hold: figures and the ends of their intervals."""
    found = [content.get(key) for content in figures for key in ("mean", "effect", "low", "high")]
    return [value for value in found if value is not None]


@dataclass(frozen=True)
class Row:
    """A line of a picture or of a table of methods."""

    title: str
    look: str
    """pretrained, fresh, control or baseline: its mark and ink."""
    figure: Figure | None
    """mean, low and high; None where it was not run."""
    value: str
    interval: str = ""
    what: str = ""
    """What it is, in a line."""
    kind: str = ""
    more: str = ""


@dataclass(frozen=True)
class Difference:
    """A line of a table of differences."""

    title: str
    look: str
    figure: Figure
    """effect, low and high."""
    cells: Sequence[str]
    main: bool = False


@dataclass(frozen=True)
class Picture:
    """Methods beside each other on one scale, against chance."""

    title: str
    rows: Sequence[Row]
    scale: Scale
    chance: float | None
    chance_name: str
    caption: str

    @property
    def side(self) -> str:
        """Return on which side of its line the name of chance ends: where there is more room."""
        middle = (self.scale.low + self.scale.high) / 2
        return "start" if self.chance is not None and self.chance < middle else "end"


def picture(
    title: str, rows: Sequence[Row], chance: float | None, chance_name: str, caption: str, factor: float = 100
) -> Picture:
    """Lay rows out on a scale that holds them all; without chance on that of all shares."""
    held = [row.figure for row in rows if row.figure]
    whole = [{"low": 0.0, "high": 1.0}] if chance is None else []
    scale = scale_of([*held, *whole], chance, "", factor, most=5)
    return Picture(title, rows, scale, chance, chance_name, caption)


def screen(question: str, word: str, why: str, task: str = "", caveats: Sequence[str] = ()) -> dict[str, Any]:
    """Return the words of a first screen for the frame of all pages."""
    words = {"question": question, "word": word, "why": why, "task": task, "caveats": caveats}
    return {**words, "mood": MOODS.get(word, "told")}


def count_tiles(counts: Iterable[tuple[int, str]]) -> list[tuple[str, str, str]]:
    """Return (figure, what it is, nothing) of numbers of things."""
    return [(f"{n:,}", noun if n == 1 else plural(noun), "") for n, noun in counts]
