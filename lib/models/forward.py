"""A network at work on decoded units, in actors that only infer."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf

from lib.dataset.source import image_array

FloatArrays = list[npt.NDArray[np.float32]]
Change = Callable[[npt.NDArray[np.uint8], npt.NDArray[np.int64]], Any]
"""From images, uint8 (n, size, size, 3), and their positions to changed images of the same kind."""


class Forward:
    """Runs a network over the images of a table, a batch at a time.

    Its graph is traced once: the size of a batch is left open, since units do not divide into whole batches and padding
    them would be work for nothing.
    """

    def __init__(self, network: keras.Model, batch_size: int) -> None:
        """Take a network from uint8 images (n, size, size, 3) to one or more outputs."""
        self._network, self._batch_size = network, batch_size
        self._image_size = int(network.input_shape[1])
        images = tf.TensorSpec([None, *network.input_shape[1:]], tf.uint8)
        self._run = tf.function(lambda images: network(images, training=False), input_signature=[images])

    def __call__(self, decoded: pa.Table, change: Change | None = None) -> FloatArrays:
        """The outputs of the network, each float32 (n, ...).

        Args:
            decoded: Rows of `DECODED_SCHEMA` without refused images.
            change: Applied to the images first.
        """
        starts = range(0, decoded.num_rows, self._batch_size)
        batches = [self._batch(decoded.slice(start, self._batch_size), change) for start in starts]
        if not batches:
            return [np.zeros((0, *output.shape[1:]), np.float32) for output in self._network.outputs]
        return [np.concatenate(outputs) for outputs in zip(*batches, strict=True)]

    def _batch(self, rows: pa.Table, change: Change | None) -> FloatArrays:
        images = image_array(rows, self._image_size)
        if change is not None:
            images = change(images, rows["position"].to_numpy())
        return [output.numpy().astype(np.float32) for output in tf.nest.flatten(self._run(images))]
