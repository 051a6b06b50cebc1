"""The evaluation folder: names, schemas and records of what a model was found to be worth."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from lib.folders.predictions import PREDICTIONS
from lib.folders.record import CompletionRecord, Record, StoredRecord
from lib.storage.location import Location
from lib.storage.tables import Row, read_table, write_spreadsheet, write_table

MOST_SLICES = 100
"""Values of columns shown; all of them are in the file."""
MOST_SHOWN = 30
"""Pairs and candidates shown with thumbnails; the page states how many more there are."""
PLOT_KEY_FILE = "key.csv"
"""Among the plots, for people: what stands for which class."""
LABEL_ERRORS_FILE, SLICES_FILE = "label_errors.parquet", "slices.parquet"
MAPS_FILE, PLOTS, PROJECTOR = "maps.parquet", "plots", "projector"
LABEL_ERROR_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("predicted", pa.string(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),  # probability of the label; the lowest is the most doubtful
    ]
)


MapKind = Literal["pca", "tsne", "umap"]
KINDS: tuple[MapKind, ...] = ("pca", "tsne", "umap")
MAP_SCHEMA = pa.schema(
    [pa.field("image_id", pa.string(), nullable=False)]
    + [pa.field(f"{kind}_{axis}", pa.float32()) for kind in KINDS for axis in "xy"]  # null where not made
)


Interval = tuple[float, float]
"""Low and high, of 95 %."""


class Intervals(Record):
    """Of the measures over all images; None where the images are all of one unit (group or image)."""

    accuracy: Interval | None = None
    balanced_accuracy: Interval | None = None
    top_3_accuracy: Interval | None = None
    loss: Interval | None = None
    brier: Interval | None = None
    ece: Interval | None = None
    macro_f1: Interval | None = None
    matthews: Interval | None = None
    kappa: Interval | None = None
    quadratic_kappa: Interval | None = None
    cost: Interval | None = None
    least_cost: Interval | None = None


SLICE_SCHEMA = pa.schema(
    [
        pa.field("column", pa.string(), nullable=False),
        pa.field("value", pa.string(), nullable=False),
        pa.field("images", pa.int64(), nullable=False),
        pa.field("groups", pa.int64()),  # null where not every image has one
        *(
            pa.field(f"{name}{end}", pa.float64())
            for name in Intervals.model_fields
            for end in ("", "_low", "_high")  # null where it is not defined
        ),
        pa.field("p_value", pa.float64()),
        pa.field("adjusted_p_value", pa.float64()),
    ]
)


class ClassMeasures(Record):
    """Measures of one class, in [0, 1].

    None where one is undefined: recall and F1 of a class without images, its precision if it was not predicted either,
    areas where the class or all others have no image, and intervals where the images are all of one unit.
    """

    class_name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    """Images of the class."""
    roc_auc: float | None = None
    """Of the class against all others."""
    pr_auc: float | None = None
    """Average precision of the class against all others."""
    precision_interval: Interval | None = None
    recall_interval: Interval | None = None
    f1_interval: Interval | None = None


class ClassMeans(Record):
    """Means over the classes that have images, in [0, 1]."""

    precision: float
    recall: float
    f1: float


class Bootstrap(Record):
    """How the intervals were drawn."""

    resamples: int
    unit: Literal["group", "image"]
    """What was drawn again as a whole."""
    units: int
    """How many there are."""
    seed: int


class CalibrationMeasures(Record):
    """How far probabilities are from the truth."""

    loss: float
    """Mean cross-entropy in nats."""
    brier: float
    """In [0, 2]."""
    ece: float
    """Expected calibration error, in [0, 1]."""


class CalibrationEffect(Record):
    """What the temperature of the model does on these images."""

    temperature: float
    before: CalibrationMeasures
    after: CalibrationMeasures


class AbstentionRow(Record):
    """What is left if the model abstains below a confidence."""

    min_confidence: float
    answered: float
    """Share of the images, in [0, 1]."""
    accuracy: float | None
    """Of these; None if there is none."""


class Metrics(StoredRecord):
    """How good predictions are: never NaN, None where a number is undefined."""

    FILE: ClassVar[str] = "metrics.json"

    images: int
    accuracy: float
    """In [0, 1]."""
    balanced_accuracy: float | None = None
    """Mean recall over the classes that have images."""
    top_3_accuracy: float | None = None
    """Share of images whose class is among the three most probable."""
    loss: float
    """Mean cross-entropy in nats."""
    brier: float | None = None
    """Brier score over all classes, in [0, 2]."""
    ece: float | None = None
    """Expected calibration error, in [0, 1]."""
    matthews: float | None = None
    """Matthews correlation of all classes, in [-1, 1]."""
    kappa: float | None = None
    """Cohen's kappa, at most 1; None where all images are of one class and predicted as it."""
    quadratic_kappa: float | None = None
    """Kappa with the squared distance of ranks as weight; None where the classes have no order."""
    cost: float | None = None
    """Mean cost of an image, in the unit of the table of costs; None without one."""
    least_cost: float | None = None
    """The same, had each image been given the class of the least expected cost."""
    roc_auc: float | None = None
    """Mean over the classes for which it is defined."""
    pr_auc: float | None = None
    """The same of average precision."""
    per_class: list[ClassMeasures]
    """In the order of the class names."""
    macro: ClassMeans
    """Each class weighs the same."""
    weighted: ClassMeans
    """Each class weighs as much as it has images."""
    confusion_matrix: list[list[int]]
    """Images by actual (row) and predicted (column) class."""
    intervals: Intervals = Intervals()
    bootstrap: Bootstrap | None = None
    calibration: CalibrationEffect | None = None
    """None if the model has no temperature."""
    abstention: list[AbstentionRow] = Field(default_factory=list)


