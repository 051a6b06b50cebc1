"""The images of a Projector as points, and which images to take when there are too many."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lib.errors import DataError

FloatArray = npt.NDArray[np.floating[Any]]
Thumbnail = bytes | npt.NDArray[np.uint8]
"""An encoded image (JPEG, PNG), or RGB of shape (height, width, 3)."""

MATRIX = 2
MOST_POINTS = 5000
"""As many as the Projector's UMAP takes; its t-SNE takes 10,000."""


@dataclass(frozen=True)
class ProjectorPoints:
    """Images with their embeddings; all sequences have one entry an image, in the same order.

    Attributes:
        embeddings: Shape (n, dimensions), n from 1 to `MOST_POINTS`, finite, of any length.
        labels: The true class of each image.
        predicted: The predicted class of each image.
        confidence: Probability of the predicted class, in [0, 1], shape (n,).
        paths: Where each image came from.
        thumbnails: A picture of each image, of any size; None shows dots.

    Raises:
        DataError: If there is no point or too many, an embedding is not finite, or lengths differ.
    """

    embeddings: FloatArray
    labels: Sequence[str]
    predicted: Sequence[str]
    confidence: FloatArray
    paths: Sequence[str]
    thumbnails: Sequence[Thumbnail] | None = None

    def __post_init__(self) -> None:
        """Refuse what TensorBoard would show wrongly or not at all."""
        count = len(self.embeddings)
        if self.embeddings.ndim != MATRIX or not 1 <= count <= MOST_POINTS or not self.embeddings.shape[1]:
            raise DataError(f"a projector shows 1 to {MOST_POINTS:,} vectors, not an array of {self.embeddings.shape}")
        columns = (self.labels, self.predicted, self.confidence, self.paths)
        lengths = [len(column) for column in columns] + ([] if self.thumbnails is None else [len(self.thumbnails)])
        if set(lengths) != {count}:
            raise DataError(f"{count} embeddings with {lengths} labels, predictions, confidences, paths, thumbnails")
        if not np.isfinite(self.embeddings).all():
            raise DataError("an embedding is not finite, so the Projector cannot show it")

    @property
    def vectors(self) -> npt.NDArray[np.float32]:
        """The embeddings at unit length, shape (n, dimensions); one that is zero stays zero."""
        return unit_length(self.embeddings)


def unit_length(embeddings: FloatArray) -> npt.NDArray[np.float32]:
    """Rows divided by their Euclidean length, shape (n, dimensions); a row of zeros stays as it is."""
    values = np.asarray(embeddings, np.float64)
    # First by the largest number, so that no square is infinite or zero.
    values = values / _or_one(np.abs(values).max(axis=1, keepdims=True))
    return np.asarray(values / _or_one(np.linalg.norm(values, axis=1, keepdims=True)), np.float32)


def _or_one(lengths: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(lengths == 0, 1.0, lengths)


def choose_points(labels: Sequence[str], ids: Sequence[str], most: int = MOST_POINTS) -> npt.NDArray[np.intp]:
    """A sample that is fair to the classes and depends on nothing but the labels and ids.

    Each class keeps the same number of images, or all of its images if it has fewer, taken by the lowest SHA-256 of
    their ids; so the order of the images does not matter, and one more image changes little.

    Args:
        labels: The class of each image.
        ids: What identifies each image, all different.
        most: How many images to choose at most, at least 1.

    Returns:
        Ascending indices of the chosen images, `min(most, n)` of them.
    """
    classes: dict[str, list[tuple[bytes, int]]] = defaultdict(list)
    for index, (label, image_id) in enumerate(zip(labels, ids, strict=True)):
        classes[label].append((hashlib.sha256(image_id.encode(errors="surrogateescape")).digest(), index))
    # The k-th image of every class comes before the k+1-th of any.
    order = [(place, digest, index) for of_class in classes.values() for place, (digest, index) in _places(of_class)]
    return np.array(sorted(index for _, _, index in sorted(order)[:most]), np.intp)


def _places(of_class: list[tuple[bytes, int]]) -> enumerate[tuple[bytes, int]]:
    return enumerate(sorted(of_class))
