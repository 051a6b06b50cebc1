"""The accepted images of a dataset folder, read from its shards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.compute as pc

from lib.config.images import ImageConfig
from lib.config.resources import DecodeConfig
from lib.dataset.source import NAMES, Decoder, RefusedImage, TrainedImages, decoded_table
from lib.folders.dataset import DatasetRecord
from lib.folders.manifest import DuplicateCounts, Scale, read_manifest
from lib.folders.model import SEEN_SCHEMA
from lib.folders.output import OutputFolder, read_complete
from lib.folders.shards import ImageEncoding, read_shard_names, read_shard_rows, shards_of
from lib.ingest.image import decode_jpeg
from lib.runtime.logs import join_stage
from lib.storage.location import Location


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

    @property
    def micrometres(self) -> Scale | None:
        """How wide the pixels of the TIFFs were."""
        return self.record.micrometres

    @property
    def image_encoding(self) -> ImageEncoding:
        """How the images are encoded in the shards."""
        return self.record.encoding

    def prepared(self, _duplicates: str, _folder: OutputFolder[Any]) -> "tuple[ShardSource, DuplicateCounts | None]":
        """The source as it is: what there was to decide, its conversion has decided."""
        return self, None

    def trained_on(
        self,
        splits: Sequence[str],
        _refused: Mapping[str, Sequence[RefusedImage]],
        _checksums: pa.Table,
        _decode: DecodeConfig,
    ) -> TrainedImages:
        """The accepted images of some splits; training has found out nothing that the manifest does not say."""
        return TrainedImages(self.checksums(splits))

    def checksums(self, splits: Sequence[str]) -> pa.Table:
        """The checksum of every image of some splits (`lib.folders.model.SEEN_SCHEMA`)."""
        manifest = read_manifest(self.folder, ["image_id", "checksum", "split", "verdict"])
        wanted = pc.and_(pc.is_in(manifest["split"], pa.array(splits)), pc.equal(manifest["verdict"], "accepted"))
        return manifest.filter(wanted).select(SEEN_SCHEMA.names).cast(SEEN_SCHEMA)

    def count(self, split: str | None) -> int:
        return sum(shard.images for shard in self.record.shards if shard.split == split)

    def shards(self, split: str) -> tuple[int, ...]:
        return tuple(shard.images for shard in self.record.shards if shard.split == split)

    def class_counts(self, split: str) -> list[int]:
        """Images of each class in a split."""
        counts = self.record.counts_by_split.get(split, {})
        return [counts[name].accepted if name in counts else 0 for name in self.class_names]

    def units(self, split: str | None) -> list[pa.Table]:
        """One unit a shard: of each image the file, the row in it, and the position."""
        units, first = [], 0
        for shard in self.record.shards:
            if shard.split == split:
                rows = pa.array(range(shard.images), pa.int64())
                files = pa.repeat(shard.file, shard.images)
                units.append(pa.table({"file": files, "row": rows, "position": pc.add(rows, first)}))
                first += shard.images
        return units

    def names(self, unit: pa.Table) -> pa.Table:
        """Position, `image_id`, path, label and group of the images of a unit, read from its shard without the images.

        Raises:
            StorageError: If the shard cannot be read.
        """
        rows = read_shard_names(shards_of(self.folder) / unit["file"][0].as_py(), NAMES[1:]).take(unit["row"])
        return rows.add_column(0, NAMES[0], unit["position"])

    @property
    def decoder(self) -> Decoder:
        """Reads a shard and decodes the wanted rows."""
        return partial(_decode_shard, images=shards_of(self.folder))


def _decode_shard(unit: pa.Table, images: Location) -> pa.Table:
    join_stage("decode")
    cv2.setNumThreads(1)
    location = images / unit["file"][0].as_py()
    columns = ["image_id", "path", "label", "image", "group", "site", "columns"]
    rows = read_shard_rows(location, unit["row"], columns)
    pixels = [decode_jpeg(image) for image in rows["image"].to_pylist()]
    return decoded_table(rows.drop_columns(["image"]).to_pylist(), pixels, unit)
