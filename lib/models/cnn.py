"""The notebook's own small network."""

import keras

from lib.models.inputs import image_input, logits_layer


def build_cnn(class_count: int, image_size: int, normalises: bool = True) -> keras.Model:
    """Three convolutions with max pooling and two dense layers, trained from scratch.

    Args:
        normalises: Whether channels are standardised after the rescaling to [0, 1], by a layer whose means and
            deviations are measured when training begins; without it, this is the notebook's network to the letter.

    Returns:
        A model from uint8 RGB (n, image_size, image_size, 3) to logits (n, class_count).
    """
    images = image_input(image_size)
    features = keras.layers.Rescaling(1 / 255, name="rescaling")(images)
    if normalises:
        features = keras.layers.Normalization(name="normalisation")(features)
    for filters in (16, 32, 64):
        features = keras.layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv_{filters}")(features)
        features = keras.layers.MaxPooling2D(name=f"pool_{filters}")(features)
    features = keras.layers.Flatten(name="flatten")(features)
    embedding = keras.layers.Dense(128, activation="relu", name="embedding")(features)
    return keras.Model(images, logits_layer(class_count)(embedding), name="cnn")
