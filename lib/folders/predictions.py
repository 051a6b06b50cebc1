"""Predictions: the tables of an evaluation or predictions folder, and `predictions.json`.

A file of predictions says in its footer the verdict on each image of its unit, and how many are doubtful. So
predictions and account are one object, written in one step, and the account is read without the predictions.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from lib.folders.columns import SITE_FIELDS, read_columns
from lib.folders.manifest import PIXEL_FIELDS, Counts, PixelDoubt, Scale, read_manifest
from lib.folders.model import ModelRecord
from lib.folders.record import CompletionRecord
from lib.storage.location import Location
from lib.storage.tables import footer, read_table, rows_as_json, write_table

PREDICTIONS, EMBEDDINGS, GRAD_CAM, THUMBNAILS = "predictions", "embeddings", "grad_cam", "thumbnails"
"""Folders of tables, a file a unit."""
PAIRS_FILE = "pairs.parquet"
"""Thumbnails of images that are not of the predicted split, but look like one that is."""
PREDICTION_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("predicted", pa.string(), nullable=False),
        pa.field("correct", pa.bool_()),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("probabilities", pa.list_(pa.float32()), nullable=False),  # in class_names order, sum 1
        pa.field("feature_distance", pa.float32()),  # see `Reference`; null if the model has none
        pa.field("unfamiliar", pa.bool_()),
        pa.field("group", pa.string()),
        *SITE_FIELDS,
    ]
)
LOGIT_SCHEMA = PREDICTION_SCHEMA.append(pa.field("logits", pa.list_(pa.float32()), nullable=False))
"""With `--logits`: in class_names order, the mean over the views."""
_ABSTAINED = pa.field("abstained", pa.bool_(), nullable=False)
ABSTAINING_SCHEMA, ABSTAINING_LOGIT_SCHEMA = PREDICTION_SCHEMA.append(_ABSTAINED), LOGIT_SCHEMA.append(_ABSTAINED)
"""Of the job `predict`: whether the confidence is below `--min-confidence`."""
THUMBNAIL_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("thumbnail", pa.binary(), nullable=False),  # JPEG
    ]
)
EMBEDDING_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("embedding", pa.list_(pa.float32()), nullable=False),  # the input of the last layer
    ]
)
GRAD_CAM_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("predicted", pa.string(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),  # JPEG of what the network saw
        pa.field("heatmap", pa.binary(), nullable=False),  # PNG, 8-bit gray, of what spoke for `predicted`
    ]
)
VERDICT_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("checksum", pa.string()),
        pa.field("reason", pa.string()),  # null unless refused
        pa.field("detail", pa.string()),
        *PIXEL_FIELDS,
    ]
)
GROUPS_FILE = "groups.parquet"
GROUP_SCHEMA = pa.schema(
    [
        pa.field("group", pa.string(), nullable=False),
        pa.field("images", pa.int64(), nullable=False),  # that were predicted
        pa.field("label", pa.string()),  # null where its images have several, or none
        pa.field("predicted", pa.string(), nullable=False),
        pa.field("correct", pa.bool_()),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("agreement", pa.float32(), nullable=False),  # share of its images that were predicted so
        pa.field("probabilities", pa.list_(pa.float32()), nullable=False),  # in class_names order, sum 1
    ]
)
VERDICTS_KEY, COUNTS_KEY = b"verdicts", b"counts"
COUNTED = ("unfamiliar", "abstained")


class PredictionsRecord(CompletionRecord):
    """What a model was asked to predict, and how sure it was."""

    FILE: ClassVar[str] = "predictions.json"
    JOB: ClassVar[str] = "predict"
    PARTS: ClassVar[str] = PREDICTIONS

    name: str
    """Of the model."""
    class_names: list[str]
    """Of the model, in order."""
    model_dir: str
    source: str
    """URI of the folder of TIFFs."""
    counts: Counts
    reasons: dict[str, int]
    """Files by reason code, the most frequent first."""
    images: int
    """That were predicted."""
    unfamiliar: int | None = None
    """Images far from all training images; None if the model has no reference."""
    abstained: int | None = None
    """Images for which the model abstains."""
    groups: int | None = None
    """Slides or patients that were answered as a whole; None where none is known."""
    pixels: list[PixelDoubt] = Field(default_factory=list)
    """What to doubt of the pixels that came out."""
    micrometres: Scale | None = None
    """Of a pixel; None where no file says."""
    seconds: float
    images_per_s: float


@dataclass(frozen=True)
class ExtraColumns:
    """What predictions have beside the columns of `PREDICTION_SCHEMA`.

    Attributes:
        logits: Whether they have the logits.
        min_confidence: Confidence below which the model abstains; None for predictions that do not say so.
    """

    logits: bool = False
    min_confidence: float | None = None

    @property
    def schema(self) -> pa.Schema:
        """The schema with these columns."""
        if self.min_confidence is None:
            return LOGIT_SCHEMA if self.logits else PREDICTION_SCHEMA
        return ABSTAINING_LOGIT_SCHEMA if self.logits else ABSTAINING_SCHEMA


@dataclass(frozen=True)
class PredictionAccount:
    """What became of all images that went through `predict_units`.

    Attributes:
        verdicts: On each image, refused ones included (`VERDICT_SCHEMA`).
        unfamiliar: How many are unfamiliar; None if the model has no reference.
        abstained: For how many the model abstains; None for predictions that do not say so.
    """

    verdicts: pa.Table
    unfamiliar: int | None
    abstained: int | None


def with_account(predictions: pa.Table, decoded: pa.Table) -> pa.Table:
    """The predictions of a unit, with what `read_account` reads in their footer.

    Args:
        predictions: Predictions of the images that were not refused.
        decoded: The unit (`DECODED_SCHEMA`).
    """
    verdicts = rows_as_json(decoded.select(VERDICT_SCHEMA.names))
    counts = {name: _true_count(predictions, name) for name in COUNTED}
    return predictions.replace_schema_metadata({VERDICTS_KEY: verdicts, COUNTS_KEY: json.dumps(counts)})


def _true_count(predictions: pa.Table, name: str) -> int | None:
    if name not in predictions.column_names or predictions[name].null_count:
        return None
    return int(pc.sum(predictions[name], min_count=0).as_py())


def read_account(output: Location) -> PredictionAccount:
    """The account of all predictions below a folder.

    Raises:
        StorageError: If a file cannot be read as Parquet.
    """
    verdicts, counts = [VERDICT_SCHEMA.empty_table()], []
    for file in (output / PREDICTIONS).list_files():
        found = footer(output / PREDICTIONS / file.path)
        verdicts.append(pa.Table.from_pylist(json.loads(found[VERDICTS_KEY]), schema=VERDICT_SCHEMA))
        counts.append(json.loads(found[COUNTS_KEY]))
    return PredictionAccount(pa.concat_tables(verdicts), **{name: _total(counts, name) for name in COUNTED})


def _total(counts: list[dict[str, int | None]], name: str) -> int | None:
    known = [number for count in counts if (number := count[name]) is not None]
    return sum(known) if len(known) == len(counts) else None


def write_part(table: pa.Table, output: Location, kind: str, name: str) -> None:
    """Write what belongs to one unit into a folder of tables (`EMBEDDINGS`, `GRAD_CAM` or `THUMBNAILS`)."""
    write_table(table, output / kind / name)


def write_predictions(predictions: pa.Table, decoded: pa.Table, output: Location, name: str) -> None:
    """Write the predictions of one unit with its account; after its other parts, since the unit is then done.

    Args:
        predictions: Predictions of the images that were not refused.
        decoded: The unit (`DECODED_SCHEMA`).
        output: An evaluation or predictions folder.
        name: Name of the part.
    """
    write_table(with_account(predictions, decoded), output / PREDICTIONS / name)


def write_groups(answers: pa.Table, output: Location) -> None:
    """Write the answers for groups (`GROUP_SCHEMA`) of an evaluation or predictions folder."""
    write_table(answers, output / GROUPS_FILE)


def read_embedding_parts(output: Location) -> Iterator[pa.Table]:
    """The embeddings (`EMBEDDING_SCHEMA`), a part at a time: all of them may not fit into memory."""
    for file in (output / EMBEDDINGS).list_files():
        yield read_table(output / EMBEDDINGS / file.path)


def read_predictions(output: Location) -> pa.Table:
    """All predictions below a folder, in the order of the data set."""
    return read_table(output / PREDICTIONS)


def read_thumbnails(folder: Location, image_ids: Collection[str]) -> dict[str, bytes]:
    """The thumbnails of some images below a folder of an evaluation or of checks, by `image_id`, as far as it has any.

    Raises:
        StorageError: If a file cannot be read as Parquet.
    """
    missing, found = set(image_ids), dict[str, bytes]()
    for file in (folder / THUMBNAILS).list_files():  # one after the other: all of them may not fit into memory
        if not missing:
            break
        part = read_table(folder / THUMBNAILS / file.path)
        part = part.filter(pc.is_in(part["image_id"], pa.array(sorted(missing), pa.string())))
        found |= dict(zip(part["image_id"].to_pylist(), part["thumbnail"].to_pylist(), strict=True))
        missing -= found.keys()
    return found


def read_grad_cam(output: Location) -> pa.Table:
    """The heatmaps below a folder (`GRAD_CAM_SCHEMA`), the most confident errors first; perhaps none."""
    if not (output / GRAD_CAM).list_files():
        return GRAD_CAM_SCHEMA.empty_table()
    return read_table(output / GRAD_CAM).sort_by([("confidence", "descending"), ("image_id", "ascending")])


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction."""

    image_id: str
    path: str
    actual: str
    predicted: str
    confidence: float


