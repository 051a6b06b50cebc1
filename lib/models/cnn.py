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


def build_cnn_bn(class_count: int, image_size: int) -> keras.Model:
    """Four convolutions with batch normalisation and max pooling, then the mean over space: trained from scratch.

    What a small network of today can do without pre-training, to compare pre-trained ones with.

    Returns:
        A model from uint8 RGB (n, image_size, image_size, 3) to logits (n, class_count).
    """
    images = image_input(image_size)
    features = keras.layers.Rescaling(1 / 255, name="rescaling")(images)
    features = keras.layers.Normalization(name="normalisation")(features)
    for number, filters in enumerate((16, 32, 64, 128), 1):
        features = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv_{number}")(features)
        features = keras.layers.BatchNormalization(name=f"norm_{number}")(features)
        features = keras.layers.ReLU(name=f"relu_{number}")(features)
        features = keras.layers.MaxPooling2D(name=f"pool_{number}")(features)
    embedding = keras.layers.GlobalAveragePooling2D(name="embedding")(features)
    return keras.Model(images, logits_layer(class_count)(embedding), name="cnn_bn")
