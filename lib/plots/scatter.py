"""Every prediction as a mark in a grid of classes: the confusion matrix before it is counted."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from lib.plots.canvas import (
    BLUE,
    FAINT,
    GREY,
    Picture,
    class_ticks,
    grid_side_in,
    new_figure,
    style,
    to_picture,
    too_many_marks,
)
from lib.plots.letters import Lettering, lettering
from lib.plots.marks import (
    STYLES,
    FloatArray,
    IntArray,
    check_classes,
    check_probabilities,
    right_count,
    right_wrong_legend,
)

JITTER = 0.34
"""Furthest move of a mark from the centre of its cell, in cells."""
MARK_BYTES = 620
"""Of a mark in an SVG, where each size has its own outline."""


def predicted_scatter(
    actual: IntArray,
    predicted: IntArray,
    confidence: FloatArray,
    class_names: Sequence[str],
    *,
    seed: int = 0,
) -> Picture:
    """Predicted against actual class, one mark an image, moved a little at random to be seen apart.

    Right predictions are blue dots on the marked diagonal, wrong ones vermilion crosses; a larger mark is a
    more confident prediction.

    Args:
        actual: Index of the actual class, shape (n,), in [0, classes).
        predicted: Index of the predicted class, shape (n,), in [0, classes).
        confidence: Probability of the predicted class, shape (n,), in [0, 1].
        class_names: In the order of the indices.
        seed: Seed of the random moves; the same seed gives the same bytes.

    Returns:
        PNG and SVG.

    Raises:
        ValueError: If lengths differ, an index is no class, or a confidence is outside [0, 1].
    """
    check_classes(actual, predicted, class_names)
    check_probabilities(confidence, (len(actual),))
    count = len(class_names)
    side = max(grid_side_in(count), 6.2)
    figure = new_figure(side + 1, side)
    axes = style(figure.subplots(), right_count(actual == predicted))
    _mark_diagonal(axes, count)
    moves = np.random.default_rng(seed).uniform(-JITTER, JITTER, (2, len(actual)))
    scale = float(np.clip(900 / max(len(actual), 1), 0.25, 1))
    for right, colour, mark in STYLES:
        rows = (actual == predicted) == right
        axes.scatter(
            (actual + moves[0])[rows],
            (predicted + moves[1])[rows],
            s=((8 if right else 18) + 52 * confidence[rows] ** 2) * scale * (1 if right else 1.4),
            c=colour,
            marker=mark,
            alpha=0.65 if right else 0.9,
            linewidths=0.4,
            edgecolors="white",
            zorder=3,
            rasterized=too_many_marks(len(actual), MARK_BYTES),
        )
    written = lettering(class_names)
    _class_grid(axes, written)
    right_wrong_legend(axes)
    return to_picture(figure, written)


def _mark_diagonal(axes: Axes, count: int) -> None:
    corners = np.arange(count) - 0.5
    axes.bar(np.arange(count), 1, width=1, bottom=corners, color=BLUE, alpha=0.09, zorder=0)
    axes.plot([-0.5, count - 0.5], [-0.5, count - 0.5], color=GREY, linewidth=0.8, linestyle="--", zorder=1)


def _class_grid(axes: Axes, written: Lettering) -> None:
    class_ticks(axes, "x", written.names, written.fonts)
    class_ticks(axes, "y", written.names, written.fonts)
    edges = np.arange(len(written.names) + 1) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color=FAINT, linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    axes.set(xlim=(edges[0], edges[-1]), ylim=(edges[0], edges[-1]), aspect="equal")
    axes.set_xlabel("Actual class")
    axes.set_ylabel("Predicted class (larger mark: more confident)")
