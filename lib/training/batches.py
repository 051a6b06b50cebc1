"""One worker's batches, as `fit` wants them."""

import keras

from lib.dataset.cache import Batch, ImageCache
from lib.dataset.order import LaneOrder


class CachedBatches(keras.utils.PyDataset):
    """The batches of one epoch after the other, from images in memory."""

    def __init__(self, cache: ImageCache, order: LaneOrder) -> None:
        """Serve the images of a cache in a given order."""
        super().__init__(workers=1)
        self._cache, self._order = cache, order
        self._epoch = 0
        self._positions = order.epoch(0)

    def __len__(self) -> int:
        """Batches an epoch."""
        return self._order.steps

    def __getitem__(self, index: int) -> Batch:
        """One batch."""
        return self._cache.batch(self._positions[index])

    def on_epoch_end(self) -> None:
        """Shuffle for the next epoch."""
        self._epoch += 1
        self._positions = self._order.epoch(self._epoch)
