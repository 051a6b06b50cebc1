"""How good the predictions are, class by class."""

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
    INK,
    MANY_CLASSES,
    ORANGE,
    Picture,
    class_ticks,
    legend,
    new_figure,
    style,
    to_picture,
)
from lib.plots.letters import lettering

MEASURES = (("precision", BLUE, ""), ("recall", ORANGE, "///"), ("f1", GREEN, "..."))
INTERVAL = "95 % interval"


def per_class_bars(per_class: Sequence[Mapping[str, Any]]) -> Picture:
    """Precision, recall and F1 of every class, the best F1 on top, with the number of images behind them.

    Where a row has an interval, the bar carries it as a line.

    Args:
        per_class: One row a class: `class_name`, `precision`, `recall` and `f1` in [0, 1] (None or NaN where
            they are undefined, which is written out), `support` (images that are of the class), and where they
            are known `precision_interval`, `recall_interval` and `f1_interval` ([low, high] or None).

    Returns:
        PNG and SVG.

    Raises:
        ValueError: If there is no class.
    """
    if not per_class:
        raise ValueError("there is no class to draw")
    written = lettering([str(row["class_name"]) for row in per_class])
    order = sorted(range(len(per_class)), key=lambda index: -(_value(per_class[index], "f1") or 0))
    dense = len(order) > MANY_CLASSES
    figure = new_figure(7.6, 1.5 + (0.22 if dense else 0.42) * len(order))
    axes = style(figure.subplots(), "", grid="x")
    for place, measure in enumerate(MEASURES):
        _draw_measure(axes, [per_class[index] for index in order], place, measure)
    counted = [f"{written.names[index]} ({per_class[index]['support']})" for index in order]
    class_ticks(axes, "y", counted, written.fonts)
    axes.set(xlim=(0, 1.0), ylim=(len(order) - 0.45, -0.55), ylabel="Class (images), best F1 first")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.tick_params(axis="x", labeltop=dense)
    handles, labels = axes.get_legend_handles_labels()
    order_of_legend = sorted(range(len(labels)), key=lambda index: labels[index] == INTERVAL)
    legend(
        axes,
        handles=[handles[index] for index in order_of_legend],
        bbox_to_anchor=(1, 1.0),
        borderaxespad=2.4 if dense else 0.6,
    )
    return to_picture(figure, written)


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
    intervals = [row.get(f"{name}_interval") for row in rows]
    for y, value, interval in zip(at, values, intervals, strict=True):
        if not value:
            x = 0.004 + (interval[1] if interval else 0)
            axes.text(x, y, "undefined" if value is None else "0", va="center", fontsize=5.5, color=INK)
    _draw_intervals(axes, at, intervals, label=name == MEASURES[-1][0])


def _draw_intervals(
    axes: Axes, at: NDArray[np.floating], intervals: Sequence[Sequence[float] | None], *, label: bool
) -> None:
    known = [(y, *interval) for y, interval in zip(at, intervals, strict=True) if interval is not None]
    if known:
        y, low, high = np.array(known).T
        width = 0.6 if len(at) > MANY_CLASSES else 1.1
        axes.hlines(y, low, high, color="white", linewidth=2.2 * width, zorder=2.5)  # seen on a dark bar too
        axes.hlines(y, low, high, color=INK, linewidth=width, zorder=3, label=INTERVAL if label else "")


def _value(row: Mapping[str, Any], name: str) -> float | None:
    value = row[name]
    return float(value) if value is not None and isfinite(value) else None
