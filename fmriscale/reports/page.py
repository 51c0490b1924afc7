"""The look of every HTML page: one frame, one style sheet, charts as inline SVG in the inks of the page."""

import html
import io
import re
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from fmriscale.common.errors import UserError
from fmriscale.common.files import atomic_write
from fmriscale.common.version import __version__

INK, MUTED, GRID, ACCENT = "#010203", "#040506", "#070809", "#0a0b0c"
WARM, GREY, GREEN, VIOLET, RED = "#0d0e0f", "#101112", "#131415", "#161718", "#191a1b"
"""Stand-ins that become the page's own colours, light or dark; matplotlib itself needs numbers."""
PAGE_INKS = {
    **{INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)", ACCENT: "var(--accent)"},
    **{WARM: "var(--warm)", GREY: "var(--other)", GREEN: "var(--green)", VIOLET: "var(--violet)"},
    RED: "var(--red)",
}
SERIES = (ACCENT, WARM, GREEN, VIOLET, GREY, RED)
"""Inks of curves beside each other."""
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # wider than what browsers put in its place: labels never collide
    "font.size": 9,  # points: 12 pixels of a page
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.axisbelow": True,
    "axes.grid.axis": "x",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,  # a label may hold a dollar sign
    "xtick.color": MUTED,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "svg.fonttype": "none",
    "svg.hashsalt": "fmriscale",
}
CURVE_STYLE = {**STYLE, "axes.grid.axis": "y", "ytick.color": MUTED}
"""Of charts whose values go up the y axis."""
PANEL = 3.45, 2.6
"""Size of a panel, inches: three stand beside each other, and one fills a phone."""


def write_html(path: Path, template: str, option: str, **content: Any) -> None:
    """Render one of the templates beside this file, in which all text is escaped, into a file."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fmriscale.reports", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["minus"] = lambda text: re.sub(r"(?<!\w)-(?=\d)", "\N{MINUS SIGN}", str(text))
    environment.filters["begin"] = first_upper
    page = environment.get_template(template).render(version=__version__, **content)
    try:
        atomic_write(path, page)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; choose another place for {option}") from error


def about_folder(folder: Path) -> dict[str, str]:
    """Return the name of what a folder holds, and its recipe."""
    settings = folder / "config.yaml"
    recipe = settings.read_text(errors="replace") if settings.exists() else ""
    return {"name": folder.resolve().name, "config": recipe}


def first_upper(text: str) -> str:
    """Start a sentence without touching the other letters (tSNR)."""
    return text[:1].upper() + text[1:]


def panels(n: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure of n panels side by side, each with lines across."""
    figure = Figure(figsize=(width, height), layout="constrained")
    row = list(figure.subplots(1, n, squeeze=False)[0])
    for axes in row:
        axes.grid(visible=True, axis="y")
    return figure, row


def swatch(ink: str, style: str = "-") -> str:
    """Return the background of a key: an ink, striped as its line is."""
    ink = PAGE_INKS.get(ink, ink)
    if style == "-":
        return ink
    on, period = {"--": (4, 6), "-.": (6, 8), ":": (2, 4)}[style]
    return f"repeating-linear-gradient(90deg, {ink} 0 {on}px, transparent 0 {period}px)"


def svg(figure: Figure, name: str, description: str) -> str:
    """Return a figure as markup that can stand in an HTML page."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure)
    with matplotlib.rc_context({"svg.hashsalt": name}):
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # figure_1, axes_1, ...: the same in every figure
    for stand_in, ink in PAGE_INKS.items():
        text = text.replace(stand_in, ink)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    width = figure.get_figwidth() * 96
    box = re.search(r'viewBox="[^"]*"', text)
    label = f'role="img" aria-label="{html.escape(description)}"'
    head = f'<svg class="drawn" {label} {box.group() if box else ""} style="width:{width:.0f}px">'
    return re.sub(r"\n\s*", "\n", head + text[text.index(">") + 1 :])
