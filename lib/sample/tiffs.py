"""The embedded sample: TIFFs of twelve kinds of tissue, each file made from a seed and its own name alone.

The files differ in compression, depth, size and layout as the files of a lab do, in the same proportions in
every class.
"""

import io
import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tifffile
from numpy.typing import NDArray

from lib.config.conversion import SampleConfig
from lib.folders.output import OutputFolder
from lib.folders.sample_folder import SampleRecord
from lib.runtime.progress import Progress
from lib.sample.tissue import TISSUES, TissueKind, draw_tissue
from lib.storage.location import Location

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
KINDS: dict[str, TissueKind] = {kind.name: kind for kind in TISSUES}
OPAQUE = 255
JPEG_LEVEL = 95


@dataclass(frozen=True)
class Encoding:
    """How one TIFF is laid out.

    Attributes:
        compression: A name that tifffile knows, or None.
        sixteen_bit: Whether samples are uint16 over their full range.
        alpha: Whether an opaque fourth channel is added.
        tile: Side of the square tiles in pixels; 0 for strips.
        byteorder: Little (<) or big (>) endian.
        bigtiff: Whether offsets have 64 bits.
    """

    compression: Literal["lzw", "zlib", "jpeg", "zstd"] | None
    sixteen_bit: bool = False
    alpha: bool = False
    tile: int = 0
    byteorder: Literal["<", ">"] = "<"
    bigtiff: bool = False

    @property
    def lossless(self) -> bool:
        """Whether the pixels come back as they were."""
        return self.compression != "jpeg"


ENCODINGS = (
    Encoding(None),
    Encoding("lzw"),
    Encoding("zlib", tile=128),
    Encoding("jpeg"),
    Encoding("zstd"),
    Encoding(None, sixteen_bit=True, byteorder=">"),
    Encoding("lzw", alpha=True),
    Encoding("zlib", sixteen_bit=True, bigtiff=True),
    Encoding("jpeg", tile=64),
    Encoding("zstd", sixteen_bit=True, tile=64),
)
"""Image n of every class and split takes the n-th of these, and of `SIZES`, in turn."""
SIZES = ((256, 256), (224, 256), (256, 256), (192, 192), (256, 224), (320, 320), (224, 224))
"""Heights and widths in pixels; as many as share no factor with `ENCODINGS`, so that all pairs occur."""


@dataclass(frozen=True)
class SampleImage:
    """One file of the sample. Small and picklable, so that any worker can make its bytes."""

    seed: int
    split: Split
    label: str
    index: int

    @property
    def path(self) -> str:
        """Where the file belongs, relative to the sample's folder."""
        return f"{self.split}/{self.label}/{self.label}_{self.index + 1:04d}.tif"

    @property
    def encoding(self) -> Encoding:
        """How the file is laid out; the same for this index in every class."""
        return ENCODINGS[self.index % len(ENCODINGS)]

    def pixels(self) -> NDArray[np.uint8]:
        """The picture before it is encoded: RGB, uint8, shape (height, width, 3)."""
        height, width = SIZES[self.index % len(SIZES)]
        image = draw_tissue(KINDS[self.label], self._rng(0), max(height, width))
        return image[:height, :width]

    def encode(self) -> bytes:
        """The TIFF, the same bytes for the same fields.

        Sixteen-bit samples hold the 8-bit value in their high byte and noise below it, such that both ways
        back to 8 bits, dropping the low byte and rounding the 257th part, give that value.
        """
        image: NDArray[Any] = self.pixels()
        if self.encoding.alpha:
            image = np.dstack([image, np.full(image.shape[:2], OPAQUE, np.uint8)])
        if self.encoding.sixteen_bit:
            image = _sixteen_bit(image, self._rng(1))
        return _tiff(image, self.encoding)

    def _rng(self, purpose: int) -> np.random.Generator:
        """Random numbers that no other file and no other purpose shares."""
        label = zlib.crc32(self.label.encode())
        return np.random.default_rng([self.seed, SPLITS.index(self.split), label, self.index, purpose])


def sample_images(config: SampleConfig) -> Iterator[SampleImage]:
    """Every file of the sample, by split, then class, then index."""
    counts = {"train": config.train_per_class, "test": config.test_per_class}
    for split, label in itertools.product(SPLITS, KINDS):
        for index in range(counts[split]):
            yield SampleImage(config.seed, split, label, index)


def write_sample(config: SampleConfig) -> SampleRecord:
    """Make the sample, unless this very sample is already complete.

    Raises:
        SettingsError: If the output holds something else.
    """
    folder = OutputFolder(Location(config.output), SampleRecord, config.identity())
    return folder.once(lambda: _write_images(config, folder))


def _write_images(config: SampleConfig, folder: OutputFolder[SampleRecord]) -> SampleRecord:
    images = list(sample_images(config))
    with Progress("sample", len(images)) as progress:
        for image in images:
            (folder.location / image.path).write_bytes(image.encode())
            progress.advance(1)
        seconds = progress.seconds
    return folder.complete(SampleRecord(class_names=sorted(KINDS), images=len(images), seconds=round(seconds, 3)))


def _sixteen_bit(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint16]:
    """Values times 257 plus noise that changes neither the high byte nor the nearest multiple of 257."""
    value = image.astype(np.int32)
    lowest, highest = np.maximum(-value, -128), np.minimum(255 - value, 128)
    noise = lowest + (rng.random(image.shape, np.float32) * (highest - lowest + 1)).astype(np.int32)
    return np.asarray(value * 257 + noise, np.uint16)


def _tiff(image: NDArray[Any], encoding: Encoding) -> bytes:
    """One page, without time stamp and software tag: the same bytes today and tomorrow."""
    buffer = io.BytesIO()
    jpeg = encoding.compression == "jpeg"
    with tifffile.TiffWriter(buffer, bigtiff=encoding.bigtiff, byteorder=encoding.byteorder) as writer:
        writer.write(
            image,
            photometric="rgb",
            compression=encoding.compression,
            compressionargs={"level": JPEG_LEVEL} if jpeg else None,
            tile=(encoding.tile, encoding.tile) if encoding.tile else None,
            rowsperstrip=None if encoding.tile else 64,
            extrasamples=["unassalpha"] if encoding.alpha else None,
            metadata=None,
            software=False,
        )
    return buffer.getvalue()
