"""How good predictions are."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support, roc_auc_score

from lib.evaluation.measures.abstention import abstention_table
from lib.models.probabilities import (
    CALIBRATION_BINS,
    SMALLEST_PROBABILITY,
    FloatArray,
    IntArray,
    brier_score,
    calibration_error,
    cross_entropy,
    softmax,
)
from lib.plots import wilson_interval

PER_CLASS = ("precision", "recall", "f1")
OVERALL = ("accuracy", "balanced_accuracy", "top_3_accuracy", "loss", "brier", "ece", "macro_f1")
AREAS: dict[str, Callable[..., float]] = {"roc_auc": roc_auc_score, "pr_auc": average_precision_score}


def classification_metrics(  # noqa: PLR0913 - what is measured, and how intervals are drawn
    actual: IntArray,
    probabilities: FloatArray,
    class_names: Sequence[str],
    *,
    groups: Sequence[str | None] | None = None,
    temperature: float | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """The content of `metrics.json`: numbers, and None where a number is undefined; never NaN.

    Args:
        actual: The true class of each image as its place in `class_names`, shape (n,), n at least 1.
        probabilities: Of the calibrated model, shape (n, classes), each row summing to 1.
        class_names: Every class, also those without a test image.
        groups: The group (slide, patient) of each image, None where it has none.
        temperature: What the logits were divided by for calibration; None if the model is not calibrated.
        resamples: How many resamples the intervals come from.
        seed: The same seed gives the same intervals.

    Returns:
        `images`; `accuracy`, `balanced_accuracy` (mean recall over the classes with test images) and `top_3_accuracy`
        in [0, 1]; `loss`, the mean cross-entropy in nats; `brier` in [0, 2]; `ece` in [0, 1]; `roc_auc` and `pr_auc`
        (average precision), the means over the classes where they are defined, None if there is none.
        `per_class` with precision, recall and F1 in [0, 1], the support (a class without test images has None for
        recall and F1, and for precision if it was never predicted), both areas (of the class against all others; None
        where either has no image) and `precision_interval`, `recall_interval` and `f1_interval`.
        `macro` and `weighted` means over the classes with test images; `confusion_matrix`, counts with actual classes
        in rows; `intervals` of the overall measures, and `bootstrap`, how they were drawn; `calibration`, loss, Brier
        score and ECE before and after, None without a temperature; and `abstention`, the rows of `abstention_table`.
        Intervals are [low, high] of 95 %, of a class that is all right or all wrong by Wilson's formula (for F1 then
        None); None where the images, or those of the class, are all of one unit (group or
        image), and where there is none.

    Raises:
        ValueError: If there is no image, arrays or groups do not fit each other, or a probability is not a number.

    Source:
        scikit-learn's `precision_recall_fscore_support` with `zero_division=0`: a class that was never predicted has
        precision 0. `roc_auc_score` and `average_precision_score` of each class against all others.
    """
    _check(actual, probabilities, class_names)
    units = Units.of(len(actual), groups)
    resampled = resample_measures(actual, probabilities, units, resamples, seed)
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    rows = _class_rows(actual, probabilities, class_names)
    for number, row in enumerate(rows):
        row.update(_class_intervals(resampled, number, units.among(actual == number), units.among(predicted == number)))
    present = [row for row in rows if row["support"]]
    macro = _means(present, None)
    return {
        "images": len(actual),
        "accuracy": float(np.mean(predicted == actual)),
        "balanced_accuracy": macro["recall"],
        "top_3_accuracy": float(in_top(actual, probabilities).mean()),
        **_calibration_measures(actual, probabilities),
        **{area: _mean_of_defined([row[area] for row in rows]) for area in AREAS},
        "per_class": rows,
        "macro": macro,
        "weighted": _means(present, [row["support"] for row in present]),
        "confusion_matrix": confusion_matrix(actual, predicted, labels=np.arange(len(class_names))).tolist(),
        "intervals": {name: _interval(getattr(resampled, name), units.count) for name in OVERALL},
        "bootstrap": {"resamples": resamples, "unit": units.kind, "units": units.count, "seed": seed},
        "calibration": _calibration(actual, probabilities, temperature),
        "abstention": abstention_table(confidence, predicted == actual),
    }


def uncalibrated(probabilities: FloatArray, temperature: float) -> npt.NDArray[np.float32]:
    """The probabilities before the logits were divided by the temperature: softmax(temperature * log p).

    Args:
        probabilities: Of the calibrated model, shape (n, classes).
        temperature: Above 0.

    Returns:
        Shape (n, classes).
    """
    logarithms = np.log(np.maximum(probabilities.astype(np.float64), SMALLEST_PROBABILITY))
    return softmax(temperature * logarithms)


def _check(actual: IntArray, probabilities: FloatArray, class_names: Sequence[str]) -> None:
    if not len(actual):
        raise ValueError("no image to measure")
    expected = (len(actual), len(class_names))
    if probabilities.shape != expected:
        raise ValueError(f"probabilities of shape {probabilities.shape}; expected (images, classes), {expected}")
    if not np.isfinite(probabilities).all():
        raise ValueError("a probability is not a number")


def _class_rows(actual: IntArray, probabilities: FloatArray, class_names: Sequence[str]) -> list[dict[str, Any]]:
    predicted, labels = probabilities.argmax(axis=1), np.arange(len(class_names))
    columns = precision_recall_fscore_support(actual, predicted, labels=labels, zero_division=0)
    rows = []
    for number, name in enumerate(class_names):
        of_class, (precision, recall, f1, support) = actual == number, (float(column[number]) for column in columns)
        row: dict[str, Any] = {
            "class_name": name,
            "precision": precision if support or (predicted == number).any() else None,
            "recall": recall if support else None,
            "f1": f1 if support else None,
            "support": int(support),
        }
        defined = 0 < support < len(actual)
        for area, score in AREAS.items():
            row[area] = float(score(of_class, probabilities[:, number])) if defined else None
        rows.append(row)
    return rows


def _class_intervals(
    resampled: "ResampledMeasures", number: int, units_of_class: int, units_predicted: int
) -> dict[str, list[float] | None]:
    found = {name: _interval(getattr(resampled, name)[:, number], units_of_class) for name in PER_CLASS}
    units = {"recall": units_of_class, "precision": units_predicted, "f1": 0}
    return {f"{name}_interval": _unless_certain(interval, units[name]) for name, interval in found.items()}


def _unless_certain(interval: list[float] | None, units: int) -> list[float] | None:
    """All right or all wrong stays so in every resample, which is no certainty: then by Wilson, of so many units."""
    if interval == [1.0, 1.0] and units:
        return [wilson_interval(units, units)[0], 1.0]
    if interval == [0.0, 0.0] and units:
        return [0.0, wilson_interval(0, units)[1]]
    return None if interval in ([0.0, 0.0], [1.0, 1.0]) else interval


def _interval(values: FloatArray, units: int) -> list[float] | None:
    interval = percentile_interval(values, units)
    return list(interval) if interval else None


def _means(rows: list[dict[str, Any]], weights: list[int] | None) -> dict[str, float]:
    return {measure: float(np.average([row[measure] for row in rows], weights=weights)) for measure in PER_CLASS}


def _mean_of_defined(values: list[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _calibration(actual: IntArray, probabilities: FloatArray, temperature: float | None) -> dict[str, Any] | None:
    if temperature is None:
        return None
    return {
        "temperature": float(temperature),
        "before": _calibration_measures(actual, uncalibrated(probabilities, temperature)),
        "after": _calibration_measures(actual, probabilities),
    }


def _calibration_measures(actual: IntArray, probabilities: FloatArray) -> dict[str, float]:
    correct = probabilities.argmax(axis=1) == actual
    return {
        "loss": cross_entropy(actual, probabilities),
        "brier": brier_score(actual, probabilities),
        "ece": calibration_error(probabilities.max(axis=1), correct),
    }


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
