"""Where the images of a data set come from, whatever they are kept in: numbered by split, in units of work.

The images of a split are numbered from 0, always in the same order. A unit is a table with a row for each of some
neighbours, and says in a column `position` which ones; it decodes to a table of `DECODED_SCHEMA`.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.folders.manifest import PIXEL_FIELDS, Counts
from lib.folders.model import SEEN_SCHEMA

DECODED_SCHEMA = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("checksum", pa.string()),
        pa.field("image", pa.binary()),  # uint8, (image_size, image_size, 3) in C order; null if refused
        pa.field("reason", pa.string()),  # null unless refused
        pa.field("detail", pa.string()),
        *PIXEL_FIELDS,  # null for images of shards, whose manifest has them
    ]
)
"""In memory only, between tasks."""
NAMES = ["position", "image_id", "path", "label", "group"]

Decoder = Callable[[pa.Table], pa.Table]


class ImageSource(Protocol):
    """The images of a data set, by split (None for images without labels) and position."""

    @property
    def class_names(self) -> list[str]:
        """The classes in order; a label's number is its place here."""
        ...

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        ...

    @property
    def content_hash(self) -> str:
        """Changes when the images or their labels change."""
        ...

    def count(self, split: str | None) -> int:
        """How many positions a split has; a refused image keeps its position."""
        ...

    def class_counts(self, split: str) -> list[int]:
        """Images of each class in a split; of files, as many as are listed."""
        ...

    def shards(self, split: str) -> tuple[int, ...]:
        """Images of each shard of a split, in order; none where any image is read as cheaply alone."""
        ...

    def units(self, split: str | None) -> list[pa.Table]:
        """The units of work of a split, in order, none of them empty."""
        ...

    def names(self, unit: pa.Table) -> pa.Table:
        """What is known of the images of a unit without decoding them: the columns `NAMES`."""
        ...

    @property
    def decoder(self) -> Decoder:
        """From a unit to its images (`DECODED_SCHEMA`)."""
        ...


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set as a whole. Small: of a million images, the sizes of some 2,000 shards.

    Attributes:
        class_names: The classes in order; a label's number is its place here.
        image_size: Side of the images in pixels.
        counts: Images of each class by split; of files, as many as are listed.
        shards: Images of each shard by split; see `ImageSource.shards`.
        decoder: From a unit to its images (`DECODED_SCHEMA`).
    """

    class_names: list[str]
    image_size: int
    counts: Mapping[str, Sequence[int]]
    shards: Mapping[str, tuple[int, ...]]
    decoder: Decoder

    @classmethod
    def of(cls, source: ImageSource, splits: Iterable[str]) -> "DatasetInfo":
        """Describe some splits of a source."""
        counts = {split: source.class_counts(split) for split in splits}
        shards = {split: source.shards(split) for split in splits}
        return cls(source.class_names, source.image_size, counts, shards, source.decoder)

    def count(self, split: str) -> int:
        """How many positions a split has; a refused image keeps its position."""
        return sum(self.counts[split])


@dataclass(frozen=True)
class RefusedImage:
    """An image that could not be decoded.

    Attributes:
        position: In its split.
        image_id: Its identity.
        reason: One of `lib.errors.REFUSAL_CODES`.
        detail: What was wrong with it.
    """

    position: int
    image_id: str
    reason: str
    detail: str | None

    @classmethod
    def among(cls, rows: pa.Table) -> "list[RefusedImage]":
        """Those of some images that have a reason; the rows have columns as the attributes."""
        columns = [field.name for field in fields(cls)]
        return [cls(**row) for row in rows.filter(pc.is_valid(rows["reason"])).select(columns).to_pylist()]


@dataclass(frozen=True)
class TrainedImages:
    """The images that a model was trained and validated on.

    Attributes:
        checksums: Of each of them (`lib.folders.model.SEEN_SCHEMA`).
        counts: Of all listed files, by verdict; None where a data set has an account of its own.
    """

    checksums: pa.Table
    counts: Counts | None = None


def stated_checksums(decoded: pa.Table) -> pa.Table:
    """The checksums of images that came straight from their files (`lib.folders.model.SEEN_SCHEMA`)."""
    return decoded.filter(pc.is_valid(decoded["checksum"])).select(SEEN_SCHEMA.names).cast(SEEN_SCHEMA)


class Units:
    """Units of one split in the order of their positions, which follow each other without a gap."""

    def __init__(self, units: Iterable[pa.Table]) -> None:
        """Take units in any order; empty ones are left out."""
        self._units = sorted((unit for unit in units if unit.num_rows), key=first_position)
        self._firsts = [first_position(unit) for unit in self._units]

    def between(self, start: int, stop: int) -> list[pa.Table]:
        """What there is from position `start` to before `stop`, cut at both ends."""
        if start >= stop:
            return []
        first, last = max(bisect_right(self._firsts, start) - 1, 0), bisect_left(self._firsts, stop)
        numbered = zip(self._firsts[first:last], self._units[first:last], strict=True)
        cut = [unit.slice(max(start - number, 0), stop - max(start, number)) for number, unit in numbered]
        return [unit for unit in cut if unit.num_rows]


def first_position(unit: pa.Table) -> int:
    """The position of the first image of a unit, decoded or not."""
    return int(unit["position"][0].as_py())


def decoded_table(rows: list[dict[str, object]], images: Sequence[bytes | None], unit: pa.Table) -> pa.Table:
    """A table of `DECODED_SCHEMA`.

    Args:
        rows: What is known of each image of a unit, in its order.
        images: Their pixels; None for a refused one.
        unit: Has their positions.
    """
    positions = unit["position"].to_pylist()
    return pa.Table.from_pylist(
        [
            row | {"position": position, "image": image}
            for row, position, image in zip(rows, positions, images, strict=True)
        ],
        schema=DECODED_SCHEMA,
    )


def image_array(decoded: pa.Table, image_size: int) -> np.ndarray:
    """The images of a decoded table without refused ones: uint8 (n, image_size, image_size, 3)."""
    return np.stack([np.frombuffer(image.as_buffer(), np.uint8) for image in decoded["image"]]).reshape(
        -1, image_size, image_size, 3
    )
