"""What follows from the logits of a classifier: probabilities, and how far they are from the truth."""

from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.integer[Any]]
FloatArray = npt.NDArray[np.floating[Any]]

SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)
CALIBRATION_BINS = 15


def softmax(logits: FloatArray) -> npt.NDArray[np.float32]:
    """Probabilities of logits of shape (n, classes), in float32; each row sums to 1."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), np.float32)


def cross_entropy(actual: IntArray, probabilities: FloatArray) -> float:
    """Mean of -log(probability of the true class), in nats; 0 is perfect.

    Args:
        actual: The true class of each image as a number, shape (n,), n at least 1.
        probabilities: Shape (n, classes), each row summing to 1.
    """
    of_truth = probabilities[np.arange(len(actual)), actual].astype(np.float64)
    return float(-np.log(np.maximum(of_truth, SMALLEST_PROBABILITY)).mean())


def brier_score(actual: IntArray, probabilities: FloatArray) -> float:
    """Mean over images of the squared distance between probabilities and truth, summed over classes.

    Args:
        actual: The true class of each image as a number, shape (n,), n at least 1.
        probabilities: Shape (n, classes), each row summing to 1.

    Returns:
        From 0, perfect, to 2.

    Source:
        Brier, Monthly Weather Review 78, 1950: the form for several classes.
    """
    truth = np.zeros(probabilities.shape)
    truth[np.arange(len(actual)), actual] = 1
    return float(((probabilities - truth) ** 2).sum(axis=1).mean())


def calibration_error(confidence: FloatArray, correct: npt.NDArray[np.bool_]) -> float:
    """Expected calibration error: how far confidence and accuracy are apart, on average over images.

    Args:
        confidence: Probability of the predicted class, in [0, 1], shape (n,), n at least 1.
        correct: Whether the prediction is right, shape (n,).

    Returns:
        In [0, 1]; 0 is perfect.

    Source:
        Naeini et al., AAAI 2015, with `CALIBRATION_BINS` bins of equal width, each open below and closed above.
    """
    bins = np.clip(np.ceil(confidence.astype(np.float64) * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    gaps = np.bincount(bins, weights=confidence, minlength=CALIBRATION_BINS) - np.bincount(
        bins, weights=correct, minlength=CALIBRATION_BINS
    )
    return float(np.abs(gaps).sum() / counts.sum())
