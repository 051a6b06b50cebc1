"""The completion file of each kind of output folder, and the job that writes it."""

MARKERS = {
    "sample.json": "sample",
    "dataset.json": "convert",
    "model.json": "train",
    "checks.json": "checks",
    "evaluation.json": "evaluate",
    "predictions.json": "predict",
    "export.json": "export",
    "report.json": "report",
    "pipeline.json": "pipeline",
}
"""The job that writes each completion file."""


PARTS = {"convert": "images/", "evaluate": "predictions/", "predict": "predictions/", "train": "checkpoints/"}
"""Where the files are that tell how far a job is."""
