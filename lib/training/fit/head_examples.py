"""Training images by whose features a head is solved, and what it says of each that it was solved without."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from threadpoolctl import threadpool_limits

from lib.dataset.folds import NEVER_LEFT_OUT
from lib.dataset.sampler import PADDING
from lib.models.reference import NEIGHBOURS, neighbour_distances
from lib.models.softmax_regression import Examples, SolvedHead, solve
from lib.training.feature_extraction import FeatureSource

Array = npt.NDArray[np.float64]

CHUNK = 4096
"""Images whose features are read at one time."""
MOST_QUERIES = 2000
"""Images by which the distance is found that is usual between images of a kind."""


@dataclass(frozen=True)
class LeftOut:
    """What heads say of training images that they were solved without.

    Attributes:
        positions: Of the images in the training split, shape (n,), ascending.
        folds: In which each was left out, shape (n,).
        labels: Their classes, shape (n,).
        logits: float32 (n, classes).
    """

    positions: npt.NDArray[np.int64]
    folds: npt.NDArray[np.int8]
    labels: npt.NDArray[np.int32]
    logits: npt.NDArray[np.float32]

    def distances(
        self, positions: npt.NDArray[np.int64], embeddings: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """How far reference images are from those of other folds, as later images are from all of them.

        Args:
            positions: Of the reference images in the training split, ascending, shape (n,).
            embeddings: float32 (n, d), each row of unit length.

        Returns:
            Of at most `MOST_QUERIES` reference images that were left out, evenly chosen, shape (m,).
        """
        place = np.searchsorted(self.positions, positions).clip(max=max(len(self.positions) - 1, 0))
        fold = np.where(self.positions[place] == positions, self.folds[place], NEVER_LEFT_OUT)
        asked = np.flatnonzero(fold != NEVER_LEFT_OUT)
        asked = asked[:: max(-(-len(asked) // MOST_QUERIES), 1)]
        found = [
            neighbour_distances(embeddings[asked[fold[asked] == number]], embeddings[fold != number], NEIGHBOURS)
            for number in np.unique(fold[asked])
        ]
        return np.concatenate([np.empty(0, np.float32), *found])


@dataclass(frozen=True)
class HeadExamples:
    """Usable training images with their features in memory, in all variants of them.

    Attributes:
        positions: In the training split, shape (n,), ascending.
        folds: In which each is left out, shape (n,), or `NEVER_LEFT_OUT`.
        labels: Their classes, shape (n,).
        examples: The first variant of all images, then the second, and so on.
    """

    positions: npt.NDArray[np.int64]
    folds: npt.NDArray[np.int8]
    labels: npt.NDArray[np.int32]
    examples: Examples

    @classmethod
    def read(
        cls, features: FeatureSource, folds: pa.Table, class_weights: Array, on_chunk: Callable[[], None] = lambda: None
    ) -> Self:
        """Read them.

        Args:
            folds: Which images (`FOLD_SCHEMA`), by position.
            class_weights: How much an image of each class counts, shape (classes,).
            on_chunk: Called after each chunk of images.

        Raises:
            StorageError: If features cannot be read.
        """
        positions, fold_of = folds["position"].to_numpy(), folds["fold"].to_numpy()
        variants = [
            read_examples(features, "train", positions, variant, on_chunk)
            for variant in features.folder.variants("train")
        ]
        usable = variants[0].labels != PADDING
        labels = variants[0].labels[usable].astype(np.int32)
        examples = Examples(
            np.concatenate([variant.features[usable] for variant in variants]),
            np.tile(labels, len(variants)),
            np.tile(class_weights[labels], len(variants)),
        )
        return cls(positions[usable], fold_of[usable], labels, examples)

    def solve(
        self,
        class_count: int,
        blocks: Sequence[int],
        validation: Examples | None = None,
        *,
        by_folds: bool = True,
        on_step: Callable[[], None] = lambda: None,
    ) -> SolvedHead:
        """Solve heads for all penalties, and take the best; see `lib.models.softmax_regression.solve`.

        Args:
            class_count: Number of classes.
            blocks: How many features each tap has.
            validation: Other examples.
            by_folds: Whether images that are left out judge, rather than the validation images.
            on_step: Called after each penalty.
        """
        folds = np.tile(self.folds, len(self.examples.labels) // len(self.labels)) if by_folds else None
        # BLAS adds in another order with another number of threads, and Ray gives its workers one.
        with threadpool_limits(1):
            return solve(self.examples, class_count, folds, validation, blocks, on_step)

    def left_out(self, solved: SolvedHead) -> LeftOut | None:
        """What was said of the first variant of each image that was left out; None where none was."""
        if solved.left_out_logits is None:
            return None
        logits = solved.left_out_logits[: len(self.labels)]
        judged = np.isfinite(logits).all(axis=1)
        return LeftOut(
            self.positions[judged], self.folds[judged], self.labels[judged], logits[judged].astype(np.float32)
        )


def read_examples(
    features: FeatureSource,
    split: str,
    positions: npt.NDArray[np.int64],
    variant: int = 0,
    on_chunk: Callable[[], None] = lambda: None,
) -> Examples:
    """The features at some ascending positions, with label `PADDING` for refused images, read a chunk at a time.

    Raises:
        StorageError: If they cannot be read.
    """
    found = np.zeros((len(positions), features.width), np.float32)
    labels = np.full(len(positions), PADDING, np.int32)
    first = 0
    while first < len(positions):
        start = int(positions[first])
        last = int(np.searchsorted(positions, start + CHUNK))
        chunk = features.read(split, range(start, int(positions[last - 1]) + 1), variant)
        found[first:last] = chunk.features[positions[first:last] - start]
        labels[first:last] = chunk.labels[positions[first:last] - start]
        first = last
        on_chunk()
    return Examples(found, labels, np.ones(len(labels)))
