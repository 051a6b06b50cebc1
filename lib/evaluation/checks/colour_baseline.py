"""How well the colours of an image alone tell its class: a model that sees no tissue, which others have to beat.

Slides of one organ are often stained, scanned or lit alike, so that this baseline may be high; then a high score of a
network says little about whether it knows the tissue.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from lib.dataset.folds import NEVER_LEFT_OUT
from lib.evaluation.measures.metrics import classification_metrics
from lib.folders.checks import BASELINE_SCHEMA, BaselineRecord
from lib.folders.evaluation import Metrics
from lib.models.probabilities import FloatArray, IntArray, cross_entropy

BASELINE_NAME = "colour histogram, logistic regression"
MOST_TRAINING_IMAGES = 20_000
STRENGTHS = (0.01, 0.1, 1.0, 10.0)
"""Inverse strengths of regularisation (C) to choose from."""
DEFAULT_STRENGTH = 1.0
FEWEST_CLASSES = 2


@dataclass(frozen=True)
class Baseline:
    """What the baseline says of a split.

    Attributes:
        rows: Its predictions (`BASELINE_SCHEMA`), sorted by `image_id`.
        record: How good they are; None if there is no baseline.
    """

    rows: pa.Table
    record: BaselineRecord | None

    @classmethod
    def of(cls, descriptors: pa.Table, split: str, class_names: list[str]) -> "Baseline":
        """Train on the histograms of the training split, at most 20,000 evenly from classes, and predict a split.

        The regularisation is that of the least loss on the validation images, unless they are what is asked for or
        there is none; it is never chosen on test images.

        Args:
            descriptors: Rows of `DESCRIPTOR_SCHEMA`.
            split: What to predict. There is no baseline for the training split, since no other images of the data set
                would be left to train on, nor where fewer than two classes have training images or `split` has none.
            class_names: The classes in order.
        """
        asked, training = _Examples.of(descriptors, split, class_names), _Examples.of(descriptors, "train", class_names)
        training = training.evenly(MOST_TRAINING_IMAGES)
        if split == "train" or not asked.count or len(np.unique(training.labels)) < FEWEST_CLASSES:
            return cls(BASELINE_SCHEMA.empty_table(), None)
        validation = _Examples.of(descriptors, "validation", class_names)
        chosen = split != "validation" and validation.count > 0
        strength = _best_strength(training, validation) if chosen else DEFAULT_STRENGTH
        probabilities = training.fit(strength).probabilities(asked)
        metrics = asked.measure(probabilities)
        record = BaselineRecord(
            name=BASELINE_NAME,
            images=metrics.images,
            accuracy=metrics.accuracy,
            interval=metrics.intervals.accuracy,
            balanced_accuracy=metrics.balanced_accuracy,
            training_images=training.count,
            regularisation=strength,
            chosen_on="validation" if chosen else None,
        )
        return cls(asked.rows(probabilities), record)


def cross_validated_colours(
    images: pa.Table, histograms: FloatArray, folds: npt.NDArray[np.integer], class_names: list[str]
) -> npt.NDArray[np.float32]:
    """What the baseline says of each image that it was trained without.

    The regularisation is that of the least loss on the images that are left out, as for the heads of networks.

    Args:
        images: Has their `label`; n rows.
        histograms: See `colour_histogram`, shape (n, levels).
        folds: In which each is left out, shape (n,), or `NEVER_LEFT_OUT`.
        class_names: The classes in order.

    Returns:
        Probabilities, shape (n, classes); NaN for an image that is never left out.
    """
    labels = pc.index_in(images["label"], pa.array(class_names)).to_numpy().astype(np.int64)
    examples, judged = _Examples(images, class_names, np.sqrt(histograms), labels), folds != NEVER_LEFT_OUT
    found = [_left_out(examples, folds, strength) for strength in STRENGTHS]
    return min(found, key=lambda probabilities: cross_entropy(labels[judged], probabilities[judged]))


def _left_out(examples: "_Examples", folds: npt.NDArray[np.integer], strength: float) -> npt.NDArray[np.float32]:
    probabilities = np.full((examples.count, len(examples.class_names)), np.nan, np.float32)
    for fold in np.unique(folds[folds != NEVER_LEFT_OUT]):
        fitted = examples.at(np.flatnonzero(folds != fold)).fit(strength)
        probabilities[folds == fold] = fitted.probabilities(examples.at(np.flatnonzero(folds == fold)))
    return probabilities


@dataclass(frozen=True)
class _Fitted:
    """A trained model.

    Attributes:
        model: From features to the classes that had training images.
        classes: How many classes there are in all.
    """

    model: Pipeline
    classes: int

    def probabilities(self, examples: "_Examples") -> npt.NDArray[np.float32]:
        """Shape (n, classes); 0 for a class without a training image."""
        result = np.zeros((examples.count, self.classes), np.float32)
        result[:, self.model.classes_] = self.model.predict_proba(examples.features)
        return result


@dataclass(frozen=True)
class _Examples:
    """Some images of one split.

    Attributes:
        images: Their descriptors.
        class_names: The classes in order.
        features: Square roots of the histograms, shape (n, levels): rare levels then count for more.
        labels: Classes as numbers, shape (n,).
    """

    images: pa.Table
    class_names: list[str]
    features: FloatArray
    labels: IntArray

    @classmethod
    def of(cls, descriptors: pa.Table, split: str, class_names: list[str]) -> "_Examples":
        images = descriptors.filter(pc.equal(descriptors["split"], split)).sort_by("image_id").combine_chunks()
        histograms = pc.list_flatten(images["histogram"]).to_numpy().astype(np.float64)
        labels = pc.index_in(images["label"], pa.array(class_names)).to_numpy().astype(np.int64)
        width = len(histograms) // max(images.num_rows, 1)
        return cls(images, class_names, np.sqrt(histograms).reshape(images.num_rows, width), labels)

    @property
    def count(self) -> int:
        return len(self.labels)

    def evenly(self, most: int) -> "_Examples":
        """All, or so many that no class has more than another of which all are taken; always the same ones."""
        shuffled = np.random.default_rng(0).permutation(self.count)
        by_class = shuffled[np.argsort(self.labels[shuffled], kind="stable")]
        labels = self.labels[by_class]
        turns = np.arange(self.count) - np.searchsorted(labels, labels)
        return self.at(np.sort(by_class[np.argsort(turns, kind="stable")[:most]]))

    def at(self, places: npt.NDArray[np.integer]) -> "_Examples":
        return _Examples(self.images.take(places), self.class_names, self.features[places], self.labels[places])

    def fit(self, strength: float) -> _Fitted:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
        with warnings.catch_warnings():
            # Weak regularisation of classes that colour tells apart: their weights would grow on, to no effect.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return _Fitted(model.fit(self.features, self.labels), len(self.class_names))

    def measure(self, probabilities: FloatArray) -> Metrics:
        groups = self.images["group"].to_pylist()
        return classification_metrics(self.labels, probabilities, self.class_names, groups=groups)

    def rows(self, probabilities: FloatArray) -> pa.Table:
        best = probabilities.argmax(axis=1)
        columns = {
            "image_id": self.images["image_id"],
            "label": self.images["label"],
            "predicted": pa.array([self.class_names[number] for number in best], pa.string()),
            "correct": best == self.labels,
            "confidence": probabilities.max(axis=1).astype(np.float32),
        }
        return pa.table(columns, schema=BASELINE_SCHEMA)


def _best_strength(training: _Examples, validation: _Examples) -> float:
    """That of the least loss, and of equal ones the strongest regularisation."""
    losses = {
        strength: cross_entropy(validation.labels, training.fit(strength).probabilities(validation))
        for strength in STRENGTHS
    }
    return min(losses, key=lambda strength: losses[strength])
