"""From a SPEC to Keras models: the whole network, its frozen base, and the head that is trained."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from lib.errors import SettingsError
from lib.models.applications import base_taps, build_application_base, build_saved_base
from lib.models.cnn import build_cnn, build_cnn_bn
from lib.models.hub import build_hub_base
from lib.models.inputs import image_input, logits_layer
from lib.models.keras_hub_encoder import build_keras_hub_base
from lib.models.onnx_encoder import build_onnx_base
from lib.models.softmax_regression import LinearHead
from lib.models.spec import CNN_BN, HUB, KERAS_HUB, ONNX, OWN, SAVED, ModelSpec
from lib.storage.location import Location

STANDARDISE = "standardise"
"""The layer that brings features to mean 0 and deviation 1."""


@dataclass(frozen=True)
class Network:
    """A network and the parts of it that are trained apart; they share their layers.

    Attributes:
        model: From uint8 RGB (n, image_size, image_size, 3) to logits, float32 (n, classes). This is what is saved; the
            input of its last layer is the embedding of an image.
        base: Frozen, from the same images to features, float32 (n, d); None where all of the network is trained.
        head: From features to logits; `model` itself where there is no base.
        taps: How many features each layer gives that they are made from, by its name; empty for one output.
    """

    model: keras.Model
    base: keras.Model | None
    head: keras.Model
    taps: Mapping[str, int] = field(default_factory=dict)


def build_network(
    spec: ModelSpec, class_count: int, image_size: int, seed: int, head_units: int = 0, *, standardises: bool = False
) -> Network:
    """Build a network with the same weights on every worker, in the precision that Keras is set to.

    Args:
        class_count: Number of classes.
        image_size: Side of the square images in pixels.
        seed: Seed of the initial weights.
        head_units: Units of a hidden layer before the logits; 0 for none. Networks of our own have a head of their own.
        standardises: Whether a head on a frozen base begins with a `Normalization` layer (see `set_head`).

    Raises:
        TissueError: If the weights cannot be had or do not fit.
    """
    keras.utils.set_random_seed(seed)
    if spec.name in OWN:
        model = _own_network(spec, class_count, image_size)
        return Network(model, None, model)
    base = build_base(spec, image_size)
    base.trainable = not spec.has_frozen_base
    layers = _head_layers(class_count, head_units, standardises and spec.has_frozen_base)
    images = image_input(image_size)
    model = keras.Model(images, _through(layers, base(images)), name=spec.name)
    if not spec.has_frozen_base:
        return Network(model, None, model)
    features = keras.Input(base.output_shape[1:], dtype="float32", name="features")
    return Network(model, base, keras.Model(features, _through(layers, features), name="head"), base_taps(spec, base))


def _own_network(spec: ModelSpec, class_count: int, image_size: int) -> keras.Model:
    if spec.name == CNN_BN:
        return build_cnn_bn(class_count, image_size)
    return build_cnn(class_count, image_size, spec.normalises)


def build_base(spec: ModelSpec, image_size: int) -> keras.Model:
    """The part of a network that comes from elsewhere, with its preprocessing inside.

    Args:
        spec: Any model but those of our own, which have no base.
        image_size: Side of the square images in pixels.

    Returns:
        A model from uint8 RGB (n, image_size, image_size, 3) to features, float32 (n, d).

    Raises:
        TissueError: If the weights cannot be had or do not fit.
    """
    if spec.name == SAVED:
        return build_saved_base(Location(spec.weights))
    if spec.name == HUB:
        return build_hub_base(spec, image_size)
    if spec.name == ONNX:
        return build_onnx_base(spec, image_size)
    if spec.name == KERAS_HUB:
        return build_keras_hub_base(spec, image_size)
    return build_application_base(spec, image_size)


def _head_layers(class_count: int, units: int, standardises: bool) -> list[keras.layers.Layer]:
    standardise = [keras.layers.Normalization(name=STANDARDISE, dtype="float32")] if standardises else []
    hidden = [keras.layers.Dense(units, activation="relu", name="hidden")] if units else []
    return [*standardise, *hidden, logits_layer(class_count)]


def set_head(network: Network, head: LinearHead) -> None:
    """Give a network that standardises its features a head that was solved."""
    standardise, logits = network.head.layers[1:]
    standardise.set_weights([head.standardisation.mean, head.standardisation.deviation**2, np.array(0)])
    logits.set_weights([head.kernel, head.bias])
    finalise_normalisation(network.head)


def _through(layers: Sequence[keras.layers.Layer], inputs: keras.KerasTensor) -> keras.KerasTensor:
    return reduce(lambda tensor, layer: layer(tensor), layers, inputs)


def set_weights(network: keras.Model, values: Sequence[npt.NDArray[Any]]) -> None:
    """Assign all weights of a network, and have its normalisation use them.

    Args:
        network: Changed in place.
        values: What `get_weights` of the same network gave.
    """
    network.set_weights(values)
    finalise_normalisation(network)


def finalise_normalisation(network: keras.Model) -> None:
    """Have `Normalization` layers use the weights that they hold.

    Needed after any assignment to them, and before the network is traced: Keras computes with copies, which it makes
    when a layer is built, adapted or loaded, and not when its weights are set.
    """
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def input_normalisation(network: Network) -> keras.layers.Normalization | None:
    """The layer that standardises the channels of a network trained from scratch, if it has one.

    One inside a base or a head belongs to whoever made it, and is not meant.
    """
    layers = network.model.layers if network.base is None else []
    return next((layer for layer in layers if isinstance(layer, keras.layers.Normalization)), None)


def unfreeze(network: Network, layers: int) -> list[keras.Variable]:
    """Make the last layers of a frozen base trainable.

    Counted are layers that have weights to train. Batch normalisation is not and stays frozen, so that it goes on with
    the statistics of the images that the base was made from.

    Args:
        network: With a base; changed in place.
        layers: How many, from the end of the base, at least 1; all of them if it has fewer.

    Returns:
        The variables of the base that are trainable now, in the order of its layers.

    Raises:
        SettingsError: If the base has no such layers, as one from TF Hub.
    """
    if network.base is None:
        raise ValueError("all of this network is trained already")
    network.base.trainable = True
    leaves = list(_leaf_layers(network.base))
    chosen = [layer for layer in leaves if layer.trainable_variables and not _normalises_batches(layer)][-layers:]
    kept = {id(layer) for layer in chosen}
    for layer in leaves:
        layer.trainable = id(layer) in kept
    if not chosen:
        raise SettingsError(f"{network.model.name} has no layers to fine-tune; leave --fine-tune-epochs at 0")
    return [variable for layer in chosen for variable in layer.trainable_variables]


def trained_layers(base: keras.Model) -> list[list[keras.Variable]]:
    """The trainable variables of each layer of a base that has any, from input to output."""
    return [layer.trainable_variables for layer in _leaf_layers(base) if layer.trainable_variables]


def trained_batch_normalisation(network: keras.Model) -> list[keras.layers.BatchNormalization]:
    """The layers whose statistics follow the images that the network is trained on."""
    return [layer for layer in network._flatten_layers() if _normalises_batches(layer) and layer.trainable]


def _leaf_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers of a model and of the models inside it, from input to output."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaf_layers(layer)
        else:
            yield layer


def _normalises_batches(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)
