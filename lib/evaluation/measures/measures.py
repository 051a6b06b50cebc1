"""Every measure of predictions, once: a ratio of sums over images.

Summed over all images they are the values; over the images of a resample, each as often as it was drawn, they give the
intervals.
"""

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, vstack

from lib.evaluation.measures.stakes import Stakes
from lib.models.probabilities import CALIBRATION_BINS, FloatArray, IntArray, calibration_bins, log_losses

AT_STAKE = ("quadratic_kappa", "cost", "least_cost")
"""Which are NaN where classes have no order, or no costs."""
OVERALL = (
    *("accuracy", "balanced_accuracy", "top_3_accuracy", "loss", "brier", "ece", "macro_f1", "matthews", "kappa"),
    *AT_STAKE,
)
PER_CLASS = ("precision", "recall", "f1")
TOP = 3
Measures = dict[str, FloatArray]
NO_STAKES = Stakes()


def measures_of(sums: FloatArray, classes: int, stakes: Stakes = NO_STAKES) -> Measures:
    """Every measure: `OVERALL` of shape (...), `PER_CLASS` of shape (..., classes).

    Balanced accuracy and macro F1 are means over the classes that have images. The calibration error (`ece`) is never
    negative, so that chance only ever adds to it: the resamples of a well calibrated model lie above the truth, and
    often above the value of the sample itself. Recall and F1 of a class without images are NaN, and its precision is if
    it was never predicted; a class that has images and was never predicted has precision 0. Matthews correlation is 0
    where all images are of one class or predicted as one. Kappa is agreement beyond that of the same answers dealt out
    at random: with K classes, t images of each and p predicted as each of n,

        kappa = (sum right / n - sum t p / n^2) / (1 - sum t p / n^2)
        quadratic kappa = 1 - sum d^2 / (sum over pairs of classes (rank - rank)^2 t p / n)

    where d is the distance of rank of an image's class and the predicted one. The cost is the mean over images; the
    least cost, that of choosing for each image the class of which the probabilities expect the least.

    Args:
        sums: Sums of the rows of `contributions`, over some images or resamples of them, shape (..., rows).
        classes: How many classes there are.
        stakes: The order and the costs with which the contributions were made.

    Source:
        Brier, Monthly Weather Review 78, 1950, the form for several classes; Naeini et al., AAAI 2015, for the
        calibration error; scikit-learn's `precision_recall_fscore_support` with `zero_division=0`; Gorodkin,
        Computational Biology and Chemistry 28, 2004, for Matthews correlation of several classes; Cohen, Psychological
        Bulletin 70, 1968, for weighted kappa.
    """
    blocks = np.split(sums, np.cumsum([classes, classes, classes, CALIBRATION_BINS, 1, 1, 1, 1, 1, 1]), axis=-1)
    right, shown, predicted, gaps = blocks[:4]
    images, top_3, loss, brier, apart, cost, least_cost = (block[..., 0] for block in blocks[4:])
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
        **_agreement(right.sum(axis=-1), shown, predicted, images),
        "quadratic_kappa": _quadratic_kappa(apart, shown, predicted, images, stakes),
        "cost": cost / images,
        "least_cost": least_cost / images,
        "precision": _ratio(right, np.maximum(predicted, shown > 0), (shown > 0) | (predicted > 0)),
        "recall": recall,
        "f1": f1,
    }


def _agreement(right: FloatArray, shown: FloatArray, predicted: FloatArray, images: FloatArray) -> Measures:
    by_chance = (shown * predicted).sum(axis=-1)
    spread = (images**2 - (shown**2).sum(axis=-1)) * (images**2 - (predicted**2).sum(axis=-1))
    matthews = _ratio(right * images - by_chance, np.sqrt(np.maximum(spread, 1)), spread > 0)
    beyond = images**2 - by_chance
    return {
        "matthews": np.where(spread > 0, matthews, 0.0),
        "kappa": _ratio(right * images - by_chance, beyond, beyond > 0),
    }


def _quadratic_kappa(
    apart: FloatArray, shown: FloatArray, predicted: FloatArray, images: FloatArray, stakes: Stakes
) -> FloatArray:
    if stakes.ranks is None:
        return np.full(images.shape, np.nan)
    squares = np.subtract.outer(stakes.ranks, stakes.ranks) ** 2
    by_chance = ((shown @ squares) * predicted).sum(axis=-1)
    return 1 - _ratio(apart * images, by_chance, by_chance > 0)


def contributions(actual: IntArray, probabilities: FloatArray, stakes: Stakes = NO_STAKES) -> csr_array:
    """What each image adds to the sums that all measures follow from.

    Args:
        actual: The true class of each image as a number, shape (n,), n at least 1.
        probabilities: Shape (n, classes), each row summing to 1.
        stakes: What mistakes cost.

    Returns:
        Shape (rows, n), sparse: a row a class for images of it predicted right, images of it, and images predicted as
        it; a row a bin of `calibration_bins` for confidence less correctness; a row each for the number of images, top
        3, loss, Brier score, squared distance of ranks, cost, and least cost.
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
        *((first, 1, added) for added in _at_stake(actual, probabilities, stakes)),
    ]
    return vstack(
        [csr_array((added.astype(np.float64), (row, images)), (rows, len(images))) for row, rows, added in blocks],
        "csr",
    )


def _at_stake(actual: IntArray, probabilities: FloatArray, stakes: Stakes) -> list[FloatArray]:
    predicted, unknown = probabilities.argmax(axis=1), np.full(len(actual), np.nan)
    apart = unknown if stakes.ranks is None else (stakes.ranks[actual] - stakes.ranks[predicted]) ** 2
    if stakes.costs is None:
        return [apart, unknown, unknown]
    cheapest = (probabilities @ stakes.costs).argmin(axis=1)
    return [apart, stakes.costs[actual, predicted], stakes.costs[actual, cheapest]]


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
