"""Where the images of a split come from: the shards of a dataset folder, or TIFFs in storage.

Both number the images of a split from 0, always in the same order, and give any range of them as units of work for
Ray Data. A unit decodes to a table of `DECODED_SCHEMA`, so whoever reads it need not know which of the two it is.
"""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Generic, Protocol, TypeVar

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.config.images import ImageConfig, ListingConfig
from lib.folders.dataset import DatasetRecord
from lib.folders.manifest import DuplicateCounts, read_manifest
from lib.folders.output import OutputFolder, read_complete
from lib.folders.shards import ShardFile, read_shard, read_shard_names, shards_of
from lib.ingest.duplicates import find_duplicates, with_checksums
from lib.ingest.image import decode_jpeg, encode_jpeg
from lib.ingest.listing import Listing, list_labelled
from lib.ingest.tiff.decode import UInt8Array
from lib.ingest.tiff.ranges import with_ranges_of_run
from lib.ingest.unit import read_unit
from lib.runtime.logs import join_stage
from lib.storage.location import Location

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
    ]
)
NAMES = ["position", "image_id", "path", "label"]

ItemT = TypeVar("ItemT")
Decoder = Callable[[pa.Table], pa.Table]


class _Numbered(Generic[ItemT]):
    """Pieces of a split one after the other, found by the positions that they cover."""

    def __init__(self) -> None:
        self._pieces: list[ItemT] = []
        self._firsts = [0]

    def add(self, piece: ItemT, images: int) -> None:
        """Append a piece of so many images, at least one."""
        self._pieces.append(piece)
        self._firsts.append(self._firsts[-1] + images)

    def between(self, start: int, stop: int) -> Iterator[tuple[int, ItemT]]:
        """The pieces that have a position from `start` to before `stop`, each with its first position."""
        if start < stop:
            first, last = bisect_right(self._firsts, start) - 1, bisect_left(self._firsts, stop)
            yield from zip(self._firsts[first:last], self._pieces[first:last], strict=False)


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

    def units(self, split: str | None, start: int, stop: int) -> list[pa.Table]:
        """Units of work that cover the positions from `start` to before `stop`, in order."""
        ...

    def names(self, unit: pa.Table) -> pa.Table:
        """What is known of the images of a unit without decoding them: the columns `NAMES`."""
        ...

    @property
    def decoder(self) -> Decoder:
        """From a unit to its images (`DECODED_SCHEMA`)."""
        ...


@dataclass(frozen=True)
class ShardSource:
    """The accepted images of a complete dataset folder."""

    folder: Location
    record: DatasetRecord

    @classmethod
    def open(cls, folder: Location) -> "ShardSource":
        """Read `dataset.json`.

        Raises:
            SettingsError: If the folder is not complete.
        """
        return cls(folder, read_complete(folder, DatasetRecord))

    @property
    def class_names(self) -> list[str]:
        return self.record.class_names

    @property
    def image_size(self) -> int:
        return self.record.image_size

    @property
    def image_policy(self) -> ImageConfig:
        """How the TIFFs became these images."""
        return self.record.image_policy

    @property
    def content_hash(self) -> str:
        return self.record.content_hash

    def checksums(self, splits: Sequence[str]) -> dict[str, str]:
        """The checksum of every image of some splits, by `image_id`."""
        manifest = read_manifest(self.folder, ["image_id", "checksum", "split", "verdict"])
        wanted = pc.and_(pc.is_in(manifest["split"], pa.array(splits)), pc.equal(manifest["verdict"], "accepted"))
        rows = manifest.filter(wanted)
        return dict(zip(rows["image_id"].to_pylist(), rows["checksum"].to_pylist(), strict=True))

    def count(self, split: str | None) -> int:
        return sum(shard.images for shard in self.record.shards if shard.split == split)

    def class_counts(self, split: str) -> list[int]:
        """Images of each class in a split."""
        counts = self.record.counts_by_split.get(split, {})
        return [counts[name].accepted if name in counts else 0 for name in self.class_names]

    def units(self, split: str | None, start: int, stop: int) -> list[pa.Table]:
        """One unit a shard: its file, and the rows of it that are asked for."""
        units = []
        for first, shard in self._numbered[split].between(start, stop):
            begin, end = max(start - first, 0), min(stop - first, shard.images)
            rows = pa.array(range(begin, end), pa.int64())
            files = pa.array([shard.file] * len(rows), pa.string())
            units.append(pa.table({"file": files, "row": rows, "position": pc.add(rows, first)}))
        return units

    def names(self, unit: pa.Table) -> pa.Table:
        """Position, `image_id`, path and label of the images of a unit, read from its shard without the images.

        Raises:
            StorageError: If the shard cannot be read.
        """
        rows = read_shard_names(shards_of(self.folder) / unit["file"][0].as_py(), NAMES[1:]).take(unit["row"])
        return rows.add_column(0, NAMES[0], unit["position"])

    @property
    def decoder(self) -> Decoder:
        """Reads a shard and decodes the wanted rows."""
        return partial(_decode_shard, images=shards_of(self.folder))

    @cached_property
    def _numbered(self) -> "dict[str | None, _Numbered[ShardFile]]":
        numbered: dict[str | None, _Numbered[ShardFile]] = defaultdict(_Numbered)
        for shard in self.record.shards:
            numbered[shard.split].add(shard, shard.images)
        return numbered


