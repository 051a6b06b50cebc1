"""SavedModels as TF Hub offers them: used as a frozen base, kept whole in model.keras, refused by name if unfit."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from lib.errors import SettingsError
from lib.models.provenance import weights_digest
from lib.models.registry import Network, build_base, build_network, unfreeze
from lib.models.saved import load_network
from lib.models.spec import check_spec, parse_spec
from lib.storage.location import Location
from lib.training.fit.synchronous import SynchronousModel
from lib.training.workers.peers import Peers
from tests.fakes.networks import in_another_process

SIZE, WIDTH, CLASS_COUNT = 20, 6, 3


class Extractor(tf.Module):
    """A convolution and a mean over all pixels, of RGB values from 0 to 1."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.kernel = tf.Variable(random.normal(0, 1, (3, 3, 3, WIDTH)).astype(np.float32))

    def features(self, pixels: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(pixels, self.kernel, 2, "SAME")), (1, 2))


def export(
    folder: Path,
    outputs: Callable[[Extractor, tf.Tensor], dict[str, tf.Tensor]] = lambda module, x: {
        "features": module.features(x)
    },
    shape: tuple[int | None, ...] = (None, None, None, 3),
    dtype: tf.DType = tf.float32,
    signature: str | None = "serving_default",
) -> Path:
    """Write a SavedModel in the format of TF2 Hub."""
    module = Extractor()
    function = tf.function(lambda inputs: outputs(module, tf.cast(inputs, tf.float32)))
    concrete = function.get_concrete_function(tf.TensorSpec(shape, dtype, "inputs"))
    tf.saved_model.save(module, str(folder), signatures={signature: concrete} if signature else None)
    return folder


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("hub") / "extractor")


def network_on(folder: Path, options: str = "", size: int = SIZE) -> Network:
    return build_network(parse_spec(f"hub:path={folder}{options}"), CLASS_COUNT, size, seed=0)


def images(count: int = 4) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def array(tensor: tf.Tensor) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor)


def test_features_are_those_of_the_saved_model_for_values_from_0_to_1(saved_model: Path) -> None:
    network, pixels = network_on(saved_model), images()
    expected = Extractor().features(tf.constant(pixels, tf.float32) / 255).numpy()
    assert network.base is not None
    np.testing.assert_allclose(array(network.base(pixels)), expected, rtol=1e-5)
    np.testing.assert_allclose(array(network.head(expected)), array(network.model(pixels)), rtol=1e-4, atol=1e-6)
    assert [variable.path for variable in network.model.trainable_variables] == ["logits/kernel", "logits/bias"]


@pytest.mark.slow
def test_a_trained_model_is_the_same_in_a_fresh_process_without_the_saved_model(tmp_path: Path) -> None:
    folder = export(tmp_path / "extractor")
    network, pixels = network_on(folder).model, images()
    model = SynchronousModel(network, Peers(0, 1), part_sizes=[4])
    model.compile(optimizer=keras.optimizers.Adam(0.1))
    before = array(network(pixels))
    model.train_on_batch(pixels, np.array([0, 1, 2, 0], np.int32), np.ones(4, np.float32))
    trained = array(network(pixels))
    assert np.abs(trained - before).max() > 0.01
    network.save(tmp_path / "model.keras")
    folder.rename(tmp_path / "gone")
    logits, embeddings = in_another_process(tmp_path, pixels)
    assert embeddings.shape == (4, 6)
    np.testing.assert_allclose(logits, trained, rtol=1e-5, atol=1e-6)
    (tmp_path / "model.keras").unlink()
    (tmp_path / "again.keras").rename(tmp_path / "model.keras")
    reopened = load_network(Location(str(tmp_path)), trusts_saved_model=True)
    np.testing.assert_allclose(array(reopened(pixels)), trained, rtol=1e-5, atol=1e-6)


