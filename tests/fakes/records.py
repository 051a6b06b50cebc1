"""Records as the jobs write them, of folders that nothing was computed for."""

from typing import Any

from lib.config.images import ImageConfig
from lib.folders.checks import ChecksRecord
from lib.folders.choice import ChoiceRecord, TriedModel
from lib.folders.dataset import DatasetRecord
from lib.folders.evaluation import ClassMeans, EvaluationRecord, Metrics
from lib.folders.model import BestEpoch, Calibration, ModelRecord
from lib.folders.predictions import PredictionsRecord
from lib.folders.sample_folder import SampleRecord

CLASS_NAMES = ["liver", "lung", "skin"]
COMPLETION = {"settings": {"seed": 0}, "versions": {"ray": "2.60.0"}, "completed_at": "2026-11-23T20:00:00+00:00"}
COUNTS = {"listed": 7, "accepted": 7, "quarantined": 0, "excluded": 0}


def sample_record(images: int = 7) -> SampleRecord:
    """Of a folder of images."""
    return SampleRecord(class_names=CLASS_NAMES, images=images, seconds=1.0)


def dataset_record(**changes: Any) -> DatasetRecord:
    """Of a data set of seven images."""
    size = changes.get("image_size", 180)
    content = {
        "class_names": CLASS_NAMES,
        "image_size": size,
        "image_policy": ImageConfig(image_size=size),
        "encoding": {"format": "jpeg", "quality": 95},
        "source": "gs://lab/organs",
        "counts": COUNTS,
        "counts_by_split": {},
        "reasons": {},
        "content_hash": "hash-1",
        "seconds": 1.0,
    }
    return DatasetRecord.model_validate(COMPLETION | content | changes)


def model_record(**changes: Any) -> ModelRecord:
    """Of a model that was trained for eight epochs, and was best after three."""
    size = changes.get("image_size", 180)
    content = {
        "world_size": 1,
        "parameters": 1234567,
        "images": 48,
        "calibration": Calibration(
            temperature=1.25, images=48, loss_before=0.3, loss_after=0.2, ece_before=0.1, ece_after=0.05
        ),
        "metrics": BestEpoch(best_epoch=3, epochs=8, loss=0.1, accuracy=0.97, val_loss=0.2, val_accuracy=0.95),
        "fit_seconds": 70.0,
        "images_per_s": 200.0,
        "name": "cnn",
        "spec": "cnn",
        "class_names": CLASS_NAMES,
        "image_size": size,
        "input": "uint8 RGB (n, image_size, image_size, 3)",
        "output": "logits",
        "preprocessing": "inside the model",
        "image_policy": ImageConfig(image_size=size),
        "image_encoding": {"format": "jpeg", "quality": 95},
        "weights": "none",
        "dataset_hash": "hash-1",
        "seconds": 75.0,
    }
    return ModelRecord.model_validate(COMPLETION | content | changes)


def metrics_record() -> Metrics:
    """Of predictions that are all right."""
    perfect = ClassMeans(precision=1.0, recall=1.0, f1=1.0)
    return Metrics(images=7, accuracy=1.0, loss=0.1, per_class=[], macro=perfect, weighted=perfect, confusion_matrix=[])


def evaluation_record(**changes: Any) -> EvaluationRecord:
    """Of an evaluation on the test split."""
    content = {
        "name": "cnn",
        "spec": "cnn",
        "model_dir": "/lab/models/cnn",
        "dataset": "/lab/dataset",
        "dataset_hash": "hash-1",
        "split": "test",
        "class_names": CLASS_NAMES,
        "images": 7,
        "metrics": metrics_record(),
        "seconds": 2.0,
    }
    return EvaluationRecord.model_validate(COMPLETION | content | changes)


def predictions_record(**changes: Any) -> PredictionsRecord:
    """Of the predictions for seven images."""
    content = {
        "name": "cnn",
        "class_names": CLASS_NAMES,
        "model_dir": "/lab/models/cnn",
        "source": "/lab/unlabelled",
        "counts": COUNTS,
        "reasons": {},
        "images": 7,
        "seconds": 2.0,
        "images_per_s": 3.5,
    }
    return PredictionsRecord.model_validate(content | changes)


def checks_record(**changes: Any) -> ChecksRecord:
    """Of a data set without near duplicates."""
    content = {"dataset": "/lab/dataset", "split": "test", "images": 7, "near_duplicates": 0, "most_different_bits": 10}
    return ChecksRecord.model_validate(COMPLETION | content | changes)


def choice_record(**changes: Any) -> ChoiceRecord:
    """Of a choice between a network from scratch and two encoders, one of which could not be had."""
    content = {
        "chosen": "vgg16",
        "accuracy": 0.91,
        "loss": 0.25,
        "corrected_accuracy": 0.905,
        "corrected_loss": 0.26,
        "images": 80,
        "left_out": 78,
        "groups": None,
        "folds": 5,
        "resamples": 2000,
        "candidates": [
            TriedModel(name="cnn_bn", spec="cnn_bn", accuracy=0.7, loss=0.9, won=0.025),
            TriedModel(name="vgg16", spec="vgg16", accuracy=0.91, loss=0.25, won=0.975),
            TriedModel(name="vgg19", spec="vgg19", reason="its weights cannot be had"),
        ],
        "floor": TriedModel(name="colours", accuracy=0.6, loss=1.1),
        "seconds": 9.0,
    }
    return ChoiceRecord.model_validate(COMPLETION | content | changes)
