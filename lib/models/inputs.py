"""What every model takes in and gives out."""

import keras


def image_input(image_size: int) -> keras.KerasTensor:
    """RGB images as they are stored: uint8 (n, image_size, image_size, 3)."""
    return keras.Input((image_size, image_size, 3), dtype="uint8", name="images")


def logits_layer(class_count: int) -> keras.layers.Layer:
    """The last layer of every model; float32 under mixed precision too, since its softmax needs the digits."""
    return keras.layers.Dense(class_count, dtype="float32", name="logits")
