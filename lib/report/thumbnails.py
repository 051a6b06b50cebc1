"""Small copies of a few images of a dataset, without holding more than one of its shards in memory."""

from collections.abc import Collection, Iterator

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.errors import StorageError
from lib.report.records import Dataset
from lib.storage.filesystem import Location
from lib.storage.tables import read_table

SIDE_PX = 128
QUALITY = 80


def read_thumbnails(dataset: Dataset, split: str, image_ids: Collection[str]) -> dict[str, bytes]:
    """Small JPEGs of some images of a split, by image id; images the dataset does not have are left out.

    Shards are read one after the other, and no more once every image is found.
    """
    wanted = set(image_ids)
    found: dict[str, bytes] = {}
    for shard in _shards(dataset, split):
        if len(found) == len(wanted):
            break
        table = read_table(shard, ["image_id", "image"])
        table = table.filter(pc.is_in(table["image_id"], pa.array(sorted(wanted), pa.string())))
        found |= {row["image_id"]: shrink(row["image"]) for row in table.to_pylist()}
    return found


def _shards(dataset: Dataset, split: str) -> Iterator[Location]:
    """The shards of a split if `dataset.json` tells which these are, otherwise all."""
    images = Location(dataset.uri) / "images"
    of_split = [shard["file"] for shard in dataset.record.get("shards", ()) if shard["split"] == split]
    names = of_split or [file.path for file in images.list_files() if file.path.endswith(".parquet")]
    return (images / name for name in names)


def shrink(encoded: bytes) -> bytes:
    """A JPEG of at most `SIDE_PX` pixels a side from an encoded image.

    Raises:
        StorageError: If it is not an image, which a shard never holds unless it was damaged.
    """
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise StorageError(f"a shard holds {len(encoded)} bytes that are no image; convert the dataset again")
    scale = SIDE_PX / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes())
