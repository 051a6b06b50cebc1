"""Random changes of training images: numbers drawn for each image, and a layer that turns them into changed pixels.

The numbers of an image follow from seed, epoch and position alone, so that a run changes its images in the same way on
any number of workers and after a resume. The layer is for the training graph, before the network: it has no variables
and is no part of the model that is saved.
"""

from collections.abc import Callable, Sequence

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

COLUMNS = {
    "flip": slice(0, 2),
    "rotate": slice(2, 3),
    "shift": slice(3, 5),
    "brightness": slice(5, 6),
    "stain": slice(6, 8),
}
"""The draws that govern each change: its own, so that switching one on leaves the others as they were."""
MIXING = slice(8, 10)
"""The draws that say how much of which other image is mixed in (`lib.training.fit.objective`)."""
IDENTITY: npt.NDArray[np.float32] = np.array([0, 0, 0, 0.5, 0.5, 0.5, 0.5, 0.5, 0, 0], np.float32)
"""The draws that change nothing."""
DRAWS = len(IDENTITY)
"""Uniform numbers that one image takes, whichever changes are on."""

IS_REVERSED_BY_TURNS = np.array([[False, False], [True, False], [True, True], [False, True]])
"""Whether 0, 1, 2 and 3 quarter turns make rows, and columns, run backwards: `numpy.rot90`, counter-clockwise."""

SHIFT_REACH = 1 / 16
BRIGHTNESS_REACH = 0.10
STAIN_REACH = 0.15

HAEMATOXYLIN_EOSIN: npt.NDArray[np.float32] = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]], np.float32)
"""Optical density of the two dyes in red, green and blue, as published.

Source: Ruifrok and Johnston, Quantification of histochemical staining by color deconvolution, Analytical and
Quantitative Cytology and Histology 23, 2001.
"""
UNMIXING: npt.NDArray[np.float32] = np.linalg.pinv(HAEMATOXYLIN_EOSIN)
"""From optical density to amounts of the two dyes, (3, 2). What is perpendicular to both counts as neither."""

GOLDEN_GAMMA = 0x9E3779B97F4A7C15

Drawn = Callable[[npt.NDArray[np.uint8], npt.NDArray[np.float32]], tf.Tensor]
"""From images, uint8 (n, size, size, 3), and their draws (n, DRAWS) to changed images of the same kind."""


