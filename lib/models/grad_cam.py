"""Grad-CAM: where in an image a network found what speaks for a class."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from lib.models.taps import BORDERS, MAP_RANK

CONVOLUTIONS = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
    keras.layers.Conv2DTranspose,
)


class GradCam:
    """Heatmaps from the last feature map of a network: its last tensor with places, at or after a convolution.

    The weight a of a channel is the mean over all places of the gradient of the class's logit by that channel:

        heatmap = max(0, sum over channels k of a_k * A_k), divided by its greatest value

    Dividing the logits by a temperature changes nothing.

    Attributes:
        image_size: Side of the images in pixels.

    Source: Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV
    2017, equations 1 and 2.
    """

    def __init__(self, exposed: keras.Model) -> None:
        """Take a network with the feature map as its first output and the logits as its second; see `of`."""
        self._exposed, self.image_size = exposed, int(exposed.input_shape[1])
        images = tf.TensorSpec([None, *exposed.input_shape[1:]], tf.uint8)
        self._run = tf.function(self._heatmaps, input_signature=[images, tf.TensorSpec([None], tf.int64)])

    @classmethod
    def of(cls, network: keras.Model) -> "GradCam | None":
        """Grad-CAM of a network from uint8 images (n, size, size, 3) to logits (n, classes).

        Returns:
            None for a network without a feature map, such as one on a SavedModel, whose inside is closed.
        """
        exposed = _with_feature_map(network)
        return None if exposed is None else cls(exposed)

    def __call__(self, images: npt.NDArray[np.uint8], classes: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Where each image has what speaks for a class.

        Args:
            images: RGB, shape (n, size, size, 3); all of them in one pass.
            classes: The number of a class for each image, shape (n,).

        Returns:
            Shape (n, h, w), with the height and width of the feature map; each from 0 to 1, where it is 1, or 0 all
            over where nothing speaks for the class.
        """
        maps = self._run(tf.constant(images, tf.uint8), tf.constant(classes, tf.int64)).numpy()
        return np.asarray(maps, np.float32)

    def _heatmaps(self, images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        feature_map, logits = self._exposed(images, training=False)
        chosen = tf.gather(logits, classes, axis=1, batch_dims=1)
        (gradient,) = tf.gradients(chosen, feature_map)  # images do not depend on each other
        weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
        heat = tf.nn.relu(tf.reduce_sum(weights * feature_map, axis=3))
        return tf.math.divide_no_nan(heat, tf.reduce_max(heat, axis=(1, 2), keepdims=True))


def _with_feature_map(network: keras.Model) -> keras.Model | None:
    """The network with its last feature map as a first output; it is looked for in the networks inside it too."""
    maps: list[keras.KerasTensor] = []

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        inner = _with_feature_map(layer) if _is_network(layer) else None
        if inner is not None:
            feature_map, *outputs = inner(*arguments, **options)
            output = outputs if len(outputs) > 1 else outputs[0]
            maps.append(feature_map)
        else:
            output = layer(*arguments, **options)
        is_seen = bool(maps) or isinstance(layer, CONVOLUTIONS)
        if is_seen and _has_places(output) and not isinstance(layer, BORDERS) and not _is_cast(layer):
            maps.append(output)
        return output

    again = keras.models.clone_model(network, clone_function=lambda layer: layer, call_function=call)
    return keras.Model(again.input, [maps[-1], *keras.tree.flatten(again.output)]) if maps else None


def _is_network(layer: Any) -> bool:
    """Whether a layer is a graph of layers; Keras cannot look into a `Sequential` in the same way."""
    return isinstance(layer, keras.Model) and not isinstance(layer, keras.Sequential)


def _is_cast(operation: Any) -> bool:
    """Whether an operation gives what it takes in another type: a map of an earlier layer may come out of it late."""
    return type(operation).__name__ == "Cast"  # Keras does not export the class


def _has_places(output: Any) -> bool:
    """Whether a tensor (n, h, w, channels) has more than one place."""
    shape: tuple[int | None, ...] = getattr(output, "shape", ())
    return len(shape) == MAP_RANK and None not in shape[1:3] and shape[1:3] != (1, 1)
