"""Small copies of some images of a dataset folder, made where the shards are read."""

from collections.abc import Collection
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.dataset.shard_source import ShardSource
from lib.folders.shards import read_shard, shards_of
from lib.ingest.image import decode_jpeg, encode_jpeg
from lib.runtime.ray_data import map_units, stream_tables, units_dataset
from lib.storage.location import Location

THUMBNAIL_SCHEMA = pa.schema(
    [pa.field("image_id", pa.string(), nullable=False), pa.field("thumbnail", pa.binary(), nullable=False)]
)
QUALITY = 85


def read_thumbnails(dataset: ShardSource, split: str, image_ids: Collection[str], side: int) -> dict[str, bytes]:
    """JPEGs of some images of a split, by `image_id`. Ray has been started.

    Args:
        dataset: Has the images.
        split: Has all of them.
        image_ids: Which ones.
        side: Side of the square thumbnails, in pixels; images that are smaller stay as they are.

    Raises:
        StorageError: If a shard cannot be read.
    """
    units = dataset.units(split)
    arguments: dict[str, Any] = {
        "images": shards_of(dataset.folder),
        "wanted": pa.array(sorted(image_ids)),
        "side": side,
    }
    tables = stream_tables(map_units(units_dataset(units), _thumbnails, fn_kwargs=arguments, num_cpus=1))
    return {row["image_id"]: row["thumbnail"] for table in tables for row in table.to_pylist()}


def _thumbnails(unit: pa.Table, images: Location, wanted: pa.Array, side: int) -> pa.Table:
    cv2.setNumThreads(1)
    shard = read_shard(images / unit["file"][0].as_py(), ["image_id", "image"])
    shard = shard.filter(pc.is_in(shard["image_id"], wanted))
    small = [_shrunk(data, side) for data in shard["image"].to_pylist()]
    return pa.table({"image_id": shard["image_id"], "thumbnail": small}, schema=THUMBNAIL_SCHEMA)


def _shrunk(data: bytes, side: int) -> bytes:
    image = decode_jpeg(data)
    if max(image.shape[:2]) <= side:
        return data
    return encode_jpeg(np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.uint8), QUALITY)
