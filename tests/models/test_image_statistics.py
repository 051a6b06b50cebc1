"""What a network is told of its training images before it learns."""

import numpy as np
import pytest

from lib.models.registry import build_network, input_normalisation, set_weights
from lib.models.spec import parse_spec
from lib.training.fit.image_statistics import channel_statistics


def test_channel_statistics_are_those_of_the_pixels() -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, [200, 256, 3], (1000, 3))
    counts = np.stack([np.bincount(channel, minlength=256) for channel in pixels.T])
    mean, deviation = channel_statistics(counts)
    np.testing.assert_allclose(mean, pixels.mean(axis=0) / 255)
    np.testing.assert_allclose(deviation, pixels.std(axis=0) / 255)


def test_weights_that_are_set_are_those_that_a_normalisation_computes_with() -> None:
    image = np.full((1, 16, 16, 3), 200, np.uint8)
    first, second = (build_network(parse_spec("cnn"), 3, 16, seed) for seed in (0, 1))
    layer = input_normalisation(first)
    assert layer is not None
    layer.adapt(np.array([[[[0.1, 0.2, 0.3], [0.7, 0.6, 0.9]]]]))
    set_weights(second.model, first.model.get_weights())
    np.testing.assert_array_equal(second.model(image), first.model(image))


@pytest.mark.parametrize(
    ("text", "has"), [("cnn", True), ("cnn:normalise=none", False), ("mobilenet:alpha=0.25,weights=none", False)]
)
def test_the_cnn_alone_standardises_its_channels_unless_told_not_to(text: str, has: bool) -> None:
    assert (input_normalisation(build_network(parse_spec(text), 3, 32, 0)) is not None) == has