def test_a_model_on_a_saved_model_may_itself_be_built_on(saved_model: Path, tmp_path: Path) -> None:
    earlier, pixels = network_on(saved_model), images()
    assert earlier.base is not None
    expected = array(earlier.base(pixels))
    earlier.model.save(tmp_path / "model.keras")
    later = build_base(parse_spec(f"saved:path={tmp_path}"), SIZE)
    np.testing.assert_allclose(array(later(pixels)), expected, rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_saved_model_computes_in_its_own_precision(saved_model: Path, policy: str) -> None:
    plain, pixels = network_on(saved_model), images()
    keras.config.set_dtype_policy(policy)
    try:
        mixed = network_on(saved_model)
    finally:
        keras.config.set_dtype_policy("float32")
    assert mixed.base is not None
    assert plain.base is not None
    np.testing.assert_array_equal(array(mixed.base(pixels)), array(plain.base(pixels)))
    assert mixed.model.output.dtype == "float32"


def test_one_of_several_outputs_is_chosen_by_name(tmp_path: Path) -> None:
    export(tmp_path, lambda module, x: {"pooled": module.features(x), "doubled": 2 * module.features(x)})
    with pytest.raises(SettingsError, match="has the outputs doubled, pooled; choose one with output=KEY"):
        network_on(tmp_path)
    with pytest.raises(SettingsError, match="has no output 'logits'; it has doubled, pooled"):
        network_on(tmp_path, ",output=logits")
    pooled, doubled = (network_on(tmp_path, f",output={name}").base for name in ("pooled", "doubled"))
    assert pooled is not None
    assert doubled is not None
    np.testing.assert_allclose(2 * array(pooled(images())), array(doubled(images())), rtol=1e-6)


def test_a_saved_model_has_no_layers_to_fine_tune(saved_model: Path) -> None:
    with pytest.raises(SettingsError, match="no layers to fine-tune; leave --fine-tune-epochs at 0"):
        unfreeze(network_on(saved_model), 1)


@pytest.mark.parametrize(
    ("exported", "message"),
    [
        ({"shape": (None, 224, 224, 3)}, r"takes float32 \(None, 224, 224, 3\).*; try --image-size 224"),
        ({"shape": (1, SIZE, SIZE, 3)}, r"takes float32 \(1, 20, 20, 3\)"),
        ({"shape": (None, None, None, 1), "outputs": lambda _, x: {"a": x[:, 0, 0]}}, r"takes float32 \(None, None, N"),
        ({"dtype": tf.uint8}, r"takes uint8 .*; with --image-size 20 it must take float32 \(None, 20, 20, 3\)"),
        (
            {"outputs": lambda _, x: {"map": x}},
            r"output 'map' is float32 \(1, 20, 20, 3\) for one image; expected feat",
        ),
        ({"outputs": lambda _, x: {"a": tf.cast(x[:, 0, 0], tf.int32)}}, "output 'a' is int32"),
        ({"signature": None}, "no signature 'serving_default' to call it by, none at all; export it with"),
    ],
    ids=["other size", "fixed batch", "gray", "whole numbers", "feature map", "no floats", "no signature"],
)
def test_a_saved_model_that_does_not_fit_is_refused_in_one_line(
    exported: dict[str, object], message: str, tmp_path: Path
) -> None:
    export(tmp_path / "m", **exported)
    with pytest.raises(SettingsError, match=message) as caught:
        network_on(tmp_path / "m")
    assert "\n" not in str(caught.value)
    assert f"hub:path={tmp_path}/m" in str(caught.value)


def test_a_signature_by_another_name_is_used_if_it_is_the_only_one(tmp_path: Path, saved_model: Path) -> None:
    other, usual = network_on(export(tmp_path, signature="embed")).base, network_on(saved_model).base
    assert other is not None
    assert usual is not None
    np.testing.assert_array_equal(array(other(images())), array(usual(images())))


def test_a_model_exported_by_keras_can_be_used(tmp_path: Path) -> None:
    inputs = keras.Input((SIZE, SIZE, 3))
    outputs = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    exported = keras.Model(inputs, outputs)
    exported.export(tmp_path / "m", verbose=False)
    base, pixels = build_base(parse_spec(f"hub:path={tmp_path}/m"), SIZE), images()
    np.testing.assert_allclose(array(base(pixels)), array(exported(pixels.astype(np.float32) / 255)), rtol=1e-5)


def test_what_is_no_saved_model_of_tf2_is_refused_before_tensorflow_is_needed(tmp_path: Path) -> None:
    spec = parse_spec(f"hub:path={tmp_path}/m")
    with pytest.raises(SettingsError, match=r"is not a SavedModel: it has no saved_model\.pb; give the folder"):
        check_spec(spec, SIZE)
    (tmp_path / "m").write_bytes(b"an archive")
    with pytest.raises(SettingsError, match=r"give the folder that holds it, or its archive \(\.tar\.gz\)"):
        check_spec(spec, SIZE)
    (tmp_path / "m").unlink()
    export(tmp_path / "m")
    check_spec(spec, SIZE)
    (tmp_path / "m/tfhub_module.pb").write_bytes(b"\x08\x03")
    with pytest.raises(SettingsError, match=r"old TF1 Hub format.*take the TF2 SavedModel of the same network"):
        check_spec(spec, SIZE)


def test_a_damaged_saved_model_is_refused(tmp_path: Path) -> None:
    export(tmp_path / "m")
    (tmp_path / "m/saved_model.pb").write_bytes(b"damaged")
    with pytest.raises(SettingsError, match="cannot be loaded"):
        network_on(tmp_path / "m")


def test_the_digest_of_a_saved_model_changes_with_any_of_its_files(saved_model: Path, tmp_path: Path) -> None:
    spec = parse_spec(f"hub:path={saved_model}")
    digest = weights_digest(spec, SIZE)
    assert digest == weights_digest(spec, SIZE)
    export(tmp_path / "m", lambda module, x: {"features": 2 * module.features(x)})
    assert weights_digest(parse_spec(f"hub:path={tmp_path}/m"), SIZE) != digest
