"""The paper all plots are drawn on: figure, axes, names of classes, and the way to the bytes of PNG and SVG."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from lib.plots.letters import PLAIN_FONTS, Lettering, with_names

BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8A8F98"
"""Okabe and Ito, Color Universal Design, 2008; the grey is ours."""
INK, FAINT = "#22262D", "#E3E6EA"
DPI, SHARPEST_DPI = 120, 200
WIDEST_PX = 2400
PAGE_MARGIN_IN = 0.12
MANY_CLASSES = 30
"""From here on, names and marks get smaller."""
MOST_MARK_BYTES = 900_000
"""Marks that would take more than this in an SVG are an image inside it."""
SVG_IMAGE_PIXELS = 1_000_000
"""Of a whole picture; what is an image inside the SVG has that resolution, which bounds the file to about 1 MB."""
SVG_TEXT: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lib.plots",
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
}
"""Text stays text, in the font that its room was measured with or the one with nearly its widths."""


@dataclass(frozen=True)
class Picture:
    """One picture as the bytes of a PNG file and of an SVG file.

    Attributes:
        png: For a screen, `DPI` dots per inch or less.
        svg: For print and for a closer look. Text is text; many marks are an image inside it.
    """

    png: bytes
    svg: bytes


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty white figure with a canvas of its own; never wider or higher than `WIDEST_PX`."""
    dpi = min(DPI, WIDEST_PX / max(width_in, height_in))
    figure = Figure(figsize=(width_in, height_in), dpi=dpi, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def grid_side_in(count: int) -> float:
    """Side in inches of a plot with one cell for every pair of `count` classes."""
    return 3.2 + 0.5 * min(count, 16) + 0.12 * max(count - 16, 0)


def style(axes: Axes, title: str, *, grid: Literal["x", "y", "both"] | None = None) -> Axes:
    """Quiet axes: a title on the left, two spines, a faint grid behind the data."""
    axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold", pad=10, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK, labelsize=9, color=GREY)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=INK, fontsize=10)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color=FAINT, linewidth=0.8)
    return axes


def class_ticks(axes: Axes, axis: Literal["x", "y"], labels: Sequence[str], fonts: Sequence[str] = PLAIN_FONTS) -> None:
    """One tick a class, at 0, 1, 2 ...; below the x axis the names stand upright or slanted."""
    size = 9 if len(labels) <= MANY_CLASSES else 7
    ticks = axes.set_yticks if axis == "y" else axes.set_xticks
    set_ticks = partial(ticks, range(len(labels)), labels, fontsize=size, color=INK, parse_math=False, fontfamily=fonts)
    if axis == "y":
        set_ticks()
    elif len(labels) > MANY_CLASSES:
        set_ticks(rotation=90)
    else:
        set_ticks(rotation=40, ha="right", rotation_mode="anchor")


def legend(axes: Axes, **options: Any) -> None:
    """A frameless legend above the right end of the axes, clear of the data."""
    draw = partial(axes.legend, loc="lower right", bbox_to_anchor=(1, 1), ncols=4, borderaxespad=0.4)
    draw(frameon=False, fontsize=9, labelcolor=INK, handletextpad=0.4, columnspacing=1.2, **options)


def unmarked(texts: Iterable[Text]) -> None:
    """Have the letters of texts of a legend taken as they are: a name with two $ is no formula."""
    for text in texts:
        text.set_parse_math(False)


def too_many_marks(count: int, bytes_each: int) -> bool:
    """Whether marks are to be an image inside the SVG, given what one takes in bytes as a path."""
    return count * bytes_each > MOST_MARK_BYTES


def to_picture(figure: Figure, written: Lettering | None = None) -> Picture:
    """Both files; without date, program or random identifiers, so that the bytes depend on the content only.

    Args:
        figure: Complete.
        written: How names of classes are drawn in it, if any are: in the SVG they are there as they are.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # both files keep the places and the page that are found here
    page = figure.get_tightbbox().padded(PAGE_MARGIN_IN)
    width_in, height_in = figure.get_size_inches()
    image_dpi = min(SHARPEST_DPI, (SVG_IMAGE_PIXELS / (width_in * height_in)) ** 0.5)
    png, svg = BytesIO(), BytesIO()
    figure.savefig(png, format="png", dpi=figure.dpi, bbox_inches=page, metadata={"Software": None})
    with rc_context(SVG_TEXT):
        figure.savefig(svg, format="svg", dpi=image_dpi, bbox_inches=page, metadata={"Date": None, "Creator": None})
    if written is None or not written.without_font:
        return Picture(png.getvalue(), svg.getvalue())
    return Picture(png.getvalue(), with_names(svg.getvalue().decode(), written).encode())
