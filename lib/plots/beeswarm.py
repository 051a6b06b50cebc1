"""Marks side by side, so that none hides another: each keeps its height, as near to a middle line as there is room."""

from math import sqrt

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.collections import PathCollection

from lib.plots.marks import FloatArray

ROOM = 1.05
"""How far apart marks are put that would touch, in their distance when they do."""


def keep_side_by_side(axes: Axes, marks: PathCollection, middle: float, width: float) -> None:
    """Have marks placed whenever they are drawn: how they lie side by side depends on their size in pixels.

    Args:
        axes: Where they are.
        marks: Of one size, without an outline.
        middle: Of the swarm, in data coordinates.
        width: Of the swarm, in data coordinates; marks that find no room in it lie at its ends.
    """
    draw = marks.draw

    def place_and_draw(renderer: RendererBase) -> None:
        _place(axes, marks, middle, width / 2)
        draw(renderer)

    marks.draw = place_and_draw  # type: ignore[method-assign] # as seaborn does: a subclass would not be rasterized


def _place(axes: Axes, marks: PathCollection, middle: float, half: float) -> None:
    heights = np.asarray(marks.get_offsets())[:, 1]
    pixels = np.asarray(axes.transData.transform(np.stack([np.full(len(heights), middle), heights], axis=1)))
    diameter = float(np.sqrt(marks.get_sizes()[0])) * (axes.figure.dpi / 72)
    order = np.argsort(pixels[:, 1])
    pixels[order, 0] = side_by_side(pixels[order, 1], float(pixels[0, 0]), diameter)
    across = axes.transData.inverted().transform(pixels)[:, 0]
    marks.set_offsets(np.stack([np.clip(across, middle - half, middle + half), heights], axis=1))


def side_by_side(heights: FloatArray, middle: float, diameter: float) -> FloatArray:
    """Where discs of one size lie if each is put as near to a middle line as those before it let it.

    Args:
        heights: Of their centres, rising, shape (n,), n at least 1.
        middle: Of the line.
        diameter: Of a disc.

    Returns:
        How far across their centres lie, shape (n,).

    Source:
        seaborn 0.13, `categorical.Beeswarm`, whose numbers these are in every bit. In Python it compares each place
        with each disc: 2 s for 4,000, and a picture is drawn four times and more.
    """
    across = np.full(len(heights), middle)
    first = 0
    for number in range(1, len(heights)):
        while heights[number] - heights[first] >= diameter:
            first += 1
        if first < number:
            rises = heights[number] - heights[first:number]
            across[number] = _nearest_free(across[first:number], rises, middle, diameter)
    return across


def _nearest_free(across: FloatArray, rises: FloatArray, middle: float, diameter: float) -> float:
    """The middle, or the place beside one of the discs a little lower that is the nearest to it and touches none."""
    reach = np.array([sqrt(max(diameter**2 - rise**2, 0)) * ROOM for rise in rises.tolist()])
    beside = np.stack([across - reach, across + reach], axis=1)
    beside[1::2] = beside[1::2, ::-1]  # of two places as near, not always the left one
    places = np.append(middle, beside)
    places = places[np.argsort(np.abs(places - middle))]
    free = ((across - places[:, None]) ** 2 + rises**2 >= diameter * diameter).all(axis=1)
    return float(places[free.argmax()])  # there is one: beside the outermost disc