@dataclass(frozen=True)
class Predictions:
    """The predictions of one evaluation, without their probabilities; arrays of shape (n,).

    Attributes:
        image_ids: Ids of the n images.
        paths: Where they came from.
        actual: Classes as their place in the class names of the model.
        predicted: The same.
        confidence: Probability of the predicted class, in [0, 1].
        unfamiliar: How many lie far from all training images; None if the model has no reference.
        mistakes: The wrong ones that are shown, the most confident first.
    """

    image_ids: list[str]
    paths: list[str]
    actual: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    unfamiliar: int | None
    mistakes: tuple[Mistake, ...]

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether each was right."""
        return np.asarray(self.actual == self.predicted)

    @property
    def mistake_count(self) -> int:
        """All wrong ones."""
        return int((~self.right).sum())

    @property
    def mean_confidence(self) -> float:
        """In [0, 1]; 0 without images."""
        return float(self.confidence.mean()) if len(self.confidence) else 0.0

    @cached_property
    def correct(self) -> dict[str, bool]:
        """Whether each was right, by image id."""
        return dict(zip(self.image_ids, self.right.tolist(), strict=True))


@dataclass(frozen=True)
class ScoredPredictions:
    """The predictions of a split with their labels, as they are measured.

    Attributes:
        predictions: Rows of `PREDICTION_SCHEMA`, all with a label.
        class_names: Those of the model, in order.
        groups: By `image_id`; None where it is unknown.
        temperature: By which the logits of the model were divided after training; None if it was not calibrated.
        columns: What else is known of the images, by column, in their order: the site, and what a table says.
    """

    predictions: pa.Table
    class_names: list[str]
    groups: Mapping[str, str | None]
    temperature: float | None
    columns: Mapping[str, Sequence[str | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, predictions: pa.Table, model: ModelRecord, dataset: Location, split: str) -> "ScoredPredictions":
        """The predictions of one evaluation.

        Args:
            predictions: Predictions of the split.
            model: Which predicted.
            dataset: The dataset folder, whose manifest knows groups and columns.
            split: Which was predicted.
        """
        temperature = model.calibration.temperature if model.calibration else None
        manifest = read_manifest(dataset, ["image_id", "group", "split", "site", "columns"])
        rows = manifest.filter(pc.equal(manifest["split"], split))
        groups = dict(zip(rows["image_id"].to_pylist(), rows["group"].to_pylist(), strict=True))
        known = rows.take(pc.index_in(predictions["image_id"], rows["image_id"].combine_chunks()))
        return cls(predictions, model.class_names, groups, temperature, _columns(known))

    @cached_property
    def actual(self) -> npt.NDArray[np.int64]:
        """The true class of each image as its place in `class_names`, shape (n,)."""
        places = pc.index_in(self.predictions["label"], pa.array(self.class_names, pa.string()))
        return np.asarray(places.to_numpy(), np.int64)

    @cached_property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """Of the calibrated model, shape (n, classes)."""
        flat = pc.list_flatten(self.predictions["probabilities"]).to_numpy()
        return np.asarray(flat.reshape(-1, len(self.class_names)), np.float32)

    @cached_property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The predicted class of each image, shape (n,)."""
        return np.asarray(self.probabilities.argmax(axis=1), np.int64)

    @property
    def confidence(self) -> npt.NDArray[np.float32]:
        """The probability of the predicted class, shape (n,)."""
        return np.asarray(self.probabilities.max(axis=1), np.float32)

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether each prediction is right, shape (n,)."""
        return np.asarray(self.predicted == self.actual)

    @property
    def groups_in_order(self) -> list[str | None]:
        """The group of each image."""
        return [self.groups.get(image_id) for image_id in self.predictions["image_id"].to_pylist()]


def _columns(manifest: pa.Table) -> dict[str, list[str | None]]:
    """The site, if any is known, and the other columns of a table of labels."""
    site, others = manifest["site"], read_columns(manifest["columns"].to_pylist())
    return ({} if site.null_count == manifest.num_rows else {"site": site.to_pylist()}) | others
