"""What scatter and swarm share: one mark an image, right or wrong, by colour and by shape."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from lib.plots.canvas import BLUE, VERMILION, legend

IntArray = NDArray[np.integer]
FloatArray = NDArray[np.floating]

RIGHT_MARK, WRONG_MARK = "o", "X"
STYLES = ((True, BLUE, RIGHT_MARK), (False, VERMILION, WRONG_MARK))
"""Whether right, colour, shape."""


def check_classes(actual: IntArray, predicted: IntArray, class_names: Sequence[str]) -> None:
    """Refuse indices that are not those of the classes, with a ValueError."""
    if actual.shape != predicted.shape or actual.ndim != 1:
        raise ValueError(f"actual has shape {actual.shape} and predicted {predicted.shape}; expected (n,) for both")
    for name, indices in (("actual", actual), ("predicted", predicted)):
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(class_names):
            raise ValueError(f"{name} holds {indices.min()} to {indices.max()}; expected 0 to {len(class_names) - 1}")


def check_probabilities(values: FloatArray, shape: tuple[int, ...]) -> None:
    """Refuse values outside [0, 1] or in another shape, with a ValueError."""
    if values.shape != shape:
        raise ValueError(f"probabilities have shape {values.shape}; expected {shape}")
    if not np.all((values >= 0) & (values <= 1 + 1e-6)):
        raise ValueError("probabilities must be in [0, 1]")


def check_confidence(confidence: FloatArray, correct: NDArray[np.bool_]) -> None:
    """Refuse no image at all, arrays of different length, and values outside [0, 1], with a ValueError."""
    if len(confidence) == 0 or confidence.shape != correct.shape:
        raise ValueError(f"confidence has shape {confidence.shape} and correct {correct.shape}; expected (n,), n > 0")
    if not np.all((confidence >= 0) & (confidence <= 1 + 1e-6)):
        raise ValueError("confidence must be in [0, 1]")


def right_count(right: NDArray[np.bool_]) -> str:
    """The title of both plots."""
    return f"{int(right.sum())} of {len(right)} images predicted right"


def right_wrong_legend(axes: Axes) -> None:
    """What blue dots and vermilion crosses are."""
    marks = (("right", BLUE, RIGHT_MARK), ("wrong", VERMILION, WRONG_MARK))
    handles = [
        Line2D([], [], color=colour, marker=mark, linestyle="none", markersize=7, label=label)
        for label, colour, mark in marks
    ]
    legend(axes, handles=handles)
