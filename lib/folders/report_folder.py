"""The report folder: `report.html`, and what the page says in `report.json`."""

from typing import ClassVar

from lib.folders.manifest import Counts
from lib.folders.record import CompletionRecord, Record

PAGE = "report.html"


class ModelSummary(Record):
    """One evaluation."""

    name: str
    """With the time of the evaluation where two models have the same name."""
    spec: str
    dataset_hash: str
    split: str
    images: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    """Of 95 %."""
    macro_f1: float


class DatasetSummary(Record):
    """One data set."""

    uri: str
    content_hash: str
    counts: Counts


class ReportRecord(CompletionRecord):
    """What the page says, for programs."""

    FILE: ClassVar[str] = "report.json"
    JOB: ClassVar[str] = "report"

    verdict: str
    best: str | None
    """The best model; None where the evaluations cannot be ranked or tie."""
    models: list[ModelSummary]
    datasets: list[DatasetSummary]
    doubts: list[str]
    """Titles, gravest first."""
