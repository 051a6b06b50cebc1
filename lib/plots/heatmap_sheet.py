"""Where in an image the model looked: each image beside its Grad-CAM heatmap."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from numpy.typing import NDArray

from lib.plots.canvas import BLUE, INK, VERMILION, Picture, new_figure, to_picture
from lib.plots.letters import PLAIN_FONTS, lettering

COLUMNS, MOST_ROWS = 3, 12
HEAT = colormaps["viridis"]
"""Uniform in lightness, and readable with any colour vision."""
SHARE_OF_HEAT = 0.6
SIDE, BETWEEN, GAP, HEADER, FOOTER = 1.7, 0.06, 0.28, 0.46, 0.3
"""In inches: of an image, between it and its overlay, between pairs, and above and below them."""
PAIR = 2 * SIDE + BETWEEN + GAP


class Looked(NamedTuple):
    """One image and where the model looked.

    Attributes:
        image: RGB, shape (height, width, 3), uint8.
        heatmap: At least 0 where it matters (less counts as 0), shape (h, w) of any size; scaled to its own maximum.
        actual: Name of the actual class.
        predicted: Name of the predicted class.
        confidence: Probability of the predicted class, in [0, 1].
    """

    image: NDArray[np.uint8]
    heatmap: NDArray[np.floating]
    actual: str
    predicted: str
    confidence: float


def grad_cam_sheet(
    rows: Sequence[Looked | tuple[NDArray[np.uint8], NDArray[np.floating], str, str, float]],
    class_names: Sequence[str],
) -> Picture:
    """Each image beside a grey copy of it with the heatmap on top, with its actual and predicted class.

    Args:
        rows: 1 to 12 images with heatmap, actual and predicted name, and confidence, as `Looked` or as plain tuples.
        class_names: All of them, in the order of their indices.

    Returns:
        PNG and SVG.

    Raises:
        ValueError: If there is no row or more than 12, an image is not uint8 RGB, a heatmap is not a finite (h, w), or
            a row names another class.

    Source:
        Selvaraju et al., Grad-CAM, ICCV 2017.
    """
    looked = [Looked(*row) for row in rows]
    _check(looked)
    written = lettering(class_names)
    drawn = dict(zip(class_names, written.names, strict=True))
    if unknown := {name for row in looked for name in (row.actual, row.predicted)} - drawn.keys():
        raise ValueError(f"a row names {min(unknown)!r}, which is no class")
    sheet = _Sheet(len(looked), drawn, written.fonts)
    for place, row in enumerate(looked):
        sheet.draw(place, row)
    sheet.draw_scale()
    return to_picture(sheet.figure, written)


def _check(rows: Sequence[Looked]) -> None:
    if not 1 <= len(rows) <= MOST_ROWS:
        raise ValueError(f"{len(rows)} images for one sheet; expected 1 to {MOST_ROWS}")
    for row in rows:
        if row.image.dtype != np.uint8 or row.image.ndim != 3 or row.image.shape[2] != 3:  # noqa: PLR2004 - RGB
            raise ValueError(f"an image is {row.image.dtype} of shape {row.image.shape}; expected uint8 (h, w, 3)")
        if row.heatmap.ndim != 2 or not np.isfinite(row.heatmap).all():  # noqa: PLR2004 - (h, w)
            raise ValueError(f"a heatmap has shape {row.heatmap.shape}; expected (h, w), finite")


class _Sheet:
    """A grid of pairs, measured in inches from the top: text needs the same room above an image of any shape."""

    def __init__(self, count: int, names: Mapping[str, str], fonts: Sequence[str]) -> None:
        self._names, self._fonts = names, fonts
        self._columns = min(COLUMNS, count)
        lines = -(-count // self._columns)
        self._width, self._height = PAIR * self._columns - GAP, (HEADER + SIDE + GAP) * lines + FOOTER
        self.figure = new_figure(self._width, self._height)
        self.figure.set_layout_engine("none")

    def _axes(self, left: float, top: float, width: float, height: float) -> Axes:
        bottom = self._height - top - height
        box = (left / self._width, bottom / self._height, width / self._width, height / self._height)
        axes = self.figure.add_axes(box)
        axes.set_axis_off()
        return axes

    def draw(self, place: int, row: Looked) -> None:
        line, column = divmod(place, self._columns)
        left, top = column * PAIR, line * (HEADER + SIDE + GAP)
        heat = _heat_of(row)
        for shift, pixels in ((0.0, row.image), (SIDE + BETWEEN, _overlay(row.image, heat))):
            axes = self._axes(left + shift, top + HEADER, SIDE, SIDE)
            axes.imshow(pixels, interpolation="antialiased")
            axes.set_anchor("N")
        right = row.actual == row.predicted
        actual, predicted = self._names[row.actual], self._names[row.predicted]
        verdict = f"{'✓' if right else '✗'} {predicted}, {row.confidence:.0%}"
        header = self._axes(left, top, PAIR - GAP, HEADER)
        write = partial(header.text, fontsize=9, va="bottom", parse_math=False, transform=header.transAxes)
        write = partial(write, fontfamily=self._fonts)
        weight = "bold" if self._fonts == PLAIN_FONTS else "normal"  # in which others are known to have the letters
        write(0, 0.52, verdict, color=BLUE if right else VERMILION, fontweight=weight)
        write(0, 0.1, f"actual: {actual}", color=INK)

    def draw_scale(self) -> None:
        """What the colours mean; below everything."""
        axes = self._axes(0, self._height - FOOTER + 0.12, 1.3, 0.11)
        axes.imshow(np.linspace(0, 1, 64)[None], cmap=HEAT, aspect="auto")
        text = "Contribution to the predicted class, from none to the image's highest"
        axes.text(1.06, 0.5, text, transform=axes.transAxes, va="center", fontsize=8, color=INK)


def _heat_of(row: Looked) -> NDArray[np.float64]:
    """The heatmap in the size of the image, scaled to [0, 1]; all 0 if nothing matters."""
    height, width = row.image.shape[:2]
    heat = np.maximum(np.asarray(row.heatmap, np.float64), 0)
    highest = heat.max()
    heat = heat / highest if highest > 0 else heat
    return np.clip(np.asarray(cv2.resize(heat, (width, height), interpolation=cv2.INTER_CUBIC), np.float64), 0, 1)


def _overlay(image: NDArray[np.uint8], heat: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colours of the heat over a grey copy: the image's own colours would be taken for heat."""
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float64)[..., None]
    mixed: NDArray[np.float64] = (1 - SHARE_OF_HEAT) * grey + SHARE_OF_HEAT * 255 * HEAT(heat)[..., :3]
    return mixed.round().astype(np.uint8)
