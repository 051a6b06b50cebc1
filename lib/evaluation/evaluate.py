"""The evaluation folder: predictions of one split, metrics and plots."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lib.config import EvaluateConfig
from lib.dataset.source import ShardSource
from lib.errors import DataError, SettingsError
from lib.evaluation.metrics import classification_metrics
from lib.evaluation.predictions import predict_units, read_predictions
from lib.models.folder import read_model_record, read_seen_images
from lib.plots import confusion_matrix, per_class_bars, predicted_scatter, predicted_swarm, reliability
from lib.storage.filesystem import Location
from lib.storage.output import OutputFolder

EVALUATION_FILE, METRICS_FILE = "evaluation.json", "metrics.json"


def evaluate_model(config: EvaluateConfig) -> dict[str, Any]:
    """Predict a split and measure, unless this very evaluation is already complete.

    Returns:
        The content of `evaluation.json`.

    Raises:
        SettingsError: If model or dataset are not complete folders, or do not fit each other.
        DataError: If the split has no image.
    """
    model, dataset = check_evaluation(config)
    settings = {"model_dir": config.model_dir, "dataset": config.dataset, "split": config.split}
    inputs = {"model_completed_at": model["completed_at"], "dataset_hash": dataset.content_hash}
    folder = OutputFolder(Location(config.output), EVALUATION_FILE, settings, inputs)
    return folder.once(lambda: _evaluate(config, model, dataset, folder))


def _evaluate(
    config: EvaluateConfig, model: dict[str, Any], dataset: ShardSource, folder: OutputFolder
) -> dict[str, Any]:
    work = predict_units(dataset, config.split, config)
    predictions = read_predictions(folder.location)
    if predictions.num_rows != dataset.count(config.split):
        raise DataError(
            f"{predictions.num_rows} predictions for {dataset.count(config.split)} images in {config.output}"
        )
    outcome = Outcome.of(predictions, model["class_names"])
    metrics = classification_metrics(outcome.actual, outcome.probabilities, model["class_names"])
    (folder.location / METRICS_FILE).write_json(metrics)
    _draw(outcome, metrics, model["class_names"], folder.location / "plots")
    return folder.complete(
        {
            "name": model["name"],
            "spec": model["spec"],
            "model_dir": config.model_dir,
            "dataset": config.dataset,
            "dataset_hash": dataset.content_hash,
            "split": config.split,
            "class_names": model["class_names"],
            "images": metrics["images"],
            "metrics": metrics,
            "seconds": round(work.seconds, 3),
            "images_per_s": round(work.images / work.seconds, 1),
        }
    )


def check_evaluation(config: EvaluateConfig) -> tuple[dict[str, Any], ShardSource]:
    """Open model and dataset, and refuse a dataset that the model cannot be measured on.

    Returns:
        The content of `model.json`, and the dataset.

    Raises:
        SettingsError: If one of the folders is not complete, or image size or classes differ.
        DataError: If the split has no image, or one that the model was trained on.
    """
    model, dataset = read_model_record(Location(config.model_dir)), ShardSource.open(Location(config.dataset))
    if model["image_size"] != dataset.image_size:
        raise SettingsError(
            f"{config.model_dir} takes images of {model['image_size']} px; {config.dataset} has {dataset.image_size} px"
        )
    unknown = sorted(set(dataset.class_names) - set(model["class_names"]))
    if unknown:
        raise SettingsError(f"{config.model_dir} does not know class {unknown[0]!r} of {config.dataset}")
    if not dataset.count(config.split):
        raise DataError(f"{config.dataset} has no image in split {config.split!r}")
    _refuse_seen_images(model, dataset, config)
    return model, dataset


def _refuse_seen_images(model: dict[str, Any], dataset: ShardSource, config: EvaluateConfig) -> None:
    """A score on images that were trained on says nothing; it is computed only if that split is asked for by name."""
    if config.split != "test" and model["dataset_hash"] == dataset.content_hash:
        return
    seen = {checksum for _, checksum in read_seen_images(Location(config.model_dir))}
    known = sum(checksum in seen for checksum in dataset.checksums([config.split]).values())
    if known:
        raise DataError(
            f"{known} of {dataset.count(config.split)} images of split {config.split!r} of {config.dataset} were "
            f"trained or validated on by {config.model_dir}; a score on them would be worthless"
        )


@dataclass(frozen=True)
class Outcome:
    """Predictions beside the truth, as arrays.

    Attributes:
        actual: The true class as its place in the class names, shape (n,).
        probabilities: Shape (n, classes).
    """

    actual: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]

    @classmethod
    def of(cls, predictions: pa.Table, class_names: list[str]) -> "Outcome":
        """The outcome in rows of `PREDICTION_SCHEMA`."""
        numbers = {name: number for number, name in enumerate(class_names)}
        actual = [numbers[label] for label in predictions["label"].to_pylist()]
        return cls(np.array(actual), np.array(predictions["probabilities"].to_pylist(), np.float32))


def _draw(outcome: Outcome, metrics: dict[str, Any], class_names: list[str], plots: Location) -> None:
    actual, probabilities = outcome.actual, outcome.probabilities
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    pictures = {
        "confusion_matrix": confusion_matrix(np.array(metrics["confusion_matrix"]), class_names),
        "scatter": predicted_scatter(actual, predicted, confidence, class_names),
        "swarm": predicted_swarm(actual, predicted, probabilities, class_names),
        "reliability": reliability(confidence, actual == predicted),
        "per_class": per_class_bars(metrics["per_class"]),
    }
    for name, picture in pictures.items():
        (plots / f"{name}.png").write_bytes(picture)
