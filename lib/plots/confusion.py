"""Which class was taken for which."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from lib.plots.canvas import (
    FAINT,
    GREY,
    INK,
    Picture,
    class_ticks,
    grid_side_in,
    new_figure,
    style,
    to_picture,
)
from lib.plots.letters import lettering

DARK_FROM = 0.55
"""Share from which on a number is written in white."""


def confusion_matrix(matrix: NDArray[np.integer], class_names: Sequence[str]) -> Picture:
    """Counts of predicted classes by actual class, shaded by their share of the actual class.

    Right predictions, on the diagonal, are shaded blue and wrong ones orange; a cell without number counts 0.

    Args:
        matrix: Images by actual (row) and predicted (column) class, shape (classes, classes), at least 0.
        class_names: In the order of the rows; any text.

    Returns:
        PNG and SVG.

    Raises:
        ValueError: If the matrix is not square, or has not one row a class.
    """
    matrix = np.asarray(matrix)
    count = len(class_names)
    if matrix.shape != (count, count) or count == 0:
        raise ValueError(f"the matrix has shape {matrix.shape}; expected ({count}, {count}), one row a class name")
    side = grid_side_in(count)
    figure = new_figure(side + 1.6, side)
    axes = figure.subplots()
    total = matrix.sum()
    style(axes, f"{np.trace(matrix)} of {total} images on the diagonal (right)")
    _shade(figure, axes, matrix)
    _write_counts(axes, matrix)
    written = lettering(class_names)
    counted = [f"{name} ({images})" for name, images in zip(written.names, matrix.sum(axis=1), strict=True)]
    class_ticks(axes, "x", written.names, written.fonts)
    class_ticks(axes, "y", counted, written.fonts)
    axes.set_xlabel("Predicted class")
    axes.set_ylabel("Actual class (images)")
    return to_picture(figure, written)


def _shade(figure: Figure, axes: Axes, matrix: NDArray[np.integer]) -> None:
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    right = np.eye(len(matrix), dtype=bool)
    for colours, hidden, label in (("Blues", ~right, "right"), ("Oranges", right, "wrong")):
        image = axes.imshow(np.ma.masked_where(hidden | (matrix == 0), share), cmap=colours, vmin=0, vmax=1)
        bar = figure.colorbar(
            image,
            ax=axes,
            shrink=min(0.6, 20 / len(matrix)),
            aspect=24,
            pad=0.02,
            format=PercentFormatter(1, decimals=0),
        )
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, colors=INK, color=GREY)
        bar.set_label(f"Share of the actual class, {label}", fontsize=9, color=INK)
    for edge in np.arange(len(matrix) + 1) - 0.5:
        axes.axhline(edge, color=FAINT, linewidth=0.5, zorder=2)
        axes.axvline(edge, color=FAINT, linewidth=0.5, zorder=2)


def _write_counts(axes: Axes, matrix: NDArray[np.integer]) -> None:
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    size = float(np.clip(120 / len(matrix), 5, 10))
    for row, column in zip(*np.nonzero(matrix), strict=True):
        colour = "white" if share[row, column] > DARK_FROM else INK
        axes.text(
            column,
            row,
            str(matrix[row, column]),
            ha="center",
            va="center",
            fontsize=size,
            color=colour,
            zorder=3,
        )
