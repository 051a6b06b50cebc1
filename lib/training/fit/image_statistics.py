"""What a network must know of its training images before it learns: means and deviations of their channels.

They are counted over the first batches of the first epoch, which are a random sample and the same images for any number
of workers. Counts are integers, so that the numbers are the same to the last bit too.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from lib.dataset.memory import Examples
from lib.dataset.sampler import PADDING
from lib.errors import DataError
from lib.models.registry import Network, finalise_normalisation, input_normalisation
from lib.training.fit.loader import SplitExamples
from lib.training.workers.peers import Collective, Peers
from lib.training.workers.watchdog import Heartbeat

SAMPLE = 1024
"""About how many training images are looked at; where images are streamed, reading them costs little."""
VALUES = np.arange(256)
LEAST_DEVIATION = 1 / 255
"""Where a channel hardly varies, it is divided by one grey level, rather than by nothing."""


def first_batches(examples: SplitExamples) -> Iterator[Examples]:
    """This worker's share of the first batches of the first epoch: at least `SAMPLE` images, or all."""
    order = examples.order
    return examples.read(order.epoch(0)[: -(-SAMPLE // order.batch_size)], 0)


def measure_channels(network: Network, examples: SplitExamples, peers: Peers, heartbeat: Heartbeat) -> None:
    """Give the normalisation of a network trained from scratch, if it has one, the statistics of its training images.

    Raises:
        DataError: If none of the images can be used.
    """
    layer = input_normalisation(network)
    if layer is None:
        return
    counts = np.zeros((3, len(VALUES)), np.int64)
    for images, labels in first_batches(examples):
        heartbeat.move(patient=True)
        counts += _value_counts(images[labels != PADDING])
    counts = peers.sum_counts(counts, Collective.CHANNELS)
    if not counts.any():
        raise DataError("none of the first training images can be used")
    mean, deviation = channel_statistics(counts)
    layer.adapt_mean.assign(mean)
    layer.adapt_variance.assign(np.maximum(deviation, LEAST_DEVIATION) ** 2)
    finalise_normalisation(network.model)


def _value_counts(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    return np.stack([np.bincount(images[..., channel].ravel(), minlength=len(VALUES)) for channel in range(3)])


def channel_statistics(counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and standard deviation of each channel, on the scale from 0 to 1.

    Args:
        counts: How often each channel has each value from 0 to 255, shape (3, 256), none of the channels empty.
    """
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ VALUES
    variance = (shares * (VALUES - mean[:, None]) ** 2).sum(axis=1)
    return mean / 255, np.sqrt(variance) / 255
