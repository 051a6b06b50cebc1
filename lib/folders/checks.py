"""What the evaluations found to doubt about the data: near duplicates, wrong labels, and what colours alone achieve."""

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from lib.errors import StorageError
from lib.folders.output import read_complete
from lib.folders.record import CompletionRecord, Record
from lib.storage.location import Location
from lib.storage.tables import Row, read_table, write_table

CHECKS, DESCRIPTORS = "checks", "descriptors"
NEAR_DUPLICATES_FILE, BASELINE_FILE = "near_duplicates.parquet", "baseline.parquet"
MOST_SHOWN = 30
"""Pairs shown with thumbnails; the page states how many more there are."""
DESCRIPTOR_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("group", pa.string()),
        pa.field("perceptual_hash", pa.uint64()),  # null where the image has no structure
        pa.field("view_hashes", pa.list_(pa.uint64())),  # of the 8 mirrored and turned views; the first is the image
        pa.field("histogram", pa.list_(pa.float32()), nullable=False),
    ]
)
NEAR_DUPLICATE_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("other_image_id", pa.string(), nullable=False),
        pa.field("other_path", pa.string(), nullable=False),
        pa.field("other_label", pa.string(), nullable=False),
        pa.field("other_split", pa.string(), nullable=False),
        pa.field("hamming", pa.int32(), nullable=False),  # different bits of 63, in the view that is closest
    ]
)
BASELINE_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("predicted", pa.string(), nullable=False),
        pa.field("correct", pa.bool_(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
    ]
)


class BaselineRecord(Record):
    """What the colours of an image alone achieve on a split."""

    name: str
    """What predicts."""
    images: int
    """On how many images."""
    accuracy: float
    """In [0, 1]."""
    interval: tuple[float, float] | None
    """Of 95 %; None where the images are of one group."""
    balanced_accuracy: float | None
    """In [0, 1]."""
    training_images: int | None = None
    regularisation: float | None = None
    """Inverse strength (C) of the logistic regression."""
    chosen_on: str | None = None
    """The split that the regularisation was chosen on; None where it was not chosen."""


SIZE_OF_FILE = "size of the file"


class PropertyRecord(Record):
    """What one property of files achieves alone."""

    name: str
    accuracy: float
    """In [0, 1]."""
    interval: tuple[float, float] | None


class FilePropertiesRecord(Record):
    """What is told of the class of training images by their files alone, without a look at any pixel."""

    images: int
    """That were left out in turn, whole groups together, and told by the others."""
    chance: float
    """The share of the most frequent class among them."""
    accuracy: float
    """By all properties together, in [0, 1]."""
    interval: tuple[float, float] | None
    """Of 95 %; None where the images are of one group."""
    properties: list[PropertyRecord]
    """By each property that is not the same for all, the most telling first."""

    @property
    def beats_chance(self) -> bool:
        """Whether the interval lies above chance."""
        return self.interval is not None and self.interval[0] > self.chance

    @property
    def telling(self) -> list[PropertyRecord]:
        """The properties whose own interval lies above chance."""
        return [one for one in self.properties if one.interval is not None and one.interval[0] > self.chance]

    @property
    def telling_beside_size(self) -> bool:
        """Whether any other property than the size of a file tells, which also depends on what the image shows."""
        return any(one.name != SIZE_OF_FILE for one in self.telling)


class ChecksRecord(CompletionRecord):
    """What was found to doubt about a data set."""

    FILE: ClassVar[str] = "checks.json"
    JOB: ClassVar[str] = "checks"
    MADE_BY: ClassVar[str] = "evaluate"

    dataset: str
    """URI of the dataset folder."""
    split: str
    """The split that the baseline predicted."""
    images: int
    """Of all splits, that were compared."""
    near_duplicates: int
    """Pairs."""
    near_duplicate_images: int | None = None
    """Those of the later split (test rather than train)."""
    most_different_bits: int
    """Up to which pairs were searched for, of 63."""
    baseline: BaselineRecord | None = None
    """None where there was nothing to train it on."""
    file_properties: FilePropertiesRecord | None = None
    """None where too few images could be left out, and in checks of earlier versions."""


@dataclass(frozen=True)
class Sighting:
    """One image of a pair."""

    image_id: str
    path: str
    label: str
    split: str


@dataclass(frozen=True)
class NearDuplicate:
    """Two images of different splits that look alike; `hamming` is how many of 63 bits of their hashes differ."""

    one: Sighting
    other: Sighting
    hamming: int


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs across splits.

    Attributes:
        shown: The closest ones.
        count: How many pairs there are.
        images: How many images of the later split (test rather than train) are in a pair.
    """

    shown: tuple[NearDuplicate, ...]
    count: int
    images: int


@dataclass(frozen=True)
class Checks:
    """A checks folder.

    Attributes:
        uri: Where it is.
        record: What `checks.json` says.
        near_duplicates: Images of different splits that look alike.
    """

    uri: str
    record: ChecksRecord
    near_duplicates: NearDuplicates

    @property
    def baseline(self) -> BaselineRecord | None:
        """What colours alone achieve; None where there was nothing to train it on."""
        return self.record.baseline


def read_checks(folder: Location) -> Checks:
    """Read a checks folder.

    Raises:
        SettingsError: If it is not complete.
        StorageError: If a file cannot be read.
    """
    record = read_complete(folder, ChecksRecord)
    found = read_near_duplicates(folder)
    if found is None:
        raise StorageError(f"{folder.uri} is complete, but {NEAR_DUPLICATES_FILE} is gone; run `evaluate` again")
    return Checks(folder.uri, record, found)


def read_near_duplicates(folder: Location) -> NearDuplicates | None:
    """The pairs of a checks or evaluation folder; None if none were looked for."""
    if not (folder / NEAR_DUPLICATES_FILE).exists():
        return None
    table = read_table(folder / NEAR_DUPLICATES_FILE)
    names = ("image_id", "path", "label", "split")
    pairs = tuple(
        NearDuplicate(
            Sighting(*(row[name] for name in names)),
            Sighting(*(row[f"other_{name}"] for name in names)),
            row["hamming"],
        )
        for row in table.slice(0, MOST_SHOWN).to_pylist()
    )
    return NearDuplicates(pairs, table.num_rows, len(table["image_id"].unique()))


def described_shards(folder: Location) -> set[str]:
    """The shards whose images have their descriptors in a checks folder."""
    return {file.path for file in (folder / DESCRIPTORS).list_files()}


def write_descriptors(rows: list[Row], folder: Location, shard: str) -> None:
    """Write the descriptors (`DESCRIPTOR_SCHEMA`) of the images of a shard, in a file of its name."""
    write_table(pa.Table.from_pylist(rows, schema=DESCRIPTOR_SCHEMA), folder / DESCRIPTORS / shard)


def read_descriptors(folder: Location) -> pa.Table:
    """All descriptors of a checks folder.

    Raises:
        StorageError: If they cannot be read.
    """
    return read_table(folder / DESCRIPTORS)


def write_near_duplicates(pairs: pa.Table, folder: Location) -> None:
    """Write pairs of images (`NEAR_DUPLICATE_SCHEMA`) into a checks folder, or an evaluation folder."""
    write_table(pairs, folder / NEAR_DUPLICATES_FILE)


def write_baseline(predictions: pa.Table, folder: Location) -> None:
    """Write what the colours alone predict (`BASELINE_SCHEMA`)."""
    write_table(predictions, folder / BASELINE_FILE)
