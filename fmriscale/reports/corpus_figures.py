"""Charts of a corpus's page, as inline SVG."""

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory
from nilearn.plotting import plot_glass_brain

from fmriscale.config import SPLITS
from fmriscale.corpus.manifest import FeatureSpace
from fmriscale.reports.corpus_facts import Measure, Presence
from fmriscale.reports.page import ACCENT, GREY, MUTED, STYLE, WARM, WIDTH, panels, svg

SPLIT_COLOURS = dict(zip(SPLITS, (ACCENT, WARM, GREY), strict=True))
ROW = 0.2  # Height of a data set in a figure, inches
MANY_ROWS = 25  # With more data sets than this the scale is written above the figure too
FEW_RUNS, MOST_DOTS = 60, 1_500
"""Runs of a data set that are drawn one by one at most, and dots of a panel, so that the file stays small."""
PRESENCE_COLOURS = LinearSegmentedColormap.from_list("presence", ["#b3261e", WARM, "#e7c665", "#7fb0c8"])
"""From features that few runs have to those that all have."""
MOST_VECTORS = 300  # Beyond so many features the dots are a picture: the file would grow with every one
VIEWS = {"l": "left", "y": "back", "r": "right", "z": "top"}  # What the views of a glass brain are seen from


@matplotlib.rc_context(STYLE)
def hours_by_dataset(table: pd.DataFrame) -> str:
    """Draw the hours of every data set, divided by split."""
    figure, (axes,) = _rows(table.index, 1)
    left = np.zeros(len(table))
    for split, colour in SPLIT_COLOURS.items():
        values = table[split].to_numpy(float)
        axes.barh(range(len(table)), values, left=left, height=0.66, color=colour, label=split)
        left += values
    for place, hours in enumerate(table.hours):
        text = f"{hours:.1f}" if hours < 1000 else f"{hours:,.0f}"
        offset = {"xytext": (4, 0), "textcoords": "offset points"}
        axes.annotate(text, (hours, place), va="center", color=MUTED, **offset)
    axes.set_xlim(0, max(left.max() * 1.08, 1e-9))
    axes.set_xlabel("hours")
    axes.grid(visible=True, axis="x")
    axes.legend(loc="lower right", frameon=False, ncols=3, bbox_to_anchor=(1, 1), borderaxespad=0.2)
    return svg(figure, "hours", "Hours by data set and split")


@matplotlib.rc_context(STYLE)
def recordings(runs: pd.DataFrame) -> str:
    """Draw hours by t_r, and the length of runs in minutes and in volumes."""
    figure, (by_t_r, minutes, volumes) = panels(3, WIDTH, 2.5)
    figure.get_layout_engine().set(wspace=0.06)  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]
    hours = (runs.minutes / 60).groupby(runs.t_r.round(3)).sum()
    if len(hours) <= 12:
        by_t_r.bar(range(len(hours)), hours.to_numpy(), width=0.7, color=ACCENT)
        turn = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if len(hours) > 7 else {}
        by_t_r.set_xticks(range(len(hours)), [f"{t:g}" for t in hours.index], **turn)
        middle, half = (len(hours) - 1) / 2, max(len(hours), 5) / 2
        by_t_r.set_xlim(middle - half, middle + half)
    else:
        by_t_r.hist(runs.t_r, bins=30, weights=runs.minutes / 60, color=ACCENT)
    by_t_r.set(title="hours by t_r", xlabel="t_r (s)")
    for axes, values, unit in ((minutes, runs.minutes, "minutes"), (volumes, runs.n_volumes, "volumes")):
        low, high = float(values.min()), float(values.max())
        alike = low == high
        limits = (0.5 * low, 1.5 * low) if alike else (low, high)
        axes.hist(values, bins=9 if alike else 24, range=limits, color=ACCENT, rwidth=0.92)
        axes.set(title=f"runs by {unit}", xlabel=unit)
    for axes in (by_t_r, minutes, volumes):
        axes.tick_params(axis="y", colors=MUTED)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=axes is not by_t_r))
    return svg(figure, "recordings", "Hours by repetition time; runs by minutes and by volumes")


