"""The exact part of making an image small: 2 x 2 means, which a band of its rows gives as well as the whole."""

from typing import Any

import cv2
import numpy as np

from lib.ingest.tiff.eight_bits import UInt8Array


def halvings(height: int, width: int, size: int) -> int:
    """How often both sides can be halved exactly: while they are even, and at least twice the target."""
    times = 0
    while min(height, width) >= 2 * size and height % 2 == width % 2 == 0:
        height, width, times = height // 2, width // 2, times + 1
    return times


def halved(rgb: UInt8Array, times: int) -> UInt8Array:
    """An image with both sides halved so many times, each rounded half up; itself for none.

    Source:
        OpenCV's exact 2 x 2 path of `INTER_AREA`.
    """
    for _ in range(times):
        height, width = rgb.shape[:2]
        small: Any = cv2.resize(rgb, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        rgb = np.asarray(small, dtype=np.uint8)
    return rgb
