"""What the networks are: known by their right names, built as documented, the same after saving and loading."""

import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from lib.errors import TissueError
from lib.models.networks import KERAS_NETWORKS
from lib.models.registry import Network, build_base, build_network, unfreeze
from lib.models.spec import parse_spec
from lib.training.fit.synchronous import SynchronousModel
from lib.training.workers.peers import Peers
from tests.fakes.networks import write_random_weights

CLASS_COUNT = 3
QUICK = ("mobilenet", "vgg16")
TRAINED = (*QUICK, "inception_v3", "mobilenet_v2", "efficientnet_b0", "resnet50")
REPEATS_OF_OTHERS = (
    *("convnext_base", "convnext_large", "convnext_xlarge", "densenet169", "densenet201"),
    *("efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7"),
    *("efficientnet_v2_m", "efficientnet_v2_l", "nasnet_large", "resnet152", "resnet152_v2"),
)
"""Not built in tests: 3 to 6 s each, up to 1.4 GB, for more blocks, or wider ones, of the code that builds another. All
of them were built and run once where this was written."""


SCALING_OF_IMAGENET = re.compile(r'if weights == "imagenet":\n(\s+#.*\n)*\s+x = layers\.Rescaling')


def images(size: int, count: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def quick_and_slow(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


def applications() -> list[str]:
    return [name for name in dir(keras.applications) if name[0].isupper()]


def smallest_input(function: str) -> int:
    """The least side of an input without classifier, as Keras's own source states it."""
    source = inspect.getsource(inspect.getmodule(getattr(keras.applications, function)))
    stated = set(map(int, re.findall(r"min_size=(\d+)", source)))
    return stated.pop() if len(stated) == 1 else 32


def array(tensor: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor)


def built(text: str, size: int = 16, seed: int = 0, head_units: int = 0) -> Network:
    return build_network(parse_spec(text), CLASS_COUNT, size, seed, head_units)


def base_of(network: Network) -> keras.Model:
    assert network.base is not None
    return network.base


def application_in(base: keras.Model) -> keras.Model:
    return next(layer for layer in base.layers if isinstance(layer, keras.Model))


def train_once(network: keras.Model, size: int) -> None:
    model = SynchronousModel(network, Peers(0, 1), part_sizes=[4])
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    model.train_on_batch(images(size, 4), np.array([0, 1, 2, 0], np.int32), np.ones(4, np.float32))


def changed(before: list[np.ndarray], after: list[np.ndarray]) -> list[bool]:
    return [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SPEC whose weights are in a file."""
    file = tmp_path_factory.mktemp("weights") / "base.weights.h5"
    write_random_weights(file, "MobileNet", alpha=0.25, input_shape=(32, 32, 3))
    return f"mobilenet:alpha=0.25,weights={file}"


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
    assert network.scales_imagenet == bool(SCALING_OF_IMAGENET.search(inspect.getsource(inspect.getmodule(function))))


@pytest.mark.parametrize("name", quick_and_slow(name for name in KERAS_NETWORKS if name not in REPEATS_OF_OTHERS))
def test_a_keras_application_is_built_and_has_finite_features(name: str) -> None:
    keras.backend.clear_session()
    size = KERAS_NETWORKS[name].smallest
    base = build_base(parse_spec(f"{name}:weights=none"), size)
    features = array(base(images(size)))
    assert features.shape == (2, base.output_shape[1])
    assert np.isfinite(features).all()


def test_applications_that_are_not_built_here_share_their_code_with_one_that_is() -> None:
    built_here = {network.module for name, network in KERAS_NETWORKS.items() if name not in REPEATS_OF_OTHERS}
    assert {KERAS_NETWORKS[name].module for name in REPEATS_OF_OTHERS} <= built_here


def test_the_cnn_is_the_one_of_the_notebook() -> None:
    network = built("cnn:normalise=none", 180).model
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
    normalised = [type(layer).__name__ for layer in built("cnn", 180).model.layers]
    assert normalised.pop(2) == "Normalization"
    assert normalised == [type(layer).__name__ for layer in network.layers]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, same, other = (built("cnn", seed=seed).model.get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_where_all_of_a_network_is_trained_its_head_is_the_network() -> None:
    for text in ("cnn", "mobilenet:alpha=0.25,weights=none"):
        network = built(text, 32)
        assert network.base is None
        assert network.head is network.model
        assert len(network.model.trainable_variables) > 2


@pytest.mark.parametrize("name", quick_and_slow(TRAINED))
def test_a_transfer_network_is_trained_on_features_and_saved_as_one(name: str, tmp_path: Path) -> None:
    keras.backend.clear_session()
    size, file = KERAS_NETWORKS[name].smallest, tmp_path / "base_notop.weights.h5"
    write_random_weights(file, KERAS_NETWORKS[name].function, input_shape=(size, size, 3))
    network, pixels = built(f"{name}:weights={file}", size), images(size)
    base, before = base_of(network), base_of(network).get_weights()
    assert [variable.path for variable in network.model.trainable_variables] == ["logits/kernel", "logits/bias"]
    features = array(base(pixels, training=False))
    assert features.dtype == np.float32
    assert np.ptp(features, axis=0).max() > 0.01 * np.abs(features).max()  # images differ in their features
    np.testing.assert_array_equal(array(build_base(parse_spec(f"{name}:weights={file}"), size)(pixels)), features)

    head_before = network.head.get_weights()
    train_once(network.model, size)
    assert not any(changed(before, base.get_weights()))
    assert all(changed(head_before, network.head.get_weights()))
    logits = array(network.model(pixels, training=False))
    np.testing.assert_allclose(array(network.head(features)), logits, rtol=1e-4, atol=1e-5)

    network.model.save(tmp_path / "model.keras")
    opened = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert (opened.input_shape, opened.inputs[0].dtype) == ((None, size, size, 3), "uint8")
    np.testing.assert_allclose(array(opened(pixels, training=False)), logits, rtol=1e-4, atol=1e-5)
    embedding = keras.Model(opened.input, opened.layers[-1].input)
    found = array(embedding(pixels, training=False))
    np.testing.assert_allclose(found, features, atol=1e-5 * np.abs(features).max())


def test_a_hidden_layer_of_the_head_is_the_embedding_of_the_saved_model(mobilenet: str, tmp_path: Path) -> None:
    network, pixels = built(mobilenet, 32, head_units=7), images(32)
    assert [layer.name for layer in network.model.layers] == ["images", "base", "hidden", "logits"]
    np.testing.assert_allclose(
        array(network.head(base_of(network)(pixels))), array(network.model(pixels)), rtol=1e-5, atol=1e-6
    )
    network.model.save(tmp_path / "model.keras")
    opened = keras.saving.load_model(tmp_path / "model.keras")
    hidden = array(keras.Model(opened.input, opened.layers[-1].input)(pixels))
    assert hidden.shape == (2, 7)
    assert (hidden >= 0).all()


def test_the_head_trains_the_layers_of_the_model(mobilenet: str) -> None:
    network, pixels = built(mobilenet, 32), images(32, 4)
    features, before = array(base_of(network)(pixels)), array(network.model(pixels))
    model = SynchronousModel(network.head, Peers(0, 1), part_sizes=[4])
    model.compile(optimizer=keras.optimizers.Adam(0.1))
    model.train_on_batch(features, np.array([0, 1, 2, 0], np.int32), np.ones(4, np.float32))
    after = array(network.model(pixels))
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, array(network.head(features)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_gives_float32_features_and_logits(mobilenet: str, policy: str) -> None:
    plain, pixels = built(mobilenet, 32, head_units=5), images(32)
    keras.config.set_dtype_policy(policy)
    try:
        mixed = built(mobilenet, 32, head_units=5)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {output.dtype for output in application_in(base_of(mixed)).outputs} == {policy.removeprefix("mixed_")}
    assert {base_of(mixed).output.dtype, mixed.head.output.dtype, mixed.model.output.dtype} == {"float32"}
    assert {weight.dtype for weight in mixed.model.weights} == {"float32"}
    assert not any(changed(plain.model.get_weights(), mixed.model.get_weights()))
    exact, rough = (array(base_of(network)(pixels)) for network in (plain, mixed))
    assert not np.array_equal(exact, rough)
    np.testing.assert_allclose(rough, exact, rtol=0.1, atol=0.1 * exact.max())


def test_fine_tuning_trains_the_last_layers_and_no_batch_normalisation(mobilenet: str) -> None:
    network = built(mobilenet, 32)
    variables = unfreeze(network, 3)
    names = ["conv_pw_12/kernel", "conv_dw_13/kernel", "conv_pw_13/kernel"]
    assert [variable.path for variable in variables] == names
    trained = {variable.path for variable in network.model.trainable_variables}
    assert trained == {*names, "logits/kernel", "logits/bias"}
    before = [array(weight) for weight in network.model.weights]
    train_once(network.model, 32)
    after = [array(weight) for weight in network.model.weights]
    moved = {
        weight.path
        for weight, is_changed in zip(network.model.weights, changed(before, after), strict=True)
        if is_changed
    }
    assert moved == trained


def test_fine_tuning_more_layers_than_there_are_trains_all_but_batch_normalisation(mobilenet: str) -> None:
    network = built(mobilenet, 32)
    assert len(unfreeze(network, 1000)) == 27  # 1 convolution, then 13 times a depthwise and a pointwise one
    with pytest.raises(ValueError, match="all of this network is trained already"):
        unfreeze(built("cnn"), 1)


def test_a_fine_tuned_model_is_saved_whole(mobilenet: str, tmp_path: Path) -> None:
    network, pixels = built(mobilenet, 32), images(32)
    unfreeze(network, 2)
    train_once(network.model, 32)
    network.model.save(tmp_path / "model.keras")
    opened = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(array(opened(pixels)), array(network.model(pixels)), rtol=1e-5, atol=1e-6)
    assert not np.allclose(array(built(mobilenet, 32).base(pixels)), array(base_of(network)(pixels)))


@pytest.mark.parametrize("name", ["vgg16", "mobilenet:alpha=0.25", "densenet121"])
def test_the_preprocessing_inside_is_that_of_keras(name: str) -> None:
    """VGG wants BGR without the mean, MobileNet -1 to 1, DenseNet the mean and deviation of ImageNet."""
    spec = parse_spec(f"{name}{',' if ':' in name else ':'}weights=none")
    base, pixels = build_base(spec, 32), images(32)
    inside = keras.Model(base.input, _input_of(application_in(base)))
    preprocess = getattr(keras.applications, KERAS_NETWORKS[spec.name].module).preprocess_input
    expected = preprocess(pixels.astype(np.float32).copy())
    np.testing.assert_allclose(array(inside(pixels)), expected, atol=1e-5)


def _input_of(application: keras.Model) -> keras.KerasTensor:
    """What a network is fed with inside a base."""
    return application._inbound_nodes[-1].input_tensors[0]


def test_weights_from_a_file_are_scaled_for_as_those_that_keras_downloads(tmp_path: Path) -> None:
    """EfficientNet divides by the square root of the deviation once more, but only where Keras fetches its weights."""
    file = write_random_weights(tmp_path / "b0.weights.h5", "EfficientNetB0", input_shape=(32, 32, 3))
    scales = [
        [layer.scale for layer in application_in(base).layers if isinstance(layer, keras.layers.Rescaling)]
        for base in (build_base(parse_spec(f"efficientnet_b0:weights={weights}"), 32) for weights in (file, "none"))
    ]
    assert scales[1] == [1 / 255]
    assert scales[0] == [1 / 255, pytest.approx(1 / np.sqrt([0.229, 0.224, 0.225]))]


def test_an_earlier_model_is_frozen_under_a_new_head(tmp_path: Path) -> None:
    earlier = build_network(parse_spec("cnn"), 5, 16, seed=0).model
    earlier.save(tmp_path / "model.keras")
    network = built(f"saved:path={tmp_path}", seed=1)
    assert [variable.path for variable in network.model.trainable_variables] == ["logits/kernel", "logits/bias"]
    pixels = images(16)
    embedding = array(keras.Model(earlier.input, earlier.layers[-1].input)(pixels))
    np.testing.assert_allclose(array(base_of(network)(pixels)), embedding, rtol=1e-5, atol=1e-6)
    kernel, bias = network.model.get_layer("logits").get_weights()
    np.testing.assert_allclose(array(network.model(pixels)), embedding @ kernel + bias, rtol=1e-4, atol=1e-5)
    assert [variable.path for variable in unfreeze(network, 1)] == ["embedding/kernel", "embedding/bias"]


def test_an_earlier_transfer_model_can_be_fine_tuned(mobilenet: str, tmp_path: Path) -> None:
    built(mobilenet, 32, head_units=4).model.save(tmp_path / "model.keras")
    network = built(f"saved:path={tmp_path}", 32)
    names = ["conv_pw_13/kernel", "hidden/kernel", "hidden/bias"]
    assert [variable.path for variable in unfreeze(network, 2)] == names


def test_weights_that_do_not_fit_are_refused_by_name(mobilenet: str) -> None:
    with pytest.raises(TissueError, match=r"base\.weights\.h5 do not fit mobilenet"):
        built(mobilenet.replace("0.25", "0.5"), 32)
