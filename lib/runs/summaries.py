"""The JSON summary that each job prints, from the record its stage returned."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # so that `--help` needs none of them
    from lib.folders.dataset import DatasetRecord
    from lib.folders.evaluation import EvaluationRecord
    from lib.folders.export_folder import ExportRecord
    from lib.folders.model import ModelRecord
    from lib.folders.pipeline_folder import PipelineRecord
    from lib.folders.predictions import PredictionsRecord
    from lib.folders.report_folder import ReportRecord
    from lib.folders.sample_folder import SampleRecord

Summary = dict[str, Any]

SHOWN_REASONS = 5


def sample_summary(record: "SampleRecord", output: str) -> Summary:
    """From `sample.json`."""
    return {"images": record.images, **_speed(record.images, record.seconds), "output": output}


def accounting_summary(record: "DatasetRecord | PredictionsRecord", output: str) -> Summary:
    """From `dataset.json`: what became of every listed file, and the most frequent reasons."""
    accepted = record.counts.accepted
    reasons = dict(list(record.reasons.items())[:SHOWN_REASONS])
    return {
        **record.counts.as_json(),
        "reasons": reasons,
        "images": accepted,
        **_speed(accepted, record.seconds),
        "output": output,
    }


def prediction_summary(record: "PredictionsRecord", output: str) -> Summary:
    """From `predictions.json`: the same, and how many predictions are not to be relied on.

    `unfamiliar` is null where the model has no reference to tell by.
    """
    doubtful = {"unfamiliar": record.unfamiliar, "abstained": record.abstained}
    return accounting_summary(record, output) | doubtful


def training_summary(record: "ModelRecord", output: str) -> Summary:
    """From `model.json`; the accuracy is that of validation, or of training where there is no validation."""
    metrics = record.metrics
    return {
        **(record.counts.as_json() if record.counts else {}),
        "images": record.images,
        "accuracy": metrics.accuracy if metrics.val_accuracy is None else metrics.val_accuracy,
        "best_epoch": metrics.best_epoch,
        "world_size": record.world_size,
        "seconds": record.seconds,
        "images_per_s": record.images_per_s,
        **({"trials": record.sweep.trials} if record.sweep else {}),
        "output": output,
    }


def evaluation_summary(record: "EvaluationRecord", output: str) -> Summary:
    """From `evaluation.json`."""
    return {
        "images": record.images,
        "accuracy": record.metrics.accuracy,
        "loss": record.metrics.loss,
        **_speed(record.images, record.seconds),
        "output": output,
    }


def export_summary(record: "ExportRecord", output: str) -> Summary:
    """From `export.json`."""
    return {
        "format": record.format,
        "quantize": record.quantize,
        "size_bytes": record.size_bytes,
        "largest_difference": record.agreement.largest_difference,
        "equal_top_1": record.agreement.equal_top_1,
        "seconds": record.seconds,
        "output": output,
    }


def report_summary(record: "ReportRecord", output: str) -> Summary:
    """From `report.json`; the accuracy is the best one."""
    models = {model.name: model.accuracy for model in record.models}
    return {"accuracy": max(models.values()), "models": models, "output": output}


def pipeline_summary(record: "PipelineRecord", output: str) -> Summary:
    """From `pipeline.json`; the accuracy is the best one on the test split, those of the choice are cross-validated."""
    return {
        **record.counts.as_json(),
        "images": record.counts.accepted,
        "accuracy": max(record.models.values()),
        "models": record.models,
        **({"choice": record.choice.as_json()} if record.choice else {}),
        "world_size": record.world_size,
        **_speed(record.counts.accepted, record.seconds),
        "output": output,
    }


def _speed(images: int, seconds: float) -> Summary:
    return {"seconds": seconds, "images_per_s": round(images / seconds, 1) if seconds else None}
