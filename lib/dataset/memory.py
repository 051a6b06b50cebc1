"""One worker's share of a split in memory, as decoded images or as features, and its batches."""

import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lib.dataset.sampler import PADDING
from lib.dataset.source import RefusedImage, image_array, stated_checksums
from lib.errors import DataError
from lib.runtime.free_memory import free_memory

Examples = tuple[npt.NDArray[Any], npt.NDArray[np.int32]]
"""Images or features of a batch, and their classes, `PADDING` where there is no image."""
Positions = npt.NDArray[np.int64]

MEMORY_SHARE = 0.8
ALIGNMENT_BYTES = 64
"""Where TensorFlow wants arrays to begin, to take them without a copy."""


@dataclass
class ExampleCache:
    """Examples and labels of a contiguous range of positions.

    Attributes:
        positions: The range; a refused image keeps its place and weighs nothing.
        examples: Images, uint8 (len(positions), image_size, image_size, 3), or features, float32 (len(positions), d).
        labels: int32, shape (len(positions),), the number of the class; `PADDING` where there is no image.
        refused: The images that could not be decoded.
        checksums: Of the images that came straight from their files (`lib.folders.model.SEEN_SCHEMA`).
    """

    positions: range
    examples: npt.NDArray[Any]
    labels: npt.NDArray[np.int32]
    refused: list[RefusedImage] = field(default_factory=list)
    checksums: list[pa.Table] = field(default_factory=list)

    @classmethod
    def empty(cls, positions: range, image_size: int) -> "ExampleCache":
        """Room for the images of a range of positions."""
        return cls(
            positions,
            aligned_zeros((len(positions), image_size, image_size, 3), np.uint8),
            np.full(len(positions), PADDING, np.int32),
        )

    def fill(self, decoded: Iterable[pa.Table], class_names: list[str]) -> None:
        """Take in tables of `DECODED_SCHEMA`, in any order; each image is copied once."""
        for table in decoded:
            self.refused.extend(RefusedImage.among(table))
            self.checksums.append(stated_checksums(table))
            places, labels = usable_labels(table, class_names)
            places -= self.positions.start
            self.labels[places] = labels
            self.examples[places] = image_array(table, self.examples.shape[1])

    def places(self, positions: Positions) -> Examples:
        """Where the examples of some positions of the range are, and their classes, in the shape of the positions.

        For `PADDING` that is place 0, whatever is there.
        """
        if not len(self.labels):
            return np.zeros(positions.shape, np.int64), np.full(positions.shape, PADDING, np.int32)
        places = np.where(positions == PADDING, 0, positions - self.positions.start)
        return places, np.where(positions == PADDING, PADDING, self.labels[places]).astype(np.int32)

    def batch(self, positions: Positions) -> Examples:
        """The examples at some positions of the range, or `PADDING`."""
        places, labels = self.places(positions)
        if not len(self.labels):
            return np.zeros((len(positions), *self.examples.shape[1:]), self.examples.dtype), labels
        return self.examples[places], labels

    def batches(self, order: Positions) -> Iterator[Examples]:
        """A batch for each row of `order`, which has shape (steps, n)."""
        return map(self.batch, order)


def usable_labels(decoded: pa.Table, class_names: list[str]) -> Examples:
    """Positions and classes of the images of a table of `DECODED_SCHEMA` that were not refused, in their order."""
    known = decoded.select(["position", "label"]).filter(pc.is_valid(decoded["image"]))
    labels = pc.index_in(known["label"], pa.array(class_names, pa.string()))
    return known["position"].to_numpy().copy(), labels.to_numpy().astype(np.int32)


def aligned_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Zeros that begin where TensorFlow wants it; memory is taken where something is written."""
    size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.zeros(size_bytes + ALIGNMENT_BYTES, np.uint8)
    start = -room.ctypes.data % ALIGNMENT_BYTES
    return room[start : start + size_bytes].view(dtype).reshape(shape)


def zeros_in_a_file(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Zeros in a temporary file that ends with the array, of which the system keeps in memory what there is room for.

    Raises:
        DataError: If the disk has no room for them.
    """
    size_bytes = int(np.prod(shape)) * np.dtype(np.float32).itemsize
    if not size_bytes:
        return np.zeros(shape, np.float32)
    with tempfile.TemporaryFile() as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size_bytes)
        except OSError as error:
            raise DataError(
                f"features of {size_bytes / 2**30:.1f} GiB fit neither into memory nor into {tempfile.gettempdir()} "
                f"({error.strerror}); use more --num-workers, or set TMPDIR to a larger disk"
            ) from error
        return np.memmap(file, np.float32, mode="r+", shape=shape)


def image_bytes(count: int, image_size: int) -> int:
    """Memory that so many decoded images take."""
    return count * image_size**2 * 3


def memory_for_images(workers: int) -> int:
    """Bytes that each of some workers on this machine may fill with images."""
    return int(free_memory() * MEMORY_SHARE / workers)


def refuse_too_many(count: int, image_size: int, memory_bytes: int) -> None:
    """Stop before images are loaded that do not fit.

    Raises:
        DataError: With the figures.
    """
    needed = image_bytes(count, image_size)
    if needed > memory_bytes:
        raise DataError(
            f"{count} images of {image_size} px need {needed / 2**30:.1f} GiB in one worker, which has "
            f"{memory_bytes / 2**30:.1f} GiB to give; use --cache none, more --num-workers or a smaller --image-size"
        )
