"""The content of `metrics.json`."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

from lib.evaluation.measures.abstention import abstention_table
from lib.evaluation.measures.intervals import Units, percentile_interval, resampled_sums
from lib.evaluation.measures.measures import OVERALL, PER_CLASS, Measures, contributions, measures_of
from lib.models.probabilities import SMALLEST_PROBABILITY, FloatArray, IntArray, softmax
from lib.plots import wilson_interval

CALIBRATION = ("loss", "brier", "ece")
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
        probabilities: Probabilities of the calibrated model, shape (n, classes), each row summing to 1.
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
        ValueError: If there is no image, arrays or groups do not fit each other, or a probability is NaN.

    Source:
        scikit-learn's `precision_recall_fscore_support` with `zero_division=0`: a class that was never predicted has
        precision 0. `roc_auc_score` and `average_precision_score` of each class against all others.
    """
    _check(actual, probabilities, class_names)
    units, summands = Units.of(len(actual), groups), contributions(actual, probabilities)
    measures = measures_of(summands.sum(axis=1), len(class_names))
    resampled = measures_of(resampled_sums(summands, units, resamples, seed), len(class_names))
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    confusion = confusion_matrix(actual, predicted, labels=np.arange(len(class_names)))
    support = confusion.sum(axis=1)
    areas = [_areas(actual == number, probabilities[:, number]) for number in range(len(class_names))]
    rows = [
        {
            "class_name": name,
            **{measure: _defined(measures[measure][number]) for measure in PER_CLASS},
            "support": int(support[number]),
            **areas[number],
            **_class_intervals(resampled, number, units.among(actual == number), units.among(predicted == number)),
        }
        for number, name in enumerate(class_names)
    ]
    return {
        "images": len(actual),
        **{name: float(measures[name]) for name in OVERALL if name != "macro_f1"},
        **{area: _mean_of_defined([row[area] for row in areas]) for area in AREAS},
        "per_class": rows,
        "macro": _means(measures, support > 0),
        "weighted": _means(measures, support),
        "confusion_matrix": confusion.tolist(),
        "intervals": {name: _interval(resampled[name], units.count) for name in OVERALL},
        "bootstrap": {"resamples": resamples, "unit": units.kind, "units": units.count, "seed": seed},
        "calibration": _calibration(actual, probabilities, temperature, measures),
        "abstention": abstention_table(confidence, predicted == actual),
    }


def uncalibrated(probabilities: FloatArray, temperature: float) -> npt.NDArray[np.float32]:
    """The probabilities before the logits were divided by the temperature: softmax(temperature * log p).

    Args:
        probabilities: Probabilities of the calibrated model, shape (n, classes).
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
        raise ValueError("a probability is NaN")


def _areas(of_class: npt.NDArray[np.bool_], probability: FloatArray) -> dict[str, float | None]:
    defined = of_class.any() and not of_class.all()
    return {name: float(area(of_class, probability)) if defined else None for name, area in AREAS.items()}


def _class_intervals(
    resampled: Measures, number: int, units_of_class: int, units_predicted: int
) -> dict[str, list[float] | None]:
    found = {name: _interval(resampled[name][:, number], units_of_class) for name in PER_CLASS}
    units = {"recall": units_of_class, "precision": units_predicted, "f1": 0}
    return {f"{name}_interval": _unless_certain(interval, units[name]) for name, interval in found.items()}


def _unless_certain(interval: list[float] | None, units: int) -> list[float] | None:
    """All right or all wrong stays so in every resample, which is no certainty: then by Wilson, of so many units."""
    if interval not in ([0.0, 0.0], [1.0, 1.0]):
        return interval
    return list(wilson_interval(units * int(interval[0]), units)) if units else None


def _interval(values: FloatArray, units: int) -> list[float] | None:
    interval = percentile_interval(values, units)
    return list(interval) if interval else None


def _means(measures: Measures, weights: IntArray) -> dict[str, float]:
    """Over the classes with images, of which each weighs so much; a class without weighs 0."""
    return {name: float(np.average(np.nan_to_num(measures[name]), weights=weights)) for name in PER_CLASS}


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _mean_of_defined(values: list[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _calibration(
    actual: IntArray, probabilities: FloatArray, temperature: float | None, measures: Measures
) -> dict[str, Any] | None:
    if temperature is None:
        return None
    summands = contributions(actual, uncalibrated(probabilities, temperature))
    before = measures_of(summands.sum(axis=1), probabilities.shape[1])
    return {
        "temperature": float(temperature),
        "before": {name: float(before[name]) for name in CALIBRATION},
        "after": {name: float(measures[name]) for name in CALIBRATION},
    }
