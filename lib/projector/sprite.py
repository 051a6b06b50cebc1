"""One picture of all thumbnails, from which the Projector cuts the picture of each point."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from lib.errors import DataError
from lib.projector.points import Thumbnail

THUMBNAIL_PX = 64
"""Largest side of a thumbnail in the sprite."""
SPRITE_PX = 3200
"""Largest side of the sprite. The Projector takes 8192, but a PNG of that size has more than 100 MB."""

ImageArray = npt.NDArray[np.uint8]


def thumbnail_side(count: int) -> int:
    """Pixels a side of each of so many thumbnails, all square."""
    return min(THUMBNAIL_PX, SPRITE_PX // columns(count))


def columns(count: int) -> int:
    """Thumbnails side by side in a sprite of so many, and rows of them."""
    return math.isqrt(count - 1) + 1


def sprite(thumbnails: Sequence[Thumbnail]) -> bytes:
    """A square PNG of all thumbnails, row by row from the top left, each fitted into its square and centred on black.

    The last rows may be empty: the Projector finds the row of a thumbnail by dividing its number by the number of
    rows, so that points would get the pictures of others if there were not as many rows as columns.

    Raises:
        DataError: If a thumbnail is neither an encoded image nor RGB of shape (height, width, 3).

    Source:
        The vertex shader in `tensorboard/plugins/projector/tf_projector_plugin/projector_binary.js`, 2.21.
    """
    side, across = thumbnail_side(len(thumbnails)), columns(len(thumbnails))
    canvas = np.zeros((across * side, across * side, 3), np.uint8)
    for number, thumbnail in enumerate(thumbnails):
        y, x = number // across * side, number % across * side
        canvas[y : y + side, x : x + side] = _square(_bgr(thumbnail, number), side)
    return bytes(cv2.imencode(".png", canvas)[1].tobytes())


def _bgr(thumbnail: Thumbnail, number: int) -> ImageArray:
    if isinstance(thumbnail, bytes):
        image = cv2.imdecode(np.frombuffer(thumbnail, np.uint8), cv2.IMREAD_COLOR) if thumbnail else None
        if image is None:
            raise DataError(f"thumbnail {number} holds {len(thumbnail)} bytes that are not an image")
        return np.asarray(image, np.uint8)
    if thumbnail.dtype != np.uint8 or thumbnail.ndim != 3 or thumbnail.shape[2] != 3 or not thumbnail.size:  # noqa: PLR2004 - an axis for rows, columns, and 3 channels
        raise DataError(f"thumbnail {number} is {thumbnail.dtype} of shape {thumbnail.shape}, not uint8 RGB")
    return np.ascontiguousarray(thumbnail[:, :, ::-1])


def _square(image: ImageArray, side: int) -> ImageArray:
    scale = side / max(image.shape[:2])
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    fitted = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    square = np.zeros((side, side, 3), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = fitted
    return square
