"""One worker's share of a split, decoded anew every epoch: for images that do not fit into memory."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lib.config.resources import DecodeConfig
from lib.dataset.graph import decoded_dataset, tables_in_turn
from lib.dataset.memory import Examples, Positions, aligned_zeros, usable_labels
from lib.dataset.sampler import PADDING, LaneOrder
from lib.dataset.source import DatasetInfo, RefusedImage, Units, image_array, stated_checksums

if TYPE_CHECKING:
    import ray.data

NO_PLACE = -1
PLANNED_UNITS = 256
"""Units of a graph: Ray Data takes a millisecond of CPU for each before the first is decoded."""


@dataclass(frozen=True)
class ImageStream:
    """Decodes images in the order in which an epoch needs them, holding no more than a chunk of each lane.

    Attributes:
        units: What this worker reads, all of its own positions.
        info: Of the data set.
        order: Of this worker's images.
        tell: Told of refused images and of checksums, as they come, anew in each epoch.
        decode: What Ray reserves for the tasks that decode.
        kept: The graphs of an epoch of validation, once it was read.
    """

    units: Units
    info: DatasetInfo
    order: LaneOrder
    tell: Callable[[list[RefusedImage], list[pa.Table]], None]
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    kept: "list[ray.data.Dataset]" = field(default_factory=list)

    def batches(self, order: Positions, epoch: int) -> Iterator[Examples]:
        """A batch for each row of `order`, the end of what `LaneOrder.epoch` says of the epoch.

        Raises:
            StorageError: If images cannot be read.
        """
        wanted = np.zeros(len(self.order.positions), bool)
        wanted[order[order != PADDING] - self.order.positions.start] = True
        waiting = WaitingImages(self.info.image_size)
        decoded = self._decoded(epoch, wanted, waiting)
        for row in order:
            while not waiting.has(row):
                next(decoded)
            yield waiting.take(row)

    def _graphs(self, epoch: int, wanted: npt.NDArray[np.bool_]) -> "Iterable[ray.data.Dataset]":
        """The graphs that decode what is wanted of an epoch, each planned when it is asked for.

        Validation, which every epoch reads as a whole and in one order, is planned once.
        """
        if self.order.shuffle or not wanted.all():
            return self._planned(epoch, wanted)
        if not self.kept:
            self.kept.extend(self._planned(epoch, wanted))
        return self.kept

    def _planned(self, epoch: int, wanted: npt.NDArray[np.bool_]) -> "Iterator[ray.data.Dataset]":
        first = self.order.positions.start
        units = (
            unit
            for run in self.order.reading(epoch)
            if wanted[run.start - first : run.stop - first].any()
            for unit in self.units.between(run.start, run.stop)
        )
        while window := list(islice(units, PLANNED_UNITS)):
            graph = decoded_dataset(window, self.info.decoder, self.decode)
            graph.context.execution_options.preserve_order = True
            yield graph

    def _decoded(self, epoch: int, wanted: npt.NDArray[np.bool_], waiting: "WaitingImages") -> Iterator[None]:
        """Have what is wanted of an epoch come to wait, a unit at a time."""
        for table in tables_in_turn(self._graphs(epoch, wanted)):
            self.tell(RefusedImage.among(table), [stated_checksums(table)])
            waiting.add(table, self.info.class_names, self._wanted(table, wanted))
            yield

    def _wanted(self, table: pa.Table, wanted: npt.NDArray[np.bool_]) -> set[int]:
        positions = table["position"].to_numpy()
        return set(positions[wanted[positions - self.order.positions.start]].tolist())


class WaitingImages:
    """Decoded images that wait for their batch, in one piece of memory whose places are used again.

    Each is copied into its place and into its batch, and nowhere else; what Ray holds is let go at once.
    """

    def __init__(self, image_size: int) -> None:
        """Wait for images of a size."""
        self._images = np.empty((0, image_size, image_size, 3), np.uint8)
        self._places: dict[int, tuple[int, int]] = {}
        self._free: list[int] = []

    def has(self, row: Positions) -> bool:
        """Whether all images of a batch are here, or were refused."""
        return all(position in self._places for position in row.tolist() if position != PADDING)

    def add(self, table: pa.Table, class_names: list[str], wanted: set[int]) -> None:
        """Take in those images of a table of `DECODED_SCHEMA` that are wanted; refused ones have no class."""
        self._places |= dict.fromkeys(wanted, (NO_PLACE, PADDING))
        self._make_room(len(wanted))
        columns = (column.tolist() for column in usable_labels(table, class_names))
        for position, label, image in zip(*columns, image_array(table, self._images.shape[1]), strict=True):
            if position in wanted:
                place = self._free.pop()
                self._images[place], self._places[position] = image, (place, label)

    def _make_room(self, count: int) -> None:
        if (missing := count - len(self._free)) > 0:
            before = len(self._images)
            more = np.empty((max(missing, before), *self._images.shape[1:]), np.uint8)
            self._images = np.concatenate([self._images, more])
            self._free.extend(range(before, len(self._images)))

    def take(self, row: Positions) -> Examples:
        """The images of a batch, whose places are free then; zeros where there is none."""
        found = [self._places.pop(position, (NO_PLACE, PADDING)) for position in row.tolist()]
        places, labels = (np.array(column) for column in zip(*found, strict=True))
        images = aligned_zeros((len(row), *self._images.shape[1:]), np.uint8)
        is_there = np.flatnonzero(places != NO_PLACE)
        for number in is_there:
            images[number] = self._images[places[number]]
        self._free.extend(places[is_there].tolist())
        return images, labels.astype(np.int32)
