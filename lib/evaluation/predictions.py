"""The Ray Data graph from images to Parquet predictions: decoding tasks, then a pool of actors that hold the model."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lib.config import PredictionConfig
from lib.dataset.graph import done, first_position, part_name, run_pool, without_parts
from lib.dataset.source import ImageSource
from lib.models.folder import load_network, read_model_record
from lib.models.probabilities import softmax
from lib.progress import Progress
from lib.ray_data import start_ray
from lib.storage.filesystem import Location
from lib.storage.tables import footer, read_table, write_table

PREDICTION_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("predicted", pa.string(), nullable=False),
        pa.field("correct", pa.bool_()),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("probabilities", pa.list_(pa.float32()), nullable=False),  # in class_names order, sum 1
    ]
)
EMBEDDING_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("embedding", pa.list_(pa.float32()), nullable=False),  # the input of the last layer
    ]
)
VERDICTS_KEY = b"verdicts"
PREDICTIONS, EMBEDDINGS = "predictions", "embeddings"


@dataclass(frozen=True)
class PredictedUnits:
    """What `predict_units` did.

    Attributes:
        seconds: Time it took.
        images: Images predicted by this run, without those of an earlier one.
    """

    seconds: float
    images: int


def predict_units(source: ImageSource, split: str | None, config: PredictionConfig) -> PredictedUnits:
    """Predict a split, except for the units whose predictions are already there; one Parquet file a unit.

    Raises:
        StorageError: If images cannot be read or predictions not written.
    """
    count, output = source.count(split), Location(config.output)
    start_ray(config)
    units = without_parts(source.units(split, 0, count), output / PREDICTIONS)
    skipped = count - sum(unit.num_rows for unit in units)
    with Progress("predict", count) as progress:
        progress.advance(skipped)
        if units:
            pool = run_pool(units, source.decoder, Predictor, {"config": config}, config.num_actors, config.use_gpu)
            for images in pool:
                progress.advance(images)
        return PredictedUnits(progress.seconds, count - skipped)


class Predictor:
    """Holds a model, and writes the predictions of one decoded unit after the other."""

    def __init__(self, config: PredictionConfig) -> None:
        """Load the model, with the layer before its last as a second output."""
        import keras

        from lib.models.forward import Forward

        folder = Location(config.model_dir)
        record, network = read_model_record(folder), load_network(folder)
        self._class_names, self._output = record["class_names"], Location(config.output)
        with_embedding = keras.Model(network.input, [network.output, network.layers[-1].input])
        self._forward = Forward(with_embedding, config.predict_batch_size)

    def __call__(self, decoded: pa.Table) -> pa.Table:
        """Predict a unit (`DECODED_SCHEMA`) and write `predictions/` and `embeddings/` of it."""
        name = part_name(first_position(decoded))
        images = decoded.filter(pc.is_valid(decoded["image"]))
        logits, embeddings = self._forward(images)
        write_table(_embedding_table(images, embeddings), self._output / EMBEDDINGS / name)
        # Written second: a unit is done when its predictions exist.
        verdicts = decoded.select(["image_id", "checksum", "reason", "detail"]).to_pylist()
        predictions = prediction_table(images, softmax(logits), self._class_names)
        predictions = predictions.replace_schema_metadata({VERDICTS_KEY: json.dumps(verdicts).encode()})
        write_table(predictions, self._output / PREDICTIONS / name)
        return done(decoded.num_rows)


def prediction_table(images: pa.Table, probabilities: npt.NDArray[np.float32], class_names: list[str]) -> pa.Table:
    """Rows of `PREDICTION_SCHEMA`.

    Args:
        images: The identity and label of each image; the label may be null.
        probabilities: Shape (n, classes), each row summing to 1.
        class_names: The classes in order.
    """
    best = probabilities.argmax(axis=1)
    predicted = pa.array([class_names[number] for number in best], pa.string())
    return pa.table(
        {
            "image_id": images["image_id"],
            "path": images["path"],
            "label": images["label"],
            "predicted": predicted,
            "correct": pc.equal(images["label"], predicted),
            "confidence": probabilities[np.arange(len(best)), best],
            "probabilities": list(probabilities),
        },
        schema=PREDICTION_SCHEMA,
    )


def _embedding_table(images: pa.Table, embeddings: npt.NDArray[np.float32]) -> pa.Table:
    return pa.table({"image_id": images["image_id"], "embedding": list(embeddings)}, schema=EMBEDDING_SCHEMA)


def read_predictions(output: Location) -> pa.Table:
    """All predictions below a folder, in the order of the data set."""
    return read_table(output / PREDICTIONS)


def read_verdicts(output: Location) -> dict[str, dict[str, Any]]:
    """By `image_id`: checksum, reason and detail of every image that went through `predict_units`."""
    names = [file.path for file in (output / PREDICTIONS).list_files()]
    rows = (row for name in names for row in json.loads(footer(output / PREDICTIONS / name)[VERDICTS_KEY]))
    return {row["image_id"]: row for row in rows}
