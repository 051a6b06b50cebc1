"""The paper all plots are drawn on: figure, axes, names of classes, and the way to PNG bytes."""

from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8A8F98"
"""Okabe and Ito, Color Universal Design, 2008; the grey is ours."""
INK, FAINT = "#22262D", "#E3E6EA"
DPI = 120
WIDEST_PX = 2400
LONGEST_NAME = 28
MANY_CLASSES = 30
"""From here on, names and marks get smaller."""


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


def class_ticks(axes: Axes, axis: Literal["x", "y"], labels: Sequence[str]) -> None:
    """One tick a class, at 0, 1, 2 ...; below the x axis the names stand upright or slanted."""
    size = 9 if len(labels) <= MANY_CLASSES else 7
    text: dict[str, Any] = {"fontsize": size, "color": INK, "parse_math": False}
    if axis == "y":
        axes.set_yticks(range(len(labels)), labels, **text)
        return
    if len(labels) > MANY_CLASSES:
        axes.set_xticks(range(len(labels)), labels, rotation=90, **text)
    else:
        axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right", rotation_mode="anchor", **text)


def legend(axes: Axes, **options: Any) -> None:
    """A frameless legend above the right end of the axes, clear of the data."""
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 4, "borderaxespad": 0.4}
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, handletextpad=0.4, columnspacing=1.2, **(place | options))


def display_names(class_names: Sequence[str]) -> list[str]:
    """Class names as the plot font can show them: long ones cut in the middle, foreign ones by number."""
    return [_display_name(name, index) for index, name in enumerate(class_names)]


def _display_name(name: str, index: int) -> str:
    if not name.strip() or any(ord(letter) not in _drawable() for letter in name):
        return f"class no. {index + 1}"
    if len(name) <= LONGEST_NAME:
        return name
    kept = LONGEST_NAME - 1
    return f"{name[: kept - kept // 2]}…{name[-(kept // 2) :]}"


@lru_cache(maxsize=1)
def _drawable() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties())).get_charmap()) - set(range(ord(" ")))


def to_png(figure: Figure) -> bytes:
    """The PNG file; without the name of the program, so that the bytes depend on the content only."""
    buffer = BytesIO()
    options: dict[str, Any] = {"dpi": figure.dpi, "bbox_inches": "tight", "pad_inches": 0.12}
    figure.savefig(buffer, format="png", metadata={"Software": None}, **options)
    return buffer.getvalue()
