"""One worker's share of a split in memory, as decoded images, and its batches."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa

from lib.dataset.order import PADDING
from lib.errors import DataError

Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.float32]]

MEMORY_SHARE = 0.8


@dataclass
class ImageCache:
    """Images and labels of a contiguous range of positions.

    Attributes:
        positions: The range; a refused image keeps its place and weighs nothing.
        images: uint8, shape (len(positions), image_size, image_size, 3).
        labels: int32, shape (len(positions),), the number of the class; `PADDING` where there is no image.
        refused: Rows of the images that could not be decoded: position, reason and detail.
        checksums: By `image_id`, of the images that came straight from their files.
    """

    positions: range
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]
    refused: list[dict[str, object]] = field(default_factory=list)
    checksums: dict[str, str] = field(default_factory=dict)

    @classmethod
    def empty(cls, positions: range, image_size: int) -> "ImageCache":
        """Room for a range of positions.

        Raises:
            DataError: If the images do not fit into the memory that is free.
        """
        needed, free = (
            len(positions) * image_size**2 * 3,
            int(psutil.virtual_memory().available * MEMORY_SHARE),
        )
        if needed > free:
            raise DataError(
                f"{len(positions)} images of {image_size} px need {needed / 2**30:.1f} GiB in one worker, which has "
                f"{free / 2**30:.1f} GiB to give; use more --num-workers or a smaller --image-size"
            )
        return cls(
            positions,
            np.zeros((len(positions), image_size, image_size, 3), np.uint8),
            np.full(len(positions), PADDING, np.int32),
        )

    def fill(self, decoded: Iterable[pa.Table], class_names: list[str]) -> None:
        """Take in tables of `DECODED_SCHEMA`, in any order."""
        numbers = {name: number for number, name in enumerate(class_names)}
        for table in decoded:
            for row in table.select(["position", "image_id", "label", "checksum", "reason", "detail"]).to_pylist():
                place = row["position"] - self.positions.start
                if row["reason"] is None:
                    self.labels[place] = numbers[row["label"]]
                    if row["checksum"] is not None:
                        self.checksums[row["image_id"]] = row["checksum"]
                else:
                    self.refused.append(row)
            self._copy_images(table)

    def _copy_images(self, table: pa.Table) -> None:
        for position, image in zip(table["position"].to_pylist(), table["image"], strict=True):
            if image.is_valid:
                pixels = np.frombuffer(image.as_buffer(), np.uint8)
                self.images[position - self.positions.start] = pixels.reshape(self.images.shape[1:])

    def batch(self, order: npt.NDArray[np.int64]) -> Batch:
        """The images, labels and weights (1, or 0 for padding) at some positions of the range, or `PADDING`."""
        places = np.where(order == PADDING, 0, order - self.positions.start)
        labels = np.where(order == PADDING, PADDING, self.labels[places] if len(self.labels) else PADDING)
        images = self.images[places] if len(self.images) else np.zeros((len(order), *self.images.shape[1:]), np.uint8)
        return images, np.maximum(labels, 0).astype(np.int32), (labels != PADDING).astype(np.float32)
