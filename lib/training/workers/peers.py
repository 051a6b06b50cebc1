"""What a training worker is told, and the workers that train together."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from lib.config.fitting import TrainConfig
from lib.dataset.source import DatasetInfo
from lib.models.spec import ModelSpec
from lib.storage.location import Location
from lib.training.feature_extraction import FeatureSource
from lib.training.workers.messages import Reporter

if TYPE_CHECKING:
    import tensorflow as tf

GROUP_KEY = 1
FIRST_PAIR_KEY = 1_000
"""Keys of the pairs of workers that add what they have in one round; TensorFlow's own groups have small ones."""
GPU = "GPU:0"
COLLECTIVE_TIMEOUT_S = 600.0
EXACT = 1 << 20
"""Whole numbers below it are exact in float32."""

ValueT = TypeVar("ValueT")


class Collective(IntEnum):
    """The places in the program where all workers meet to sum; the number is the key by which they know the place."""

    CHECKPOINT = 1
    IMAGE_COUNTS = 2
    LANE_COUNTS = 3
    REFERENCE = 4
    VALIDATION = 5
    CHANNELS = 6
    SHARED_SIZE = 7
    SHARED = 8
    FEATURE_SUMS = 9
    TRAIN_STEP = 10
    TEST_STEP = 11
    STATISTICS = 12
    MEETING = 13
    HEAD_GRADIENT = 14
    HEAD_MEASURES = 15

    def in_phase(self, phase: int) -> int:
        """The key of a place within a phase of the training, of which each has a graph of its own."""
        return int(self) + 10 * phase


def start_collectives() -> None:
    """Connect this process to the others named in TF_CONFIG."""
    import tensorflow as tf

    tf.distribute.MultiWorkerMirroredStrategy()  # its construction starts the runtime; its scope is not used


@dataclass(frozen=True)
class TrainTask:
    """Everything a worker needs to know.

    Attributes:
        config: The settings of the run.
        spec: What to train.
        info: What is known of the images, which Ray Train hands out (see `LaneShards`).
        features: Features of the frozen base, if there is one.
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
        rank: Rank of this worker, from 0.
        world_size: Number of workers.
        on_gpus: Whether each has a GPU of its own, so that NCCL sums.
    """

    rank: int
    world_size: int
    on_gpus: bool = False

    @property
    def is_writer(self) -> bool:
        """Whether this worker writes what is the same on all of them."""
        return self.rank == 0

    def all_reduce(self, tensors: "Sequence[tf.Tensor]", key: int) -> "list[tf.Tensor]":
        """The sum over all workers of each tensor. On CPUs the bits of it depend on nothing but the order of the ranks.

        Two by two, if the number of workers is a power of 2: each round adds what neighbours have, then neighbouring
        pairs, and so on, as `add_pairwise` adds parts. A ring of four adds each stretch of them in another order.

        Args:
            tensors: The same shapes on every worker, and all of the same floating type.
            key: A number of its own for each place in the program that sums.

        Source:
            TensorFlow 2.21, `CollectiveParamResolverLocal::AssignCollectiveType`: a ring over gRPC, on GPUs too, unless
            the hint is `nccl`. NCCL refuses two workers on one GPU.
        """
        if self.world_size == 1:
            return list(tensors)
        import tensorflow as tf

        flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)
        if self.on_gpus:
            with tf.device(GPU):
                flat = self._reduce(tf.identity(flat), GROUP_KEY, self.world_size, key, "nccl")
        elif self.world_size & (self.world_size - 1):
            flat = self._reduce(flat, GROUP_KEY, self.world_size, key, "ring")
        else:
            for distance in self._distances():
                flat = self._reduce(flat, self._pair_key(distance), 2, key, "ring")
        parts = tf.split(flat, [tensor.shape.num_elements() for tensor in tensors])
        return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    def _distances(self) -> list[int]:
        """How far the partner of this worker is in each round: 1, 2, 4, ..."""
        return [1 << round_ for round_ in range(self.world_size.bit_length() - 1)]

    def _pair_key(self, distance: int) -> int:
        """A number that no other pair of any round has: the two ranks as digits."""
        lower = self.rank & ~distance
        return FIRST_PAIR_KEY + lower * self.world_size + lower + distance

    @staticmethod
    def _reduce(flat: "tf.Tensor", group_key: int, group_size: int, key: int, hint: str) -> "tf.Tensor":
        import tensorflow as tf

        return tf.raw_ops.CollectiveReduceV2(
            input=flat,
            group_size=group_size,
            group_key=group_key,
            instance_key=key,
            ordering_token=[],
            merge_op="Add",
            final_op="Id",
            communication_hint=hint,
            timeout_seconds=COLLECTIVE_TIMEOUT_S,
        )

    def sum_counts(self, counts: npt.NDArray[np.int64], place: Collective) -> npt.NDArray[np.int64]:
        """The sum over all workers of arrays of the same shape, exact for totals up to 2^53.

        Args:
            counts: This worker's.
            place: Where in the program.
        """
        return np.asarray(self.sum_exactly(counts.astype(np.float64), place), np.int64)

    def sum(self, numbers: npt.ArrayLike, place: Collective) -> npt.NDArray[np.float32]:
        """The sum over all workers of arrays of the same shape, float32.

        Args:
            numbers: This worker's.
            place: Where in the program.
        """
        here = np.asarray(numbers, np.float32)
        if self.world_size == 1:
            return here
        import tensorflow as tf

        return self.all_reduce([tf.constant(here)], place)[0].numpy()  # type: ignore[no-any-return]

    def sum_exactly(self, numbers: npt.NDArray[np.float64], place: Collective) -> npt.NDArray[np.float64]:
        """As `sum`, in float64."""
        if self.world_size == 1:
            return numbers
        import tensorflow as tf

        total = self.all_reduce([tf.constant(numbers, tf.float64)], place)[0].numpy()
        return np.asarray(total)

    def share(self, value: ValueT | None) -> ValueT:
        """What the writer has, on all workers; to be used once in a training.

        Args:
            value: The writer's; of no account on the others.
        """
        if self.world_size == 1:
            assert value is not None  # noqa: S101 - the only worker is the writer
            return value
        content = np.frombuffer(pickle.dumps(value) if self.is_writer else b"", np.uint8)
        high, low = self.sum(divmod(len(content), EXACT), Collective.SHARED_SIZE)
        here = content if self.is_writer else np.zeros(int(high) * EXACT + int(low), np.uint8)
        everywhere = self.sum(here, Collective.SHARED).astype(np.uint8)
        shared: ValueT = pickle.loads(everywhere.tobytes())  # noqa: S301 - of a process of the same training
        return shared
