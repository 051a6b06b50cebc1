"""How good the predictions are, class by class, and how far their confidence can be believed."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from lib.plots.canvas import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MANY_CLASSES,
    ORANGE,
    class_ticks,
    display_names,
    legend,
    new_figure,
    style,
    to_png,
)
from lib.plots.proportion import wilson_interval

MEASURES = (("precision", BLUE, ""), ("recall", ORANGE, "///"), ("f1", GREEN, "..."))


def reliability(confidence: NDArray[np.floating], correct: NDArray[np.bool_], *, bins: int = 15) -> bytes:
    """Accuracy against confidence: a model that knows how sure it may be stays on the diagonal.

    Above: the accuracy in each bin of confidence, with its 95 % Wilson interval, and the expected calibration
    error, sum over bins of (n_b / n) * |accuracy_b - confidence_b|. Below: how many images each bin holds.

    Args:
        confidence: Probability of the predicted class, shape (n,), in [0, 1].
        correct: Whether the prediction was right, shape (n,).
        bins: Number of equal-width bins on [0, 1]; the last includes 1.

    Returns:
        A PNG file.

    Raises:
        ValueError: If the arrays are empty, their lengths differ, or a confidence is outside [0, 1].

    Source:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, figure 1 and equation 3.
    """
    if len(confidence) == 0 or confidence.shape != correct.shape:
        raise ValueError(f"confidence has shape {confidence.shape} and correct {correct.shape}; expected (n,), n > 0")
    if not np.all((confidence >= 0) & (confidence <= 1 + 1e-6)):
        raise ValueError("confidence must be in [0, 1]")
    in_bin = np.minimum((confidence * bins).astype(int), bins - 1)
    images = np.bincount(in_bin, minlength=bins)
    right = np.bincount(in_bin, weights=correct, minlength=bins).astype(int)
    mean = np.bincount(in_bin, weights=confidence, minlength=bins) / np.maximum(images, 1)
    error = float(np.abs(right - mean * images).sum() / len(confidence))
    figure = new_figure(7.2, 6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    _draw_accuracy(style(above, f"Expected calibration error {error:.3f}", grid="both"), mean, right, images)
    style(below, "", grid="y").bar(np.arange(bins) / bins, images, width=0.94 / bins, align="edge", color=GREY)
    below.set(xlabel="Confidence (probability of the predicted class)", ylabel="Images", xlim=(0, 1.01))
    below.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return to_png(figure)


def _draw_accuracy(
    axes: Axes, mean: NDArray[np.floating], right: NDArray[np.integer], images: NDArray[np.integer]
) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2, label="ideal")
    filled = np.flatnonzero(images)
    accuracy = right[filled] / images[filled]
    ends = np.array([wilson_interval(int(right[i]), int(images[i])) for i in filled]).T
    spread = np.abs(ends - accuracy)
    label = "accuracy, 95 % interval"
    axes.errorbar(
        mean[filled],
        accuracy,
        spread,
        fmt="o",
        color=BLUE,
        ecolor=BLUE,
        elinewidth=1,
        capsize=2.5,
        label=label,
    )
    axes.set(ylim=(-0.02, 1.02), ylabel="Accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    legend(axes)


def per_class_bars(per_class: Sequence[Mapping[str, Any]]) -> bytes:
    """Precision, recall and F1 of every class, the best F1 on top, with the number of images behind them.

    Args:
        per_class: One row a class: `class_name`, `precision`, `recall` and `f1` in [0, 1] (None or NaN where
            they are undefined, which is written out), `support` (images that are of the class).

    Returns:
        A PNG file.

    Raises:
        ValueError: If there is no class.
    """
    if not per_class:
        raise ValueError("there is no class to draw")
    names = display_names([str(row["class_name"]) for row in per_class])
    order = sorted(range(len(per_class)), key=lambda index: -(_value(per_class[index], "f1") or 0))
    dense = len(order) > MANY_CLASSES
    figure = new_figure(7.6, 1.5 + (0.22 if dense else 0.42) * len(order))
    axes = style(figure.subplots(), "", grid="x")
    for place, measure in enumerate(MEASURES):
        _draw_measure(axes, [per_class[index] for index in order], place, measure)
    class_ticks(axes, "y", [f"{names[index]} ({per_class[index]['support']})" for index in order])
    axes.set(xlim=(0, 1.0), ylim=(len(order) - 0.45, -0.55), ylabel="Class (images), best F1 first")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.tick_params(axis="x", labeltop=dense)
    legend(axes, bbox_to_anchor=(1, 1.0), borderaxespad=2.4 if dense else 0.6)
    return to_png(figure)


def _draw_measure(axes: Axes, rows: Sequence[Mapping[str, Any]], place: int, measure: tuple[str, str, str]) -> None:
    name, colour, hatch = measure
    at = np.arange(len(rows)) + (place - 1) * 0.27
    values = [_value(row, name) for row in rows]
    label = "F1" if name == "f1" else name
    axes.barh(
        at,
        [value or 0 for value in values],
        height=0.25,
        color=colour,
        hatch=hatch,
        edgecolor="white",
        linewidth=0,
        label=label,
    )
    for y, value in zip(at, values, strict=True):
        if not value:
            axes.text(0.004, y, "undefined" if value is None else "0", va="center", fontsize=5.5, color=INK)


def _value(row: Mapping[str, Any], name: str) -> float | None:
    value = row[name]
    return float(value) if value is not None and isfinite(value) else None
