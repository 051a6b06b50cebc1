"""How well the probability of each class sorts its images from all others: ROC and precision-recall curves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from lib.plots.canvas import GREY, INK, Picture, new_figure, style, to_picture, unmarked
from lib.plots.letters import Lettering, lettering
from lib.plots.marks import FloatArray, IntArray, check_classes, check_probabilities
from lib.plots.palette import DASHED, FEW_CLASSES, LOOKS

GRID = np.r_[0, np.linspace(0, 1, 401)]
"""Where the curves of classes are averaged; twice at 0, where a ROC curve rises from 0."""
WORST = 3
"""Classes that are drawn and named where there are too many for all."""
ROC, PRECISION_RECALL = "ROC", "Precision and recall"
BAND = "#C9CED6"


@dataclass(frozen=True)
class _Curve:
    """One class: its curve, the curve's height on `GRID`, and the area below it."""

    name: str
    x: FloatArray
    y: FloatArray
    on_grid: FloatArray
    area: float


def roc_curves(actual: IntArray, probabilities: FloatArray, class_names: Sequence[str]) -> Picture:
    """ROC of every class against all others, and their mean.

    The mean is taken over classes at equal false positive rate. Up to 12 classes, each is a thin line; of more,
    the band holds the middle half, and the three with the smallest area are drawn and named. A class that no image
    or every image is of has no curve and is left out; the picture says how many.

    Args:
        actual: Index of the actual class, shape (n,), in [0, classes).
        probabilities: Probabilities of every class, shape (n, classes), in [0, 1].
        class_names: In the order of the indices.

    Returns:
        PNG and SVG.

    Raises:
        ValueError: If shapes differ, an index is no class, or a probability is outside [0, 1].

    Source:
        Fawcett, An introduction to ROC analysis, Pattern Recognition Letters 27, 2006, section 9 and algorithm 3.
    """
    written = lettering(class_names)
    curves = _curves(actual, probabilities, written.names, _roc)
    xlabel, ylabel = (
        "False positive rate: others mistaken for the class",
        "True positive rate: images of the class found",
    )
    return _draw(curves, ROC, xlabel, ylabel, written)


def pr_curves(actual: IntArray, probabilities: FloatArray, class_names: Sequence[str]) -> Picture:
    """Precision against recall of every class against all others, and their mean.

    As `roc_curves`; the area is the average precision, sum over n of (R_n - R_(n-1)) P_n, and the mean is taken over
    classes at equal recall.

    Args:
        actual: Index of the actual class, shape (n,), in [0, classes).
        probabilities: Probabilities of every class, shape (n, classes), in [0, 1].
        class_names: In the order of the indices.

    Returns:
        PNG and SVG.

    Raises:
        ValueError: If shapes differ, an index is no class, or a probability is outside [0, 1].

    Source:
        Davis and Goadrich, The relationship between precision-recall and ROC curves, ICML 2006: no straight lines
        between points.
    """
    written = lettering(class_names)
    curves = _curves(actual, probabilities, written.names, _precision_recall)
    return _draw(curves, PRECISION_RECALL, "Recall", "Precision", written)


Measure = Callable[[str, NDArray[np.bool_], FloatArray], _Curve]


def _curves(actual: IntArray, probabilities: FloatArray, names: Sequence[str], measure: Measure) -> list[_Curve]:
    """The curve of each class that some but not all images are of."""
    check_classes(actual, actual, names)
    check_probabilities(probabilities, (len(actual), len(names)))
    of_class = [actual == index for index in range(len(names))]
    return [
        measure(names[index], positive, probabilities[:, index])
        for index, positive in enumerate(of_class)
        if positive.any() and not positive.all()
    ]


def _roc(name: str, positive: NDArray[np.bool_], score: FloatArray) -> _Curve:
    x, y, _ = roc_curve(positive, score)
    on_grid = np.interp(GRID, x, y)
    on_grid[0] = 0
    return _Curve(name, x, y, on_grid, float(roc_auc_score(positive, score)))


def _precision_recall(name: str, positive: NDArray[np.bool_], score: FloatArray) -> _Curve:
    precision, recall, _ = precision_recall_curve(positive, score, drop_intermediate=True)
    x, y = recall[::-1], precision[::-1]  # recall rises; each precision holds from the recall before it up to its own
    rises = np.r_[True, np.diff(x) > 0]  # of several precisions at one recall, the first and best one counts
    x, y = x[rises], y[rises]
    held = y[np.minimum(np.searchsorted(x, GRID, side="left"), len(y) - 1)]
    held[:2] = held[2]  # at recall 0, precision is undefined
    area = float(average_precision_score(positive, score))
    return _Curve(name, np.repeat(x, 2)[1:-1], np.repeat(y, 2)[2:], held, area)


def _draw(curves: Sequence[_Curve], title: str, xlabel: str, ylabel: str, written: Lettering) -> Picture:
    figure = new_figure(8.8, 5.8)
    axes = figure.subplots()
    mean = f": mean area {np.mean([curve.area for curve in curves]):.3f}" if curves else ""
    style(axes, f"{title}, each class against all others{mean}", grid="both")
    left_out = len(written.names) - len(curves)
    note = f"\n{left_out} of {len(written.names)} classes left out: they have none or all of the images"
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), aspect="equal")
    axes.set_xlabel(xlabel + (note if left_out else ""))
    axes.set_ylabel(ylabel)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    if title == ROC:
        axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2, label="0.500  chance", zorder=1)
    if curves:
        _draw_classes(axes, curves)
        _draw_mean(axes, curves)
        legend = axes.legend(
            loc="upper left",
            bbox_to_anchor=(1.03, 1.01),
            borderaxespad=0,
            frameon=False,
            prop=FontProperties(family=written.fonts, size=9),
            labelcolor=INK,
            title="Area, class",
            title_fontproperties={"size": 9},
            alignment="left",
            handlelength=2.6,
        )
        unmarked(legend.get_texts())
    else:
        axes.text(
            0.5, 0.5, "no class has both its own and other images", ha="center", va="center", fontsize=10, color=GREY
        )
    return to_picture(figure, written)


def _draw_classes(axes: Axes, curves: Sequence[_Curve]) -> None:
    """Every class, or of many the middle half and the worst; the worst first in the legend."""
    if len(curves) > FEW_CLASSES:
        low, high = np.quantile([curve.on_grid for curve in curves], (0.25, 0.75), axis=0)
        label = f"middle half of {len(curves)} classes"
        axes.fill_between(GRID, low, high, color=BAND, linewidth=0, label=label, zorder=2)
    drawn = sorted(range(len(curves)), key=lambda index: curves[index].area)
    for rank, index in enumerate(drawn if len(curves) <= FEW_CLASSES else drawn[:WORST]):
        look = LOOKS[index if len(curves) <= FEW_CLASSES else (3, 1, 0)[rank]]
        curve = curves[index]
        axes.plot(
            curve.x,
            curve.y,
            color=look.colour,
            linestyle=DASHED if look.pale else "-",
            linewidth=1.2,
            label=f"{curve.area:.3f}  {curve.name}",
            zorder=3,
        )


def _draw_mean(axes: Axes, curves: Sequence[_Curve]) -> None:
    height = np.mean([curve.on_grid for curve in curves], axis=0)
    area = np.mean([curve.area for curve in curves])
    axes.plot(GRID, height, color=INK, linewidth=3, label=f"{area:.3f}  mean of {len(curves)} classes", zorder=4)
