"""One worker's examples of a phase: decoded images in memory or streamed, or features of a frozen base."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray.train

from lib.config.fitting import FitConfig
from lib.dataset.graph import decoded_dataset
from lib.dataset.memory import (
    ExampleCache,
    Examples,
    Positions,
    aligned_zeros,
    image_bytes,
    memory_for_images,
    refuse_too_many,
    zeros_in_a_file,
)
from lib.dataset.sampler import LaneOrder
from lib.dataset.source import DatasetInfo, RefusedImage, Units
from lib.dataset.stream import ImageStream
from lib.errors import DataError, SettingsError, TooManyBadImagesError
from lib.runtime.ray_data import stream_tables
from lib.training.feature_extraction import FeatureSource
from lib.training.workers.lane_shards import FITTED_SPLITS, unpacked
from lib.training.workers.messages import ChecksumsKnown, ImagesRefused
from lib.training.workers.peers import Collective, Peers, TrainTask
from lib.training.workers.watchdog import Heartbeat


@dataclass(frozen=True)
class SplitExamples:
    """The examples of one split on one worker.

    Attributes:
        order: Order of this worker's images.
        read: Gives a batch for each row of some positions of an epoch.
        shape: Shape of one example, with its type.
        caches: What is in memory: images, or features in all their variants; empty where images are streamed.
    """

    order: LaneOrder
    read: Callable[[Positions, int], Iterator[Examples]]
    shape: tuple[tuple[int, ...], npt.DTypeLike]
    caches: Sequence[ExampleCache] = ()

    @property
    def cache(self) -> ExampleCache | None:
        """The first of what is in memory."""
        return self.caches[0] if self.caches else None


Tell = Callable[[str, list[RefusedImage], list[pa.Table]], None]
"""Takes the split, the images that were refused, and checksums of those that came from their files."""
Room = Callable[[tuple[int, ...]], npt.NDArray[np.float32]]
"""Makes room for features of a shape."""
ROWS_AT_ONCE, FLOAT_BYTES = 8192, 4


def load_features(
    features: FeatureSource, orders: dict[str, LaneOrder], fit: FitConfig, tell: Tell
) -> dict[str, SplitExamples]:
    """This worker's features of each split, in memory if they fit, else in a file on its disk.

    Args:
        orders: Order of this worker's images, by split.
        fit: Has what to keep.
        tell: Told of refused images.

    Raises:
        DataError: If they fit neither into memory nor onto the disk.
        StorageError: If they cannot be read.
    """
    rows = sum(len(order.positions) * len(features.folder.variants(split)) for split, order in orders.items())
    memory = int(fit.cache_gib * 2**30) if fit.cache_gib else _memory_here()
    fit_in = fit.cache == "memory" or (fit.cache == "auto" and rows * features.width * FLOAT_BYTES <= memory)
    room = _zeros if fit_in else zeros_in_a_file
    return {split: _features_of(features, split, order, room, tell) for split, order in orders.items()}


def _zeros(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    return aligned_zeros(shape, np.float32)


def _features_of(features: FeatureSource, split: str, order: LaneOrder, room: Room, tell: Tell) -> SplitExamples:
    """Features of a split in all variants; epochs take turns with them."""
    variants, positions = [], order.positions
    for variant in features.folder.variants(split):
        store = ExampleCache(positions, room((len(positions), features.width)), np.zeros(len(positions), np.int32))
        for start in range(0, len(positions), ROWS_AT_ONCE):
            found = features.read(split, positions[start : start + ROWS_AT_ONCE], variant)
            store.examples[start : start + ROWS_AT_ONCE] = found.features
            store.labels[start : start + ROWS_AT_ONCE] = found.labels
            store.refused.extend(found.refused)
            store.checksums.extend(found.checksums)
        variants.append(store)
    tell(split, variants[0].refused, variants[0].checksums)

    def read(positions: Positions, epoch: int) -> Iterator[Examples]:
        return variants[epoch % len(variants)].batches(positions)

    return SplitExamples(order, read, ((features.width,), np.float32), variants)


def load_images(
    info: DatasetInfo, orders: dict[str, LaneOrder], fit: FitConfig, tell: Tell
) -> dict[str, SplitExamples]:
    """This worker's images, in memory if they fit.

    Args:
        info: What is known of the data set without its images.
        orders: Order of this worker's images, by split.
        fit: Has what to keep.
        tell: Told of refused images.

    Raises:
        DataError: If they are to be kept, but do not fit.
        SettingsError: If places are to be drawn by class, which takes images in memory.
    """
    count = sum(len(order.positions) for order in orders.values())
    memory = int(fit.cache_gib * 2**30) if fit.cache_gib else _memory_here()
    if fit.cache == "memory":
        refuse_too_many(count, info.image_size, memory)
    if fit.cache == "none" or image_bytes(count, info.image_size) > memory:
        if fit.sampling == "balanced":
            raise SettingsError("--sampling balanced needs the images in memory; see --cache and --cache-gib")
        return {split: _streamed(info, split, order, fit, tell) for split, order in orders.items()}
    return {split: _cached(info, split, order, fit, tell) for split, order in orders.items()}


def _memory_here() -> int:
    return memory_for_images(ray.train.get_context().get_local_world_size())


def _cached(info: DatasetInfo, split: str, order: LaneOrder, fit: FitConfig, tell: Tell) -> SplitExamples:
    cache = ExampleCache.empty(order.positions, info.image_size)
    cache.fill(stream_tables(decoded_dataset(own_units(split), info.decoder, fit)), info.class_names)
    tell(split, cache.refused, cache.checksums)
    return SplitExamples(order, lambda positions, _: cache.batches(positions), _image(info), [cache])


def _streamed(info: DatasetInfo, split: str, order: LaneOrder, fit: FitConfig, tell: Tell) -> SplitExamples:
    stream = ImageStream(
        Units(own_units(split)), info, order, lambda refused, checksums: tell(split, refused, checksums), fit
    )
    return SplitExamples(order, stream.batches, _image(info))


def own_units(split: str) -> list[pa.Table]:
    """What Ray Train hands this worker of a split: the units of its lanes (see `LaneShards`)."""
    return list(unpacked(stream_tables(ray.train.get_dataset_shard(split))))


def _image(info: DatasetInfo) -> tuple[tuple[int, ...], npt.DTypeLike]:
    return (info.image_size, info.image_size, 3), np.uint8


class ExampleLoader:
    """Loads examples of one worker in a thread, and keeps account of the images that were refused."""

    def __init__(self, task: TrainTask, peers: Peers, heartbeat: Heartbeat) -> None:
        """Load nothing yet."""
        self._task, self._peers, self._heartbeat = task, peers, heartbeat
        self._refused: set[tuple[str, int]] = set()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load")
        self._loading: Future[dict[str, SplitExamples]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def begin(self, on_features: bool) -> None:
        """Begin to `load`, in the background."""
        self._loading = self._thread.submit(self.load, on_features)

    def result(self) -> dict[str, SplitExamples]:
        """What was begun last, when it is there; raises what `load` does."""
        if self._loading is None:
            raise RuntimeError("no examples are being loaded")
        return self._loading.result()

    def load(self, on_features: bool) -> dict[str, SplitExamples]:
        """This worker's examples of each split that has any.

        Args:
            on_features: Whether features of the frozen base are wanted instead of images.

        Raises:
            TooManyBadImagesError: If more images were refused than allowed.
            DataError: If images are to be kept in memory and do not fit.
        """
        task = self._task
        orders = {split: self._order(split) for split in FITTED_SPLITS if task.info.count(split)}
        if on_features and task.features is not None:
            return load_features(task.features, orders, task.config, self._hear)
        return load_images(task.info, orders, task.config, self._hear)

    def _order(self, split: str) -> LaneOrder:
        """The order of this worker's images of a split; only training images are shuffled."""
        config, peers, info = self._task.config, self._peers, self._task.info
        return LaneOrder(
            info.count(split),
            config.batch_size,
            peers.rank,
            peers.world_size,
            config.seed,
            shuffle=split == "train",
            shards=info.shards[split],
        )

    def _hear(self, split: str, refused: list[RefusedImage], checksums: list[pa.Table]) -> None:
        """Remember and pass on which images were refused, and stop when they are too many already."""
        self._heartbeat.move(patient=True)
        new = [image for image in refused if (split, image.position) not in self._refused]
        self._refused |= {(split, image.position) for image in new}
        if new:
            self._task.reporter.report(ImagesRefused(split, new))
        if any(table.num_rows for table in checksums):
            self._task.reporter.report(ChecksumsKnown(pa.concat_tables(checksums)))
        self._refuse_too_many(len(self._refused))

    def _refuse_too_many(self, refused: float) -> None:
        allowed, info = self._task.config.max_bad_fraction, self._task.info
        images = sum(info.count(split) for split in FITTED_SPLITS)
        if refused / images > allowed:
            raise TooManyBadImagesError(
                f"{refused:.0f} of {images} images are bad, more than --max-bad-fraction {allowed:g} allows "
                "(`convert` lists them with their reasons)"
            )

    def check(self, examples: dict[str, SplitExamples]) -> None:
        """Count images over all workers, so that all of them refuse together.

        Raises:
            TooManyBadImagesError: If more images were refused than allowed.
            DataError: If a class has no usable training image.
        """
        names, cache = self._task.info.class_names, examples["train"].cache
        labels = np.empty(0, np.int32) if cache is None else cache.labels
        here = np.bincount(labels[labels >= 0], minlength=len(names))
        counts = self._peers.sum([*here, len(self._refused), float(cache is None)], Collective.IMAGE_COUNTS)
        *usable, refused, streaming = counts
        self._refuse_too_many(refused)
        for name, count in zip(names, usable, strict=True):
            if not count and not streaming:
                raise DataError(f"class {name!r} has no usable training image left")
