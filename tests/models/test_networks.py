"""What the networks are: known by their right names, built as documented, the same after saving and loading."""

import inspect
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from lib.errors import TissueError
from lib.models.registry import build_network
from lib.models.spec import KERAS_NETWORKS, parse_spec
from lib.training.synchronous import SynchronousModel

CLASS_COUNT = 3


def images(size: int, count: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def applications() -> list[str]:
    return [name for name in dir(keras.applications) if name[0].isupper()]


def smallest_input(function: str) -> int:
    """The least side of an input without classifier, as Keras's own source states it."""
    source = inspect.getsource(inspect.getmodule(getattr(keras.applications, function)))
    stated = set(map(int, re.findall(r"min_size=(\d+)", source)))
    return stated.pop() if len(stated) == 1 else 32


def base_of(network: keras.Model) -> keras.Model:
    return next(layer for layer in network.layers if isinstance(layer, keras.Model))


def test_every_keras_application_has_a_name_here() -> None:
    assert sorted(network.function for network in KERAS_NETWORKS.values()) == sorted(applications())


@pytest.mark.parametrize("name", KERAS_NETWORKS)
def test_a_network_is_described_as_keras_describes_it(name: str) -> None:
    network = KERAS_NETWORKS[name]
    function = getattr(keras.applications, network.function)
    assert callable(getattr(keras.applications, network.module).preprocess_input)
    assert function.__module__.rsplit(".", 1)[-1] == network.module
    assert network.smallest == smallest_input(network.function)
    assert network.has_alpha == ("alpha" in inspect.signature(function).parameters)
    assert name.replace("_", "") == network.function.lower()


def test_the_cnn_is_the_one_of_the_notebook() -> None:
    network = build_network(parse_spec("cnn"), CLASS_COUNT, 180, seed=0)
    assert [(type(layer).__name__, layer.output.shape[1:]) for layer in network.layers] == [
        ("InputLayer", (180, 180, 3)),
        ("Rescaling", (180, 180, 3)),
        ("Conv2D", (180, 180, 16)),
        ("MaxPooling2D", (90, 90, 16)),
        ("Conv2D", (90, 90, 32)),
        ("MaxPooling2D", (45, 45, 32)),
        ("Conv2D", (45, 45, 64)),
        ("MaxPooling2D", (22, 22, 64)),
        ("Flatten", (22 * 22 * 64,)),
        ("Dense", (128,)),
        ("Dense", (CLASS_COUNT,)),
    ]
    assert [layer.kernel_size for layer in network.layers if isinstance(layer, keras.layers.Conv2D)] == [(3, 3)] * 3
    rescaling = network.layers[1]
    assert (rescaling.scale, rescaling.offset) == (1 / 255, 0.0)
    assert network.layers[-1].activation is keras.activations.linear


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, same, other = (build_network(parse_spec("cnn"), CLASS_COUNT, 16, seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(("name", "size"), [("vgg16", 32), ("inception_v3", 75)])
def test_a_transfer_network_takes_weights_from_a_file_and_is_the_same_after_loading(
    name: str, size: int, tmp_path: Path
) -> None:
    scratch = build_network(parse_spec(f"{name}:weights=none"), CLASS_COUNT, size, seed=3)
    assert base_of(scratch).trainable
    weights = tmp_path / "base_notop.weights.h5"
    base_of(scratch).save_weights(weights)

    frozen = build_network(parse_spec(f"{name}:weights={weights}"), CLASS_COUNT, size, seed=4)
    assert [variable.path for variable in frozen.trainable_variables] == ["logits/kernel", "logits/bias"]
    for loaded, saved in zip(base_of(frozen).get_weights(), base_of(scratch).get_weights(), strict=True):
        np.testing.assert_array_equal(loaded, saved)

    frozen.save(tmp_path / "model.keras")
    opened = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert opened.input_shape == (None, size, size, 3)
    assert opened.inputs[0].dtype == "uint8"
    pixels = images(size)
    expected = keras.ops.convert_to_numpy(frozen(pixels, training=False))
    assert expected.shape == (2, CLASS_COUNT)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(opened(pixels, training=False)), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["vgg16", "mobilenet:alpha=0.25", "densenet121"])
def test_the_preprocessing_inside_is_that_of_keras(name: str) -> None:
    """VGG wants BGR without the mean, MobileNet -1 to 1, DenseNet the mean and deviation of ImageNet."""
    spec = parse_spec(f"{name}{',' if ':' in name else ':'}weights=none")
    network = build_network(spec, CLASS_COUNT, 32, seed=0)
    base, pixels = base_of(network), images(32)
    inside = keras.Model(network.input, _input_of(base))
    preprocess = getattr(keras.applications, KERAS_NETWORKS[spec.name].module).preprocess_input
    expected = preprocess(pixels.astype(np.float32).copy())
    np.testing.assert_allclose(keras.ops.convert_to_numpy(inside(pixels)), expected, atol=1e-5)


def _input_of(base: keras.Model) -> keras.KerasTensor:
    """What the base is fed with inside a network."""
    return base._inbound_nodes[-1].input_tensors[0]


def test_frozen_batch_normalisation_keeps_its_statistics_while_the_head_is_trained(tmp_path: Path) -> None:
    scratch = build_network(parse_spec("mobilenet:alpha=0.25,weights=none"), CLASS_COUNT, 32, seed=0)
    base_of(scratch).save_weights(tmp_path / "base.weights.h5")
    network = build_network(
        parse_spec(f"mobilenet:alpha=0.25,weights={tmp_path}/base.weights.h5"), CLASS_COUNT, 32, seed=0
    )
    model = SynchronousModel(network, world_size=1, part_sizes=[4])
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    before, head = base_of(network).get_weights(), network.get_layer("logits").get_weights()
    labels, weights = np.array([0, 1, 2, 0], np.int32), np.ones(4, np.float32)
    model.train_on_batch(images(32, 4), labels, weights)
    assert all(np.array_equal(a, b) for a, b in zip(before, base_of(network).get_weights(), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(head, network.get_layer("logits").get_weights(), strict=True))


def test_an_earlier_model_is_frozen_under_a_new_head(tmp_path: Path) -> None:
    earlier = build_network(parse_spec("cnn"), 5, 16, seed=0)
    earlier.save(tmp_path / "model.keras")
    network = build_network(parse_spec(f"saved:path={tmp_path}"), CLASS_COUNT, 16, seed=1)
    assert [variable.path for variable in network.trainable_variables] == ["logits/kernel", "logits/bias"]
    pixels = images(16)
    embedding = keras.Model(earlier.input, earlier.layers[-1].input)(pixels)
    kernel, bias = network.get_layer("logits").get_weights()
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(network(pixels)),
        keras.ops.convert_to_numpy(embedding) @ kernel + bias,
        rtol=1e-4,
        atol=1e-5,
    )


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    other = build_network(parse_spec("mobilenet:alpha=0.25,weights=none"), CLASS_COUNT, 32, seed=0)
    base_of(other).save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(TissueError, match=r"other\.weights\.h5 do not fit mobilenet"):
        build_network(parse_spec(f"mobilenet:alpha=0.5,weights={tmp_path}/other.weights.h5"), CLASS_COUNT, 32, seed=0)
