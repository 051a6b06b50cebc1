"""What an image looks like in a few numbers: hashes that survive small changes, and a histogram of its colours.

Computed once for every image of a dataset folder, one Ray task and one Parquet file a shard.
"""

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lib.config.base import JobConfig
from lib.dataset.graph import done
from lib.dataset.shard_source import ShardSource
from lib.errors import DataError
from lib.folders.checks import described_shards, read_descriptors, write_descriptors
from lib.folders.manifest import SPLITS
from lib.folders.shards import read_shard, shards_of
from lib.ingest.image import decode_jpeg
from lib.ingest.tiff.decode import UInt8Array
from lib.runtime.logs import join_stage
from lib.runtime.progress import Progress
from lib.runtime.ray_data import map_units, start_ray, stream_tables, units_dataset
from lib.storage.location import Location
from lib.storage.tables import Row

HASH_BITS = 63
VIEWS = 8
GRAY_SIDE, LOW_FREQUENCIES = 32, 8
LEAST_CONTRAST = 1.0
"""Standard deviation, in gray levels of 255, below which an image has no structure that a hash could tell."""
LEVELS = 32
"""Bins of each colour channel."""


def perceptual_hashes(rgb: UInt8Array) -> npt.NDArray[np.uint64] | None:
    """Hashes of an image and its mirrored and turned views; few bits differ between images that look alike.

    The image is shrunk to 32 x 32 gray pixels; a bit says whether one of the 63 lowest frequencies of its cosine
    transform, the mean left out, is above their median. Mirroring an image negates its odd frequencies and transposing
    it transposes them, so the views cost no transform of their own.

    Args:
        rgb: Shape (height, width, 3).

    Returns:
        Shape (8,), of the image itself first, each with 31 or fewer of 63 bits set; None for an image of nearly one
        colour, whose bits would be noise.

    Source:
        Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1.
    """
    gray = cv2.resize(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), (GRAY_SIDE, GRAY_SIDE), interpolation=cv2.INTER_AREA)
    if gray.std() < LEAST_CONTRAST:
        return None
    low = cv2.dct(gray.astype(np.float32))[:LOW_FREQUENCIES, :LOW_FREQUENCIES]
    signs = (-1.0) ** np.arange(LOW_FREQUENCIES)
    views = [view * rows[:, None] * columns for view in (low, low.T) for rows in (1 + 0 * signs, signs)
             for columns in (1 + 0 * signs, signs)]  # fmt: skip
    frequencies = np.array(views).reshape(VIEWS, -1)[:, 1:]
    bits = frequencies > np.median(frequencies, axis=1, keepdims=True)
    return np.packbits(np.pad(bits, ((0, 0), (1, 0))), axis=1).view(">u8")[:, 0].astype(np.uint64)


def colour_histogram(rgb: UInt8Array) -> npt.NDArray[np.float32]:
    """How often each level of red, green and blue occurs.

    Logistic regression on the square roots told the 12 organs of H&E images apart better (0.94 in five-fold
    cross-validation with C = 1) than on 16 levels a channel (0.88, without the roots as all that follow), on 32 levels
    of Lab (0.88) or HSV (0.92), or on joint histograms of 8 x 4 x 4 levels of HSV (0.80) and 5 x 5 x 5 of RGB (0.83).

    Args:
        rgb: Shape (height, width, 3).

    Returns:
        Shape (96,), 32 levels of each channel in turn; the sum is 1.
    """
    counts = [np.bincount(rgb[..., channel].ravel() // (256 // LEVELS), minlength=LEVELS) for channel in range(3)]
    return np.asarray(np.concatenate(counts) / rgb.size, np.float32)


def describe_images(dataset: ShardSource, output: Location, config: JobConfig) -> pa.Table:
    """The descriptors of every image of a dataset, computed for the shards that have none below `output` yet.

    Returns:
        Rows of `DESCRIPTOR_SCHEMA`, sorted by `image_id`.

    Raises:
        StorageError: If a shard cannot be read or descriptors not written.
        DataError: If there are not as many as images.
    """
    units = [unit for split in SPLITS for unit in dataset.units(split)]
    images, written = sum(unit.num_rows for unit in units), described_shards(output)
    missing = [unit for unit in units if unit["file"][0].as_py() not in written]
    with Progress("describe", images) as progress:
        progress.advance(images - sum(unit.num_rows for unit in missing))
        if missing:
            start_ray(config)
            arguments = {"images": shards_of(dataset.folder), "output": output}
            graph = map_units(units_dataset(missing), _describe_unit, fn_kwargs=arguments, num_cpus=1)
            for table in stream_tables(graph):
                progress.advance(sum(table["images"].to_pylist()))
    descriptors = read_descriptors(output)
    if descriptors.num_rows != images:
        raise DataError(f"{descriptors.num_rows} descriptors for {images} images in {output.uri}")
    return descriptors.sort_by("image_id")


def _describe_unit(unit: pa.Table, images: Location, output: Location) -> pa.Table:
    """A task: the descriptors of a shard, in a file of its name."""
    join_stage("describe")
    cv2.setNumThreads(1)
    name = unit["file"][0].as_py()
    rows = [_described(row) for row in read_shard(images / name).to_pylist()]
    write_descriptors(rows, output, name)
    return done(len(rows))


def _described(row: Row) -> Row:
    rgb = decode_jpeg(row["image"])
    hashes = perceptual_hashes(rgb)
    return {
        **{name: row[name] for name in ("image_id", "path", "split", "label", "group")},
        "perceptual_hash": None if hashes is None else hashes[0],
        "view_hashes": None if hashes is None else hashes,
        "histogram": colour_histogram(rgb),
    }
