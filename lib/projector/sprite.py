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
    from lib.plots.tiles import squared, tiled  # where it is needed: beside it are drawings, which need Matplotlib

    side, across = thumbnail_side(len(thumbnails)), columns(len(thumbnails))
    pictures = (_bgr(thumbnail, number) for number, thumbnail in enumerate(thumbnails))
    squares = (squared(picture, side, background=0, enlarge=True) for picture in pictures)
    canvas = tiled(squares, side, (across, across), background=0)
    return bytes(cv2.imencode(".png", canvas)[1].tobytes())


def _bgr(thumbnail: Thumbnail, number: int) -> npt.NDArray[np.uint8]:
    from lib.plots.tiles import decoded

    if isinstance(thumbnail, bytes):
        return decoded(thumbnail, f"thumbnail {number}")
    if thumbnail.dtype != np.uint8 or thumbnail.ndim != 3 or thumbnail.shape[2] != 3 or not thumbnail.size:  # noqa: PLR2004 - an axis for rows, columns, and 3 channels
        raise DataError(f"thumbnail {number} is {thumbnail.dtype} of shape {thumbnail.shape}, not uint8 RGB")
    return np.ascontiguousarray(thumbnail[:, :, ::-1])
