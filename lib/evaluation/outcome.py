"""Predictions beside the truth, as arrays."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lib.dataset.source import ShardSource
from lib.storage.tables import read_table


@dataclass(frozen=True)
class Outcome:
    """What a model said of the images of a split.

    Attributes:
        predictions: Rows of `PREDICTION_SCHEMA`, all with a label.
        class_names: Those of the model, in order.
        groups: By `image_id`; None where it is unknown.
        temperature: By which the logits of the model were divided after training; None if it was not calibrated.
    """

    predictions: pa.Table
    class_names: list[str]
    groups: Mapping[str, str | None]
    temperature: float | None

    @classmethod
    def of(cls, predictions: pa.Table, model: Mapping[str, Any], dataset: ShardSource, split: str) -> "Outcome":
        """The outcome of one evaluation.

        Args:
            predictions: Of the split.
            model: The content of `model.json`.
            dataset: Knows the groups.
            split: Which was predicted.
        """
        calibration = model.get("calibration")
        temperature = None if calibration is None else float(calibration["temperature"])
        return cls(predictions, list(model["class_names"]), _groups(dataset, split), temperature)

    @cached_property
    def actual(self) -> npt.NDArray[np.int64]:
        """The true class of each image as its place in `class_names`, shape (n,)."""
        places = pc.index_in(self.predictions["label"], pa.array(self.class_names, pa.string()))
        return np.asarray(places.to_numpy(), np.int64)

    @cached_property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """Of the calibrated model, shape (n, classes)."""
        flat = pc.list_flatten(self.predictions["probabilities"]).to_numpy()
        return np.asarray(flat.reshape(-1, len(self.class_names)), np.float32)

    @cached_property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The predicted class of each image, shape (n,)."""
        return np.asarray(self.probabilities.argmax(axis=1), np.int64)

    @property
    def confidence(self) -> npt.NDArray[np.float32]:
        """The probability of the predicted class, shape (n,)."""
        return np.asarray(self.probabilities.max(axis=1), np.float32)

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether each prediction is right, shape (n,)."""
        return np.asarray(self.predicted == self.actual)

    @property
    def groups_in_order(self) -> list[str | None]:
        """The group of each image."""
        return [self.groups.get(image_id) for image_id in self.predictions["image_id"].to_pylist()]


def _groups(dataset: ShardSource, split: str) -> dict[str, str | None]:
    manifest = read_table(dataset.folder / "manifest.parquet", ["image_id", "group", "split"])
    rows = manifest.filter(pc.equal(manifest["split"], split))
    return dict(zip(rows["image_id"].to_pylist(), rows["group"].to_pylist(), strict=True))
