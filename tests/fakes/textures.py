"""Images that look like nothing else, and changes after which they still look like themselves."""

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from lib.ingest.image import decode_jpeg, encode_jpeg

Image = npt.NDArray[np.uint8]


def textured_image(seed: int, size: int = 96) -> Image:
    """Blobs of many sizes in one tint."""
    random = np.random.default_rng(seed)
    layers = [cv2.resize(random.normal(size=(side, side)), (size, size), interpolation=cv2.INTER_CUBIC)
              for side in (4, 8, 16, 32)]  # fmt: skip
    gray = 128 + 30 * sum(layers)
    return np.clip(gray[..., None] * random.uniform(0.6, 1, 3), 0, 255).astype(np.uint8)


CHANGES: dict[str, Callable[[Image], Image]] = {
    "compressed": lambda image: decode_jpeg(encode_jpeg(image, 50)),
    "turned": lambda image: np.ascontiguousarray(np.rot90(image)),
    "mirrored": lambda image: np.ascontiguousarray(image[::-1]),
    "cropped": lambda image: np.ascontiguousarray(image[2:-2, 2:-2]),
    "darker": lambda image: (image * 0.85).astype(np.uint8),
}