def draw(seed: int, epoch: int, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The draws of some images in an epoch; those of one image do not depend on the others.

    Args:
        seed: Any integer; counts modulo 2^64, as does the epoch.
        epoch: Any integer.
        positions: Positions of the images, shape (n,); any values, padding included.

    Returns:
        Shape (n, DRAWS), multiples of 2^-24 in [0, 1).

    Source:
        SplitMix64: Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014. Each image has
        the stream whose state is the hash of its seed, epoch and position.
    """
    state = np.zeros(1, np.uint64)
    for words in ([seed % 2**64], [epoch % 2**64], positions):
        state = _splitmix64(state + np.asarray(words).astype(np.uint64))
    steps = np.arange(DRAWS, dtype=np.uint64) * np.uint64(GOLDEN_GAMMA)
    bits = _splitmix64(state[:, None] + steps) >> np.uint64(40)  # the 24 that float32 holds exactly
    return bits.astype(np.float32) * np.float32(2**-24)


def _splitmix64(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """What the generator gives next in each state; multiplications wrap around."""
    mixed = state + np.uint64(GOLDEN_GAMMA)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


class Augmentation(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Changes each image as its draws say; changes that are not on do nothing, whatever is drawn.

    In this order, with u the draw of a change:

    - `rotate`: floor(4 u) quarter turns counter-clockwise, as `numpy.rot90`.
    - `flip`: top to bottom where the first draw is at least 1/2, left to right where the second is.
    - `shift`: down and right by floor((2 r + 1) u) - r pixels each, r = floor(size / 16); what comes into view is
      mirrored about the outermost pixels.
    - `stain`: the amounts of haematoxylin and of eosin times 1 + 0.3 (u - 1/2) each. White stays white.
    - `brightness`: all values times 1 + 0.2 (u - 1/2).

    Values are rounded once, at the end, and cut off at 255.
    """

    def __init__(self, changes: Sequence[str]) -> None:
        """Choose the changes.

        Args:
            changes: Keys of `COLUMNS`, in any order.

        Raises:
            ValueError: If a change is unknown.
        """
        if unknown := set(changes) - set(COLUMNS):
            raise ValueError(f"unknown changes {sorted(unknown)}; there are {', '.join(COLUMNS)}")
        super().__init__(dtype="float32")  # a mixed precision policy would round the draws to 8 or 11 bits
        self.changes = frozenset(changes)

    def call(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """Changed images.

        Args:
            images: RGB, uint8, shape (n, size, size, 3); the size must be static.
            draws: float32 in [0, 1), shape (n, DRAWS).

        Returns:
            uint8, shape (n, size, size, 3).
        """
        if self.changes & {"flip", "rotate", "shift"}:
            images = _moved(images, self._where_on(draws))
        if not self.changes & {"brightness", "stain"}:
            return images
        values = tf.cast(images, tf.float32)
        if "stain" in self.changes:
            values *= _stain_factors(images, draws[:, COLUMNS["stain"]])
        if "brightness" in self.changes:
            values *= _spread(draws[:, COLUMNS["brightness"], None, None], BRIGHTNESS_REACH)
        return tf.cast(tf.minimum(tf.round(values), 255), tf.uint8)  # what a cast makes of 256 is up to the hardware

    def _where_on(self, draws: tf.Tensor) -> tf.Tensor:
        """The draws, with those of changes that are not on replaced by `IDENTITY`."""
        is_on = np.zeros(DRAWS, bool)
        for change in self.changes:
            is_on[COLUMNS[change]] = True
        return tf.where(is_on, draws, IDENTITY)


def in_a_graph(augmentation: Augmentation, size: int) -> Drawn:
    """The same changes as one call of TensorFlow, for images of a size; on the CPU, since a GPU gathers no uint8."""
    images, draws = tf.TensorSpec([None, size, size, 3], tf.uint8), tf.TensorSpec([None, DRAWS], tf.float32)

    def on_cpu(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        with tf.device("/CPU:0"):
            return augmentation(images, draws)

    return tf.function(on_cpu, input_signature=[images, draws])  # type: ignore[no-any-return]


def _moved(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Images turned, flipped and shifted.

    All three map whole rows to rows or, after an odd number of quarter turns, to columns. So the index of the pixel to
    take is a sum of what its new row and its new column contribute, and one gather does all of it.
    """
    size = images.shape[1]
    turns = tf.cast(4 * draws[:, COLUMNS["rotate"]], tf.int32)
    is_reversed = tf.gather(IS_REVERSED_BY_TURNS, turns[:, 0]) ^ (draws[:, COLUMNS["flip"]] >= 1 / 2)
    strides = tf.where(turns % 2 == 0, (size, 1), (1, size))
    lines = _shifted_lines(size, draws[:, COLUMNS["shift"]])
    lines = tf.where(is_reversed[:, :, None], size - 1 - lines, lines) * strides[:, :, None]
    sources = lines[:, 0, :, None] + lines[:, 1, None, :]
    return tf.gather(tf.reshape(images, (-1, size * size, 3)), sources, batch_dims=1)


def _shifted_lines(size: int, shift: tf.Tensor) -> tf.Tensor:
    """Which row and which column is seen at each place after a shift: int32 (n, 2, size), from draws (n, 2)."""
    reach = int(size * SHIFT_REACH)
    pixels = tf.cast(shift * (2 * reach + 1), tf.int32) - reach
    lines = tf.abs(tf.range(size) - pixels[:, :, None])
    return size - 1 - tf.abs(size - 1 - lines)


def _stain_factors(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """What other amounts of the dyes multiply pixel values by: float32, the shape of the images, from draws (n, 2).

    With d = -log(I / 255) the optical density of a pixel, U = `UNMIXING`, S = `HAEMATOXYLIN_EOSIN` and f the factors
    of the two dyes,

        I' = I exp(-d U diag(f - 1) S)

    A factor for I, rather than I' put together from its dyes, is exactly 1 where nothing changes, and leaves alone what
    is neither dye.
    """
    size = images.shape[1]
    pixels = tf.reshape(images, (-1, size * size, 3))
    transmission = tf.cast(tf.maximum(pixels, 1), tf.float32) / 255  # black has no density; it stays black anyway
    restain = (UNMIXING * (_spread(draws[:, None, :], STAIN_REACH) - 1)) @ HAEMATOXYLIN_EOSIN
    return tf.reshape(tf.exp(tf.math.log(transmission) @ restain), (-1, size, size, 3))


def _spread(draws: tf.Tensor, reach: float) -> tf.Tensor:
    """Factors uniform on [1 - reach, 1 + reach), and 1 for a draw of 1/2."""
    return 1 + 2 * reach * (draws - 0.5)
