"""What a model gains by leaving the images to people that it is least sure of."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from lib.plots.canvas import BLUE, INK, VERMILION, Picture, new_figure, style, to_picture
from lib.plots.label_places import LABEL_BOX, place_texts

LOWEST_SPAN = 0.05
"""The accuracy axis shows at least this much, so that a flat curve looks flat."""
HEADROOM = 0.16
"""Room for labels above 100 %, as a share of the accuracies shown."""
ABOVE_PT = (12, 13)
"""From a mark to its label: a curve that falls to the right leaves room there."""
TOUCHING_PX = 32
"""Marks nearer than this share a label, since two would lie on each other and on the marks."""


def abstention_curve(
    coverage: NDArray[np.floating],
    accuracy: NDArray[np.floating],
    thresholds: Sequence[Mapping[str, Any]] = (),
) -> Picture:
    """Accuracy of the images that are answered against their share, the surest first.

    A curve that rises to the left is a confidence that knows what it does not know. Diamonds say where a lowest
    accepted confidence leads.

    Args:
        coverage: Share of images answered, shape (n,), in (0, 1], rising.
        accuracy: Accuracy of the answered ones, shape (n,), in [0, 1].
        thresholds: `min_confidence`, `answered` (share) and `accuracy` (None if nothing is answered, then it is
            not drawn) of each threshold to mark.

    Returns:
        PNG and SVG.

    Raises:
        ValueError: If there is no point, the lengths differ, or a value is outside [0, 1].

    Source:
        Geifman and El-Yaniv, Selective Classification for Deep Neural Networks, NeurIPS 2017 (risk is 1 - accuracy).
    """
    if len(coverage) == 0 or coverage.shape != accuracy.shape or coverage.ndim != 1:
        raise ValueError(f"coverage has shape {coverage.shape} and accuracy {accuracy.shape}; expected (n,), n > 0")
    if not all(np.all((values >= 0) & (values <= 1 + 1e-6)) for values in (coverage, accuracy)):
        raise ValueError("coverage and accuracy must be in [0, 1]")
    figure = new_figure(7.6, 4.8)
    axes = style(figure.subplots(), f"{accuracy[-1]:.1%} right when {_share(coverage[-1])} answered", grid="both")
    axes.plot(coverage, accuracy, color=BLUE, linewidth=2, zorder=3)
    answered = [row for row in thresholds if row["accuracy"] is not None]
    lowest = min([*accuracy.tolist(), *(row["accuracy"] for row in answered)])
    span = max((1 - lowest) * 1.12, LOWEST_SPAN)
    axes.set(xlim=(-0.01, 1.04), ylim=(1 - span, 1 + HEADROOM * span))
    axes.set_yticks([tick for tick in axes.get_yticks() if 1 - span <= tick <= 1 + 1e-9])
    note = " (◆ lowest accepted confidence)" if answered else ""
    axes.set_xlabel(f"Share of images answered, most confident first{note}")
    axes.set_ylabel("Accuracy on answered images")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    figure.draw_without_rendering()
    _mark_thresholds(axes, answered)
    return to_picture(figure)


def _share(coverage: float) -> str:
    return "all are" if coverage >= 1 - 1e-9 else f"{coverage:.0%} are"


def _mark_thresholds(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """One mark a threshold, and one label, from the lowest to the highest, for marks that touch each other."""
    texts, rows = [], sorted(rows, key=lambda row: row["min_confidence"])
    marks = np.array([(row["answered"], row["accuracy"]) for row in rows]).reshape(-1, 2)
    axes.plot(*marks.T, "D", color=VERMILION, markersize=6.5, markeredgecolor="white", zorder=6)
    for touching in _touching(axes.transData.transform(marks)):
        confidences = [f"{rows[index]['min_confidence']:.0%}" for index in touching]
        label = "≥ " + " to ".join(dict.fromkeys([confidences[0], confidences[-1]]))
        x, y = marks[touching].mean(axis=0)
        text = axes.text(x, y, label, fontsize=8.5, color=INK, bbox=LABEL_BOX, ha="center", va="center", zorder=5)
        texts.append(text)
    place_texts(axes, texts, shift_pt=ABOVE_PT)


def _touching(places_px: NDArray[np.floating]) -> list[list[int]]:
    """Indices of neighbours in a row that are near each other."""
    groups: list[list[int]] = []
    for index, place in enumerate(places_px):
        if groups and np.linalg.norm(place - places_px[groups[-1][-1]]) < TOUCHING_PX:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
