"""Where to write labels so that they neither hide each other nor leave the picture."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.text import Text
from numpy.typing import NDArray

from lib.plots.canvas import GREY

STEPS = 400
SHOVE = 0.55
"""Share of an overlap by which each of two labels gives way, so that together they part."""
PULL = 0.02
"""Share of the way back to its anchor that a label goes in each step of the first half."""
MARGIN_PX = 2
LABEL_BOX: Any = {"facecolor": "white", "alpha": 0.72, "edgecolor": "none", "boxstyle": "round,pad=0.15"}
"""Behind a label; an outline of its letters would turn text in an SVG into paths."""


def spread_labels(
    anchors: NDArray[np.floating], sizes: NDArray[np.floating], bounds: tuple[float, float]
) -> NDArray[np.float64]:
    """Centres for labels near their anchors, such that no two boxes overlap if there is room.

    Overlapping boxes push each other away along the axis that needs the smaller move; in the first half of the
    steps, a weak pull brings them back to their anchors.

    Args:
        anchors: Where the labels belong, shape (n, 2), in pixels.
        sizes: Width and height of the boxes, shape (n, 2), in pixels.
        bounds: Width and height of the picture in pixels; boxes stay inside it.

    Returns:
        Shape (n, 2), in pixels.
    """
    limits = np.array(bounds, float)
    low, high = sizes / 2, np.maximum(limits - sizes / 2, sizes / 2)
    home: NDArray[np.float64] = np.clip(np.asarray(anchors, np.float64), low, high)
    at = home
    rank = np.arange(len(at))
    later = np.sign(rank[:, None] - rank[None])[..., None]  # which of two at the same place goes which way
    apart = (sizes[:, None] + sizes[None]) / 2
    for step in range(STEPS):
        delta = at[:, None] - at[None]
        overlap = apart - np.abs(delta)
        hit = (overlap > 0).all(axis=2) & ~np.eye(len(at), dtype=bool)
        if step > STEPS // 2 and not hit.any():
            break
        along_x = overlap[..., 0] < overlap[..., 1]
        away = np.where(delta == 0, later, np.sign(delta))
        shove = away * overlap * hit[..., None] * np.stack([along_x, ~along_x], axis=2)
        at = at + SHOVE * shove.sum(axis=1) / np.maximum(hit.sum(axis=1), 1)[:, None]
        if step < STEPS // 2:
            at = at + PULL * (home - at)
        at = np.clip(at, low, high)
    return at


def place_texts(axes: Axes, texts: list[Text], *, shift_pt: tuple[float, float] = (0, 0)) -> None:
    """Move texts, which stand centred on their anchors, apart; a thin line leads from a text moved far to its anchor.

    Layout must be final: the figure is measured as it stands.

    Args:
        axes: Where the texts are; they stay inside.
        texts: At their anchors, in data coordinates.
        shift_pt: Where a text belongs, right of and above its anchor, in points.
    """
    if not texts:
        return
    frame = axes.get_window_extent()
    boxes = [text.get_window_extent() for text in texts]
    sizes = np.array([[box.width, box.height] for box in boxes]) + 2 * MARGIN_PX
    anchors = np.asarray(axes.transData.transform([text.get_position() for text in texts]))
    wanted = anchors + np.array(shift_pt) * axes.figure.dpi / 72
    corner = np.array([frame.x0, frame.y0])
    moved = spread_labels(wanted - corner, sizes, (frame.width, frame.height)) + corner
    to_data = axes.transData.inverted()
    for text, anchor, before, after, size in zip(texts, anchors, wanted, moved, sizes, strict=True):
        start, end = to_data.transform([anchor, after])
        text.set_position((float(end[0]), float(end[1])))
        if (np.abs(before - after) > size / 2).any():
            line = Line2D([start[0], end[0]], [start[1], end[1]], color=GREY, linewidth=0.7)
            line.set_zorder(text.get_zorder() - 0.5)
            axes.add_line(line)
