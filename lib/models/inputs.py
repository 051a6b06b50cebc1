"""What every model takes in and gives out."""

from collections.abc import Sequence

import keras


def image_input(image_size: int) -> keras.KerasTensor:
    """RGB images as they are stored: uint8 (n, image_size, image_size, 3)."""
    return keras.Input((image_size, image_size, 3), dtype="uint8", name="images")


def logits_layer(class_count: int) -> keras.layers.Layer:
    """The last layer of every model; float32 under mixed precision too, since its softmax needs the digits."""
    return keras.layers.Dense(class_count, dtype="float32", name="logits")


def standardised(
    images: keras.KerasTensor, size: int, mean: Sequence[float], std: Sequence[float]
) -> keras.KerasTensor:
    """Images as an encoder of others takes them, float32 (n, size, size, 3).

    Args:
        images: RGB from 0 to 255, shape (n, image_size, image_size, 3); resized (bicubic, antialiased) if need be.
        size: Side in pixels that the encoder takes.
        mean: Of red, green and blue, from 0 to 1, which is subtracted.
        std: By which each is divided then.
    """
    pixels: keras.KerasTensor = images
    if images.shape[1] != size:
        resizing = keras.layers.Resizing(size, size, "bicubic", antialias=True, dtype="float32", name="resizing")
        pixels = resizing(keras.ops.cast(images, "float32"))  # of whole numbers, Keras would make whole numbers
    standardisation = keras.layers.Normalization(
        mean=[255 * value for value in mean],
        variance=[(255 * value) ** 2 for value in std],
        dtype="float32",
        name="standardisation",
    )
    return standardisation(pixels)
