"""A network at work on decoded units, in actors that only infer."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import cv2
import keras
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf

from lib.dataset.source import image_array
from lib.models.probabilities import softmax
from lib.runtime.allocator import keep_freed_memory

FloatArray = npt.NDArray[np.float32]
FloatArrays = list[FloatArray]
Change = Callable[[npt.NDArray[np.uint8], npt.NDArray[np.int64]], Any]
"""From images, uint8 (n, size, size, 3), and their positions to changed images of the same kind."""
QUARTER_TURNS = {"flips": (0, 2), "quarter_turns": (0, 1, 2, 3)}
"""How the views of a `--test-time-augmentation` are turned; each is there mirrored too."""


class Forward:
    """Runs a network over the images of a table, a batch at a time.

    Its graph is traced once: the size of a batch is left open, since units do not divide into whole batches and padding
    them would be work for nothing.
    """

    def __init__(self, network: keras.Model, batch_size: int) -> None:
        """Take a network from uint8 images (n, size, size, 3) to one or more outputs."""
        keep_freed_memory()
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


class Classified(NamedTuple):
    """What a model says of n images.

    Attributes:
        probabilities: Shape (n, classes), each row summing to 1: the mean of the probabilities over the views.
        logits: Shape (n, classes), the mean over the views.
        embeddings: Shape (n, d), of the unchanged images.
    """

    probabilities: FloatArray
    logits: FloatArray
    embeddings: FloatArray


def classify(forward: Forward, decoded: pa.Table, views: Sequence[Change | None]) -> Classified:
    """Classify images by the mean over several views of each.

    Args:
        forward: Of a network with two outputs, the logits and the embeddings.
        decoded: Rows of `DECODED_SCHEMA` without refused images.
        views: The unchanged image first; see `views_of`.
    """
    outputs = [forward(decoded, view) for view in views]
    logits = np.stack([logits for logits, _ in outputs])
    probabilities = np.stack([softmax(of_view) for of_view in logits])
    return Classified(_mean(probabilities), _mean(logits), outputs[0][1])


def views_of(augmentation: str) -> list[Change | None]:
    """The views that a `--test-time-augmentation` takes the mean over, the unchanged image (None) first.

    `flips`: the image, mirrored top to bottom, left to right, and both. `quarter_turns`: the eight symmetries of a
    square. Either is a group, so that an image changed by one of its members has the same views, and the same mean.
    """
    if augmentation == "none":
        return [None]
    ways = [(turns, mirrored) for mirrored in (False, True) for turns in QUARTER_TURNS[augmentation]]
    return [None, *(partial(_view, turns=turns, mirrored=mirrored) for turns, mirrored in ways[1:])]


UP_DOWN, LEFT_RIGHT, BOTH = 0, 1, -1
"""The flips of OpenCV."""
MIRRORED_AND_TURNED = {
    (False, 1): (True, UP_DOWN),
    (False, 2): (False, BOTH),
    (False, 3): (True, LEFT_RIGHT),
    (True, 0): (False, UP_DOWN),
    (True, 1): (True, BOTH),
    (True, 2): (False, LEFT_RIGHT),
    (True, 3): (True, None),
}
"""Whether a view is transposed, and how it is flipped then."""


def _view(images: npt.NDArray[np.uint8], _: npt.NDArray[np.int64], turns: int, mirrored: bool) -> Any:
    """Images mirrored top to bottom, then turned by so many quarters; `numpy.rot90` takes five times as long."""
    is_transposed, flip = MIRRORED_AND_TURNED[mirrored, turns]
    views = np.empty_like(images)
    for image, view in zip(images, views, strict=True):
        seen = cv2.transpose(image) if is_transposed else image
        view[:] = seen if flip is None else cv2.flip(seen, flip)
    return views


def _mean(of_views: FloatArray) -> FloatArray:
    return np.asarray(of_views.mean(axis=0, dtype=np.float64), np.float32)
