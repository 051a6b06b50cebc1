"""Heatmaps that a person can compute: where a network found what speaks for a class."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from lib.models.grad_cam import GradCam
from lib.models.registry import build_network
from lib.models.spec import parse_spec
from tests.fakes.networks import write_random_weights

CLASS_COUNT = 3


def random_images(size: int, count: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def array(tensor: tf.Tensor) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor)


def heatmaps(network: keras.Model, images: np.ndarray, classes: list[int]) -> np.ndarray:
    grad_cam = GradCam.of(network)
    assert grad_cam is not None
    found = grad_cam(images, np.array(classes))
    assert found.dtype == np.float32
    assert found.shape[0] == len(images)
    assert found.min() >= 0
    assert found.max() <= 1
    return found


def built(text: str, size: int, head_units: int = 0) -> keras.Model:
    return build_network(parse_spec(text), CLASS_COUNT, size, 0, head_units).model


def normalised(heat: np.ndarray) -> np.ndarray:
    heat = np.maximum(heat, 0)
    greatest = heat.max(axis=(1, 2), keepdims=True)
    return np.divide(heat, greatest, out=np.zeros_like(heat), where=greatest > 0)


def applications_in(network: keras.Model) -> list[keras.Model]:
    inner = [layer for layer in network.layers if isinstance(layer, keras.Model)]
    return inner + [deeper for layer in inner for deeper in applications_in(layer)]


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SPEC whose weights let signals through."""
    file = tmp_path_factory.mktemp("weights") / "base.weights.h5"
    write_random_weights(file, "MobileNet", alpha=0.25, input_shape=(64, 64, 3))
    return f"mobilenet:alpha=0.25,weights={file}"


@pytest.fixture
def quadrants() -> np.ndarray:
    """One image: red at the top left, green at the top right, blue at the bottom left, else black."""
    image = np.zeros((1, 16, 16, 3), np.uint8)
    image[0, :8, :8, 0] = image[0, :8, 8:, 1] = image[0, 8:, :8, 2] = 200
    return image


def colour_network(kernel: np.ndarray) -> keras.Model:
    """Logits that are weighted sums of the mean of each colour, from a feature map of 4 x 4 places."""
    images = keras.Input((16, 16, 3), dtype="uint8")
    pixels = keras.layers.Rescaling(1 / 255)(images)
    convolution = keras.layers.Conv2D(3, 4, strides=4, use_bias=False)
    means = keras.layers.GlobalAveragePooling2D()(convolution(pixels))
    dense = keras.layers.Dense(kernel.shape[1], use_bias=False)
    network = keras.Model(images, dense(means))
    convolution.set_weights([np.tile(np.eye(3), (4, 4, 1, 1)) / 16])
    dense.set_weights([kernel])
    return network


@pytest.mark.parametrize("colour", [0, 1, 2])
def test_a_logit_that_reads_one_quadrant_is_hot_there_only(quadrants: np.ndarray, colour: int) -> None:
    (heatmap,) = heatmaps(colour_network(np.eye(3)), quadrants, [colour])
    expected = np.zeros((4, 4))
    rows, columns = [(slice(0, 2), slice(0, 2)), (slice(0, 2), slice(2, 4)), (slice(2, 4), slice(0, 2))][colour]
    expected[rows, columns] = 1
    np.testing.assert_allclose(heatmap, expected, atol=1e-6)


def test_what_speaks_less_for_a_class_is_less_hot_and_what_speaks_against_it_is_cold(quadrants: np.ndarray) -> None:
    (heatmap,) = heatmaps(colour_network(np.array([[4.0], [1.0], [-2.0]])), quadrants, [0])
    assert heatmap[:2, :2] == pytest.approx(np.ones((2, 2)))
    assert heatmap[:2, 2:] == pytest.approx(np.full((2, 2), 0.25))
    assert not heatmap[2:].any()


def test_where_nothing_speaks_for_a_class_the_heatmap_is_cold_all_over(quadrants: np.ndarray) -> None:
    assert not heatmaps(colour_network(-np.ones((3, 1))), quadrants, [0]).any()


def test_each_image_of_a_batch_has_the_heatmap_that_it_has_alone() -> None:
    network, images = built("cnn", 32), random_images(32)
    together = heatmaps(network, images, [2, 0, 1])
    alone = [heatmaps(network, images[[place]], [number])[0] for place, number in enumerate([2, 0, 1])]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)


def test_the_heatmap_of_the_small_network_is_that_of_its_last_pooling() -> None:
    network, images = built("cnn", 40), random_images(40)
    to_map = keras.Model(network.input, network.get_layer("pool_64").output)
    feature_map = tf.constant(array(to_map(images)))
    with tf.GradientTape() as tape:
        tape.watch(feature_map)
        hidden = network.get_layer("embedding")(network.get_layer("flatten")(feature_map))
        logit = tf.reduce_sum(network.get_layer("logits")(hidden)[:, 1])
    weights = array(tape.gradient(logit, feature_map)).mean(axis=(1, 2))
    expected = normalised(np.einsum("nk,nhwk->nhw", weights, array(feature_map)))
    found = heatmaps(network, images, [1, 1, 1])
    assert found.shape == (3, 5, 5)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("nested_twice", [False, True])
def test_the_map_of_a_transfer_model_is_inside_its_base(mobilenet: str, nested_twice: bool, tmp_path: Path) -> None:
    """Its logits are linear in the mean of the last map, so that the weight of a channel is that of its logit."""
    network, images = built(f"{mobilenet},taps=last", 64), random_images(64)
    if nested_twice:
        network.save(tmp_path / "model.keras")
        network = built(f"saved:path={tmp_path}", 64)
    application = applications_in(network)[-1]
    preprocess = keras.applications.mobilenet.preprocess_input
    to_map = keras.Model(application.input, application.get_layer("conv_pw_13_relu").output)
    feature_map = array(to_map(preprocess(images.astype(np.float32))))
    kernel, _ = network.get_layer("logits").get_weights()
    expected = normalised(np.einsum("kn,nhwk->nhw", kernel, feature_map))
    found = heatmaps(network, images, [0, 1, 2])
    assert found.shape == (3, 2, 2)
    assert found.max() == 1
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_map_of_one_place_is_passed_over_for_one_that_has_more(mobilenet: str) -> None:
    assert heatmaps(built(mobilenet, 32), random_images(32), [0, 1, 2]).shape == (3, 2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0", "resnet50_v2", "convnext_tiny"])
def test_networks_with_side_branches_have_a_heatmap(name: str) -> None:
    """Squeeze-and-excitation has maps of one place, residual networks add branches, ConvNeXt has networks in a row."""
    assert heatmaps(built(f"{name}:weights=none", 64), random_images(64, 1), [0]).shape == (1, 2, 2)


def test_a_network_whose_inside_is_closed_has_no_heatmap(tmp_path: Path) -> None:
    class Extractor(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])])
        def __call__(self, images: tf.Tensor) -> tf.Tensor:
            return tf.reduce_mean(images, axis=(1, 2))

    tf.saved_model.save(Extractor(), tmp_path)
    assert GradCam.of(built(f"hub:path={tmp_path}", 16)) is None


def test_making_heatmaps_leaves_the_network_as_it_was() -> None:
    network, images = built("cnn", 16), random_images(16)
    before, layers = array(network(images)), [layer.name for layer in network.layers]
    heatmaps(network, images, [0, 1, 2])
    np.testing.assert_array_equal(array(network(images)), before)
    assert [layer.name for layer in network.layers] == layers
    assert keras.Model(network.input, network.layers[-1].input)(images).shape == (3, 128)
