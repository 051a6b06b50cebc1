"""The TIFFs of a listing as numbered images, fetched and decoded when they are asked for."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lib.config.images import ImageConfig, ListingConfig
from lib.config.resources import DecodeConfig
from lib.dataset.graph import decoded_dataset
from lib.dataset.source import NAMES, Decoder, RefusedImage, TrainedImages, decoded_table, stated_checksums
from lib.folders.manifest import MANIFEST_SCHEMA, Accounting, DuplicateCounts, manifest_table
from lib.folders.output import OutputFolder
from lib.ingest.duplicates import find_duplicates, with_checksums
from lib.ingest.image import decode_jpeg, encode_jpeg
from lib.ingest.listing import Listing, list_labelled
from lib.ingest.pixel_doubts import find_pixel_doubts, tell_pixel_doubts
from lib.ingest.tiff.decode import UInt8Array
from lib.ingest.tiff.ranges import files_to_measure, with_ranges_of_run
from lib.ingest.unit import read_unit
from lib.runtime.logs import join_stage
from lib.runtime.progress import Progress
from lib.runtime.ray_data import stream_tables
from lib.storage.location import Location

logger = logging.getLogger(__name__)


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

    @property
    def micrometres(self) -> None:
        """None: nobody has opened the files yet."""

    @property
    def image_encoding(self) -> None:
        """None: the images come straight from their files."""

    def prepared(self, duplicates: str, folder: OutputFolder[Any]) -> "tuple[TiffSource, DuplicateCounts]":
        """Decide what is decided once for the run that writes a folder.

        Args:
            duplicates: See `lib.config.images.ListingConfig.duplicates`.
            folder: The folder.

        Returns:
            The source with what was decided, and the images of the same bytes.

        Raises:
            DataError: With `refuse`, if images of the same bytes are in two classes or in train and test.
            StorageError: If an image cannot be read.
        """
        found = self.count_duplicates(duplicates)  # first: it may refuse the source
        source = self.with_ranges(folder)
        source.look_at_pixels()
        return source, found

    def trained_on(
        self,
        splits: Sequence[str],
        refused: Mapping[str, Sequence[RefusedImage]],
        checksums: pa.Table,
        decode: DecodeConfig,
    ) -> TrainedImages:
        """What became of the listed files when some splits were streamed into training.

        Workers that go on from a checkpoint tell of what they have read since then. What they have not is read here.

        Args:
            splits: The splits; the files of others are excluded.
            refused: The images that could not be decoded, by split.
            checksums: Of the others (`lib.folders.model.SEEN_SCHEMA`).
            decode: What Ray reserves for the tasks that decode.
        """
        images, by_id = self.listing.images, {image.image_id: image for some in refused.values() for image in some}
        for told in self._untold(splits, {*checksums["image_id"].to_pylist(), *by_id}, decode):
            by_id |= {image.image_id: image for image in RefusedImage.among(told)}
            checksums = pa.concat_tables([checksums, stated_checksums(told)])
        place = pc.index_in(images["image_id"], pa.array(by_id, pa.string()))  # among the refused; null for all others
        reasons = pa.array([image.reason for image in by_id.values()], pa.string())
        details = pa.array([image.detail for image in by_id.values()], pa.string())
        is_used = pc.is_in(images["split"], pa.array(splits))
        verdict = pc.if_else(pc.is_valid(place), "quarantined", "accepted")
        columns = {name: images[name] for name in images.column_names} | {
            "verdict": pc.if_else(is_used, verdict, "excluded"),
            "reason": pc.if_else(is_used, reasons.take(place), "test_split"),
            "detail": details.take(place),
        }
        manifest = manifest_table(columns, images.num_rows)
        account = Accounting.of(pa.concat_tables([manifest, self.listing.excluded]), self.listing.ids)
        return TrainedImages(checksums, account.counts)

    def _untold(self, splits: Sequence[str], told: set[str], decode: DecodeConfig) -> Iterator[pa.Table]:
        """Decodes the images of some splits whose identity is not among those that were told of."""
        known, every = pa.array(told, pa.string()), [unit for split in splits for unit in self.units(split)]
        untold = (unit.filter(pc.invert(pc.is_in(unit["image_id"], known))) for unit in every)
        units = [unit for unit in untold if unit.num_rows]
        count = sum(unit.num_rows for unit in units)
        if not count:
            return
        logger.info("%d images were read before this start; reading them again, to know all that was seen", count)
        with Progress("account", count) as progress:
            for decoded in stream_tables(decoded_dataset(units, self.decoder, decode)):
                progress.advance(decoded.num_rows)
                yield decoded.drop_columns("image")

    def with_ranges(self, output: OutputFolder[Any]) -> "TiffSource":
        """The source with the ranges of its sample values decided, once for the run that writes a folder."""
        config, _ = with_ranges_of_run(output, self.folder, self.listing.images, self.config)
        return replace(self, config=config)

    def look_at_pixels(self) -> None:
        """Tell what became of the pixels of some training images, before hours are spent on all of them.

        Raises:
            StorageError: If one cannot be read as it was listed.
        """
        images = self.listing.images
        some = files_to_measure(images.filter(pc.equal(images["split"], "train")))
        rows = [result.row for result in read_unit(some, self.folder, self.config)]
        doubts = find_pixel_doubts(pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA), self.config)
        tell_pixel_doubts(doubts, self.folder)

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

    def shards(self, _split: str) -> tuple[int, ...]:
        return ()

    def class_counts(self, split: str) -> list[int]:
        """Listed files of each class in a split."""
        images = self.listing.images
        counts = Counter(images.filter(pc.equal(images["split"], split))["label"].to_pylist())
        return [counts[name] for name in self.class_names]

    def units(self, split: str | None) -> list[pa.Table]:
        """Slices of the listing, with their positions."""
        return self._units_by_split[split]

    @cached_property
    def _units_by_split(self) -> dict[str | None, list[pa.Table]]:
        units: dict[str | None, list[pa.Table]] = defaultdict(list)
        seen: Counter[str | None] = Counter()
        for unit in self.listing.units(self.images_per_unit):
            split = unit["split"][0].as_py()
            positions = pa.array(range(seen[split], seen[split] + unit.num_rows), pa.int64())
            units[split].append(unit.append_column("position", positions))
            seen[split] += unit.num_rows
        return units

    def names(self, unit: pa.Table) -> pa.Table:
        """What is known of the files of a unit; also of those that turn out to be damaged."""
        return unit.select(NAMES)

    @property
    def decoder(self) -> Decoder:
        """Fetches and decodes the files of a unit; a refused one has no image, but a reason."""
        return partial(_decode_tiffs, folder=self.folder, config=self.config, quality=self.jpeg_quality)


def _decode_tiffs(unit: pa.Table, folder: Location, config: ImageConfig, quality: int | None) -> pa.Table:
    join_stage("decode")
    results = list(read_unit(unit, folder, config))
    pixels = [None if result.image is None else _as_stored(result.image, quality) for result in results]
    return decoded_table([result.row for result in results], pixels, unit)


def _as_stored(image: UInt8Array, quality: int | None) -> UInt8Array:
    """The image as a shard would have given it back."""
    return image if quality is None else decode_jpeg(encode_jpeg(image, quality))
