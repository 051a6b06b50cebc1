"""Where the images of a data set come from, whatever they are kept in: numbered by split, in units of work.

The images of a split are numbered from 0, always in the same order. A unit is a table with a row for each of some
neighbours, and says in a column `position` which ones; it decodes to a table of `DECODED_SCHEMA`.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lib.folders.columns import SITE_FIELDS
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
        pa.field("group", pa.string()),
        *SITE_FIELDS,
    ]
)
"""In memory only, between tasks."""
IMAGE = "image"
PIECE_BYTES = 2**30
"""Arrow's `binary` counts bytes in int32."""
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
        return [cls(**row) for row in rows.select(columns).filter(pc.is_valid(rows["reason"])).to_pylist()]


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
    return decoded.select(SEEN_SCHEMA.names).filter(pc.is_valid(decoded["checksum"])).cast(SEEN_SCHEMA)


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


def decoded_table(
    rows: list[dict[str, object]], images: Sequence[npt.NDArray[np.uint8] | None], unit: pa.Table
) -> pa.Table:
    """A table of `DECODED_SCHEMA`.

    Args:
        rows: What is known of each image of a unit, in its order.
        images: Each of one shape; None for a refused one.
        unit: Has their positions.
    """
    known = pa.schema([column for column in DECODED_SCHEMA if column.name != IMAGE])
    positions = unit["position"].to_pylist()
    table = pa.Table.from_pylist(
        [row | {"position": position} for row, position in zip(rows, positions, strict=True)], schema=known
    )
    place = DECODED_SCHEMA.get_field_index(IMAGE)
    return table.add_column(place, DECODED_SCHEMA.field(IMAGE), _column_of_images(images))


def _column_of_images(images: Sequence[npt.NDArray[np.uint8] | None]) -> pa.ChunkedArray:
    """Images beside each other in memory, each copied once; in pieces of at most `PIECE_BYTES`."""
    size_bytes = max((image.nbytes for image in images if image is not None), default=1)
    at_once = max(PIECE_BYTES // size_bytes, 1)
    pieces = [_piece(images[start : start + at_once]) for start in range(0, len(images), at_once)]
    return pa.chunked_array(pieces, DECODED_SCHEMA.field(IMAGE).type)


def _piece(images: Sequence[npt.NDArray[np.uint8] | None]) -> pa.BinaryArray:
    usable = [image for image in images if image is not None]
    pixels = np.stack(usable) if usable else np.empty(0, np.uint8)
    sizes = [0 if image is None else image.nbytes for image in images]
    ends = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    valid = pa.array([image is not None for image in images])
    buffers = [valid.buffers()[1], pa.py_buffer(ends), pa.py_buffer(pixels)]
    return pa.Array.from_buffers(pa.binary(), len(images), buffers)


def image_array(decoded: pa.Table, image_size: int) -> npt.NDArray[np.uint8]:
    """The images of a decoded table but for refused ones, uint8 (n, image_size, image_size, 3).

    They are the table's own memory, and read only, where it is in one piece, as that of a unit is.
    """
    pieces = [_pixels(piece) for piece in decoded[IMAGE].chunks]
    pixels = pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, np.uint8), *pieces])
    return pixels.reshape(-1, image_size, image_size, 3)


def _pixels(piece: pa.BinaryArray) -> npt.NDArray[np.uint8]:
    _, ends, pixels = piece.buffers()
    if pixels is None or not len(piece):
        return np.empty(0, np.uint8)
    first, last = np.frombuffer(ends, np.int32)[[piece.offset, piece.offset + len(piece)]]
    return np.frombuffer(pixels, np.uint8)[first:last]
