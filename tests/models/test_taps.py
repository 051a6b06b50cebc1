from pathlib import Path

import keras
import numpy as np
import pytest

from lib.models.grad_cam import GradCam
from lib.models.networks import KERAS_NETWORKS
from lib.models.registry import Network, build_network
from lib.models.spec import parse_spec
from lib.models.taps import find_taps
from tests.fakes.networks import write_random_weights

SIZE = 64


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        (
            "mobilenet", {"alpha": 0.25},
            ["conv_pw_1_relu", "conv_pw_3_relu", "conv_pw_5_relu", "conv_pw_11_relu", "conv_pw_13_relu"],
        ),
        (
            "mobilenet_v2", {"alpha": 0.35},
            ["block_1_expand_relu", "block_2_add", "block_5_add", "block_12_add", "out_relu"],
        ),
        ("vgg16", {}, ["block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3", "block5_pool"]),
        (
            "resnet50", {},
            ["conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out"],
        ),
    ],
)  # fmt: skip
def test_taps_are_the_ends_of_resolutions(name: str, options: dict[str, float], expected: list[str]) -> None:
    network = getattr(keras.applications, KERAS_NETWORKS[name].function)(
        include_top=False, weights=None, input_shape=(SIZE, SIZE, 3), **options
    )
    taps = find_taps(network)
    assert list(taps) == expected
    sides = [tensor.shape[1] for tensor in taps.values()]
    assert sides == sorted(set(sides), reverse=True)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "m.weights.h5"
    write_random_weights(file, "MobileNet", alpha=0.25, input_shape=(SIZE, SIZE, 3))
    return file


def built(weights: Path, more: str = "", **options: bool) -> Network:
    return build_network(parse_spec(f"mobilenet:alpha=0.25,weights={weights}{more}"), 3, SIZE, 0, **options)


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)


def network_of(weights: Path) -> keras.Model:
    network = keras.applications.MobileNet(alpha=0.25, include_top=False, weights=None, input_shape=(SIZE, SIZE, 3))
    network.load_weights(weights)
    return network


def test_features_are_means_and_deviations_over_space(weights: Path) -> None:
    found, network = built(weights), network_of(weights)
    maps = keras.Model(network.input, list(find_taps(network).values()))(pixels() / np.float32(127.5) - 1)
    parts = [part for one in maps for part in (np.mean(one, axis=(1, 2)), np.std(one, axis=(1, 2)))]
    np.testing.assert_allclose(found.base(pixels()), np.concatenate(parts, axis=1), atol=2e-3)
    assert sum(found.taps.values()) == found.base.output_shape[1]
    assert list(found.taps) == list(find_taps(network))


def test_the_last_layer_alone_is_what_keras_pools(weights: Path) -> None:
    found = built(weights, ",taps=last")
    maps = network_of(weights)(pixels() / np.float32(127.5) - 1)
    np.testing.assert_allclose(found.base(pixels()), np.mean(maps, axis=(1, 2)), atol=1e-5)
    assert found.taps == {}


def test_the_saved_model_is_plain_keras_and_says_the_same(weights: Path, tmp_path: Path) -> None:
    model = built(weights, standardises=True).model
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(pixels()), model(pixels()), atol=1e-5)


def test_heatmaps_are_of_the_last_map_whatever_is_tapped_before(weights: Path) -> None:
    heatmaps = [GradCam.of(built(weights, more).model) for more in ("", ",taps=last")]
    classes = np.zeros(2, np.int64)
    assert [heatmap(pixels(), classes).shape for heatmap in heatmaps if heatmap] == [(2, 2, 2)] * 2


def test_in_half_precision_heatmaps_are_of_the_last_map_too(weights: Path) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        heatmap = GradCam.of(built(weights).model)
    finally:
        keras.config.set_dtype_policy(before)
    assert heatmap is not None
    assert heatmap(pixels(), np.zeros(2, np.int64)).shape == (2, 2, 2)
