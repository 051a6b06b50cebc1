"""The model folder: `model.keras`, what it means (`model.json`), and how it came about."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, JsonValue

from lib.config.images import ImageConfig
from lib.folders.manifest import Counts, DuplicateCounts, Scale
from lib.folders.record import CompletionRecord, Record
from lib.folders.shards import ImageEncoding
from lib.storage.location import Location
from lib.storage.tables import read_table, write_table

NETWORK_FILE = "model.keras"
HISTORY_FILE = "history.parquet"
CURVES_FILE = "curves.png"
CURVES_SVG_FILE = "curves.svg"
SEEN_FILE = "seen_images.parquet"
REFERENCE_FILE = "reference.parquet"
CHECKPOINTS, TENSORBOARD = "checkpoints", "tensorboard"
FloatArray = npt.NDArray[np.float32]
SEEN_SCHEMA = pa.schema(
    [pa.field("image_id", pa.string(), nullable=False), pa.field("checksum", pa.string(), nullable=False)]
)
"""An `image_id` is unique within a data set only."""
REFERENCE_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("predicted", pa.string(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("embedding", pa.list_(pa.float32()), nullable=False),  # unit length; as many for every image
    ]
)


class Calibration(Record):
    """The temperature by which the logits were divided, and what that does to the images that it was fitted on."""

    temperature: float
    """T; above 1 for a network that is too sure of itself."""
    images: int
    """How many images it was fitted on."""
    loss_before: float
    """Mean cross-entropy of the logits as they are, in nats."""
    loss_after: float
    """The same of logits / T."""
    ece_before: float
    """Expected calibration error of the logits as they are, in [0, 1]."""
    ece_after: float
    """The same of logits / T."""


class ReferenceRecord(Record):
    """By what an image is told to be unlike the training images."""

    images: int
    """In `reference.parquet`."""
    neighbours: int
    """The distance to which nearest of them counts."""
    threshold: float | None
    """The cosine distance beyond which an image is unfamiliar; None where too few validation images could tell."""
    quantile: float
    """Of the distances of the validation images, at which the threshold lies."""
    validation_images: int


class BestEpoch(Record):
    """The epoch that was kept; losses in nats, accuracies in [0, 1]."""

    best_epoch: int
    """From 1, over all phases."""
    epochs: int
    """That were trained."""
    loss: float
    accuracy: float
    val_loss: float | None
    """None without validation images."""
    val_accuracy: float | None
    penalty: float | None = None
    """Of a head that was solved, where the epochs are penalties, from strong to weak."""
    left_out_loss: float | None = None
    """Of training images by heads that were solved without them; None where no head was solved."""
    left_out_accuracy: float | None = None
    keeps_last: bool = False
    """Whether the last epoch was kept, not chosen."""


class SweepRecord(Record):
    """The search that a model was chosen by."""

    trials: int
    pruned: int
    """Of them, ended early."""
    metric: str
    """By which the best was chosen."""
    best: int
    """Its number."""
    parameters: dict[str, JsonValue]
    """What it tried, by setting."""


class FitRecord(Record):
    """How a network was fitted: what its workers found out, the same on all of them."""

    world_size: int
    """Workers that trained it."""
    precision: str = "float32"
    """Arithmetic of its layers while it was trained, and its features computed; its weights are float32."""
    parameters: int
    """Numbers in the network."""
    images: int
    """Training images."""
    calibration: Calibration | None = None
    """None without validation images."""
    reference: ReferenceRecord | None = None
    """None without validation images."""
    metrics: BestEpoch
    fit_seconds: float
    """Of all epochs."""
    images_per_s: float
    """Median over the epochs."""
    taps: dict[str, int] = Field(default_factory=dict)
    """How many features each layer of a frozen network gives, by its name; empty for those of its last one alone."""


class ModelRecord(CompletionRecord, FitRecord):
    """What a model takes and returns, and how it came about."""

    FILE: ClassVar[str] = "model.json"
    JOB: ClassVar[str] = "train"
    PARTS: ClassVar[str] = CHECKPOINTS

    duplicates: DuplicateCounts | None = None
    """Of a source that was streamed."""
    name: str
    spec: str
    """The SPEC that it was made from."""
    class_names: list[str]
    """In the order of the logits."""
    image_size: int
    """Side of its images in pixels."""
    input: str
    output: str
    preprocessing: str
    image_policy: ImageConfig
    """How its training images were made from TIFFs."""
    image_encoding: ImageEncoding | None
    """How they were stored; None if they came straight from TIFFs."""
    weights: str
    """What the base started from: `imagenet`, `none` or a URI."""
    weights_sha256: str | None = None
    dataset_hash: str
    micrometres: Scale | None = None
    """Of a pixel of its training images' files; None where no file says, or they were streamed."""
    counts: Counts | None = None
    """Of a source that was streamed."""
    seconds: float
    sweep: SweepRecord | None = None
    """None if it was trained alone."""


def write_seen_images(seen: pa.Table, folder: Location) -> None:
    """Keep which images a model was trained or validated on, so that no test score is computed on one of them.

    Args:
        seen: Every such image (`SEEN_SCHEMA`), maybe more than once; those of an earlier model that this one is built
            on too.
    """
    write_table(distinct(seen).sort_by([(name, "ascending") for name in SEEN_SCHEMA.names]), folder / SEEN_FILE)


def read_seen_images(folder: Location) -> pa.Table:
    """The images that a model, or one it was built on, was trained or validated on (`SEEN_SCHEMA`)."""
    return read_table(folder / SEEN_FILE, SEEN_SCHEMA.names).cast(SEEN_SCHEMA)


def distinct(seen: pa.Table) -> pa.Table:
    """Rows of `SEEN_SCHEMA`, each once."""
    return seen.group_by(SEEN_SCHEMA.names).aggregate([]).cast(SEEN_SCHEMA)


def write_reference(
    images: pa.Table, class_names: Sequence[str], probabilities: FloatArray, embeddings: FloatArray, folder: Location
) -> None:
    """Write the reference images of a model.

    Args:
        images: Their `image_id`, `path` and `label`.
        class_names: The classes in order.
        probabilities: float32 (n, classes).
        embeddings: float32 (n, d), each row of unit length.
    """
    ends = np.arange(len(embeddings) + 1, dtype=np.int32) * embeddings.shape[1]
    columns = {name: images[name] for name in ("image_id", "path", "label")} | {
        "predicted": pa.array(class_names, pa.string()).take(pa.array(probabilities.argmax(axis=1))),
        "confidence": pa.array(probabilities.max(axis=1)),
        "embedding": pa.ListArray.from_arrays(pa.array(ends), pa.array(embeddings.ravel())),
    }
    write_table(pa.table(columns, schema=REFERENCE_SCHEMA), folder / REFERENCE_FILE)


def read_history(folder: Location) -> pa.Table:
    """The history of a model, one row an epoch (`lib.folders.history`)."""
    return read_table(folder / HISTORY_FILE)


def read_reference(folder: Location, columns: list[str]) -> pa.Table:
    """Some columns of the reference images of a model.

    Raises:
        StorageError: If they cannot be read.
    """
    return read_table(folder / REFERENCE_FILE, columns)


def write_epochs(history: pa.Table, png: bytes, svg: bytes, folder: Location) -> None:
    """Write the history of a model (`lib.folders.history`), and pictures of its curves."""
    write_table(history, folder / HISTORY_FILE)
    (folder / CURVES_FILE).write_bytes(png)
    (folder / CURVES_SVG_FILE).write_bytes(svg)
