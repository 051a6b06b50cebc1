"""What to doubt about one model: no better than something simple, its confidence, its training, its data."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from lib.models.probabilities import calibration_error
from lib.report.doubts.doubt import Doubt
from lib.report.formatting import count_of, percent, some
from lib.report.report import Evaluation

OVERFIT_GAP = 0.1
"""How much better the training accuracy may be than the validation accuracy."""
CALIBRATION_GAP = 0.05
"""How far the confidence may be from the accuracy, if chance does not explain it."""
UNFAMILIAR_SHARE = 0.05
"""Share of images far from all training images from which on the page says so; of validation images it is 1 %."""
DRAWS = 200


def model_doubts(evaluation: Evaluation) -> list[Doubt]:
    """What speaks against the numbers of one model."""
    return [
        *_nothing_learned(evaluation),
        *_confidence(evaluation),
        *_images(evaluation),
        *_training(evaluation),
        *_provenance(evaluation),
    ]


def _nothing_learned(evaluation: Evaluation) -> Iterator[Doubt]:
    name, per_class = evaluation.name, evaluation.metrics["per_class"]
    largest = max(per_class, key=lambda row: row["support"])
    share = largest["support"] / max(evaluation.images, 1)
    reaches = f"the interval of {name} reaches down to {percent(evaluation.interval[0])}."
    if evaluation.interval[0] <= share:
        yield Doubt(
            f"{name} may know nothing",
            f"Always answering {largest['class_name']!r} would be right on {percent(share)}; {reaches}",
        )
    colours = evaluation.baseline
    if colours and evaluation.interval[0] <= colours.accuracy:
        yield Doubt(
            f"{name} may know no more than colours",
            f"Colours alone ({colours.name}) are right on {percent(colours.accuracy)} of the same images; {reaches}",
        )
    missed = [row["class_name"] for row in per_class if row["support"] and not row["recall"]]
    if missed:
        yield Doubt(f"{name} misses whole classes", f"Not one image of {some(missed)} is recognised.")


def _confidence(evaluation: Evaluation) -> Iterator[Doubt]:
    name, predictions = evaluation.name, evaluation.predictions
    confidence = predictions.mean_confidence
    if abs(confidence - evaluation.accuracy) > CALIBRATION_GAP:
        yield Doubt(
            f"{name} is too {'sure of itself' if confidence > evaluation.accuracy else 'modest'}",
            f"On average it is {percent(confidence)} confident, and right on {percent(evaluation.accuracy)}.",
        )
    elif evaluation.images:
        error = calibration_error(predictions.confidence, predictions.right)
        chance = chance_calibration_error(predictions.confidence)
        if error > max(CALIBRATION_GAP, chance):
            yield Doubt(
                f"The confidence of {name} is off",
                f"It differs from the share that is right by {percent(error)} on average, too modest for some "
                f"images and too sure for others; chance alone explains up to {percent(chance)}.",
            )
    if not evaluation.model.get("calibration"):
        yield Doubt(
            f"{name} is not calibrated",
            "No validation images fitted a temperature to its probabilities: they are as training left them.",
        )


def chance_calibration_error(confidence: npt.NDArray[np.float32]) -> float:
    """How large the expected calibration error becomes by chance where every confidence is true.

    Args:
        confidence: Probability of the predicted class, in [0, 1], shape (n,), n at least 1.

    Returns:
        What 95 of 100 draws of right and wrong with these probabilities stay below.

    Source:
        Broecker and Smith, Increasing the Reliability of Reliability Diagrams, Weather and Forecasting 22, 2007.
    """
    rng = np.random.default_rng(0)
    errors = [calibration_error(confidence, rng.random(len(confidence)) < confidence) for _ in range(DRAWS)]
    return float(np.quantile(errors, 0.95))


def _images(evaluation: Evaluation) -> Iterator[Doubt]:
    name, split = evaluation.name, evaluation.split
    unfamiliar = evaluation.predictions.unfamiliar
    if unfamiliar and unfamiliar > UNFAMILIAR_SHARE * evaluation.images:
        yield Doubt(
            f"Images that {name} was not trained on the like of",
            f"{unfamiliar:,} of {count_of(evaluation.images, f'{split} image')} are farther from all training images "
            "than nearly every validation image is.",
        )
    found = evaluation.label_errors
    if found and found.count:
        yield Doubt(
            "Some labels may be wrong",
            f"{name} speaks against the label of {count_of(found.count, f'{split} image')}, shown below. "
            "Either a label is wrong, and counts as a mistake that is none, or the model is.",
        )
    resembling = evaluation.resembling
    if resembling and resembling.count:
        yield Doubt(
            f"Training images that {name} takes for {split} images",
            f"{count_of(resembling.images, f'{split} image')} have a neighbour among the training images that also "
            "looks alike, shown below. Recognising a copy is memory, not skill.",
        )


def _training(evaluation: Evaluation) -> Iterator[Doubt]:
    name, metrics = evaluation.name, evaluation.model["metrics"]
    if sweep := evaluation.model.get("sweep"):
        yield Doubt(
            f"Validation images chose {name}",
            f"It is the best of {count_of(sweep['trials'], 'trial')} on them, so its validation numbers look a little "
            "better than they are. Test images took no part in the choice.",
        )
    train, validation = metrics.get("accuracy"), metrics.get("val_accuracy")
    if validation is None:
        yield Doubt(f"{name} was not validated", "No image was kept aside to choose its best epoch by.")
    elif train is not None and train - validation > OVERFIT_GAP:
        yield Doubt(
            f"{name} knows its training images better",
            f"It is right on {percent(train)} of them and on {percent(validation)} of the validation images.",
        )
    if metrics.get("epochs") and metrics.get("best_epoch") == metrics["epochs"]:
        yield Doubt(
            f"{name} was still improving",
            f"Its best epoch is its last, {metrics['epochs']}: more epochs may help.",
        )


def _provenance(evaluation: Evaluation) -> Iterator[Doubt]:
    name, evaluated_on = evaluation.name, evaluation.record["dataset_hash"]
    trained_on, there_now = evaluation.model["dataset_hash"], evaluation.dataset.record["content_hash"]
    if trained_on != evaluated_on:
        yield Doubt(
            f"{name} was trained on other data",
            f"Trained on dataset {trained_on}, measured on {evaluated_on}; they may share images.",
        )
    if there_now != evaluated_on:
        yield Doubt(
            f"The dataset has changed since {name} was measured",
            f"It was measured on dataset {evaluated_on}; {evaluation.dataset.uri} now holds {there_now}.",
        )
