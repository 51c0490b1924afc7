"""Charts of a corpus's page, as inline SVG."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from nilearn.plotting import plot_glass_brain

from fmriscale.corpus.manifest import FeatureSpace
from fmriscale.reports.corpus_facts import Measure, Presence
from fmriscale.reports.first_screen import Scale, scale_of
from fmriscale.reports.page import ACCENT, MUTED, PANEL, STYLE, WARM, panels, svg

MOST_BARS = 12  # Repetition times that have a bar each
FEW_RUNS, MOST_DOTS = 60, 1_500
"""Runs of a data set that are drawn one by one at most, and dots of a column: the file stays small."""
PRESENCE_COLOURS = LinearSegmentedColormap.from_list("presence", ["#b3261e", "#d9822b", "#d3ae3d", "#5f9dbd"])
"""From features that few runs have to those that all have."""
RAMP = ", ".join(to_hex(PRESENCE_COLOURS(part)) for part in (0.0, 0.33, 0.67, 1.0))
"""The same for a style sheet."""
MOST_VECTORS = 300  # Beyond so many features the dots are a picture: the file would grow with every one
VIEWS = {"l": "left", "y": "back", "r": "right", "z": "top"}  # What the views of a glass brain are seen from


def recordings(runs: pd.DataFrame) -> list[str]:
    """Draw hours by t_r, and the length of runs in minutes and in volumes."""
    return [_by_t_r(runs), _lengths(runs.minutes, "minutes"), _lengths(runs.n_volumes, "volumes")]


@matplotlib.rc_context(STYLE)
def _by_t_r(runs: pd.DataFrame) -> str:
    """Draw hours by t_r: a bar each where they are few."""
    hours = (runs.minutes / 60).groupby(runs.t_r.round(3)).sum()
    few = len(hours) <= MOST_BARS
    figure, (axes,) = panels(1, PANEL[0], max(PANEL[1], 0.7 + 0.2 * len(hours) if few else 0))
    if few:
        axes.barh(range(len(hours)), hours.to_numpy(), height=0.7, color=ACCENT)
        axes.set_yticks(range(len(hours)), [f"{t:g} s" for t in hours.index])
        axes.set_ylim(max(len(hours), 4) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    else:
        axes.hist(runs.t_r, bins=30, weights=runs.minutes / 60, color=ACCENT)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.tick_params(axis="y", colors=MUTED)
    axes.set(title="hours by t_r", xlabel="hours" if few else "t_r (s)")
    return svg(figure, "t_r", "Hours by repetition time")


@matplotlib.rc_context(STYLE)
def _lengths(values: pd.Series, unit: str) -> str:
    """Draw how many runs are how long."""
    figure, (axes,) = panels(1, *PANEL)
    low, high = float(values.min()), float(values.max())
    alike = low == high
    limits = (0.5 * low, 1.5 * low) if alike else (low, high)
    axes.hist(values, bins=9 if alike else 24, range=limits, color=ACCENT, rwidth=0.92)
    axes.set(title=f"runs by {unit}", xlabel=unit)
    axes.tick_params(axis="y", colors=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    return svg(figure, unit, f"Runs by {unit}")


@dataclass(frozen=True)
class Strip:
    """Runs of a data set on the scale of a measure: dots, or their spread where they are many."""

    dots: list[tuple[str, str]]
    """Places x and y of runs that are drawn one by one."""
    lines: list[tuple[str, str, str]]
    """Class, start and end of 5 to 95 % and of the middle half."""
    median: str


@dataclass(frozen=True)
class Strips:
    """A column: a measure, its scale, and for every data set its strip; None where it is unknown."""

    measure: Measure
    scale: Scale
    rows: list[Strip | None]


def strips(runs: pd.DataFrame, names: Sequence[str], measures: list[Measure]) -> list[Strips]:
    """Lay out every measure by data set."""
    groups, columns = dict(tuple(runs.groupby("dataset"))), []
    for measure in measures:
        values = runs[measure.column].to_numpy(float)
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        scale = scale_of([{"low": low, "high": high}], None, "", 1, most=4)
        rows = []
        for name in names:
            own = groups[name][measure.column] if name in groups else pd.Series(dtype=float)
            known = np.sort(own.dropna().to_numpy(float))
            rows.append(_strip(known, scale, min(FEW_RUNS, MOST_DOTS // len(names))) if known.size else None)
        columns.append(Strips(measure, scale, rows))
    return columns


def _strip(values: np.ndarray, scale: Scale, most_dots: int) -> Strip:
    """Lay out sorted values: dots, or 5-95 %, quartiles and the runs beyond; and the median."""
    median = scale.at(float(np.median(values)))
    if len(values) <= most_dots:
        heights = 50 + 22 * np.sin(2.4 * np.arange(len(values)))  # neighbours in value stay apart
        dots = [(scale.at(v), f"{y:.0f}%") for v, y in zip(values.tolist(), heights.tolist(), strict=True)]
        return Strip(dots, [], median)
    low, first, third, high = np.quantile(values, (0.05, 0.25, 0.75, 0.95)).tolist()
    beyond = np.r_[values[values < low][:20], values[values > high][-20:]].tolist()
    spread, middle = ("spread", scale.at(low), scale.at(high)), ("middle", scale.at(first), scale.at(third))
    return Strip([(scale.at(value), "50%") for value in beyond], [spread, middle], median)


@matplotlib.rc_context(STYLE)
def presence(space: FeatureSpace, present: Presence) -> list[tuple[str, str]]:
    """Draw the share of runs with each feature: views of a glass brain, or along the features; (svg, title).

    The views hold no words, so that they fit any width.
    """
    if space.coordinates is not None:
        return [
            (_glass_brain(space, np.asarray(space.coordinates), present.share, view), seen)
            for view, seen in VIEWS.items()
        ]
    if present.share.min() == 1:
        return []
    figure = _line(present.share)
    return [(svg(figure, f"presence-{space.name}", _about(space)), "")]


def _about(space: FeatureSpace) -> str:
    return f"Share of runs that have each feature of {space.name}"


def lowest_shown(share: np.ndarray) -> float:
    """Return the share of runs at the low end of the colours."""
    return min(float(np.floor(10 * share.min()) / 10), 0.9)


def _glass_brain(space: FeatureSpace, coordinates: np.ndarray, share: np.ndarray, view: str) -> str:
    """Draw shares [V] at coordinates [V, 3], mm, seen from one side."""
    figure = Figure(figsize=(2.5, 2.1))
    brain = plot_glass_brain(
        None, display_mode=view, figure=figure, axes=(0, 0, 1, 1), annotate=False, colorbar=False
    )
    for part in brain.axes[view].ax.patches:  # the outline in the ink of the page
        part.set(edgecolor=MUTED, alpha=0.35, linewidth=min(part.get_linewidth(), 0.8))
    order = np.argsort(-share, kind="stable")  # the rarest on top
    brain.add_markers(
        coordinates[order],
        marker_color=PRESENCE_COLOURS(Normalize(lowest_shown(share), 1.0)(share[order])),
        marker_size=float(np.clip(4_000 / len(share), 1.5, 22)),
        linewidths=0,
        rasterized=len(share) > MOST_VECTORS,
    )
    return svg(figure, f"presence-{space.name}-{view}", f"{_about(space)}, seen from the {VIEWS[view]}")


def _line(share: np.ndarray) -> Figure:
    """Draw how many runs lack each of V features, as stored."""
    figure, (axes,) = panels(1, PANEL[0], 1.9)
    lacking = 100 * (1 - share)
    axes.stairs(lacking, np.arange(len(share) + 1) - 0.5, baseline=0, fill=True, color=WARM)
    axes.set(xlim=(-0.5, len(share) - 0.5), ylim=(0, 1.1 * lacking.max()), xlabel="feature, as stored")
    axes.set_title("runs that lack the feature (%)")
    axes.tick_params(axis="y", colors=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    return figure
