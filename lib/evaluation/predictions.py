"""The Ray Data graph from images to Parquet predictions: decoding tasks, then a pool of actors that hold the model."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from ray.data import ActorPoolStrategy

from lib.config import PredictionConfig
from lib.dataset.source import ImageSource, image_array
from lib.models.folder import load_network, read_model_record, softmax
from lib.progress import Progress
from lib.ray_data import map_units, start_ray, stream_tables, units_dataset
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
DONE_SCHEMA = pa.schema([pa.field("images", pa.int64(), nullable=False)])
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
    done = {file.path for file in (output / PREDICTIONS).list_files()}
    start_ray(config)
    units = [unit for unit in source.units(split, 0, count) if _part_name(unit) not in done]
    skipped = count - sum(unit.num_rows for unit in units)
    with Progress("predict", count) as progress:
        progress.advance(skipped)
        for batch in _run(units, source, config) if units else ():
            progress.advance(sum(batch["images"].to_pylist()))
        return PredictedUnits(progress.seconds, count - skipped)


def _run(units: list[pa.Table], source: ImageSource, config: PredictionConfig) -> Iterator[pa.Table]:
    decoded = map_units(units_dataset(units), source.decoder, num_cpus=1)
    predicted = map_units(
        decoded,
        Predictor,
        fn_constructor_kwargs={"config": config},
        compute=ActorPoolStrategy(min_size=1, max_size=config.num_actors),
        num_cpus=1,
        num_gpus=1 if config.use_gpu else 0,
    )
    yield from stream_tables(predicted)


class Predictor:
    """Holds a model, and writes the predictions of one decoded unit after the other."""

    def __init__(self, config: PredictionConfig) -> None:
        """Load the model, with the layer before its last as a second output."""
        import keras
        import tensorflow as tf

        folder = Location(config.model_dir)
        record, network = read_model_record(folder), load_network(folder)
        self._class_names, self._image_size = record["class_names"], record["image_size"]
        self._batch_size, self._output = config.predict_batch_size, Location(config.output)
        model = keras.Model(network.input, [network.output, network.layers[-1].input])
        self._forward = tf.function(lambda images: model(images, training=False), reduce_retracing=True)

    def __call__(self, decoded: pa.Table) -> pa.Table:
        """Predict a unit (`DECODED_SCHEMA`) and write `predictions/` and `embeddings/` of it."""
        name = _part_name(decoded)
        images = decoded.filter(pc.is_valid(decoded["image"]))
        probabilities, embeddings = self._infer(images)
        write_table(_embedding_table(images, embeddings), self._output / EMBEDDINGS / name)
        # Written second: a unit is done when its predictions exist.
        verdicts = decoded.select(["image_id", "checksum", "reason", "detail"]).to_pylist()
        predictions = prediction_table(images, probabilities, self._class_names)
        predictions = predictions.replace_schema_metadata({VERDICTS_KEY: json.dumps(verdicts).encode()})
        write_table(predictions, self._output / PREDICTIONS / name)
        return pa.table([[decoded.num_rows]], schema=DONE_SCHEMA)

    def _infer(self, images: pa.Table) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        logits, embeddings = [], []
        for start in range(0, images.num_rows, self._batch_size):
            batch = image_array(images.slice(start, self._batch_size), self._image_size)
            outputs = self._forward(batch)
            logits.append(outputs[0].numpy().astype(np.float32))
            embeddings.append(outputs[1].numpy().astype(np.float32).reshape(len(batch), -1))
        if not logits:
            return np.zeros((0, len(self._class_names)), np.float32), np.zeros((0, 1), np.float32)
        return softmax(np.concatenate(logits)), np.concatenate(embeddings)


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


def _part_name(unit: pa.Table) -> str:
    return f"part-{unit['position'][0].as_py():09d}.parquet"


def read_predictions(output: Location) -> pa.Table:
    """All predictions below a folder, in the order of the data set."""
    return read_table(output / PREDICTIONS)


def read_verdicts(output: Location) -> dict[str, dict[str, Any]]:
    """By `image_id`: checksum, reason and detail of every image that went through `predict_units`."""
    names = [file.path for file in (output / PREDICTIONS).list_files()]
    rows = (row for name in names for row in json.loads(footer(output / PREDICTIONS / name)[VERDICTS_KEY]))
    return {row["image_id"]: row for row in rows}
