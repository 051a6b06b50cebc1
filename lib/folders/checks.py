"""What the evaluations found to doubt about the data: near duplicates, wrong labels, and what colours alone achieve."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lib.folders.output import read_complete
from lib.storage.location import Location
from lib.storage.tables import read_table

MOST_SHOWN = 30
"""Pairs and candidates shown with thumbnails; the page states how many more there are."""


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
class Baseline:
    """What the colours of an image alone achieve on a split.

    Attributes:
        name: What predicts.
        accuracy: In [0, 1].
        interval: Of 95 %; None where the images are of one group.
        balanced_accuracy: In [0, 1].
        images: On how many images.
    """

    name: str
    accuracy: float
    interval: tuple[float, float] | None
    balanced_accuracy: float
    images: int


@dataclass(frozen=True)
class Checks:
    """A checks folder.

    Attributes:
        uri: Where it is.
        record: The content of `checks.json`.
        near_duplicates: Images of different splits that look alike.
        baseline: What colours alone achieve; None where there was nothing to train it on.
    """

    uri: str
    record: dict[str, Any]
    near_duplicates: NearDuplicates
    baseline: Baseline | None

    @property
    def split(self) -> str:
        """The split that the baseline predicted."""
        return str(self.record["split"])


def read_checks(folder: Location) -> Checks:
    """Read a checks folder.

    Raises:
        SettingsError: If it is not complete.
        StorageError: If a file cannot be read.
    """
    record = read_complete(folder, CHECKS_FILE, "evaluate")
    return Checks(
        uri=folder.uri,
        record=record,
        near_duplicates=read_near_duplicates(folder / NEAR_DUPLICATES_FILE),
        baseline=_baseline(record["baseline"]) if record.get("baseline") else None,
    )


def read_near_duplicates(file: Location) -> NearDuplicates:
    """The pairs of a file of rows of `NEAR_DUPLICATE_SCHEMA`, which has the closest first."""
    table = read_table(file)
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


def _baseline(record: dict[str, Any]) -> Baseline:
    interval = record["interval"]
    return Baseline(
        name=record["name"],
        accuracy=record["accuracy"],
        interval=(interval[0], interval[1]) if interval else None,
        balanced_accuracy=record["balanced_accuracy"],
        images=record["images"],
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


CHECKS_FILE = "checks.json"


NEAR_DUPLICATES_FILE, BASELINE_FILE = "near_duplicates.parquet", "baseline.parquet"


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


DESCRIPTORS = "descriptors"


SPLITS = ("train", "validation", "test")


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
