"""How much of 0 to 255 an image uses once its range, its alpha and its page were applied."""

import cv2
import numpy as np

from lib.ingest.tiff.decode import UInt8Array
from lib.storage.tables import Row


def pixel_use(rgb: UInt8Array) -> Row:
    """The shares of 0 and 255 among some values, and how many different ones there are.

    Args:
        rgb: Any shape; rows of an image before it is resized, which would mix values.

    Returns:
        `black` and `white` in [0, 1], `levels` from 1 to 256 (`lib.folders.manifest.PIXEL_FIELDS`).
    """
    values = np.ascontiguousarray(rgb).reshape(-1)
    counts = cv2.calcHist([values], [0], None, [256], [0, 256]).ravel()
    return {
        "black": round(float(counts[0]) / values.size, 4),
        "white": round(float(counts[255]) / values.size, 4),
        "levels": int(np.count_nonzero(counts)),
    }
