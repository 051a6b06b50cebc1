"""What to doubt about one model: no better than something simple, its confidence, its training, its data."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from lib.evaluation.checks.label_errors import LEAST_ACCURACY
from lib.models.probabilities import calibration_error
from lib.report.doubts.doubt import Doubt
from lib.report.formatting import count_of, has, percent, some
from lib.report.report import Evaluation

OVERFIT_GAP = 0.1
"""How much better the training accuracy may be than the validation accuracy."""
CALIBRATION_GAP = 0.05
"""How far the confidence may be from the accuracy, if chance does not explain it."""
UNFAMILIAR_SHARE = 0.05
"""Share of images far from all training images from which on the page says so; of validation images it is 1 %."""
DRAWS = 200
TELLING_V = 0.3
"""Cramer's V of label and site from which on it is told of."""
RARE = 0.05
"""Corrected p value below which a slice is told of."""


def model_doubts(evaluation: Evaluation) -> list[Doubt]:
    """What speaks against the numbers of one model."""
    return [
        *_nothing_learned(evaluation),
        *_confidence(evaluation),
        *_images(evaluation),
        *_sites(evaluation),
        *_slices(evaluation),
        *_training(evaluation),
        *_provenance(evaluation),
        *_projector(evaluation),
    ]


def _nothing_learned(evaluation: Evaluation) -> Iterator[Doubt]:
    name, per_class = evaluation.name, evaluation.metrics.per_class
    largest = max(per_class, key=lambda row: row.support)
    share = largest.support / max(evaluation.images, 1)
    reaches = f"the interval of {name} reaches down to {percent(evaluation.interval[0])}."
    if evaluation.interval[0] <= share:
        yield Doubt(
            f"{name} may have learned nothing",
            f"Always answering {largest.class_name!r} would be right on {percent(share)}; {reaches}",
        )
    colours = evaluation.baseline
    if colours and evaluation.interval[0] <= colours.accuracy:
        yield Doubt(
            f"{name} may be no better than colour alone",
            f"Colour alone ({colours.name}) is right on {percent(colours.accuracy)} of the same images; {reaches}",
        )
    missed = [row.class_name for row in per_class if row.support and not row.recall]
    if missed:
        yield Doubt(f"{name} misses whole classes", f"No image of {some(missed)} is recognised.")


def _confidence(evaluation: Evaluation) -> Iterator[Doubt]:
    name, predictions = evaluation.name, evaluation.predictions
    confidence = predictions.mean_confidence
    if abs(confidence - evaluation.accuracy) > CALIBRATION_GAP:
        yield Doubt(
            f"{name} is {'overconfident' if confidence > evaluation.accuracy else 'underconfident'}",
            f"Its mean confidence is {percent(confidence)}, but it is right on {percent(evaluation.accuracy)}.",
        )
    elif evaluation.images:
        error = calibration_error(predictions.confidence, predictions.right)
        chance = chance_calibration_error(predictions.confidence)
        if error > max(CALIBRATION_GAP, chance):
            yield Doubt(
                f"The confidence of {name} is unreliable",
                f"It differs from the share of right answers by {percent(error)} on average, too low for some images "
                f"and too high for others; chance alone explains up to {percent(chance)}.",
            )
    if evaluation.model.calibration is None:
        yield Doubt(
            f"{name} is not calibrated",
            "No images were left out of training to calibrate its probabilities with; they are as training left them.",
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
            f"Images unlike anything {name} was trained on",
            f"{unfamiliar:,} of {count_of(evaluation.images, f'{split} image')} are farther from all training images "
            "than 99 % of the images that were left out of its training.",
        )
    found = evaluation.label_errors
    if found and evaluation.metrics.accuracy < LEAST_ACCURACY:
        yield Doubt(
            "Wrong labels could not be looked for",
            f"{name} is right on {percent(evaluation.metrics.accuracy)} of its {split} images. Below "
            f"{percent(LEAST_ACCURACY)}, most labels that a model disagrees with are right.",
        )
    if found and found.count:
        yield Doubt(
            "Some labels may be wrong",
            f"{name} disagrees with the label of {count_of(found.count, f'{split} image')}, shown below. "
            "If a label is wrong, a right answer was counted as an error; but the model may be wrong as well.",
        )
    resembling = evaluation.resembling
    if resembling and resembling.count:
        yield Doubt(
            f"{split.capitalize()} images that have a near copy in training",
            f"To {name}, {count_of(resembling.images, f'{split} image')} {has(resembling.images)} a close neighbour "
            "among the training images that also looks alike, shown below. Recognising a copy is memory, not skill.",
        )