class GroupMetrics(Record):
    """How good the answers for whole groups (slides, patients) are."""

    groups: int
    """That were answered."""
    of_several_classes: int
    """Whose images have several labels; they are answered, but not measured."""
    metrics: Metrics
    """Of the others: what it calls images are groups."""


class LeftOutSite(Record):
    """What a head that has seen no image of a site makes of its tested images."""

    site: str
    images: int
    in_training: bool
    """Whether the model itself has seen images of the site."""
    accuracy: float
    """Of a head on the embeddings, fitted on training images of all other sites."""
    as_many_accuracy: float
    """Of heads that were fitted on as many images, but of all sites; on the same tested images."""
    ordinary_accuracy: float
    """Of the model itself."""

    @property
    def elsewhere(self) -> float:
        """What is left of the accuracy of the model without what seeing the site has added to heads, in [0, 1]."""
        return min(1.0, max(0.0, self.ordinary_accuracy + self.accuracy - self.as_many_accuracy))


class SiteRecord(Record):
    """How a model depends on where images were made."""

    sites: int
    cramers_v: float
    """Of label and site among training images: 0 if they have nothing in common, 1 if one tells the other."""
    same_site: float | None
    """How often the nearest image of the class, of another slide, is of the same site; None without such images."""
    same_site_by_chance: float | None
    """The same where sites are dealt out at random among the slides of a class."""
    same_site_p_value: float | None
    robustness_index: float | None
    """Of near images that share either class or site, the share that share the class."""
    left_out: list[LeftOutSite]
    """By the order of sites; none where too few images are left."""
    expected_accuracy: float | None
    """On a further site: the mean over those left out of `LeftOutSite.elsewhere`."""
    expected_interval: Interval | None
    """Where 19 of 20 further sites would lie; None for fewer than three sites."""

    @property
    def is_readable(self) -> bool:
        """Whether embeddings tell the site within a class, beyond chance."""
        return self.same_site_p_value is not None and self.same_site_p_value < 0.05  # noqa: PLR2004


class ProjectorRecord(Record):
    """The Projector of an evaluation."""

    points: int
    verified: bool
    """That TensorBoard shows it."""
    problem: str | None = None
    """Why it does not, or could not be asked."""


class EvaluationRecord(CompletionRecord):
    """What a model was measured on, and how it did."""

    FILE: ClassVar[str] = "evaluation.json"
    JOB: ClassVar[str] = "evaluate"
    PARTS: ClassVar[str] = PREDICTIONS

    name: str
    """Of the model."""
    spec: str
    """Of the model."""
    model_dir: str
    dataset: str
    """URI of the dataset folder."""
    dataset_hash: str
    split: str
    class_names: list[str]
    """Of the model, in order."""
    images: int
    metrics: Metrics
    unfamiliar: int | None = None
    """Images far from all training images; None if the model has no reference."""
    maps: list[MapKind] = Field(default_factory=list)
    projector: ProjectorRecord | None = None
    drawn_as: dict[str, str] = Field(default_factory=dict)
    """Names of classes that the plots cannot draw, by what they draw instead."""
    checks: str | None = None
    """URI of the checks folder."""
    label_errors: int | None = None
    """Images whose label is doubtful."""
    groups: GroupMetrics | None = None
    """Of answers for slides or patients; None where none is known, or none has images of one class alone."""
    sites: SiteRecord | None = None
    """None where training images are not known to be of several sites, or were not those of this data set."""
    slices: int | None = None
    """Values of columns by which it was measured; None if the images have no column with several."""
    resembling: int | None = None
    """Images that look like one that the model was trained on; None if that was not looked for."""
    seconds: float
    images_per_s: float | None = None


