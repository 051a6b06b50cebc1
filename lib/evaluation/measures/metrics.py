"""All measures of predictions with their intervals, as `metrics.json` has them."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

from lib.evaluation.measures.abstention import abstention_table
from lib.evaluation.measures.intervals import Units, percentile_interval, resampled_sums, unless_certain
from lib.evaluation.measures.measures import (
    AT_STAKE,
    NO_STAKES,
    OVERALL,
    PER_CLASS,
    Measures,
    contributions,
    measures_of,
)
from lib.evaluation.measures.stakes import Stakes
from lib.folders.evaluation import (
    Bootstrap,
    CalibrationEffect,
    CalibrationMeasures,
    ClassMeans,
    ClassMeasures,
    Interval,
    Intervals,
    Metrics,
)
from lib.models.probabilities import SMALLEST_PROBABILITY, FloatArray, IntArray, softmax

CALIBRATION = ("loss", "brier", "ece")
AREAS: dict[str, Callable[..., float]] = {"roc_auc": roc_auc_score, "pr_auc": average_precision_score}


def classification_metrics(  # noqa: PLR0913 - what is measured, and how intervals are drawn
    actual: IntArray,
    probabilities: FloatArray,
    class_names: Sequence[str],
    *,
    groups: Sequence[str | None] | None = None,
    temperature: float | None = None,
    stakes: Stakes = NO_STAKES,
    resamples: int = 2000,
    seed: int = 0,
) -> Metrics:
    """Measure predictions, with intervals from resamples.

    Args:
        actual: The true class of each image as its place in `class_names`, shape (n,), n at least 1.
        probabilities: Probabilities of the calibrated model, shape (n, classes), each row summing to 1.
        class_names: Every class, also those without a test image.
        groups: The group (slide, patient) of each image, None where it has none.
        temperature: What the logits were divided by for calibration; None if the model is not calibrated.
        stakes: An order of the classes, and costs of mistakes.
        resamples: How many resamples the intervals come from.
        seed: The same seed gives the same intervals.

    Returns:
        Every measure; intervals of a class that is all right or all wrong are by Wilson's formula (for F1 then None).

    Raises:
        ValueError: If there is no image, arrays or groups do not fit each other, or a probability is NaN.

    Source:
        scikit-learn's `precision_recall_fscore_support` with `zero_division=0`: a class that was never predicted has
        precision 0. `roc_auc_score` and `average_precision_score` of each class against all others.
    """
    _check(actual, probabilities, class_names)
    units, summands = Units.of(len(actual), groups), contributions(actual, probabilities, stakes)
    measures = measures_of(summands.sum(axis=1), len(class_names), stakes)
    resampled = measures_of(resampled_sums(summands, units, resamples, seed), len(class_names), stakes)
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    confusion = confusion_matrix(actual, predicted, labels=np.arange(len(class_names)))
    support = confusion.sum(axis=1)
    areas = [_areas(actual == number, probabilities[:, number]) for number in range(len(class_names))]
    rows = [
        ClassMeasures.model_validate(
            {
                "class_name": name,
                **{measure: _defined(measures[measure][number]) for measure in PER_CLASS},
                "support": int(support[number]),
                **areas[number],
                **_class_intervals(resampled, number, units.among(actual == number), units.among(predicted == number)),
            }
        )
        for number, name in enumerate(class_names)
    ]
    return Metrics(
        images=len(actual),
        **{name: float(measures[name]) for name in OVERALL if name not in {"macro_f1", "kappa", *AT_STAKE}},
        **{name: _defined(float(measures[name])) for name in ("kappa", *AT_STAKE)},
        **{area: _mean_of_defined([row[area] for row in areas]) for area in AREAS},
        per_class=rows,
        macro=_means(measures, support > 0),
        weighted=_means(measures, support),
        confusion_matrix=confusion.tolist(),
        intervals=Intervals(**{name: percentile_interval(resampled[name], units.count) for name in OVERALL}),
        bootstrap=Bootstrap(resamples=resamples, unit=units.kind, units=units.count, seed=seed),
        calibration=_calibration(actual, probabilities, temperature, measures),
        abstention=abstention_table(confidence, predicted == actual),
    )


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
) -> dict[str, Interval | None]:
    found = {name: percentile_interval(resampled[name][:, number], units_of_class) for name in PER_CLASS}
    units = {"recall": units_of_class, "precision": units_predicted, "f1": 0}
    return {f"{name}_interval": unless_certain(interval, units[name]) for name, interval in found.items()}


def _means(measures: Measures, weights: IntArray) -> ClassMeans:
    """Over the classes with images, of which each weighs so much; a class without weighs 0."""
    return ClassMeans(**{name: float(np.average(np.nan_to_num(measures[name]), weights=weights)) for name in PER_CLASS})


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _mean_of_defined(values: list[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _calibration(
    actual: IntArray, probabilities: FloatArray, temperature: float | None, measures: Measures
) -> CalibrationEffect | None:
    if temperature is None:
        return None
    summands = contributions(actual, uncalibrated(probabilities, temperature))
    before = measures_of(summands.sum(axis=1), probabilities.shape[1])
    return CalibrationEffect(
        temperature=float(temperature),
        before=CalibrationMeasures(**{name: float(before[name]) for name in CALIBRATION}),
        after=CalibrationMeasures(**{name: float(measures[name]) for name in CALIBRATION}),
    )
