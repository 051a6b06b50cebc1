"""Exported models say what `model.keras` says, in the runtimes of others; what does not is not handed out."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given
from hypothesis import strategies as st

from lib.config.prediction import ExportConfig
from lib.errors import SettingsError, TissueError
from lib.folders.export_folder import ExportRecord
from lib.models.export import formats as export_formats
from lib.models.export.agreement import PROBABILITY_TOLERANCE, check_images, measure_agreement, run_in_parts
from lib.models.export.export import export_model
from lib.models.export.runtimes import Outputs
from lib.models.inputs import image_input
from lib.models.saved import load_network
from lib.storage.location import Location
from tests.fakes.model_folders import CLASS_NAMES, build_model_folder, write_model_folder
from tests.fakes.networks import write_random_weights

SIZE = 32
FORMATS = ("savedmodel", "onnx", "tflite")


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder."""
    return model_folder("cnn", tmp_path_factory.mktemp("cnn"))


@pytest.fixture(
    scope="module",
    params=["cnn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mobilenet", "efficientnet_b0")), "hub"],
)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder for each kind of network."""
    return model_folder(request.param, tmp_path_factory.mktemp("model"))


def model_folder(name: str, folder: Path) -> Path:
    weights = folder / "base.weights.h5"
    if name == "mobilenet":
        write_random_weights(weights, "MobileNet", alpha=0.25, input_shape=(SIZE, SIZE, 3))
        spec = f"mobilenet:alpha=0.25,weights={weights}"
    elif name == "efficientnet_b0":
        write_random_weights(weights, "EfficientNetB0", input_shape=(SIZE, SIZE, 3))
        spec = f"efficientnet_b0:weights={weights}"
    else:
        spec = "cnn" if name == "cnn" else f"hub:path={_saved_model(folder / 'extractor')}"
    return build_model_folder(folder / name, spec, SIZE)


def _saved_model(folder: Path) -> Path:
    module = tf.Module()
    module.kernel = tf.Variable(np.random.default_rng(0).normal(0, 1, (3, 3, 3, 8)).astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)])
    def features(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"features": tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(inputs, module.kernel, 2, "SAME")), (1, 2))}

    tf.saved_model.save(module, folder, signatures=features)
    return folder


def export(model: Path, output: Path, file_format: str, quantize: str = "none") -> ExportRecord:
    return export_model(
        ExportConfig(
            model_dir=str(model), output=str(output), format=file_format, quantize=quantize, trust_saved_model=True
        )
    )


def photos(count: int, seed: int = 7) -> np.ndarray:
    """Other images than those that an export is checked with."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    place = np.arange(SIZE) * 5 // SIZE
    return coarse[:, place][:, :, place]


def model_logits(model: Path, images: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(load_network(Location(str(model)), trusts_saved_model=True)(images))


def softmax(logits: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits))


