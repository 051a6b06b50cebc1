"""Many images as the tiles of one picture. Images are BGR, as OpenCV has them, uint8 of shape (height, width, 3)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil, sqrt

import cv2
import numpy as np
import numpy.typing as npt

from lib.errors import DataError

TILE_SIDES_PX = (128, 96, 64, 48, 32)
"""Multiples of 16, the blocks of a JPEG, so that no tile runs into its neighbour."""
MOST_SPRITE_PX = 12_000_000
"""Pixels of a sprite: 5,000 tiles of 48 by 48. A browser holds 4 bytes for each."""
MOST_SPRITE_BYTES = 4_000_000
SPRITE_QUALITIES = (75, 60, 45, 30)
PAPER = 236
"""Gray around an image that is not square."""

ImageArray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Sprite:
    """One JPEG with many images side by side.

    Attributes:
        jpeg: The picture.
        side_px: Of one tile.
        columns: Tiles in a row.
        tiles: The place of each image, from the top left by rows.
    """

    jpeg: bytes
    side_px: int
    columns: int
    tiles: dict[str, int]


def jpeg_sprite(images: Mapping[str, bytes]) -> Sprite | None:
    """Encoded images as one JPEG that is not too large for a page; None without any.

    Raises:
        DataError: If one is no image.
    """
    if not images:
        return None
    side, columns = tile_side(len(images)), ceil(sqrt(len(images)))
    tiles = (squared(decoded(data, f"image {name}"), side, background=PAPER) for name, data in images.items())
    picture = tiled(tiles, side, (ceil(len(images) / columns), columns), background=PAPER)
    jpegs = (_jpeg(picture, quality) for quality in SPRITE_QUALITIES)
    jpeg = next((data for data in jpegs if len(data) <= MOST_SPRITE_BYTES), None)
    jpeg = jpeg or _jpeg(picture, SPRITE_QUALITIES[-1])
    return Sprite(jpeg, side, columns, {name: place for place, name in enumerate(images)})


def tile_side(images: int) -> int:
    """The largest side for which a sprite of so many images is not too large."""
    fitting = [side for side in TILE_SIDES_PX if images * side * side <= MOST_SPRITE_PX]
    return fitting[0] if fitting else TILE_SIDES_PX[-1]


def decoded(data: bytes, name: str) -> ImageArray:
    """An encoded image (JPEG, PNG) as BGR.

    Raises:
        DataError: With its name, if it is none.
    """
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise DataError(f"{name} holds {len(data)} bytes that are not an image")
    return np.asarray(image, np.uint8)


def squared(image: ImageArray, side: int, *, background: int, enlarge: bool = False) -> ImageArray:
    """An image fitted into a square and centred on gray, shape (side, side, 3).

    Args:
        image: Larger ones are made smaller.
        side: Of the square, in pixels.
        background: Its gray level.
        enlarge: Whether smaller images fill the square, their pixels repeated; else they keep their size.
    """
    scale = side / max(image.shape[:2])
    if scale < 1 or enlarge:
        height, width = (max(1, round(length * scale)) for length in image.shape[:2])
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
        image = np.asarray(cv2.resize(image, (width, height), interpolation=way), np.uint8)
    height, width = image.shape[:2]
    square = np.full((side, side, 3), background, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return square


def tiled(squares: Iterable[ImageArray], side: int, grid: tuple[int, int], *, background: int) -> ImageArray:
    """Squares of a side in pixels, row by row from the top left of a grid of so many rows and columns."""
    rows, columns = grid
    picture = np.full((rows * side, columns * side, 3), background, np.uint8)
    for place, square in enumerate(squares):
        top, left = place // columns * side, place % columns * side
        picture[top : top + side, left : left + side] = square
    return picture


def _jpeg(image: ImageArray, quality: int) -> bytes:
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())
