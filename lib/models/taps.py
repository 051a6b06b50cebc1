"""Where a frozen network is listened to: at the end of each resolution, not only after its last layer.

The last layer of a network knows the objects that it was trained on; tissue is texture, which the layers before it
know better. They cost nothing, since the one pass through the network computes them anyway.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras

BORDERS = (keras.layers.ZeroPadding2D, keras.layers.Cropping2D)
"""What they give is no map of the image any more: its places are shifted."""
MAP_RANK = 4
LEAST_CHANNELS = 4
"""Fewer are the pixels themselves, scaled."""
VARIANCE_FLOOR = 1e-6
"""Keeps the slope of the square root finite where a map is the same everywhere."""


class _Place(NamedTuple):
    """A feature map that all of the image passes through, and whether it joins branches or is an activation."""

    name: str
    tensor: keras.KerasTensor
    joins: bool
    activates: bool


def find_taps(network: keras.Model) -> dict[str, keras.KerasTensor]:
    """The end of each resolution of a network, and its last layer, by the names of the layers.

    A resolution is all that is about as large as the image, half of it, a quarter, and so on. Its end is the last place
    in it that all of the image passes through: the last sum or concatenation of branches, with which blocks of residual
    and dense networks end, or else the last layer before the image is made smaller.

    Args:
        network: From images (n, size, size, channels) to a feature map (n, h, w, channels), without pooling.

    Returns:
        Feature maps (n, h, w, channels), from the largest to the smallest.
    """
    size, stages = int(network.input_shape[1]), dict[int, list[_Place]]()
    for place in _bottlenecks(network):
        stages.setdefault(round(math.log2(size / place.tensor.shape[1])), []).append(place)
    *earlier, _ = [places for _, places in sorted(stages.items())]
    last = network.operations[-1]
    return {end.name: end.tensor for end in map(_end, earlier)} | {last.name: last.output}


def _end(places: Sequence[_Place]) -> _Place:
    """The last place that joins branches, or the activation that follows it; without any, the last one."""
    join = max((number for number, place in enumerate(places) if place.joins), default=len(places) - 1)
    following = places[join + 1 : join + 2]
    return following[0] if following and following[0].activates else places[join]


def spatial_statistics(feature_map: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Mean and standard deviation over the places of a feature map (n, h, w, c): two tensors (n, c), float32."""
    exact = keras.ops.cast(feature_map, "float32")
    variance = keras.ops.var(exact, axis=(1, 2))
    return [keras.ops.mean(exact, axis=(1, 2)), keras.ops.sqrt(variance + VARIANCE_FLOOR)]


def _bottlenecks(network: keras.Model) -> Iterator[_Place]:
    """The feature maps after which nothing looks back at what came before them."""
    operations = list(network.operations)
    number_of = {id(tensor): number for number, operation in enumerate(operations) for tensor in _outputs(operation)}
    sources = [
        [number_of[id(tensor)] for tensor in keras.tree.flatten(operation.input)] if number else []
        for number, operation in enumerate(operations)
    ]
    looks_back_to = len(operations)
    places = []
    for number in reversed(range(len(operations))):
        operation = operations[number]
        if looks_back_to >= number and _is_feature_map(operation):
            activates = isinstance(operation, keras.layers.Activation | keras.layers.ReLU)
            places.append(_Place(operation.name, operation.output, len(set(sources[number])) > 1, activates))
        looks_back_to = min([looks_back_to, *sources[number]])
    yield from reversed(places)


def _outputs(operation: Any) -> list[keras.KerasTensor]:
    return list(keras.tree.flatten(operation.output))


def _is_feature_map(operation: Any) -> bool:
    shape: tuple[int | None, ...] = getattr(operation.output, "shape", ())
    if isinstance(operation, BORDERS):
        return False
    if len(shape) != MAP_RANK or None in shape[1:]:
        return False
    _, height, _, channels = shape
    return height > 1 and channels >= LEAST_CHANNELS  # type: ignore[operator]