def in_tensorflow(folder: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    loaded = tf.saved_model.load(folder / "saved_model")
    return {name: value.numpy() for name, value in loaded.signatures["serving_default"](images=images).items()}


def in_onnx_runtime(folder: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (given_input,) = session.get_inputs()
    assert (given_input.name, given_input.type) == ("images", "tensor(uint8)")
    assert given_input.shape == ["n", SIZE, SIZE, 3]
    assert [output.shape for output in session.get_outputs()] == [["n", len(CLASS_NAMES)]] * 2
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


def in_litert(folder: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """By tensors and a resized input, as programs in other languages do, not by the signature."""
    interpreter = Interpreter(model_path=str(folder / "model.tflite"))
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["images"], "outputs": ["logits", "probabilities"]}
    }
    (details,) = interpreter.get_input_details()
    assert details["dtype"] == np.uint8
    interpreter.resize_tensor_input(details["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(details["index"], images)
    interpreter.invoke()
    found = [interpreter.get_tensor(output["index"]) for output in interpreter.get_output_details()]
    by_sum = sorted(found, key=lambda values: float(np.abs(values.sum(axis=1) - 1).max()))
    return {"probabilities": by_sum[0], "logits": by_sum[1]}


READERS = {"savedmodel": in_tensorflow, "onnx": in_onnx_runtime, "tflite": in_litert}


@pytest.mark.parametrize("file_format", FORMATS)
def test_an_exported_model_says_the_same_of_uint8_images_in_its_own_runtime(
    model: Path, file_format: str, tmp_path: Path
) -> None:
    record = export(model, tmp_path, file_format)
    expected = model_logits(model, photos(3))
    for count in (1, 3):
        images, logits = photos(3)[:count], expected[:count]
        found = READERS[file_format](tmp_path, images)
        assert set(found) == {"logits", "probabilities"}
        np.testing.assert_allclose(found["logits"], logits, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(found["probabilities"], softmax(logits), atol=1e-5)
    assert record.agreement.images == 32
    assert record.agreement.classes_predicted > 1  # or else the comparison would not mean much
    assert record.agreement.equal_top_1 == 1
    assert record.agreement.largest_difference < 1e-5


def test_the_record_says_what_the_file_is_and_how_to_call_it(cnn: Path, tmp_path: Path) -> None:
    export(cnn, tmp_path, "onnx")
    record = json.loads((tmp_path / "export.json").read_text())
    content = (tmp_path / "model.onnx").read_bytes()
    assert record["files"] == [
        {"path": "model.onnx", "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    ]
    assert (record["name"], record["format"], record["quantize"]) == ("cnn", "onnx", "none")
    assert (record["class_names"], record["image_size"]) == (list(CLASS_NAMES), SIZE)
    assert record["input"]["name"] == "images"
    assert record["input"]["shape"] == ["n", SIZE, SIZE, 3]
    assert [output["name"] for output in record["outputs"]] == ["probabilities", "logits"]
    assert set(record["runtime"]) == {"tf2onnx", "onnx", "onnxruntime", "tensorflow"}
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "export.json"}


def test_quantised_weights_are_smaller_and_their_effect_is_measured(cnn: Path, tmp_path: Path) -> None:
    plain = export(cnn, tmp_path / "plain", "tflite")
    images = photos(20)
    expected = softmax(model_logits(cnn, images))
    for quantize, share in (("dynamic", 0.28), ("float16", 0.53)):
        record = export(cnn, tmp_path / quantize, "tflite", quantize)
        assert record.size_bytes < share * plain.size_bytes
        found = in_litert(tmp_path / quantize, images)["probabilities"]
        stated = record.agreement.largest_difference
        assert plain.agreement.largest_difference < stated < 0.2
        assert np.abs(found - expected).max() < 3 * stated
        assert 0.8 <= record.agreement.equal_top_1 <= 1


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_model_of_mixed_precision_is_exported_in_float32_and_the_change_is_stated(
    cnn: Path, policy: str, tmp_path: Path
) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        model = build_model_folder(tmp_path / "mixed", "cnn", SIZE)
    finally:
        keras.config.set_dtype_policy("float32")
    record = export(model, tmp_path / "onnx", "onnx")
    assert (record.precision.trained, record.precision.exported) == (policy, "float32")
    assert 1e-5 < record.precision.change.largest_difference < 0.2
    assert record.agreement.largest_difference < 1e-5
    found = in_onnx_runtime(tmp_path / "onnx", photos(5))["probabilities"]
    np.testing.assert_allclose(found, softmax(model_logits(cnn, photos(5))), atol=1e-5)


@pytest.mark.parametrize("file_format", FORMATS)
def test_an_export_that_says_something_else_fails_and_leaves_no_file(
    cnn: Path, file_format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_preprocessing(network: keras.Model) -> Any:
        dark = keras.Model(network.input, network(keras.ops.cast(network.input / 2, "uint8")))
        return honest(dark)

    honest: Callable[[keras.Model], Any] = export_formats.serving_function
    monkeypatch.setattr(export_formats, "serving_function", without_preprocessing)
    with pytest.raises(TissueError, match=r"not the same as model\.keras: probabilities differ by up to 0\.") as caught:
        export(cnn, tmp_path, file_format)
    assert caught.value.exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("file_format", ["onnx", "tflite"])
def test_an_operation_that_a_format_does_not_have_is_one_line(file_format: str, tmp_path: Path) -> None:
    images = image_input(SIZE)
    pixels = keras.layers.Rescaling(1 / 256)(images)
    means = keras.ops.mean(keras.ops.erfinv(pixels), (1, 2))
    model = write_model_folder(tmp_path / "odd", keras.Model(images, keras.layers.Dense(3, name="logits")(means)))
    with pytest.raises(TissueError, match=f"cannot be exported as {file_format}.*--format savedmodel.*rfinv") as caught:
        export(model, tmp_path / "out", file_format)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "export.json").exists()
    assert export(model, tmp_path / "saved", "savedmodel").agreement.equal_top_1 == 1


def test_a_complete_export_is_not_repeated_and_no_other_is_put_into_its_folder(
    cnn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = export(cnn, tmp_path, "tflite")
    with pytest.raises(SettingsError, match=r"holds another run .*quantize is 'none' there and 'float16' here"):
        export(cnn, tmp_path, "tflite", "float16")
    monkeypatch.setattr(export_formats, "serving_function", None)
    assert export(cnn, tmp_path, "tflite") == first


def test_a_missing_package_is_named_before_tensorflow_is_imported(tmp_path: Path) -> None:
    script = (
        "import importlib.util, sys\n"
        "from lib.config.prediction import ExportConfig\n"
        "from lib.errors import SettingsError\n"
        "from lib.models.export.export import export_model\n"
        "importlib.util.find_spec = lambda name: None\n"
        "for kind in ('onnx', 'tflite'):\n"
        "    try:\n"
        "        export_model(ExportConfig(model_dir='m', output=sys.argv[1], format=kind))\n"
        "    except SettingsError as error:\n"
        "        print(error)\n"
        "print(sorted({'tensorflow', 'keras'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "--format onnx: tf2onnx, onnx, onnxruntime are not installed; pip install tf2onnx onnx onnxruntime",
        "--format tflite: ai-edge-litert is not installed; pip install ai-edge-litert",
        "[]",
    ]
    assert not list(tmp_path.iterdir())


def test_the_images_of_a_check_are_always_the_same_and_go_from_one_colour_to_noise() -> None:
    images = check_images(SIZE)
    assert images.dtype == np.uint8
    assert images.shape[1:] == (SIZE, SIZE, 3)
    np.testing.assert_array_equal(images, check_images(SIZE))
    assert len(np.unique(images, axis=0)) == len(images)
    steps = [np.abs(np.diff(image.astype(int), axis=1)).astype(bool).mean() for image in images]
    assert steps[0] == steps[1] == 0  # black and white
    assert max(steps) > 0.95


@given(count=st.integers(1, 60))
def test_parts_come_back_whole_and_in_order_from_batches_of_several_sizes(count: int) -> None:
    sizes = []

    def run(images: np.ndarray) -> Outputs:
        sizes.append(len(images))
        return Outputs(images[:, 0, 0, :1].astype(np.float32), images[:, 0, 0, 1:].astype(np.float32))

    images = np.arange(count * 2).reshape(count, 1, 1, 2).astype(np.uint8)
    found = run_in_parts(run, images)
    np.testing.assert_array_equal(found.logits[:, 0], images[:, 0, 0, 0])
    np.testing.assert_array_equal(found.probabilities[:, 0], images[:, 0, 0, 1])
    assert 0 not in sizes
    assert sizes[0] == 1
    assert count <= 2 or len(set(sizes)) > 1


def outputs(rows: list[list[float]]) -> Outputs:
    """With these probabilities."""
    probabilities = np.array(rows)
    return Outputs(np.log(probabilities), probabilities)


@given(st.lists(st.lists(st.floats(-20, 20), min_size=3, max_size=3), min_size=1, max_size=5))
def test_a_model_agrees_with_itself(rows: list[list[float]]) -> None:
    logits = np.array(rows, np.float32)
    agreement = measure_agreement(logits, Outputs.of_logits(logits))
    assert agreement.is_the_same
    assert (agreement.largest_difference, agreement.largest_logit_difference, agreement.equal_top_1) == (0, 0, 1)


def test_the_largest_difference_of_a_probability_decides() -> None:
    original = outputs([[0.7, 0.3], [0.2, 0.8]])
    for difference, same in ((0.9 * PROBABILITY_TOLERANCE, True), (1.1 * PROBABILITY_TOLERANCE, False)):
        found = outputs([[0.7, 0.3], [0.2 + difference, 0.8 - difference]])
        agreement = measure_agreement(original.logits, found)
        assert agreement.largest_difference == pytest.approx(difference, rel=1e-3)
        assert agreement.is_the_same is same
        assert agreement.equal_top_1 == 1


def test_only_a_clear_decision_has_to_be_the_same() -> None:
    tie = measure_agreement(outputs([[0.50001, 0.49999]]).logits, outputs([[0.49999, 0.50001]]))
    assert (tie.equal_top_1, tie.clear_top_1_differences, tie.is_the_same) == (0, 0, True)
    clear = measure_agreement(outputs([[0.50008, 0.49992]]).logits, outputs([[0.49999, 0.50001]]))
    assert (clear.equal_top_1, clear.clear_top_1_differences, clear.is_the_same) == (0, 1, False)


def test_what_is_no_number_never_agrees() -> None:
    nothing = Outputs(np.full((1, 2), np.nan), np.full((1, 2), np.nan))
    agreement = measure_agreement(np.zeros((1, 2)), nothing)
    assert not agreement.finite
    assert not agreement.is_the_same


def test_outputs_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"gives \(1, 3\) logits .* expected \(1, 2\) of each"):
        measure_agreement(np.zeros((1, 2)), Outputs.of_logits(np.zeros((1, 3))))
