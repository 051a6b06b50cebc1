"""How much of 0 to 255 an image uses once its range, its alpha and its page were applied."""

import math

import cv2
import numpy as np

from lib.ingest.tiff.decode import UInt8Array
from lib.storage.tables import Row

ROWS = 12
"""Of an image that are looked at, evenly spread: whole rows lie together in memory, which single pixels do not."""


def pixel_use(rgb: UInt8Array) -> Row:
    """The shares of 0 and 255 among the values of some rows, and how many different values there are.

    Args:
        rgb: Shape (height, width, 3), before it is resized, which would mix values.

    Returns:
        `black` and `white` in [0, 1], `levels` from 1 to 256 (`lib.folders.manifest.PIXEL_FIELDS`).
    """
    values = np.ascontiguousarray(rgb[:: math.ceil(len(rgb) / ROWS)]).reshape(-1)
    counts = cv2.calcHist([values], [0], None, [256], [0, 256]).ravel()
    return {
        "black": round(float(counts[0]) / values.size, 4),
        "white": round(float(counts[255]) / values.size, 4),
        "levels": int(np.count_nonzero(counts)),
    }
