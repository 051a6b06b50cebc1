"""ONNX networks as a frozen base: the network's own numbers, kept whole in model.keras, refused by name if unfit."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pytest

from lib.config.fitting import FitConfig
from lib.config.prediction import ExportConfig
from lib.errors import SettingsError, TissueError
from lib.models.export.export import export_model
from lib.models.grad_cam import GradCam
from lib.models.inference import Forward
from lib.models.provenance import weights_digest
from lib.models.registry import Network, build_base, build_network, unfreeze
from lib.models.saved import load_network
from lib.models.spec import check_spec, parse_spec
from lib.models.weights import file_digest
from lib.storage.location import Location
from lib.training.trainer import check_fit
from tests.fakes.model_folders import build_model_folder
from tests.fakes.networks import in_another_process
from tests.fakes.onnx_networks import WIDTH, expected_features, write_onnx

pytestmark = pytest.mark.slow

SIZE, CLASS_COUNT = 10, 3
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def images(count: int = 4) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def base_on(path: Path, options: str = "") -> keras.Model:
    return build_base(parse_spec(f"onnx:path={path}{options}"), SIZE)


def network_on(path: Path, options: str = "") -> Network:
    return build_network(parse_spec(f"onnx:path={path}{options}"), CLASS_COUNT, SIZE, seed=0)


def array(tensor: object) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


@pytest.mark.parametrize("side", [SIZE, "side"])
@pytest.mark.parametrize("first", [True, False], ids=["NCHW", "NHWC"])
def test_features_are_those_of_the_network_for_standardised_values(
    tmp_path: Path, side: int | str, *, first: bool
) -> None:
    file = write_onnx(tmp_path / "m.onnx", ("n", 3, side, side) if first else ("n", side, side, 3))
    expected = expected_features((images() / 255 - MEAN) / STD)
    base = base_on(file)
    np.testing.assert_allclose(array(base(images())), expected, rtol=1e-4, atol=1e-5)
    decoded = pa.table({"image": [image.tobytes() for image in images()], "position": [0, 1, 2, 3]})
    (in_a_graph,) = Forward(base, batch_size=3)(decoded)
    np.testing.assert_allclose(in_a_graph, expected, rtol=1e-4, atol=1e-5)


def test_mean_and_deviation_are_chosen_for_all_channels_or_each(tmp_path: Path) -> None:
    file, pixels = write_onnx(tmp_path / "m.onnx"), images() / 255
    found = array(base_on(file, ",mean=0.5,std=0.25")(images()))
    np.testing.assert_allclose(found, expected_features((pixels - 0.5) / 0.25), rtol=1e-4, atol=1e-5)
    found = array(base_on(file, ",mean=0.1/0.2/0.3,std=0.5/0.6/0.7")(images()))
    expected = expected_features((pixels - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("first", [True, False], ids=["NCHW", "NHWC"])
def test_images_of_another_size_are_refused_unless_resizing_is_asked_for(tmp_path: Path, *, first: bool) -> None:
    file = write_onnx(tmp_path / "m.onnx", ("n", 3, 6, 6) if first else ("n", 6, 6, 3))
    with pytest.raises(SettingsError, match=r"takes images of 6 x 6 px, not 10 px; give size=6 .*, or --image-size 6"):
        base_on(file)
    resized = keras.ops.image.resize(
        images().astype(np.float32), (6, 6), interpolation="bicubic", antialias=True, data_format="channels_last"
    )
    expected = expected_features((array(resized) / 255 - MEAN) / STD)
    np.testing.assert_allclose(array(base_on(file, ",size=6")(images())), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(SettingsError, match="takes images of 6 x 6 px, not 8 px"):
        base_on(file, ",size=8")


def test_a_network_of_one_image_at_a_time_runs_once_for_each(tmp_path: Path) -> None:
    one, many = write_onnx(tmp_path / "1.onnx", (1, 3, SIZE, SIZE)), write_onnx(tmp_path / "n.onnx")
    np.testing.assert_allclose(array(base_on(one)(images())), array(base_on(many)(images())), rtol=1e-6)
    with pytest.raises(SettingsError, match="takes 2 images at a time; export it with a batch of any size"):
        base_on(write_onnx(tmp_path / "2.onnx", (2, 3, SIZE, SIZE)))


def test_a_network_of_half_precision_is_given_what_it_takes(tmp_path: Path) -> None:
    file = write_onnx(tmp_path / "half.onnx", dtype=np.float16)
    found = base_on(file)(images())
    assert found.dtype == "float32"
    np.testing.assert_allclose(array(found), expected_features((images() / 255 - MEAN) / STD), rtol=2e-2, atol=2e-2)


def test_one_of_several_outputs_is_chosen_by_name(tmp_path: Path) -> None:
    file = write_onnx(tmp_path / "m.onnx", outputs=("features", "map", "count"))
    with pytest.raises(SettingsError, match="has the outputs count, features, map; choose one with output=NAME"):
        base_on(file)
    with pytest.raises(SettingsError, match="has no output 'logits'; it has count, features, map"):
        base_on(file, ",output=logits")
    with pytest.raises(
        SettingsError, match=r"output 'map' is float32 \(2, 5, 5, 5\) for two images; expected features"
    ):
        base_on(file, ",output=map")
    with pytest.raises(SettingsError, match="output 'count' is int64"):
        base_on(file, ",output=count")
    assert base_on(file, ",output=features").output_shape == (None, WIDTH)


def test_weights_beside_the_file_come_with_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "vit"
    folder.mkdir()
    file = write_onnx(folder / "vit.onnx", external="vit.onnx.data")
    alone = write_onnx(tmp_path / "alone.onnx")
    with pytest.raises(SettingsError, match="in files of their own: give the folder that holds them all") as caught:
        base_on(file)
    assert "\n" not in str(caught.value)
    network = network_on(folder)
    assert network.base is not None
    np.testing.assert_allclose(array(network.base(images())), array(base_on(alone)(images())), rtol=1e-6)
    before = array(network.model(images()))
    network.model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(array(load_network(Location(str(tmp_path)))(images())), before, rtol=1e-6)
    digest = weights_digest(parse_spec(f"onnx:path={folder}"), SIZE)
    (folder / "vit.onnx.data").write_bytes(b"")
    assert weights_digest(parse_spec(f"onnx:path={folder}"), SIZE) != digest
    write_onnx(folder / "second.onnx")
    with pytest.raises(SettingsError, match=r"the folder has 2 files \*\.onnx"):
        base_on(folder)


def test_a_trained_model_is_the_same_in_a_fresh_process_without_the_file(tmp_path: Path) -> None:
    file = write_onnx(tmp_path / "m.onnx", ("n", 3, 6, 6))
    network = network_on(file, ",size=6,mean=0.5/0.4/0.3,std=0.25").model
    assert [variable.path for variable in network.trainable_variables] == ["logits/kernel", "logits/bias"]
    logits = array(network(images()))
    network.save(tmp_path / "model.keras")
    file.unlink()
    found, embeddings = in_another_process(tmp_path, images())
    assert embeddings.shape == (4, 5)
    np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-6)


def test_plain_keras_says_which_module_it_lacks(tmp_path: Path) -> None:
    network_on(write_onnx(tmp_path / "m.onnx")).model.save(tmp_path / "model.keras")
    script = "import sys, keras; keras.saving.load_model(sys.argv[1])"
    command = [sys.executable, "-c", script, str(tmp_path / "model.keras")]
    failed = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert failed.returncode != 0
    assert "lib.models.onnx_encoder" in failed.stderr


def test_a_model_on_an_onnx_network_may_itself_be_built_on(tmp_path: Path) -> None:
    earlier = network_on(write_onnx(tmp_path / "m.onnx"))
    assert earlier.base is not None
    earlier.model.save(tmp_path / "model.keras")
    later = build_base(parse_spec(f"saved:path={tmp_path}"), SIZE)
    np.testing.assert_allclose(array(later(images())), array(earlier.base(images())), rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_an_onnx_network_computes_in_its_own_precision(tmp_path: Path, policy: str) -> None:
    file = write_onnx(tmp_path / "m.onnx")
    plain = base_on(file)
    keras.config.set_dtype_policy(policy)
    try:
        mixed = base_on(file)
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(array(mixed(images())), array(plain(images())))


def test_what_needs_the_inside_of_a_network_is_refused_by_name(tmp_path: Path) -> None:
    file = write_onnx(tmp_path / "m.onnx")
    assert GradCam.of(network_on(file).model) is None
    with pytest.raises(SettingsError, match="no layers to fine-tune; leave --fine-tune-epochs at 0"):
        unfreeze(network_on(file), 1)
    with pytest.raises(SettingsError, match="the layers of an ONNX network cannot be fine-tuned; leave it at 0"):
        check_fit(FitConfig(fine_tune_epochs=1), [parse_spec(f"onnx:path={file}")])
    model = build_model_folder(tmp_path / "model", f"onnx:path={file}", 16)
    for file_format in ("savedmodel", "onnx", "tflite"):
        with pytest.raises(SettingsError, match="rests on an ONNX network, which no export can hold"):
            export_model(ExportConfig(model_dir=str(model), output=str(tmp_path / file_format), format=file_format))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            ("n", "channels", "height", "width"),
            r"takes tensor\(float\) \('n', 'channels', 'height', 'width'\); expected",
        ),
        (("n", 1, SIZE, SIZE), r"takes tensor\(float\) \('n', 1, 10, 10\); expected float images"),
    ],
)
def test_a_network_of_other_inputs_is_refused_in_one_line(
    tmp_path: Path, shape: tuple[int | str, ...], message: str
) -> None:
    import onnx

    file = write_onnx(tmp_path / "m.onnx")
    model = onnx.load(file)
    for place, dim in zip(model.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        if isinstance(dim, int):
            place.dim_value = dim
        else:
            place.dim_param = dim
    del model.graph.node[:-3]
    model.graph.node[0].input[0] = "images"
    onnx.save(model, file)
    with pytest.raises(SettingsError, match=message) as caught:
        base_on(file)
    assert "\n" not in str(caught.value)
    assert f"onnx:path={tmp_path}/m.onnx" in str(caught.value)


def test_what_is_not_there_or_damaged_or_another_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    spec = parse_spec(f"onnx:path={file}")
    with pytest.raises(SettingsError, match=f"there is nothing at {file}"):
        check_spec(spec, SIZE)
    file.write_bytes(b"damaged")
    check_spec(spec, SIZE)
    with pytest.raises(SettingsError, match="cannot be loaded") as caught:
        build_base(spec, SIZE)
    assert "\n" not in str(caught.value)
    digest = file_digest(write_onnx(file))
    assert weights_digest(spec, SIZE) == digest
    build_base(parse_spec(f"onnx:path={file},sha256={digest}"), SIZE)
    with pytest.raises(TissueError, match=f"are another file: sha256 is {digest}, expected 1111"):
        base_on(file, f",sha256={'1' * 64}")


def test_a_machine_without_onnx_runtime_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = parse_spec(f"onnx:path={write_onnx(tmp_path / 'm.onnx')}")
    monkeypatch.setattr("lib.models.spec.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match="needs ONNX Runtime: pip install onnxruntime"):
        check_spec(spec, SIZE)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(TissueError, match="not installed here: pip install onnxruntime"):
        build_base(spec, SIZE)
