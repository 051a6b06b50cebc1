"""The folder of the embedded sample: TIFFs below `train/<label>/` and `test/<label>/`, and `sample.json`."""

from typing import ClassVar

from lib.folders.record import CompletionRecord


class SampleRecord(CompletionRecord):
    """What the sample has."""

    FILE: ClassVar[str] = "sample.json"
    JOB: ClassVar[str] = "sample"

    class_names: list[str]
    images: int
    seconds: float
