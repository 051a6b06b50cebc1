"""Small copies of images of a split: some as pictures of their own, and many as the tiles of one large picture.

Shards are read one after the other, so that no more than one of them is in memory.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lib.errors import StorageError
from lib.folders.dataset import Dataset
from lib.folders.shards import read_shard, shards_of
from lib.storage.location import Location

SIDE_PX = 128
QUALITY = 75
TILE_SIDES_PX = (128, 96, 64, 48, 32)
"""Multiples of 16, the blocks of a JPEG, so that no tile runs into its neighbour."""
MOST_SPRITE_PX = 12_000_000
"""Pixels of a sprite: 5,000 tiles of 48 by 48. A browser holds 4 bytes for each."""
MOST_SPRITE_BYTES = 4_000_000
SPRITE_QUALITIES = (75, 60, 45, 30)
PAPER = 236
"""Gray around an image that is not square."""


@dataclass(frozen=True)
class Sprite:
    """One JPEG with many images side by side.

    Attributes:
        side_px: Side of one tile.
        columns: Tiles in a row.
        tiles: The place of each image, from the top left by rows.
    """

    jpeg: bytes
    side_px: int
    columns: int
    tiles: dict[str, int]


@dataclass(frozen=True)
class Thumbnails:
    """Of one split; images the dataset does not have are left out.

    Attributes:
        singles: A JPEG of at most `SIDE_PX` pixels a side, by image id.
        sprite: None if no image was asked for.
    """

    singles: dict[str, bytes]
    sprite: Sprite | None


def read_thumbnails(dataset: Dataset, split: str, singles: Collection[str], tiles: Sequence[str]) -> Thumbnails:
    """Thumbnails of some images of a split.

    Args:
        dataset: Its shards are read, and no more of them once every image is found.
        singles: Ids of images to get a thumbnail of their own.
        tiles: Ids of images to get a tile of the sprite.

    Raises:
        StorageError: If a shard cannot be read, or holds what is not an image.
    """
    side = tile_side(len(tiles))
    small: dict[str, bytes] = {}
    tiny: dict[str, npt.NDArray[np.uint8]] = {}
    wanted, on_sprite = set(singles), set(tiles)
    for image_id, encoded in _images(dataset, split, wanted | on_sprite):
        image = _decode(encoded)
        if image_id in wanted:
            small[image_id] = _jpeg(_fit(image, SIDE_PX), QUALITY)
        if image_id in on_sprite:
            tiny[image_id] = _squared(_fit(image, side), side)
    return Thumbnails(small, _sprite({image_id: tiny[image_id] for image_id in tiles if image_id in tiny}, side))


def tile_side(images: int) -> int:
    """The largest side for which a sprite of so many images is not too large."""
    fitting = [side for side in TILE_SIDES_PX if images * side * side <= MOST_SPRITE_PX]
    return fitting[0] if fitting else TILE_SIDES_PX[-1]


def _images(dataset: Dataset, split: str, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    missing = set(wanted)
    for shard in _shards(dataset, split):
        if not missing:
            return
        table = read_shard(shard, ["image_id", "image"])
        table = table.filter(pc.is_in(table["image_id"], pa.array(sorted(missing), pa.string())))
        for row in table.to_pylist():
            missing.discard(row["image_id"])
            yield row["image_id"], row["image"]


def _shards(dataset: Dataset, split: str) -> Iterator[Location]:
    """The shards of a split if `dataset.json` tells which these are, otherwise all."""
    images = shards_of(Location(dataset.uri))
    of_split = [shard.file for shard in dataset.record.shards if shard.split == split]
    names = of_split or [file.path for file in images.list_files() if file.path.endswith(".parquet")]
    return (images / name for name in names)


def _decode(encoded: bytes) -> npt.NDArray[np.uint8]:
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise StorageError(f"a shard holds {len(encoded)} bytes that are not an image; convert the dataset again")
    return np.asarray(image, np.uint8)


def _fit(image: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """The image within a square; a smaller one stays as it is."""
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _squared(image: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    square = np.full((side, side, 3), PAPER, np.uint8)
    height, width = image.shape[:2]
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return square


def _sprite(tiles: dict[str, npt.NDArray[np.uint8]], side: int) -> Sprite | None:
    if not tiles:
        return None
    columns = ceil(sqrt(len(tiles)))
    picture = np.full((ceil(len(tiles) / columns) * side, columns * side, 3), PAPER, np.uint8)
    for place, tile in enumerate(tiles.values()):
        top, left = place // columns * side, place % columns * side
        picture[top : top + side, left : left + side] = tile
    jpegs = (_jpeg(picture, quality) for quality in SPRITE_QUALITIES)
    jpeg = next((data for data in jpegs if len(data) <= MOST_SPRITE_BYTES), None)
    jpeg = jpeg or _jpeg(picture, SPRITE_QUALITIES[-1])
    return Sprite(jpeg, side, columns, {image_id: place for place, image_id in enumerate(tiles)})


def _jpeg(image: npt.NDArray[np.uint8], quality: int) -> bytes:
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())
