"""Every prediction as a mark at the probability it gave to the actual class, in one swarm a class."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import Affine2D

from lib.plots.beeswarm import keep_side_by_side
from lib.plots.canvas import (
    BLUE,
    GREY,
    MANY_CLASSES,
    VERMILION,
    Picture,
    class_ticks,
    new_figure,
    style,
    to_picture,
    too_many_marks,
)
from lib.plots.letters import lettering
from lib.plots.marks import (
    RIGHT_MARK,
    STYLES,
    WRONG_MARK,
    FloatArray,
    IntArray,
    check_classes,
    check_probabilities,
    right_count,
    right_wrong_legend,
)

SWARM_DIAMETERS_PT = (6.0, 5.0, 4.0, 3.0, 2.2, 1.7)
"""Tried from large to small until every class has room."""
SWARM_WIDTH = 0.8
"""Share of a class's slot that a swarm may fill."""
MARK_BYTES = 540
"""Of a mark in an SVG, where each has an outline of its own."""


def predicted_swarm(
    actual: IntArray,
    predicted: IntArray,
    probabilities: FloatArray,
    class_names: Sequence[str],
    *,
    seed: int = 0,
) -> Picture:
    """The probability predicted for the actual class, one mark an image, as a swarm for each actual class.

    A class that the model knows is a swarm at the top; one it misses has marks below, and how far below tells
    a near miss from a confident mistake, which neither the scatter nor the confusion matrix shows. Every mark
    lies at its true height. Where a class has too many images to lie side by side even as the smallest marks,
    it is spread at random instead, its name carries a ~, and the axis says so.

    Args:
        actual: Index of the actual class, shape (n,), in [0, classes).
        predicted: Index of the predicted class, shape (n,), in [0, classes).
        probabilities: Probabilities of every class, shape (n, classes), in [0, 1].
        class_names: In the order of the indices.
        seed: Seed of the random spread.

    Returns:
        PNG and SVG.

    Raises:
        ValueError: If shapes differ, an index is no class, or a probability is outside [0, 1].
    """
    check_classes(actual, predicted, class_names)
    check_probabilities(probabilities, (len(actual), len(class_names)))
    count = len(class_names)
    figure = new_figure(max(6.0, 3.2 + min(0.75 * count, 7.5 + 0.16 * count)), 5.6 if count <= MANY_CLASSES else 6.6)
    axes = style(figure.subplots(), right_count(actual == predicted), grid="y")
    heights = probabilities[np.arange(len(actual)), actual]
    marks = pd.DataFrame({"actual": actual, "height": heights, "right": actual == predicted})
    written = lettering(class_names)
    _prepare_swarm_axes(axes, written.names, written.fonts)
    figure.draw_without_rendering()
    diameter_pt, crowded = _choose_marks(axes, marks)
    if crowded:
        marked = [f"~ {name}" if index in crowded else name for index, name in enumerate(written.names)]
        class_ticks(axes, "x", marked, written.fonts)
        axes.set_xlabel("Actual class (~ too many images for a swarm: spread at random)")
    _draw_swarms(axes, marks[~marks["actual"].isin(crowded)], diameter_pt, count)
    _draw_spread(axes, marks[marks["actual"].isin(crowded)], diameter_pt, seed)
    figure.draw_without_rendering()  # its second layout, after which places change no more, not even in their last bits
    _prepare_swarm_axes(axes, [label.get_text() for label in axes.get_xticklabels()], written.fonts)
    return to_picture(figure, written)


def _prepare_swarm_axes(axes: Axes, labels: Sequence[str], fonts: Sequence[str]) -> None:
    count = len(labels)
    class_ticks(axes, "x", labels, fonts)
    axes.set(xlim=(-0.5, count - 0.5), ylim=(-0.03, 1.03))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylabel("Probability predicted for the actual class")
    if not axes.get_xlabel():
        axes.set_xlabel("Actual class")
        axes.axhline(1 / count, color=GREY, linestyle=":", linewidth=1.2, zorder=0)
        axes.text(
            1.002,
            1 / count,
            " chance",
            transform=axes.get_yaxis_transform(),
            color=GREY,
            fontsize=8,
            va="center",
        )
        right_wrong_legend(axes)


def _choose_marks(axes: Axes, marks: pd.DataFrame) -> tuple[float, set[int]]:
    """The largest mark with which all classes fit, or the smallest one and the classes that do not."""
    box = axes.get_window_extent()
    points_per_px = 72 / axes.figure.dpi
    slot_pt = box.width * points_per_px / (axes.get_xlim()[1] - axes.get_xlim()[0])
    height_pt = box.height * points_per_px / (axes.get_ylim()[1] - axes.get_ylim()[0])
    crowded: set[int] = set()
    for diameter_pt in SWARM_DIAMETERS_PT:
        room = int(SWARM_WIDTH * slot_pt / diameter_pt)
        crowds = {
            index: _crowd(of_class["height"].to_numpy() * height_pt, diameter_pt)
            for index, of_class in marks.groupby("actual")
        }
        crowded = {int(str(index)) for index, crowd in crowds.items() if crowd > room}
        if not crowded:
            break
    return diameter_pt, crowded


def _crowd(heights_pt: FloatArray, diameter_pt: float) -> int:
    """Most marks with centres within one diameter of height: as many places in a row are always enough."""
    ordered = np.sort(heights_pt)
    return int((np.searchsorted(ordered, ordered + diameter_pt, side="right") - np.arange(len(ordered))).max())


def _draw_swarms(axes: Axes, marks: pd.DataFrame, diameter_pt: float, count: int) -> None:
    """A swarm for each class, in whose marks right and wrong differ in colour and shape."""
    outlines = {right: _outline(right) for right in (True, False)}
    for index in range(count):
        of_class = marks[marks["actual"] == index]
        drawn = axes.scatter(
            of_class["actual"].astype(float),
            of_class["height"],
            s=diameter_pt**2,
            c=[BLUE if right else VERMILION for right in of_class["right"]],
            linewidths=0,
            zorder=3,
            rasterized=too_many_marks(len(marks), MARK_BYTES),
        )
        if len(of_class):
            drawn.set_paths([outlines[right] for right in of_class["right"]])
        if len(of_class) > 1:
            keep_side_by_side(axes, drawn, index, SWARM_WIDTH)


def _outline(right: bool) -> Path:
    """A cross reaches a little further than a dot of the same area looks."""
    mark = MarkerStyle(RIGHT_MARK if right else WRONG_MARK)
    return mark.get_path().transformed(mark.get_transform() + Affine2D().scale(1 if right else 1.3))


def _draw_spread(axes: Axes, marks: pd.DataFrame, diameter_pt: float, seed: int) -> None:
    moves = np.random.default_rng(seed).uniform(-SWARM_WIDTH / 2, SWARM_WIDTH / 2, len(marks))
    for right, colour, mark in STYLES:
        rows = (marks["right"] == right).to_numpy()
        x = marks["actual"].to_numpy() + moves
        size = diameter_pt**2 * (1 if right else 2)
        axes.scatter(
            x[rows],
            marks["height"][rows],
            s=size,
            c=colour,
            marker=mark,
            linewidths=0,
            alpha=0.7,
            zorder=3,
            rasterized=too_many_marks(len(marks), MARK_BYTES),
        )