@dataclass(frozen=True)
class TiffSource:
    """The TIFFs of a listing, fetched and decoded when asked for; nothing is kept.

    Attributes:
        folder: Where the listed paths are.
        listing: The files.
        config: How a TIFF becomes an image.
        images_per_unit: See `lib.config.images.UnitConfig.images_per_shard`.
        jpeg_quality: Set to get just the pixels that shards of this quality would hold; None for unchanged ones.
    """

    folder: Location
    listing: Listing
    config: ImageConfig
    images_per_unit: int | None = None
    jpeg_quality: int | None = None

    @classmethod
    def list_labelled(cls, folder: Location, images: ImageConfig, listing: ListingConfig) -> "TiffSource":
        """List a training source (see `lib.ingest.listing.list_labelled` for what it raises)."""
        return cls(folder, list_labelled(folder, listing), images.part(ImageConfig), listing.images_per_shard)

    def with_ranges(self, output: OutputFolder[Any]) -> "TiffSource":
        """The source with the ranges of its sample values decided, once for the run that writes a folder."""
        return replace(self, config=with_ranges_of_run(output, self.folder, self.listing.images, self.config))

    def count_duplicates(self, duplicates: str) -> DuplicateCounts:
        """Count the images of the same bytes before they are used.

        Where the listing states no checksums, images of equal size are read for that, also those for testing.

        Args:
            duplicates: See `lib.config.images.ListingConfig.duplicates`.

        Raises:
            DataError: With `refuse`, if any are in two classes or in train and test.
            StorageError: If an image cannot be read.
        """
        images = self.listing.images
        if duplicates != "drop":  # else they have been read already, and none is left
            images = with_checksums(images, self.folder)
        found = find_duplicates(images)
        if duplicates == "refuse":
            found.refuse(self.folder)
        return found.counts

    @property
    def class_names(self) -> list[str]:
        return self.listing.class_names

    @property
    def image_size(self) -> int:
        return self.config.image_size

    @property
    def image_policy(self) -> ImageConfig:
        """How the TIFFs become images."""
        return self.config.part(ImageConfig)

    @property
    def content_hash(self) -> str:
        """Identity of the content, as far as the listing tells."""
        return self.listing.content_hash

    def count(self, split: str | None) -> int:
        """How many files a split lists."""
        return Counter(self.listing.images["split"].to_pylist())[split]

    def class_counts(self, split: str) -> list[int]:
        """Listed files of each class in a split."""
        images = self.listing.images
        counts = Counter(images.filter(pc.equal(images["split"], split))["label"].to_pylist())
        return [counts[name] for name in self.class_names]

    def units(self, split: str | None, start: int, stop: int) -> list[pa.Table]:
        """Slices of the listing, with their positions."""
        units = []
        for first, unit in self._numbered[split].between(start, stop):
            begin, end = max(start - first, 0), min(stop - first, unit.num_rows)
            positions = pa.array(range(first + begin, first + end), pa.int64())
            units.append(unit.slice(begin, end - begin).append_column("position", positions))
        return units

    def names(self, unit: pa.Table) -> pa.Table:
        """Position, `image_id`, path and label of the files of a unit; also of those that turn out to be damaged."""
        return unit.select(NAMES)

    @cached_property
    def _numbered(self) -> "dict[str | None, _Numbered[pa.Table]]":
        numbered: dict[str | None, _Numbered[pa.Table]] = defaultdict(_Numbered)
        for unit in self.listing.units(self.images_per_unit):
            numbered[unit["split"][0].as_py()].add(unit, unit.num_rows)
        return numbered

    @property
    def decoder(self) -> Decoder:
        """Fetches and decodes the files of a unit; a refused one has no image, but a reason."""
        return partial(_decode_tiffs, folder=self.folder, config=self.config, quality=self.jpeg_quality)


def _decode_shard(unit: pa.Table, images: Location) -> pa.Table:
    join_stage("decode")
    cv2.setNumThreads(1)
    shard = read_shard(images / unit["file"][0].as_py(), ["image_id", "path", "label", "image"])
    rows = shard.take(unit["row"])
    pixels = [decode_jpeg(image).tobytes() for image in rows["image"].to_pylist()]
    return _decoded_table(rows.drop_columns(["image"]).to_pylist(), pixels, unit)


def _decode_tiffs(unit: pa.Table, folder: Location, config: ImageConfig, quality: int | None) -> pa.Table:
    join_stage("decode")
    results = list(read_unit(unit, folder, config))
    pixels = [None if result.image is None else _as_stored(result.image, quality).tobytes() for result in results]
    return _decoded_table([result.row for result in results], pixels, unit)


def _as_stored(image: UInt8Array, quality: int | None) -> UInt8Array:
    """The image as a shard would have given it back."""
    return image if quality is None else decode_jpeg(encode_jpeg(image, quality))


def _decoded_table(rows: list[dict[str, Any]], images: Sequence[bytes | None], unit: pa.Table) -> pa.Table:
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
