"""The training images on which all candidates of a choice are tried, in the same folds."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lib.config.resources import DecodeConfig
from lib.dataset.folds import NEVER_LEFT_OUT, cross_validation_folds
from lib.dataset.graph import decoded_dataset
from lib.dataset.shard_source import ShardSource
from lib.dataset.subset import balanced_subset
from lib.dataset.training_part import TrainingPart
from lib.errors import DataError
from lib.evaluation.choice.candidates import FLAG
from lib.evaluation.measures.intervals import Units
from lib.folders.choice import LEFT_OUT_SCHEMA
from lib.models.probabilities import FloatArray, IntArray, log_losses
from lib.runtime.ray_data import stream_tables


@dataclass(frozen=True)
class TriedImages:
    """Some training images; no image of another split is among them.

    Attributes:
        source: The data set.
        images: Their names (`lib.dataset.source.NAMES`), by position.
        folds: In which each is left out, shape (n,), or `NEVER_LEFT_OUT`.
    """

    source: ShardSource
    images: pa.Table
    folds: npt.NDArray[np.int8]

    @classmethod
    def of(cls, source: ShardSource, most: int, seed: int) -> Self:
        """At most so many, evenly from the classes; more only where there are more classes.

        Raises:
            DataError: If no image can be left out.
            StorageError: If names of images cannot be read.
        """
        images = balanced_subset(source, "train", max(most, len(source.class_names)))
        tried = cls(source, images, cross_validation_folds(images, seed))
        if not tried.judged.any():
            raise DataError(
                f"{FLAG} leaves out training images in turn, and none can be: a class would be left without images; "
                "name a model instead"
            )
        return tried

    @property
    def judged(self) -> npt.NDArray[np.bool_]:
        """Which are left out once, shape (n,)."""
        return np.asarray(self.folds != NEVER_LEFT_OUT)

    @property
    def labels(self) -> IntArray:
        """Their classes as numbers, shape (n,)."""
        names = pa.array(self.source.class_names, pa.string())
        return np.asarray(pc.index_in(self.images["label"], names), np.int64)

    @property
    def units(self) -> Units:
        """What is resampled as a whole, of the images that are left out."""
        groups = self.images["group"].filter(pa.array(self.judged)).to_pylist()
        return Units.of(len(groups), groups)

    def part(self, chosen: npt.NDArray[np.bool_]) -> TrainingPart:
        """Some of them as a data set of their own."""
        return TrainingPart.of(self.source, self.images.filter(pa.array(chosen)))

    def decoded(self, chosen: npt.NDArray[np.bool_], config: DecodeConfig) -> Iterator[tuple[IntArray, pa.Table]]:
        """Some of them, a shard at a time: their places among all, and the images (`DECODED_SCHEMA`)."""
        part, places = self.part(chosen), np.flatnonzero(chosen)
        for table in stream_tables(decoded_dataset(part.units("train"), part.decoder, config)):
            yield places[table["position"].to_numpy()], table

    def table(self, probabilities: FloatArray) -> pa.Table:
        """What a model said of the images that are left out (`LEFT_OUT_SCHEMA`).

        Args:
            probabilities: Shape (n, classes); rows of other images are not looked at.
        """
        judged, names = self.judged, np.array(self.source.class_names)
        actual, said = self.labels[judged], probabilities[judged]
        images, predicted = self.images.filter(pa.array(judged)), said.argmax(axis=1)
        columns = {
            **{name: images[name] for name in ("image_id", "label", "group")},
            "fold": self.folds[judged],
            "predicted": names[predicted].tolist(),
            "correct": predicted == actual,
            "confidence": said.max(axis=1).astype(np.float32),
            "loss": log_losses(actual, said),
        }
        return pa.table(columns, schema=LEFT_OUT_SCHEMA)