@dataclass(frozen=True)
class Layouts:
    """Maps of the embeddings of one evaluation.

    Attributes:
        image_ids: Ids of the n images on the maps.
        places: By kind (`pca`, `tsne`, `umap`), places in [0, 1], shape (n, 2); both axes of a map have one scale.
    """

    image_ids: list[str]
    places: Mapping[str, npt.NDArray[np.float32]]


def read_layouts(folder: Location) -> Layouts | None:
    """Maps without a place for every image were not made; earlier versions made none at all."""
    file = folder / MAPS_FILE
    if not file.exists():
        return None
    table = read_table(file)
    made = {kind: table.select([f"{kind}_x", f"{kind}_y"]) for kind in KINDS}
    places: dict[str, npt.NDArray[np.float32]] = {
        kind: _scaled(np.stack([column.to_numpy() for column in columns.columns], axis=1))
        for kind, columns in made.items()
        if columns.num_rows and not any(column.null_count for column in columns.columns)
    }
    return Layouts(table["image_id"].to_pylist(), places) if places else None


def _scaled(places: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Into the unit square, centred, with one scale for both axes."""
    low, high = places.min(axis=0), places.max(axis=0)
    extent = float((high - low).max()) or 1.0
    return np.asarray((places - (low + high) / 2) / extent + 0.5, np.float32)


@dataclass(frozen=True)
class LabelError:
    """An image whose label may be wrong; `score` is the probability the model gives to that label."""

    image_id: str
    path: str
    label: str
    predicted: str
    confidence: float
    score: float


@dataclass(frozen=True)
class LabelErrors:
    """The most doubtful labels, and how many there are."""

    shown: tuple[LabelError, ...]
    count: int


@dataclass(frozen=True)
class SliceRow:
    """How good predictions are for images with one value of a column, as far as a page shows it."""

    column: str
    value: str
    images: int
    groups: int | None
    accuracy: float
    accuracy_interval: Interval | None
    balanced_accuracy: float
    macro_f1: float
    matthews: float
    adjusted_p_value: float | None


@dataclass(frozen=True)
class Slices:
    """Those with the lowest accuracy, and how many there are."""

    shown: tuple[SliceRow, ...]
    count: int


def write_slices(slices: pa.Table, folder: Location) -> None:
    """Write the measures by column (`SLICE_SCHEMA`), the lowest accuracy first."""
    write_table(slices, folder / SLICES_FILE)


def read_slices(folder: Location) -> Slices | None:
    """The measures by column of an evaluation; None if there are none."""
    if not (folder / SLICES_FILE).exists():
        return None
    table = read_table(folder / SLICES_FILE)
    return Slices(tuple(map(_slice_row, table.slice(0, MOST_SLICES).to_pylist())), table.num_rows)


def _slice_row(row: Row) -> SliceRow:
    low, names = row["accuracy_low"], [field.name for field in fields(SliceRow) if field.name in row]
    interval = None if low is None else (low, row["accuracy_high"])
    return SliceRow(accuracy_interval=interval, **{name: row[name] for name in names})


def write_maps(maps: pa.Table, folder: Location) -> None:
    """Write the maps (`MAP_SCHEMA`) of an evaluation."""
    write_table(maps, folder / MAPS_FILE)


def write_plot_key(key: Mapping[str, str], folder: Location) -> None:
    """Write beside the plots which class they mean by a stand-in; nothing where they show all names."""
    place = folder / PLOTS / PLOT_KEY_FILE
    if key:
        rows = [{"drawn_as": drawn, "class_name": name} for drawn, name in key.items()]
        write_spreadsheet(["drawn_as", "class_name"], rows, place)
    elif place.exists():
        place.delete()


def write_label_errors(candidates: pa.Table, folder: Location) -> None:
    """Write the candidates (`LABEL_ERROR_SCHEMA`), the most doubtful first."""
    write_table(candidates, folder / LABEL_ERRORS_FILE)


def read_label_errors(folder: Location) -> LabelErrors | None:
    """The candidates of an evaluation; None if it is of a version that named none."""
    if not (folder / LABEL_ERRORS_FILE).exists():
        return None
    table = read_table(folder / LABEL_ERRORS_FILE)
    rows = table.select(LABEL_ERROR_SCHEMA.names).slice(0, MOST_SHOWN).to_pylist()
    return LabelErrors(tuple(LabelError(**row) for row in rows), table.num_rows)
