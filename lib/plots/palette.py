"""How classes are told apart: by hue, and where hues run out, by lightness and outline or by dashes too."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_hex, to_rgb
from numpy.typing import NDArray

from lib.plots.canvas import BLUE, GREEN, ORANGE, VERMILION

PURPLE, SKY, YELLOW, OLIVE = "#CC79A7", "#56B4E9", "#F0E442", "#857A00"
HUES = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY)
"""Of Okabe and Ito; without yellow, which needs a darker outline on white, and black, which is the mean."""
FEW_CLASSES = 2 * len(HUES)
"""Up to here every class has a look of its own."""
DASHED = (0, (3.2, 1.6))
PALER = 0.62
"""How far the second fill of a hue is moved towards white."""


@dataclass(frozen=True)
class Look:
    """How a class is drawn.

    Attributes:
        colour: Colour of lines and outlines, as #rrggbb.
        fill: Fill of marks: the colour itself, or a pale one that needs its outline.
        pale: Whether this is the second look of its hue: a pale mark with an outline, or a dashed line.
    """

    colour: str
    fill: str
    pale: bool


def _pale(hue: str) -> tuple[float, float, float]:
    red, green, blue = (part * (1 - PALER) + PALER for part in to_rgb(hue))
    return red, green, blue


LOOKS = (
    tuple(Look(hue, hue, pale=False) for hue in HUES)
    + tuple(Look(hue, to_hex(_pale(hue)), pale=True) for hue in HUES[:-1])
    + (Look(OLIVE, YELLOW, pale=True),)
)


def looks_apart(centres: NDArray[np.floating]) -> list[Look]:
    """Looks for more classes than there are looks: two classes with the same one lie as far apart as can be.

    Greedy, class by class: each takes the look whose nearest class so far is furthest away.

    Args:
        centres: Where each class lies, shape (classes, 2).
    """
    chosen: list[int] = []
    for index, centre in enumerate(centres):
        distance = np.linalg.norm(centres[:index] - centre, axis=1)
        taken = np.array(chosen, int)
        nearest = [distance[taken == look].min(initial=np.inf) for look in range(len(LOOKS))]
        chosen.append(int(np.argmax(nearest)))
    return [LOOKS[look] for look in chosen]


def class_looks(classes: int, centres: NDArray[np.floating]) -> Sequence[Look]:
    """One look a class: its own for up to `FEW_CLASSES`, else shared with classes that lie far away."""
    return LOOKS[:classes] if classes <= FEW_CLASSES else looks_apart(centres)
