"""Every measure of predictions, once: a ratio of sums over images.

Summed over all images they are the values; over the images of a resample, each as often as it was drawn, they give the
intervals.
"""

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, vstack

from lib.models.probabilities import CALIBRATION_BINS, FloatArray, IntArray, calibration_bins, log_losses

OVERALL = ("accuracy", "balanced_accuracy", "top_3_accuracy", "loss", "brier", "ece", "macro_f1")
PER_CLASS = ("precision", "recall", "f1")
TOP = 3
Measures = dict[str, FloatArray]


def measures_of(sums: FloatArray, classes: int) -> Measures:
    """Every measure: `OVERALL` of shape (...), `PER_CLASS` of shape (..., classes).

    Balanced accuracy and macro F1 are means over the classes that have images. The calibration error (`ece`) is never
    negative, so that chance only ever adds to it: the resamples of a well calibrated model lie above the truth, and
    often above the value of the sample itself. Recall and F1 of a class without images are NaN, and its precision is if
    it was never predicted; a class that has images and was never predicted has precision 0.

    Args:
        sums: Sums of the rows of `contributions`, over some images or resamples of them, shape (..., rows).
        classes: How many classes there are.

    Source:
        Brier, Monthly Weather Review 78, 1950, the form for several classes; Naeini et al., AAAI 2015, for the
        calibration error; scikit-learn's `precision_recall_fscore_support` with `zero_division=0`.
    """
    blocks = np.split(sums, np.cumsum([classes, classes, classes, CALIBRATION_BINS, 1, 1, 1]), axis=-1)
    right, shown, predicted, gaps = blocks[:4]
    images, top_3, loss, brier = (block[..., 0] for block in blocks[4:])
    recall = _ratio(right, shown, shown > 0)
    f1 = _ratio(2 * right, shown + predicted, shown > 0)
    return {
        "accuracy": right.sum(axis=-1) / images,
        "balanced_accuracy": np.nanmean(recall, axis=-1),
        "top_3_accuracy": top_3 / images,
        "loss": loss / images,
        "brier": brier / images,
        "ece": np.abs(gaps).sum(axis=-1) / images,
        "macro_f1": np.nanmean(f1, axis=-1),
        "precision": _ratio(right, np.maximum(predicted, shown > 0), (shown > 0) | (predicted > 0)),
        "recall": recall,
        "f1": f1,
    }


def contributions(actual: IntArray, probabilities: FloatArray) -> csr_array:
    """What each image adds to the sums that all measures follow from.

    Args:
        actual: The true class of each image as a number, shape (n,), n at least 1.
        probabilities: Shape (n, classes), each row summing to 1.

    Returns:
        Shape (rows, n), sparse: a row a class for images of it predicted right, images of it, and images predicted as
        it; a row a bin of `calibration_bins` for confidence less correctness; a row each for the number of images, top
        3, loss and Brier score.
    """
    classes, images = probabilities.shape[1], np.arange(len(actual))
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1).astype(np.float64)
    correct, first, one = predicted == actual, np.zeros(len(actual), int), np.ones(len(actual))
    truth = np.zeros(probabilities.shape)
    truth[images, actual] = 1
    blocks = [
        (actual, classes, correct),
        (actual, classes, one),
        (predicted, classes, one),
        (calibration_bins(confidence), CALIBRATION_BINS, confidence - correct),
        (first, 1, one),
        (first, 1, in_top(actual, probabilities)),
        (first, 1, log_losses(actual, probabilities)),
        (first, 1, ((probabilities - truth) ** 2).sum(axis=1)),
    ]
    return vstack(
        [csr_array((added.astype(np.float64), (row, images)), (rows, len(images))) for row, rows, added in blocks],
        "csr",
    )


def in_top(actual: IntArray, probabilities: FloatArray, top: int = TOP) -> npt.NDArray[np.bool_]:
    """Whether the true class is among the most probable ones; of equally probable classes the first in order wins.

    Args:
        actual: The true class of each image as a number, shape (n,).
        probabilities: Shape (n, classes).
        top: How many classes count.

    Returns:
        Shape (n,).
    """
    of_truth = probabilities[np.arange(len(actual)), actual][:, None]
    earlier = np.arange(probabilities.shape[1]) < actual[:, None]
    ahead = (probabilities > of_truth) | ((probabilities == of_truth) & earlier)
    return np.asarray(ahead.sum(axis=1) < top)


def _ratio(part: FloatArray, whole: FloatArray, where: npt.NDArray[np.bool_]) -> FloatArray:
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, np.nan), where=where))
