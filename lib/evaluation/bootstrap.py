"""How far the measures would move with other test images: intervals from samples that are drawn again and again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lib.models.probabilities import CALIBRATION_BINS, SMALLEST_PROBABILITY, FloatArray, IntArray

CONFIDENCE_LEVEL = 0.95
TOP = 3
Interval = tuple[float, float]


@dataclass(frozen=True)
class Units:
    """What is drawn again as a whole: images of one group (slide, patient) are alike, so they stay together.

    Attributes:
        kind: Groups where every image has one, images otherwise.
        of_image: The unit of each image, as a number from 0, shape (n,).
        count: How many units there are.
    """

    kind: Literal["group", "image"]
    of_image: IntArray
    count: int

    @classmethod
    def of(cls, images: int, groups: Sequence[str | None] | None) -> "Units":
        """The units of a number of images.

        Raises:
            ValueError: If there are not as many groups as images.
        """
        if groups is not None and len(groups) != images:
            raise ValueError(f"{len(groups)} groups for {images} images")
        known = [group for group in groups or () if group is not None]
        if len(known) < images or not known:
            return cls("image", np.arange(images), images)
        names, of_image = np.unique(np.array(known), return_inverse=True)
        return cls("group", of_image, len(names))

    def among(self, chosen: npt.NDArray[np.bool_]) -> int:
        """In how many units the images lie that are chosen, of shape (n,)."""
        return len(np.unique(self.of_image[chosen]))


def resampled_weights(units: Units, resamples: int, seed: int) -> Iterator[npt.NDArray[np.float64]]:
    """How often each image is in each of the resamples, shape (n,): as often as its unit was drawn.

    As many units are drawn as there are, with replacement. One resample is in memory at a time, so that 2,000 of them
    take no more than one.
    """
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = np.bincount(rng.integers(units.count, size=units.count), minlength=units.count).astype(np.float64)
        yield drawn[units.of_image] if units.kind == "group" else drawn


def percentile_interval(values: FloatArray, units: int) -> Interval | None:
    """The 95 % percentile interval.

    Args:
        values: The measure on each resample, shape (resamples,); NaN where it is undefined, which is left out.
        units: How many units the measure rests on. One unit shows nothing of how units differ.

    Returns:
        Low and high; None where there are fewer than two units.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    defined = values[~np.isnan(values)]
    if units < 2 or not len(defined):  # noqa: PLR2004
        return None
    tail = (1 - CONFIDENCE_LEVEL) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class ResampledMeasures:
    """Measures on every resample, as `lib.evaluation.measures.metrics` defines them.

    Attributes:
        accuracy: Shape (resamples,), as are those that follow.
        balanced_accuracy: Mean recall of the classes that the resample has images of.
        top_3_accuracy: Share of images whose class is among the three most probable.
        loss: In nats.
        brier: In [0, 2].
        ece: Expected calibration error. It is never negative, so that chance only ever adds to it: the resamples of a
            well calibrated model lie above the truth, and often above the value of the sample itself.
        macro_f1: Mean F1 of the classes that the resample has images of.
        precision: Shape (resamples, classes), as are those that follow; NaN where the resample leaves it undefined.
        recall: NaN where the resample has no image of the class.
        f1: NaN where the resample has no image of the class.
    """

    accuracy: FloatArray
    balanced_accuracy: FloatArray
    top_3_accuracy: FloatArray
    loss: FloatArray
    brier: FloatArray
    ece: FloatArray
    macro_f1: FloatArray
    precision: FloatArray
    recall: FloatArray
    f1: FloatArray


@dataclass(frozen=True)
class _Sums:
    """Sums over images from which all measures follow: of one resample, or of many with an axis in front."""

    images: npt.NDArray[Any]  # ()
    right: npt.NDArray[Any]  # (classes,)
    actual: npt.NDArray[Any]  # (classes,)
    predicted: npt.NDArray[Any]  # (classes,)
    gaps: npt.NDArray[Any]  # (bins,) confidence less correctness
    scores: npt.NDArray[Any]  # (3,) top 3, loss, Brier score


def resample_measures(
    actual: IntArray, probabilities: FloatArray, units: Units, resamples: int, seed: int
) -> ResampledMeasures:
    """Measure resamples of predictions.

    Args:
        actual: The true class of each image as a number, shape (n,), n at least 1.
        probabilities: Shape (n, classes), each row summing to 1.
        units: What is drawn again.
        resamples: How often, at least 1.
        seed: The same seed gives the same resamples.
    """
    classes = probabilities.shape[1]
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1).astype(np.float64)
    correct = predicted == actual
    hits, gap, scores = actual[correct], confidence - correct, _scores(actual, probabilities)
    # The bins of `lib.models.probabilities.calibration_error`.
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    sums = [
        _Sums(
            weights.sum(),
            np.bincount(hits, weights[correct], classes),
            np.bincount(actual, weights, classes),
            np.bincount(predicted, weights, classes),
            np.bincount(bins, weights * gap, CALIBRATION_BINS),
            scores @ weights,
        )
        for weights in resampled_weights(units, resamples, seed)
    ]
    return _measures(_Sums(*(np.array([getattr(one, field.name) for one in sums]) for field in fields(_Sums))))


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


def _scores(actual: IntArray, probabilities: FloatArray) -> FloatArray:
    """Top 3, loss and Brier score of each image, shape (3, n)."""
    every = np.arange(len(actual))
    truth = np.zeros(probabilities.shape)
    truth[every, actual] = 1
    losses = -np.log(np.maximum(probabilities[every, actual].astype(np.float64), SMALLEST_PROBABILITY))
    return np.stack([in_top(actual, probabilities), losses, ((probabilities - truth) ** 2).sum(axis=1)])


def _measures(sums: _Sums) -> ResampledMeasures:
    shown = sums.actual > 0
    top_3, loss, brier = (sums.scores / sums.images[:, None]).T
    recall = _share(sums.right, sums.actual, shown)
    f1 = _share(2 * sums.right, sums.actual + sums.predicted, shown)
    # A class that is shown but never predicted has precision 0, as in scikit-learn with `zero_division=0`.
    precision = _share(sums.right, np.maximum(sums.predicted, shown), shown | (sums.predicted > 0))
    return ResampledMeasures(
        accuracy=sums.right.sum(axis=1) / sums.images,
        balanced_accuracy=np.nanmean(recall, axis=1),
        top_3_accuracy=top_3,
        loss=loss,
        brier=brier,
        ece=np.abs(sums.gaps).sum(axis=1) / sums.images,
        macro_f1=np.nanmean(f1, axis=1),
        precision=precision,
        recall=recall,
        f1=f1,
    )


def _share(part: FloatArray, whole: FloatArray, where: npt.NDArray[np.bool_]) -> FloatArray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan, np.float64), where=where)