@matplotlib.rc_context(STYLE)
def quality_by_dataset(runs: pd.DataFrame, names: Sequence[str], measures: list[Measure]) -> str:
    """Draw every measure by data set: runs as dots, or their spread where they are many."""
    figure, all_axes = _rows(names, len(measures))
    groups = dict(tuple(runs.groupby("dataset")))
    for axes, measure in zip(all_axes, measures, strict=True):
        for place, name in enumerate(names):
            own = groups[name][measure.column] if name in groups else pd.Series(dtype=float)
            known = np.sort(own.dropna().to_numpy(float))
            if known.size:
                _strip(axes, place, known, min(FEW_RUNS, MOST_DOTS // len(names)))
            else:
                at = {"xy": (0, place), "xycoords": ("axes fraction", "data")}
                axes.annotate("unknown", va="center", color=MUTED, **at)
        axes.set_xlabel(f"{measure.short} ({measure.unit})" if measure.unit else measure.short)
        axes.grid(visible=True)
        axes.margins(x=0.06)
        axes.tick_params(labeltop=len(names) > MANY_ROWS)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    return svg(figure, "quality", "Figures of quality by data set")


def _strip(axes: Axes, place: int, values: np.ndarray, most_dots: int) -> None:
    """Draw sorted values on one line: dots, or 5-95 %, quartiles and the runs beyond; and the median."""
    if len(values) <= most_dots:
        jitter = 0.22 * np.sin(2.4 * np.arange(len(values)))  # neighbours in value stay apart
        axes.scatter(values, place + jitter, s=11, color=ACCENT, alpha=0.6, lw=0)
    else:
        low, first, third, high = np.quantile(values, (0.05, 0.25, 0.75, 0.95))
        axes.plot([low, high], [place] * 2, color=ACCENT, lw=1, alpha=0.7)
        axes.plot([first, third], [place] * 2, color=ACCENT, lw=5, alpha=0.55, solid_capstyle="butt")
        beyond = np.r_[values[values < low][:20], values[values > high][-20:]]
        axes.scatter(beyond, [place] * len(beyond), s=9, color=ACCENT, alpha=0.7, lw=0)
    axes.plot([np.median(values)] * 2, [place - 0.34, place + 0.34], color=WARM, lw=1.8)


def _rows(names: Sequence[str] | pd.Index, n_panels: int) -> tuple[Figure, list[Axes]]:
    """Return a figure whose panels have a line a data set, the first on top."""
    height = 0.75 + ROW * max(len(names), 2)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    row = list(figure.subplots(1, n_panels, sharey=True, squeeze=False)[0])
    row[0].set_yticks(range(len(names)), [_clipped(str(name), 34) for name in names])
    row[0].set_ylim(len(names) - 0.4, -0.6)
    return figure, row


def _clipped(text: str, most: int) -> str:
    """Shorten a text in the middle."""
    return text if len(text) <= most else f"{text[: most - most // 3 - 1]}…{text[-(most // 3) :]}"


@matplotlib.rc_context(STYLE)
def presence(space: FeatureSpace, present: Presence) -> str | None:
    """Draw the share of runs with each feature on a glass brain, without positions along the features."""
    if space.coordinates is not None:
        figure = _glass_brain(np.asarray(space.coordinates), present.share)
    elif present.share.min() == 1:
        return None
    else:
        figure = _line(present.share)
    return svg(figure, f"presence-{space.name}", f"Share of runs that have each feature of {space.name}")


def _glass_brain(coordinates: np.ndarray, share: np.ndarray) -> Figure:
    """Draw shares [V] at coordinates [V, 3], mm."""
    figure = Figure(figsize=(WIDTH, 2.6))
    brain = plot_glass_brain(
        None, display_mode="lyrz", figure=figure, axes=(0, 0.08, 0.88, 0.92), annotate=False, colorbar=False
    )
    for name, view in brain.axes.items():
        for part in view.ax.patches:  # the outline in the ink of the page
            part.set(edgecolor=MUTED, alpha=0.35, linewidth=min(part.get_linewidth(), 0.8))
        below = blended_transform_factory(view.ax.transAxes, figure.transFigure)
        view.ax.text(0.5, 0.01, VIEWS[name], transform=below, ha="center", color=MUTED)
    order = np.argsort(-share, kind="stable")  # the rarest on top
    scale = Normalize(min(float(np.floor(10 * share.min()) / 10), 0.9), 1.0)
    brain.add_markers(
        coordinates[order],
        marker_color=PRESENCE_COLOURS(scale(share[order])),
        marker_size=float(np.clip(4_000 / len(share), 1.5, 22)),
        linewidths=0,
        rasterized=len(share) > MOST_VECTORS,
    )
    if share.min() < 1:
        place = figure.add_axes((0.915, 0.2, 0.012, 0.55))
        bar = figure.colorbar(ScalarMappable(scale, PRESENCE_COLOURS), cax=place)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        place.set_title("runs with\nthe feature", fontsize=8, color=MUTED, pad=8)
        place.yaxis.set_major_formatter(lambda part, _: f"{100 * part:.0f} %")
    return figure


def _line(share: np.ndarray) -> Figure:
    """Draw how many runs lack each of V features, as stored."""
    figure = Figure(figsize=(WIDTH, 1.7), layout="constrained")
    axes = figure.subplots()
    lacking = 100 * (1 - share)
    axes.stairs(lacking, np.arange(len(share) + 1) - 0.5, baseline=0, fill=True, color=WARM)
    axes.set(xlim=(-0.5, len(share) - 0.5), ylim=(0, 1.1 * lacking.max()), xlabel="feature, as stored")
    axes.set_title("runs that lack the feature (%)")
    axes.tick_params(axis="y", colors=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.grid(visible=True, axis="y")
    return figure
