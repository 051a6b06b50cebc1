"""Hands each training worker the images of its own lanes, through Ray Train's own door.

The driver gives Ray Train one data set a split, whose rows are what is to be read (a path, or a row of a shard), not
the images. Ray Train asks `LaneShards` who gets which rows each time it starts a group of workers, so also after a loss
and with another number of them. The worker says `ray.train.get_dataset_shard("train")` and decodes what it is handed,
in the order of its lanes. `streaming_split`, which is what Ray Train does otherwise, leaves it to timing which worker
gets which image, and would have all images pass through one executor in the order of one epoch.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray.train

from lib.dataset.sampler import LaneOrder
from lib.dataset.source import ImageSource, Units, first_position
from lib.dataset.subset import balanced_subset
from lib.models.reference import MOST_IMAGES
from lib.runtime.ray_data import stream_tables, units_dataset

if TYPE_CHECKING:
    import ray.data

FITTED_SPLITS = ("train", "validation")
REFERENCE = "reference"
"""The data set with the names of the images that a model keeps to compare others with; each worker gets all of it."""
UNIT, PACKED_ROWS = "unit", 65_536
FOLDS = "folds"
"""The data set with the training images by which the penalty of a solved head is chosen (`FOLD_SCHEMA`)."""


def training_datasets(source: ImageSource, folds: pa.Table | None = None) -> "dict[str, ray.data.Dataset]":
    """What workers ask Ray Train for, by name: the units of each split that has images, `REFERENCE` and `FOLDS`.

    Args:
        source: The images.
        folds: Of the images by which a penalty is chosen; None where no head is solved.

    Raises:
        StorageError: If the names of images cannot be read.
    """
    datasets = {split: units_dataset(packed(source.units(split))) for split in FITTED_SPLITS if source.count(split)}
    reference = {REFERENCE: units_dataset([balanced_subset(source, "train", MOST_IMAGES)])}
    return datasets | reference | ({} if folds is None else {FOLDS: units_dataset([folds])})


def packed(units: Sequence[pa.Table]) -> list[pa.Table]:
    """Units as few tables, which may be cut anywhere: each takes Ray Data a millisecond, whatever its size."""
    marked = [unit.append_column(UNIT, pa.repeat(first_position(unit), unit.num_rows)) for unit in units]
    whole = pa.concat_tables(marked).combine_chunks()
    return [whole.slice(start, PACKED_ROWS) for start in range(0, whole.num_rows, PACKED_ROWS)]


def unpacked(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The units in packed tables; one that was cut is as many."""
    for table in tables:
        marks = table[UNIT].to_numpy()
        borders = [0, *(np.flatnonzero(np.diff(marks)) + 1).tolist(), len(marks)]
        for start, stop in itertools.pairwise(borders):
            if start < stop:
                yield table.slice(start, stop - start).drop_columns([UNIT])


class LaneShards(ray.train.DataConfig):
    """Divides the units of a split so that each worker gets those of its lanes (see `lib.dataset.sampler`)."""

    def __init__(self, batch_size: int) -> None:
        """Divide for global batches of so many images."""
        super().__init__(datasets_to_split=list(FITTED_SPLITS))
        self._batch_size = batch_size

    def configure(
        self, datasets: "Mapping[str, ray.data.Dataset]", world_size: int, *arguments: Any, **settings: Any
    ) -> "list[dict[str, ray.data.DataIterator]]":
        """The share of each rank, by the names of the data sets; what is not to be divided is left to Ray Train."""
        whole = {name: dataset for name, dataset in datasets.items() if name not in FITTED_SPLITS}
        shares: list[dict[str, ray.data.DataIterator]] = super().configure(whole, world_size, *arguments, **settings)
        for name in datasets.keys() - whole.keys():
            tables = list(stream_tables(datasets[name]))
            units, count = Units(tables), sum(table.num_rows for table in tables)
            for rank, share in enumerate(shares):
                mine = LaneOrder(count, self._batch_size, rank, world_size).positions
                share[name] = units_dataset(units.between(mine.start, mine.stop) or [tables[0].slice(0, 0)]).iterator()
        return shares
