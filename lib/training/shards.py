"""Which images each Ray Train worker reads: the positions of its own lanes, decoded by a Ray Data graph of its own."""

from typing import Any

import ray.data
from ray.train import DataConfig

from lib.config import FitConfig
from lib.dataset.graph import decoded_dataset
from lib.dataset.order import LaneOrder
from lib.dataset.source import ImageSource

FITTED_SPLITS = ("train", "validation")


def split_order(count: int, split: str, fit: FitConfig, seed: int, rank: int, world_size: int) -> LaneOrder:
    """The order of one worker's images of a split; only training images are shuffled."""
    return LaneOrder(count, fit.batch_size, rank, world_size, seed, shuffle=split == "train")


class LaneShards(DataConfig):
    """Gives each worker its own positions of each split.

    Ray's `streaming_split` would hand rows to whichever worker asks first; here it is fixed which worker has which
    image, so that batches are the same for any number of workers.
    """

    def __init__(self, source: ImageSource, fit: FitConfig, seed: int) -> None:
        """Share out the images of a source.

        Args:
            source: The images.
            fit: Has the size of a global batch.
            seed: Of the order.
        """
        super().__init__(datasets_to_split=[])
        self._source, self._fit, self._seed = source, fit, seed

    def configure(self, datasets: dict[str, Any], world_size: int, *_: Any, **__: Any) -> list[dict[str, Any]]:
        """One iterator a worker for each split."""
        return [
            {split: self._dataset(split, rank, world_size).iterator() for split in datasets}
            for rank in range(world_size)
        ]

    def datasets(self) -> dict[str, "ray.data.Dataset"]:
        """The whole of each split that has images: what a single worker reads."""
        return {split: self._dataset(split, 0, 1) for split in FITTED_SPLITS if self._source.count(split)}

    def _dataset(self, split: str, rank: int, world_size: int) -> "ray.data.Dataset":
        order = split_order(self._source.count(split), split, self._fit, self._seed, rank, world_size)
        return decoded_dataset(self._source, split, order.positions)
