"""The export folder: a model as a file for other programs, and `export.json`, which says how to use it."""

from typing import ClassVar

from pydantic import JsonValue

from lib.config.images import ImageConfig
from lib.folders.record import CompletionRecord, Record


class TensorRecord(Record):
    """What goes into the exported model, or comes out of it."""

    name: str
    """In the file."""
    dtype: str
    shape: list[JsonValue]
    """Numbers, and `n` for any number of images."""
    content: str
    """In words."""


class AgreementRecord(Record):
    """How far an exported model is from `model.keras`; see `lib.models.export.agreement.Agreement`."""

    images: int
    classes_predicted: int
    largest_difference: float
    largest_logit_difference: float
    equal_top_1: float
    clear_top_1_differences: int


class PrecisionChange(Record):
    """A model of mixed precision that is exported in another one."""

    trained: str
    exported: str
    change: AgreementRecord


class ExportedFile(Record):
    """One file of the export."""

    path: str
    size_bytes: int
    sha256: str


class ExportRecord(CompletionRecord):
    """What was exported."""

    FILE: ClassVar[str] = "export.json"
    JOB: ClassVar[str] = "export"

    name: str
    spec: str
    model_dir: str
    format: str
    quantize: str
    class_names: list[str]
    image_size: int
    image_policy: ImageConfig
    signature: str | None
    """Under which a SavedModel or TensorFlow Lite serves; ONNX has none."""
    input: TensorRecord
    outputs: list[TensorRecord]
    file: str
    """The file to open; of a SavedModel its folder."""
    files: list[ExportedFile]
    size_bytes: int
    agreement: AgreementRecord
    precision: PrecisionChange | None
    """None if the model was trained in float32."""
    runtime: dict[str, str]
    """Versions of the packages that opened it."""
    seconds: float
