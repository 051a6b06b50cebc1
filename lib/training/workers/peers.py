"""What a training worker is told, and the workers that train together."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lib.config.fitting import TrainConfig
from lib.dataset.source import DatasetInfo
from lib.models.spec import ModelSpec
from lib.storage.location import Location
from lib.training.feature_extraction import FeatureSource
from lib.training.workers.messages import Reporter

AGREE_KEY, COUNTS_KEY, LANES_KEY, REFERENCE_KEY, VALIDATION_KEY, FIRST_PHASE_KEY = 1, 2, 3, 4, 5, 10


@dataclass(frozen=True)
class TrainTask:
    """Everything a worker needs to know.

    Attributes:
        config: The settings of the run.
        spec: What to train.
        info: Of the images, which Ray Train hands out (see `LaneShards`).
        features: Of the frozen base, if there is one.
        reporter: Where to report.
    """

    config: TrainConfig
    spec: ModelSpec
    info: DatasetInfo
    features: FeatureSource | None
    reporter: Reporter

    @property
    def output(self) -> Location:
        """The model folder."""
        return Location(self.config.output)


@dataclass(frozen=True)
class Peers:
    """The workers that train together, as one of them sees them.

    Attributes:
        rank: Of this worker, from 0.
        world_size: Number of workers.
    """

    rank: int
    world_size: int

    @property
    def is_writer(self) -> bool:
        """Whether this worker writes what is the same on all of them."""
        return self.rank == 0

    def sum(self, numbers: npt.ArrayLike, key: int) -> npt.NDArray[np.float32]:
        """The sum over all workers of arrays of the same shape, float32.

        Args:
            numbers: This worker's.
            key: One of the keys above, which names the place in the program that sums.
        """
        here = np.asarray(numbers, np.float32)
        if self.world_size == 1:
            return here
        import tensorflow as tf

        from lib.training.fit.synchronous import all_reduce_sum

        return all_reduce_sum([tf.constant(here)], self.world_size, key)[0].numpy()  # type: ignore[no-any-return]
