"""How far the confidence of a model can be believed."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from lib.plots.canvas import (
    BLUE,
    GREY,
    INK,
    VERMILION,
    Picture,
    new_figure,
    style,
    to_picture,
)
from lib.plots.marks import check_confidence
from lib.plots.proportion import wilson_interval

Judged = tuple[NDArray[np.floating], NDArray[np.bool_]]
"""Confidence in [0, 1] and whether the prediction was right, both of shape (n,)."""
HISTOGRAM_BINS = 20


def reliability(before: Judged | None, after: Judged, *, bins: int = 15) -> Picture:
    """Accuracy against confidence: a model that knows how sure it may be stays on the diagonal.

    Above: the accuracy in each bin of confidence, with its 95 % Wilson interval, and the expected calibration
    error, sum over bins of (n_b / n) * |accuracy_b - confidence_b|. Below: how many images each bin holds. Before
    temperature scaling on the left, after it on the right.

    Args:
        before: Confidence (probability of the predicted class, shape (n,), in [0, 1]) and whether the prediction
            was right (shape (n,)), before temperature scaling; None if there was none, then one side is drawn.
        after: The same for the probabilities that the model gives.
        bins: Number of equal-width bins on [0, 1]; the last includes 1.

    Returns:
        PNG and SVG.

    Raises:
        ValueError: If arrays are empty, their lengths differ, or a confidence is outside [0, 1].

    Source:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, figure 1 and equation 3.
    """
    sides = [("", after)] if before is None else [("Before scaling: ", before), ("After scaling: ", after)]
    for _, (confidence, correct) in sides:
        check_confidence(confidence, correct)
    figure = new_figure(1.2 + 5.4 * len(sides), 6)
    rows = figure.subplots(2, len(sides), sharex=True, sharey="row", height_ratios=(3.2, 1), squeeze=False)
    for (above, below), (when, judged) in zip(rows.T, sides, strict=True):
        _draw_side(above, below, when, judged, bins)
    rows[0, 0].set_ylabel("Accuracy")
    rows[1, 0].set_ylabel("Images")
    handles, labels = rows[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False, fontsize=9, labelcolor=INK)
    return to_picture(figure)


def _draw_side(above: Axes, below: Axes, when: str, judged: Judged, bins: int) -> None:
    confidence, correct = judged
    in_bin = np.minimum((confidence * bins).astype(int), bins - 1)
    images = np.bincount(in_bin, minlength=bins)
    right = np.bincount(in_bin, weights=correct, minlength=bins).astype(int)
    mean = np.bincount(in_bin, weights=confidence, minlength=bins) / np.maximum(images, 1)
    error = float(np.abs(right - mean * images).sum() / len(confidence))
    title = f"{when}expected calibration error {error:.3f}"
    _draw_accuracy(style(above, title[0].upper() + title[1:], grid="both"), mean, right, images)
    style(below, "", grid="y").bar(np.arange(bins) / bins, images, width=0.94 / bins, align="edge", color=GREY)
    below.set(xlabel="Confidence (probability of the predicted class)", xlim=(0, 1.01))
    below.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    below.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def _draw_accuracy(
    axes: Axes, mean: NDArray[np.floating], right: NDArray[np.integer], images: NDArray[np.integer]
) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2, label="ideal")
    filled = np.flatnonzero(images)
    accuracy = right[filled] / images[filled]
    ends = np.array([wilson_interval(int(right[i]), int(images[i])) for i in filled]).T
    axes.errorbar(
        mean[filled],
        accuracy,
        np.abs(ends - accuracy),
        fmt="o",
        color=BLUE,
        ecolor=BLUE,
        elinewidth=1,
        capsize=2.5,
        label="accuracy, 95 % interval",
    )
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def confidence_histogram(confidence: NDArray[np.floating], correct: NDArray[np.bool_]) -> Picture:
    """How sure the model was where it was right, above, and where it was wrong, below, each with its median.

    The two have scales of their own: a few mistakes beside thousands of right answers would be no bar at all.

    Args:
        confidence: Probability of the predicted class, shape (n,), in [0, 1].
        correct: Whether the prediction was right, shape (n,).

    Returns:
        PNG and SVG.

    Raises:
        ValueError: If the arrays are empty, their lengths differ, or a confidence is outside [0, 1].
    """
    check_confidence(confidence, correct)
    figure = new_figure(7.2, 5.4)
    above, below = figure.subplots(2, 1, sharex=True)
    _draw_histogram(figure, above, confidence[correct], "right", BLUE, "")
    _draw_histogram(figure, below, confidence[~correct], "wrong", VERMILION, "////")
    below.set(xlabel="Confidence (probability of the predicted class)", xlim=(0, 1))
    below.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return to_picture(figure)


def _draw_histogram(
    figure: Figure, axes: Axes, confidence: NDArray[np.floating], what: str, colour: str, hatch: str
) -> None:
    style(axes, f"{len(confidence)} {'image' if len(confidence) == 1 else 'images'} predicted {what}", grid="y")
    axes.set_ylabel("Images")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    if not len(confidence):
        axes.set_ylim(0, 1)
        axes.text(0.5, 0.5, "no image", ha="center", va="center", fontsize=10, color=GREY)
        return
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    counts, _ = np.histogram(np.minimum(confidence, 1), edges)
    width = edges[1] * 0.94
    axes.bar(edges[:-1], counts, width, align="edge", color=colour, hatch=hatch, edgecolor="white", linewidth=0)
    median = float(np.median(confidence))
    axes.axvline(median, color=INK, linestyle=":", linewidth=1.5)
    axes.set_ylim(0, counts.max() * 1.22)
    axes.annotate(
        f"median {median:.0%}",
        (median, 1),
        xycoords=axes.get_xaxis_transform(),
        xytext=(-5 if median > 0.5 else 5, -3),  # noqa: PLR2004 - towards the middle of the picture
        textcoords="offset points",
        ha="right" if median > 0.5 else "left",  # noqa: PLR2004
        va="top",
        fontsize=9,
        color=INK,
    )
