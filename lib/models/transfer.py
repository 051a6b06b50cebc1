"""Networks of others under a head of ours: Keras Applications, and earlier models of this project."""

import contextlib
import re
import sys

import keras

from lib.errors import TissueError
from lib.models.folder import load_network
from lib.models.inputs import image_input
from lib.models.spec import KERAS_NETWORKS, ModelSpec
from lib.storage.filesystem import Location


def build_transfer(spec: ModelSpec, class_count: int, image_size: int) -> keras.Model:
    """A Keras Applications network with its own preprocessing inside, global average pooling and a linear head.

    With weights the base is frozen, its batch normalisation included; with `weights=none` all of it is trained.

    Returns:
        A model from uint8 RGB (n, image_size, image_size, 3) to logits (n, class_count).

    Raises:
        TissueError: If the weights cannot be had or do not fit.
    """
    network = KERAS_NETWORKS[spec.name]
    module = getattr(keras.applications, network.module)
    base = _base(spec, image_size)
    images = image_input(image_size)
    pixels = module.preprocess_input(keras.ops.cast(images, "float32"))
    if spec.weights == "none":
        embedding = base(pixels)
    else:
        base.trainable = False
        embedding = base(pixels, training=False)
    return keras.Model(images, keras.layers.Dense(class_count, name="logits")(embedding), name=spec.name)


def build_on_saved(folder: Location, class_count: int) -> keras.Model:
    """An earlier model of ours, frozen up to the input of its last layer, with a new linear head.

    Returns:
        A model from uint8 RGB images of the earlier model's size to logits (n, class_count).
    """
    earlier = load_network(folder)
    base = keras.Model(earlier.input, earlier.layers[-1].input, name="base")
    base.trainable = False
    images = image_input(earlier.input_shape[1])
    return keras.Model(
        images, keras.layers.Dense(class_count, name="logits")(base(images, training=False)), name="saved"
    )


def _base(spec: ModelSpec, image_size: int) -> keras.Model:
    if spec.weights in {"imagenet", "none"}:
        return _construct(spec, image_size, None if spec.weights == "none" else "imagenet")
    with Location(spec.weights).as_local_file() as file:
        return _construct(spec, image_size, str(file))


def _construct(spec: ModelSpec, image_size: int, weights: str | None) -> keras.Model:
    network = KERAS_NETWORKS[spec.name]
    options = {"alpha": spec.alpha} if network.has_alpha else {}
    function = getattr(keras.applications, network.function)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where Keras shows how a download goes
            return function(
                include_top=False,
                pooling="avg",
                input_shape=(image_size, image_size, 3),
                weights=weights,
                **options,
            )
    except Exception as error:  # Keras raises a bare Exception for a download and several types for a wrong file
        if weights is None:
            raise
        raise TissueError(_weights_message(spec, error)) from error


def _weights_message(spec: ModelSpec, error: Exception) -> str:
    reason = " ".join(str(error).split())
    if missing := re.search(r"URL fetch failure on \S*/([^/\s]+?):? ", reason):
        return (
            f"the ImageNet weights of {spec.name} are not on this machine and cannot be downloaded; "
            f"put {missing.group(1)} into the folder models/ of KERAS_HOME (~/.keras unless set), "
            f"or give {spec.name}:weights=URI, or train from scratch with {spec.name}:weights=none"
        )
    return (
        f"the weights {spec.weights} do not fit {spec.name} without its classifier "
        f"(a *_no_top or *_notop file is needed): {reason[:300]}"
    )


def require_weights(spec: ModelSpec, image_size: int) -> None:
    """Make sure that a network's ImageNet weights are at hand, downloading them if need be.

    Raises:
        TissueError: If they cannot be had; the message names the file and where to put it.
    """
    _construct(spec, image_size, "imagenet")
