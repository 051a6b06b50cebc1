"""What each candidate of a choice says of training images that it was fitted without.

A pre-trained network stays as it is, and its head is solved without each fold. A network from scratch is trained
without each fold, for as many epochs as were asked for: nothing of the fold may tell it when to stop.
"""

import logging

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lib.config.fitting import TrainConfig
from lib.config.resources import DecodeConfig
from lib.dataset.folds import FOLD_SCHEMA, FOLDS
from lib.dataset.source import image_array
from lib.evaluation.checks.colour_baseline import cross_validated_colours
from lib.evaluation.checks.descriptors import LEVELS, colour_histogram
from lib.evaluation.choice.tried_images import TriedImages
from lib.models.probabilities import FloatArray, softmax
from lib.models.softmax_regression import PENALTIES
from lib.models.spec import ModelSpec, parse_spec
from lib.runtime.progress import Progress
from lib.storage.location import Location
from lib.training.fit.head_examples import HeadExamples
from lib.training.trainer import frozen_features, train_on

logger = logging.getLogger(__name__)

BATCH_SIZE = 64


def left_out_probabilities(tried: TriedImages, config: TrainConfig) -> FloatArray:
    """What a model says of images that it was fitted without.

    Args:
        tried: The images.
        config: Of its training; `output` is a folder for what is under way, which may be deleted then.

    Returns:
        Shape (n, classes), NaN for an image that is never left out.

    Raises:
        DivergedError: If the loss of a network never was a number.
        TissueError: Of the kind that tells what is wrong.
    """
    spec = parse_spec(config.model)
    return _by_solved_heads(tried, spec, config) if spec.has_frozen_base else _by_networks(tried, config)


def colour_probabilities(tried: TriedImages, config: DecodeConfig) -> FloatArray:
    """The same of a model that sees colours alone."""
    histograms = np.zeros((tried.images.num_rows, 3 * LEVELS))
    for places, images in tried.decoded(np.ones(len(tried.folds), bool), config):
        histograms[places] = [colour_histogram(image) for image in image_array(images, tried.source.image_size)]
    return cross_validated_colours(tried.images, histograms, tried.folds, tried.source.class_names)


def _by_solved_heads(tried: TriedImages, spec: ModelSpec, config: TrainConfig) -> FloatArray:
    classes, positions = len(tried.source.class_names), tried.images["position"].to_numpy()
    features = frozen_features(config, spec, tried.source, only=positions)
    if features is None:
        raise ValueError(f"{spec.text} has no frozen base")
    folds = pa.table({"position": positions, "fold": tried.folds}, schema=FOLD_SCHEMA)
    images = HeadExamples.read(features, folds, _class_weights(tried, config))
    with Progress(f"solve {spec.name}", len(PENALTIES), "penalties") as progress:
        solved = images.solve(classes, _blocks(spec, config.image_size), on_step=lambda: progress.advance(1))
    left_out, probabilities = images.left_out(solved), np.full((len(positions), classes), np.nan, np.float32)
    if left_out is not None:
        probabilities[np.searchsorted(positions, left_out.positions)] = softmax(left_out.logits)
    return probabilities


def _class_weights(tried: TriedImages, config: TrainConfig) -> npt.NDArray[np.float64]:
    counts = np.bincount(tried.labels, minlength=len(tried.source.class_names))
    if config.class_weight == "none":
        return np.ones(len(counts))
    return np.asarray(counts.sum() / (len(counts) * np.maximum(counts, 1)))


def _blocks(spec: ModelSpec, image_size: int) -> tuple[int, ...]:
    """How many features each tap of a network gives; none where they have one origin."""
    if not spec.has_middle_features:
        return ()
    from lib.models.applications import base_taps, build_application_base

    return tuple(base_taps(spec, build_application_base(spec, image_size)).values())


def _by_networks(tried: TriedImages, config: TrainConfig) -> FloatArray:
    probabilities = np.full((len(tried.folds), len(tried.source.class_names)), np.nan, np.float32)
    for fold in np.unique(tried.folds[tried.judged]):
        logger.info("choose: %s without part %d of %d", config.model, fold + 1, FOLDS)
        folder = Location(config.output) / f"fold-{fold}"
        # One worker, so that any number of workers chooses the same; and all epochs, since nothing may choose one.
        alone = config.part(TrainConfig, output=folder.uri, num_workers=1, keep_epoch="last")
        train_on(tried.part(tried.folds != fold), alone, tracked=False)
        _predict(tried, tried.folds == fold, alone, probabilities)
    return probabilities


def _predict(tried: TriedImages, chosen: npt.NDArray[np.bool_], config: TrainConfig, probabilities: FloatArray) -> None:
    """Write what a trained network says of some images into their rows."""
    from lib.models.inference import Forward
    from lib.models.saved import load_network

    forward = Forward(load_network(Location(config.output)), BATCH_SIZE)
    for places, images in tried.decoded(chosen, config):
        (logits,) = forward(images)
        probabilities[places] = softmax(logits)