def _sites(evaluation: Evaluation) -> Iterator[Doubt]:
    sites = evaluation.record.sites
    if sites and sites.cramers_v >= TELLING_V:
        known = (
            f" {evaluation.name} does tell sites apart: the nearest image of a class from another slide is of the same "
            f"site in {percent(sites.same_site, 0)}, by chance in {percent(sites.same_site_by_chance, 0)}."
            if sites.is_readable and sites.same_site is not None and sites.same_site_by_chance is not None
            else ""
        )
        yield Doubt(
            f"The site may tell {evaluation.name} the class",
            f"Classes are not spread evenly over sites (Cramer's V {sites.cramers_v:.2f}): where an image is from says "
            f"something of what it shows, and would no longer on a new site.{known}",
        )


def _slices(evaluation: Evaluation) -> Iterator[Doubt]:
    worse = [
        f"{percent(row.accuracy)} of {count_of(row.images, 'image')} with {row.column} {row.value!r}"
        for row in (evaluation.slices.shown if evaluation.slices else ())
        if row.accuracy < evaluation.accuracy and row.adjusted_p_value is not None and row.adjusted_p_value < RARE
    ]
    if worse:
        yield Doubt(
            f"{evaluation.name} is worse on some images",
            f"It is right on {some(worse)}, against {percent(evaluation.accuracy)} of all: more than chance explains, "
            "with as many comparisons as there are. Its accuracy elsewhere depends on which images there are.",
        )


def _training(evaluation: Evaluation) -> Iterator[Doubt]:
    name, metrics = evaluation.name, evaluation.model.metrics
    if sweep := evaluation.model.sweep:
        yield Doubt(
            f"{name} was chosen by its validation images",
            f"It is the best of {count_of(sweep.trials, 'trial')} on them, so its validation scores are slightly "
            "too good. Test images played no part in the choice.",
        )
    unseen = metrics.val_accuracy if metrics.left_out_accuracy is None else metrics.left_out_accuracy
    if unseen is None:
        of_head = "No training image could be left out to choose the penalty of its head by: each class is one group."
        of_epochs = "No images were set aside to tell how it does on new ones; its last epoch was kept."
        yield Doubt(f"{name} was not validated", of_epochs if metrics.penalty is None else of_head)
    elif metrics.accuracy - unseen > OVERFIT_GAP:
        which = "the validation images" if metrics.left_out_accuracy is None else "those left out in turn"
        yield Doubt(
            f"{name} overfits",
            f"It is right on {percent(metrics.accuracy)} of its training images, but on {percent(unseen)} of {which}.",
        )
    if metrics.best_epoch == metrics.epochs and metrics.penalty is None and not metrics.keeps_last:
        yield Doubt(
            f"{name} was still improving",
            f"Its best epoch is its last, {metrics.epochs}: more epochs may help.",
        )


def _provenance(evaluation: Evaluation) -> Iterator[Doubt]:
    name, evaluated_on = evaluation.name, evaluation.record.dataset_hash
    trained_on, there_now = evaluation.model.dataset_hash, evaluation.dataset.record.content_hash
    if trained_on != evaluated_on:
        yield Doubt(
            f"{name} was trained on other data",
            f"It was trained on dataset {trained_on} and measured on {evaluated_on}; they may share images.",
        )
    if there_now != evaluated_on:
        yield Doubt(
            f"The dataset has changed since {name} was measured",
            f"It was measured on dataset {evaluated_on}; {evaluation.dataset.uri} now holds {there_now}.",
        )


def _projector(evaluation: Evaluation) -> Iterator[Doubt]:
    projector = evaluation.record.projector
    if projector is not None and projector.problem is not None:
        yield Doubt(
            f"The Projector of {evaluation.name} could not be verified",
            f"{projector.problem}. Its other numbers and pictures do not depend on it.",
        )
