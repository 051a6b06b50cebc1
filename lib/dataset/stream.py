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
from lib.dataset.memory import ExampleCache, Examples, Positions
from lib.dataset.sampler import PADDING, LaneOrder
from lib.dataset.source import DatasetInfo, RefusedImage, Units

if TYPE_CHECKING:
    import ray.data

PLANNED_UNITS = 256
"""Units of a graph: Ray Data takes a millisecond of CPU for each before the first is decoded."""


@dataclass(frozen=True)
class ImageStream:
    """Decodes images in the order in which an epoch needs them, holding no more than a chunk of each lane.

    What waits is kept image by image: each is let go once it is used, and units would be held until their last one is.

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
        decoded = self._decoded(epoch, wanted)
        waiting: dict[int, Examples] = {}
        for row in order:
            missing = {position for position in row.tolist() if position != PADDING} - waiting.keys()
            while missing:
                arrived = next(decoded)
                waiting |= arrived
                missing -= arrived.keys()
            yield self._batch(row, waiting)

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

    def _decoded(self, epoch: int, wanted: npt.NDArray[np.bool_]) -> Iterator[dict[int, Examples]]:
        first = self.order.positions.start
        for table in tables_in_turn(self._graphs(epoch, wanted)):
            positions = table["position"].to_numpy()
            if not len(positions):
                continue
            part = ExampleCache.empty(range(positions.min(), positions.max() + 1), self.info.image_size)
            part.fill([table], self.info.class_names)
            self.tell(part.refused, part.checksums)
            arrived = positions[wanted[positions - first]]
            yield {int(position): part.batch(np.array([position])) for position in arrived}

    def _batch(self, row: Positions, waiting: dict[int, Examples]) -> Examples:
        size = self.info.image_size
        images = np.zeros((len(row), size, size, 3), np.uint8)
        labels = np.full(len(row), PADDING, np.int32)
        for place, position in enumerate(row.tolist()):
            if position != PADDING:
                images[place : place + 1], labels[place : place + 1] = waiting.pop(position)
        return images, labels
