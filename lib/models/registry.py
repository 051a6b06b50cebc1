"""From a SPEC to a Keras model."""

import keras

from lib.models.cnn import build_cnn
from lib.models.spec import CNN, SAVED, ModelSpec
from lib.models.transfer import build_on_saved, build_transfer
from lib.storage.filesystem import Location


def build_network(spec: ModelSpec, class_count: int, image_size: int, seed: int) -> keras.Model:
    """Build a model with the same weights on every worker.

    Args:
        spec: Which model.
        class_count: Number of classes.
        image_size: Side of the square images in pixels.
        seed: Of the initial weights.

    Returns:
        A model from uint8 RGB (n, image_size, image_size, 3) to logits (n, class_count).
    """
    keras.utils.set_random_seed(seed)
    if spec.name == CNN:
        return build_cnn(class_count, image_size)
    if spec.name == SAVED:
        return build_on_saved(Location(spec.weights), class_count)
    return build_transfer(spec, class_count, image_size)
