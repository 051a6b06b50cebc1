"""A map of embeddings: images that the model sees alike lie close together."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.text import Text
from numpy.typing import NDArray

from lib.plots.canvas import GREY, INK, Picture, new_figure, style, to_picture, too_many_marks, unmarked
from lib.plots.label_places import LABEL_BOX, place_texts
from lib.plots.letters import Lettering, lettering
from lib.plots.marks import RIGHT_MARK, WRONG_MARK, FloatArray, IntArray, check_classes
from lib.plots.palette import FEW_CLASSES, Look, class_looks

MARK_BYTES = 180
"""Of a mark in an SVG, where all dots share one outline."""


def embedding_map(
    points: FloatArray,
    actual: IntArray,
    correct: NDArray[np.bool_],
    class_names: Sequence[str],
    title: str,
) -> Picture:
    """One mark an image, coloured by its actual class: a dot if predicted right, a cross with dark outline if wrong.

    Wrong ones lie in front. Up to 12 classes are named in a legend; of more, each is named at the median of its marks,
    and two classes share a colour only if they lie far apart.

    Args:
        points: Places on the map, shape (n, 2), finite; the axes have no unit.
        actual: Index of the actual class, shape (n,), in [0, classes).
        correct: Whether the prediction was right, shape (n,).
        class_names: In the order of the indices.
        title: What the map is, such as "UMAP".

    Returns:
        PNG and SVG.

    Raises:
        ValueError: If there is no point, shapes differ, a point is not finite, or an index is no class.
    """
    _check(points, actual, correct, class_names)
    few = len(class_names) <= FEW_CLASSES
    present = np.unique(actual)
    centres = np.array([np.median(points[actual == index], axis=0) for index in present])
    looks = dict(zip(present.tolist(), class_looks(len(present), centres), strict=True))
    if few:
        looks = dict(enumerate(class_looks(len(class_names), centres)))
    written = lettering(class_names)
    figure = new_figure(8.6 if few else 11.5, 6.2 if few else 10.5)
    axes = style(figure.subplots(), f"{title}: {int(correct.sum())} of {len(correct)} images predicted right")
    axes.set(xticks=[], yticks=[], aspect="equal")
    axes.set_xlabel("Close together: similar to the model (the axes have no unit)")
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_adjustable("datalim")
    axes.margins(0.04)
    _draw_marks(axes, points, actual, correct, looks)
    _legend(axes, {written.names[index]: looks[index] for index in present.tolist()} if few else {}, written)
    if not few:
        figure.draw_without_rendering()
        named = zip(present, centres, strict=True)
        place_texts(axes, [_centre_name(axes, written.names[index], at, written) for index, at in named])
    return to_picture(figure, written)


def _check(points: FloatArray, actual: IntArray, correct: NDArray[np.bool_], class_names: Sequence[str]) -> None:
    check_classes(actual, actual, class_names)
    if len(points) == 0 or points.shape != (len(actual), 2) or correct.shape != actual.shape:
        raise ValueError(
            f"points have shape {points.shape}, actual {actual.shape} and correct {correct.shape}; "
            "expected (n, 2), (n,) and (n,), n > 0"
        )
    if not np.isfinite(points).all():
        raise ValueError("points must be finite")


def _draw_marks(
    axes: Axes, points: FloatArray, actual: IntArray, correct: NDArray[np.bool_], looks: dict[int, Look]
) -> None:
    """Right ones in the order given, which mixes the classes; wrong ones on top of all."""
    size = float(np.clip(26 * (900 / len(points)) ** 0.5, 7, 34))
    fills = np.array([looks[index].fill for index in actual.tolist()])
    edges = np.array([looks[index].colour if looks[index].pale else "white" for index in actual.tolist()])
    for right in (True, False):
        rows = correct == right
        axes.scatter(
            points[rows, 0],
            points[rows, 1],
            s=size if right else size * 2.2,
            c=fills[rows],
            marker=RIGHT_MARK if right else WRONG_MARK,
            edgecolors=edges[rows] if right else INK,
            linewidths=0.7 if size > 12 else 0.45,  # noqa: PLR2004 - an outline must not fill a small mark
            zorder=3 if right else 4,
            rasterized=too_many_marks(len(points), MARK_BYTES),
        )


def _legend(axes: Axes, looks: dict[str, Look], written: Lettering) -> None:
    shown = [(RIGHT_MARK, GREY, "white", "predicted right"), (WRONG_MARK, GREY, INK, "predicted wrong")]
    shown += [(RIGHT_MARK, look.fill, look.colour, name) for name, look in looks.items()]
    handles = [
        Line2D([], [], linestyle="none", marker=mark, markersize=8, color=fill, markeredgecolor=edge, label=label)
        for mark, fill, edge, label in shown
    ]
    letters = FontProperties(family=written.fonts, size=9)
    legend = partial(axes.legend, handles=handles, frameon=False, prop=letters, labelcolor=INK, handletextpad=0.4)
    if looks:
        unmarked(legend(loc="upper left", bbox_to_anchor=(1.01, 1)).get_texts())
    else:
        legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)


def _centre_name(axes: Axes, name: str, at: FloatArray, written: Lettering) -> Text:
    write = partial(axes.text, ha="center", va="center", zorder=6, fontfamily=written.fonts)
    return write(at[0], at[1], name, fontsize=7, color=INK, bbox=LABEL_BOX, parse_math=False)
