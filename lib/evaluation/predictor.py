"""The Ray Data graph from images to Parquet predictions: decoding tasks, then a pool of actors that hold the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lib.config.prediction import PredictionConfig
from lib.dataset.graph import done, run_pool, without_parts
from lib.dataset.source import ImageSource, first_position, image_array
from lib.dataset.thumbnails import unit_thumbnails
from lib.folders.model import ModelRecord
from lib.folders.output import read_complete
from lib.folders.parts import part_name
from lib.folders.predictions import (
    EMBEDDING_SCHEMA,
    EMBEDDINGS,
    GRAD_CAM,
    GRAD_CAM_SCHEMA,
    PREDICTIONS,
    THUMBNAILS,
    ExtraColumns,
    write_part,
    write_predictions,
)
from lib.ingest.image import encode_jpeg
from lib.models.reference import Reference
from lib.models.saved import load_network
from lib.runtime.counters import count_images
from lib.runtime.gpus import require_gpus, require_visible_gpu
from lib.runtime.logs import join_stage
from lib.runtime.progress import Progress
from lib.runtime.ray_data import start_ray
from lib.storage.location import Location

if TYPE_CHECKING:
    from lib.models.grad_cam import GradCam
    from lib.models.inference import Classified


@dataclass(frozen=True)
class PredictedUnits:
    """What `predict_units` did.

    Attributes:
        seconds: Time it took.
        images: Images predicted by this run, without those of an earlier one.
    """

    seconds: float
    images: int


def predict_units(
    source: ImageSource, split: str | None, config: PredictionConfig, min_confidence: float | None = None
) -> PredictedUnits:
    """Predict a split, except for the units whose predictions are already there; one Parquet file a unit.

    Images of a split get thumbnails as well.

    Args:
        split: Which of them; None for images without labels.
        config: The model, how it is applied, and where to write.
        min_confidence: Set to write a column `abstained`: whether the confidence is below it.

    Raises:
        StorageError: If images cannot be read or predictions not written.
    """
    count, output = source.count(split), Location(config.output)
    start_ray(config)
    require_gpus(config)
    parts = [PREDICTIONS] if split is None else [PREDICTIONS, THUMBNAILS]
    units = without_parts(source.units(split), *(output / part for part in parts))
    skipped = count - sum(unit.num_rows for unit in units)
    arguments = {"config": config, "min_confidence": min_confidence, "thumbnails": split is not None}
    with Progress("predict", count) as progress:
        progress.advance(skipped)
        if units:
            for images, quarantined in run_pool(units, source.decoder, Predictor, arguments, config.num_actors, config):
                progress.advance(images)
                count_images("predict", images - quarantined, quarantined)
        return PredictedUnits(progress.seconds, count - skipped)


class Predictor:
    """Holds a model, and writes the predictions of one decoded unit after the other."""

    def __init__(self, config: PredictionConfig, min_confidence: float | None = None, thumbnails: bool = False) -> None:
        """Load the model, with the layer before its last as a second output, and its reference if it has one."""
        join_stage("predict")
        import keras

        from lib.models.inference import Forward, views_of

        self._config, folder = config, Location(config.model_dir)
        record = read_complete(folder, ModelRecord)
        self._network = load_network(folder, trusts_saved_model=config.trust_saved_model)
        self._class_names, self._output = record.class_names, Location(config.output)
        self._reference = Reference.read(folder, record.reference)
        self._thumbnails, self._image_size = thumbnails, int(self._network.input_shape[1])
        self._columns = ExtraColumns(config.logits, min_confidence)
        network = keras.Model(self._network.input, [self._network.output, self._network.layers[-1].input])
        self._forward = Forward(network, config.predict_batch_size)
        self._views = views_of(config.test_time_augmentation)

    def __call__(self, decoded: pa.Table) -> pa.Table:
        """Predict a unit (`DECODED_SCHEMA`) and write its part of `predictions/` and of the folders beside it."""
        from lib.models.inference import classify

        join_stage("predict")  # decoding may have been done by this process
        require_visible_gpu(self._config)  # not in the constructor, whose errors reach the driver as text
        name = part_name(first_position(decoded))
        images = decoded.filter(pc.is_valid(decoded["image"]))
        classified = classify(self._forward, images, self._views)
        predictions = prediction_table(images, classified, self._class_names, self._reference, self._columns)
        write_part(_embedding_table(images, classified.embeddings), self._output, EMBEDDINGS, name)
        if self._thumbnails:
            write_part(unit_thumbnails(images, self._image_size), self._output, THUMBNAILS, name)
        self._write_grad_cam(images, predictions, name)
        write_predictions(predictions, decoded, self._output, name)
        return done(decoded.num_rows, decoded.num_rows - images.num_rows)

    def _write_grad_cam(self, images: pa.Table, predictions: pa.Table, name: str) -> None:
        wrong = most_confident_errors(predictions)
        if len(wrong) and self._grad_cam is not None:
            table = grad_cam_table(predictions.take(wrong), images.take(wrong), self._class_names, self._grad_cam)
            write_part(table, self._output, GRAD_CAM, name)

    @cached_property
    def _grad_cam(self) -> "GradCam | None":
        from lib.models.grad_cam import GradCam

        return GradCam.of(self._network)


def prediction_table(
    images: pa.Table,
    classified: "Classified",
    class_names: Sequence[str],
    reference: Reference | None,
    columns: ExtraColumns,
) -> pa.Table:
    """Rows of the schema of `columns`.

    Args:
        images: The identity and label of each image; the label may be null.
        classified: What the model says of each.
        class_names: The classes in order.
        reference: Embeddings of training images; None leaves `feature_distance` and `unfamiliar` null.
        columns: Which further columns there are.
    """
    best = classified.probabilities.argmax(axis=1)
    predicted = pa.array([class_names[number] for number in best], pa.string())
    confidence = classified.probabilities[np.arange(len(best)), best]
    values = {
        "image_id": images["image_id"],
        "path": images["path"],
        "label": images["label"],
        "predicted": predicted,
        "correct": pc.equal(images["label"], predicted),
        "confidence": confidence,
        "probabilities": list(classified.probabilities),
        **_familiarity(classified.embeddings, reference),
        **{name: images[name] for name in ("group", "site", "columns")},
        "logits": list(classified.logits),
        "abstained": confidence < (columns.min_confidence or 0.0),
    }
    return pa.table({name: values[name] for name in columns.schema.names}, schema=columns.schema)


def _familiarity(embeddings: npt.NDArray[np.float32], reference: Reference | None) -> dict[str, pa.Array]:
    nulls = pa.nulls(len(embeddings))
    found = {"feature_distance": nulls.cast(pa.float32()), "unfamiliar": nulls.cast(pa.bool_())}
    if reference is None:
        return found
    distances = reference.distances(embeddings)
    unfamiliar = reference.unfamiliar(distances)
    found |= {"feature_distance": pa.array(distances)}
    return found if unfamiliar is None else found | {"unfamiliar": pa.array(unfamiliar)}


def _embedding_table(images: pa.Table, embeddings: npt.NDArray[np.float32]) -> pa.Table:
    return pa.table({"image_id": images["image_id"], "embedding": list(embeddings)}, schema=EMBEDDING_SCHEMA)


ERRORS_OF_UNIT = 3
JPEG_QUALITY = 95


def most_confident_errors(predictions: pa.Table, most: int = ERRORS_OF_UNIT) -> npt.NDArray[np.int64]:
    """The rows of wrong predictions, the most confident first; where no label is known, nothing is wrong."""
    wrong = np.flatnonzero(pc.fill_null(pc.invert(predictions["correct"]), False).to_numpy())
    order = np.argsort(-predictions["confidence"].to_numpy()[wrong], kind="stable")
    return wrong[order[:most]]


def grad_cam_table(errors: pa.Table, images: pa.Table, class_names: Sequence[str], grad_cam: "GradCam") -> pa.Table:
    """Rows of `GRAD_CAM_SCHEMA`.

    Args:
        errors: Predictions of images with a label, at least one.
        images: The same images (`DECODED_SCHEMA`).
        class_names: The classes in order.
        grad_cam: Grad-CAM of the network that predicted them.
    """
    pixels = image_array(images, grad_cam.image_size)
    classes = pc.index_in(errors["predicted"], pa.array(class_names, pa.string())).to_numpy()
    gray = np.rint(grad_cam(pixels, classes) * 255).astype(np.uint8)
    values = {name: errors[name] for name in ("image_id", "label", "predicted", "confidence")}
    values["image"] = [encode_jpeg(image, JPEG_QUALITY) for image in pixels]
    values["heatmap"] = [bytes(cv2.imencode(".png", heatmap)[1]) for heatmap in gray]
    return pa.table(values, schema=GRAD_CAM_SCHEMA)
