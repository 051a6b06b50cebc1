"""What every model takes in."""

import keras


def image_input(image_size: int) -> keras.KerasTensor:
    """RGB images as they are stored: uint8 (n, image_size, image_size, 3)."""
    return keras.Input((image_size, image_size, 3), dtype="uint8", name="images")
