"""Which features the runs have: on a glass brain where features have positions, else along a line."""

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory
from nilearn.plotting import plot_glass_brain

from fmriscale.corpus.manifest import FeatureSpace
from fmriscale.reports.corpus_facts import Presence
from fmriscale.reports.page import MUTED, STYLE, WARM, WIDTH, svg

COLOURS = LinearSegmentedColormap.from_list("presence", ["#b3261e", WARM, "#e7c665", "#7fb0c8"])
"""From features that few runs have to those that all have."""
MOST_VECTORS = 300
"""Beyond so many features the dots are a picture: the file would grow with every one."""
VIEWS = {"l": "left", "y": "back", "r": "right", "z": "top"}
"""What the views of a glass brain are seen from."""


@matplotlib.rc_context(STYLE)
def presence(space: FeatureSpace, present: Presence) -> str | None:
    """Draw the share of runs that have each feature of a space, on a glass brain.

    A space without positions is drawn along its features as stored: the share of runs that lack each; there
    is nothing to draw where no run lacks any.
    """
    if space.coordinates is not None:
        figure = _glass_brain(np.asarray(space.coordinates), present.share)
    elif present.share.min() < 1:
        figure = _line(present.share)
    else:
        return None
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
        marker_color=COLOURS(scale(share[order])),
        marker_size=float(np.clip(4_000 / len(share), 1.5, 22)),
        linewidths=0,
        rasterized=len(share) > MOST_VECTORS,
    )
    if share.min() < 1:
        place = figure.add_axes((0.915, 0.2, 0.012, 0.55))
        bar = figure.colorbar(ScalarMappable(scale, COLOURS), cax=place)
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
