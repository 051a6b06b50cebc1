"""The folder of a pipeline: the folders of its stages, and `pipeline.json` once all of them are complete."""

from typing import ClassVar

from lib.folders.choice import ChoiceOutcome
from lib.folders.manifest import Counts
from lib.folders.record import CompletionRecord

DATASET, MODELS, EVALUATIONS, REPORT = "dataset", "models", "evaluations", "report"
"""Beside the folders of checks, features and, with `--models auto`, the choice."""


class PipelineRecord(CompletionRecord):
    """What a pipeline did."""

    FILE: ClassVar[str] = "pipeline.json"
    JOB: ClassVar[str] = "pipeline"

    counts: Counts
    models: dict[str, float]
    """Test accuracy by the name of the model, in [0, 1]."""
    world_size: int
    """The most workers that trained a model."""
    seconds: float
    choice: ChoiceOutcome | None = None
    """With `--models auto`: what was chosen by training images."""
