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


def log_losses(actual: IntArray, probabilities: FloatArray) -> npt.NDArray[np.float64]:
    """-log(probability of the true class) of each image, in nats; 0 is perfect.

    Args:
        actual: The true class of each image as a number, shape (n,).
        probabilities: Shape (n, classes), each row summing to 1.

    Returns:
        Shape (n,). A probability of 0 counts as the smallest normal number of float32, so that none is infinite.
    """
    of_truth = probabilities[np.arange(len(actual)), actual].astype(np.float64)
    return np.asarray(-np.log(np.maximum(of_truth, SMALLEST_PROBABILITY)))


def cross_entropy(actual: IntArray, probabilities: FloatArray) -> float:
    """Mean of `log_losses`; of at least one image."""
    return float(log_losses(actual, probabilities).mean())


def calibration_bins(confidence: FloatArray) -> npt.NDArray[np.int64]:
    """The bin of each confidence: `CALIBRATION_BINS` of equal width, each open below and closed above; shape (n,)."""
    bins = np.ceil(confidence.astype(np.float64) * CALIBRATION_BINS).astype(np.int64) - 1
    return np.clip(bins, 0, CALIBRATION_BINS - 1)


def calibration_error(confidence: FloatArray, correct: npt.NDArray[np.bool_]) -> float:
    """Expected calibration error: how far confidence and accuracy are apart, on average over images.

    Args:
        confidence: Probability of the predicted class, in [0, 1], shape (n,), n at least 1.
        correct: Whether the prediction is right, shape (n,).

    Returns:
        In [0, 1]; 0 is perfect.

    Source:
        Naeini et al., AAAI 2015, with the bins of `calibration_bins`.
    """
    bins = calibration_bins(confidence)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    gaps = np.bincount(bins, weights=confidence, minlength=CALIBRATION_BINS) - np.bincount(
        bins, weights=correct, minlength=CALIBRATION_BINS
    )
    return float(np.abs(gaps).sum() / counts.sum())
