"""Small copies of images: of those that are predicted, made where they are decoded, and of a few others."""

from collections.abc import Collection, Iterable

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.dataset.shard_source import ShardSource
from lib.folders.predictions import THUMBNAIL_SCHEMA
from lib.folders.shards import read_shard, shards_of
from lib.ingest.image import decode_jpeg, encode_jpeg
from lib.ingest.tiff.decode import UInt8Array
from lib.runtime.ray_data import map_units, stream_tables, units_dataset
from lib.storage.location import Location

SIDE_PX = 128
QUALITY = 75


def thumbnail_table(image_ids: Iterable[str], images: Iterable[UInt8Array]) -> pa.Table:
    """Rows of `THUMBNAIL_SCHEMA`: JPEGs of at most `SIDE_PX` pixels a side.

    Args:
        image_ids: Of the images.
        images: RGB, each of shape (height, width, 3).
    """
    return pa.table(
        {"image_id": list(image_ids), "thumbnail": [_thumbnail(image) for image in images]}, THUMBNAIL_SCHEMA
    )


def unit_thumbnails(decoded: pa.Table, image_size: int) -> pa.Table:
    """The thumbnails of a decoded table without refused images (`THUMBNAIL_SCHEMA`)."""
    shape = (image_size, image_size, 3)
    images = (np.frombuffer(image.as_buffer(), np.uint8).reshape(shape) for image in decoded["image"])
    return thumbnail_table(decoded["image_id"].to_pylist(), images)


def shard_thumbnails(dataset: ShardSource, shards: Collection[str], image_ids: Collection[str]) -> pa.Table:
    """The thumbnails of some images of a dataset folder (`THUMBNAIL_SCHEMA`). Ray has been started.

    Args:
        dataset: Has the images.
        shards: The files that hold them; no other is read.
        image_ids: Which ones.

    Raises:
        StorageError: If a shard cannot be read.
    """
    units = [pa.table({"file": [shard]}) for shard in sorted(shards)]
    if not units:
        return THUMBNAIL_SCHEMA.empty_table()
    arguments = {"images": shards_of(dataset.folder), "wanted": pa.array(sorted(image_ids))}
    graph = map_units(units_dataset(units), _of_shard, fn_kwargs=arguments, num_cpus=1)
    return pa.concat_tables(list(stream_tables(graph)))


def _of_shard(unit: pa.Table, images: Location, wanted: pa.Array) -> pa.Table:
    cv2.setNumThreads(1)
    shard = read_shard(images / unit["file"][0].as_py(), ["image_id", "image"])
    shard = shard.filter(pc.is_in(shard["image_id"], wanted))
    return thumbnail_table(shard["image_id"].to_pylist(), map(decode_jpeg, shard["image"].to_pylist()))


def _thumbnail(rgb: UInt8Array) -> bytes:
    scale = SIDE_PX / max(rgb.shape[:2])
    if scale < 1:
        height, width = (max(1, round(length * scale)) for length in rgb.shape[:2])
        rgb = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return encode_jpeg(rgb, QUALITY)
