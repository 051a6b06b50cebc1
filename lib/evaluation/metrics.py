"""How good predictions are."""

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from lib.models.probabilities import FloatArray, IntArray, cross_entropy


def classification_metrics(actual: IntArray, probabilities: FloatArray, class_names: list[str]) -> dict[str, Any]:
    """The content of `metrics.json`.

    Args:
        actual: The true class of each image as its place in `class_names`, shape (n,), n at least 1.
        probabilities: Shape (n, classes), each row summing to 1.
        class_names: Every class, also those without a test image.

    Returns:
        `images`; `accuracy` in [0, 1]; `loss`, the mean cross-entropy in nats; `per_class` with precision, recall and
        F1 in [0, 1] and the support (a class without test images has None for recall and F1, and for precision if it
        was never predicted); `macro` and `weighted` means over the classes with test images; and `confusion_matrix`,
        counts with actual classes in rows.

    Raises:
        ValueError: If there is no image.

    Source:
        scikit-learn's `precision_recall_fscore_support` with `zero_division=0`: a class that was never predicted has
        precision 0.
    """
    if not len(actual):
        raise ValueError("no image to measure")
    predicted = probabilities.argmax(axis=1)
    labels = np.arange(len(class_names))
    columns = precision_recall_fscore_support(actual, predicted, labels=labels, zero_division=0)
    rows = [
        _class_row(name, predicted == number, *(float(c[number]) for c in columns))
        for number, name in enumerate(class_names)
    ]
    present = [row for row in rows if row["support"]]
    support = [row["support"] for row in present]
    return {
        "images": len(actual),
        "accuracy": float(np.mean(predicted == actual)),
        "loss": cross_entropy(actual, probabilities),
        "per_class": rows,
        "macro": _means(present, None),
        "weighted": _means(present, support),
        "confusion_matrix": confusion_matrix(actual, predicted, labels=labels).tolist(),
    }


def _class_row(
    name: str, chosen: npt.NDArray[np.bool_], precision: float, recall: float, f1: float, support: float
) -> dict[str, Any]:
    return {
        "class_name": name,
        "precision": precision if support or chosen.any() else None,
        "recall": recall if support else None,
        "f1": f1 if support else None,
        "support": int(support),
    }


def _means(rows: list[dict[str, Any]], weights: list[int] | None) -> dict[str, float]:
    return {
        measure: float(np.average([row[measure] for row in rows], weights=weights))
        for measure in ("precision", "recall", "f1")
    }
