"""Encoders of KerasHub: folders of its own form or Hugging Face's, the reference's numbers, whole in model.keras."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest

from lib.config.prediction import ExportConfig
from lib.errors import SettingsError, TissueError
from lib.models.export.export import export_model
from lib.models.grad_cam import GradCam
from lib.models.provenance import weights_digest
from lib.models.registry import Network, build_base, build_network, unfreeze
from lib.models.spec import check_spec, parse_spec
from lib.training.trainer import require_weights_of
from tests.fakes.encoders import PATCH, SIDE, WIDTH, TinyDino
from tests.fakes.model_folders import build_model_folder

pytestmark = pytest.mark.slow

CLASS_COUNT = 3
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def images(count: int = 4, size: int = SIDE) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def array(tensor: object) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def base_on(path: Path, options: str = "", size: int = SIDE) -> keras.Model:
    return build_base(parse_spec(f"keras_hub:path={path}{options}"), size)


def network_on(path: Path, options: str = "") -> Network:
    return build_network(parse_spec(f"keras_hub:path={path}{options}"), CLASS_COUNT, SIDE, seed=0)


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyDino().write(tmp_path_factory.mktemp("dino") / "hf")


@pytest.mark.parametrize(
    ("registers", "gated"), [(0, False), (3, False), (0, True)], ids=["plain", "registers", "gated"]
)
def test_a_folder_of_hugging_face_gives_the_numbers_of_its_equations(
    tmp_path: Path, registers: int, *, gated: bool
) -> None:
    encoder = TinyDino(registers, gated)
    folder = encoder.write(tmp_path / "hf")
    tokens = encoder.tokens((images() / 255 - MEAN) / STD)
    first, patches = tokens[:, 0], tokens[:, 1 + registers :].mean(1)
    for pool, expected in {"": first, ",pool=cls": first, ",pool=mean": patches}.items():
        np.testing.assert_allclose(array(base_on(folder, pool)(images())), expected, rtol=1e-4, atol=1e-4)
    both = array(base_on(folder, ",pool=cls_mean")(images()))
    np.testing.assert_allclose(both, np.concatenate([first, patches], axis=1), rtol=1e-4, atol=1e-4)
    assert base_on(folder, ",pool=cls_mean").output_shape == (None, 2 * WIDTH)


def test_images_are_prepared_as_the_folder_says_unless_the_spec_does(tmp_path: Path) -> None:
    encoder = TinyDino()
    folder = encoder.write(tmp_path / "hf", mean=[0.5, 0.5, 0.5], std=[0.5, 0.4, 0.3])
    expected = encoder.tokens((images() / 255 - 0.5) / [0.5, 0.4, 0.3])[:, 0]
    np.testing.assert_allclose(array(base_on(folder)(images())), expected, rtol=1e-4, atol=1e-4)
    expected = encoder.tokens((images() / 255 - 0.1) / 0.2)[:, 0]
    np.testing.assert_allclose(array(base_on(folder, ",mean=0.1,std=0.2")(images())), expected, rtol=1e-4, atol=1e-4)


def preset(folder: Path, backbone: keras.Model, scale: float | list[float], offset: float | list[float]) -> Path:
    """A folder as `save_to_preset` writes it, with the numbers by which its images are prepared."""
    backbone.save_to_preset(str(folder))
    settings = {"config": {"image_size": [SIDE, SIDE], "scale": scale, "offset": offset}}
    (folder / "image_converter.json").write_text(json.dumps(settings))
    return folder


def vit(size: int = SIDE) -> keras.Model:
    return keras_hub.models.ViTBackbone((size, size, 3), PATCH, 2, 4, WIDTH, 64)


def dino_v3() -> keras.Model:
    return keras_hub.models.DINOV3Backbone(PATCH, 2, WIDTH, 4, 64, num_register_tokens=4, image_shape=(SIDE, SIDE, 3))


def siglip() -> keras.Model:
    seeing = keras_hub.models.SigLIPVisionEncoder(PATCH, WIDTH, 2, 4, 64, image_shape=(SIDE, SIDE, 3))
    reading = keras_hub.models.SigLIPTextEncoder(50, WIDTH, WIDTH, 1, 4, 64, max_sequence_length=8)
    return keras_hub.models.SigLIPBackbone(seeing, reading)


@pytest.mark.parametrize("kind", ["vit", "dino_v3", "siglip"])
def test_a_preset_of_keras_hub_gives_the_numbers_of_its_own_backbone(tmp_path: Path, kind: str) -> None:
    backbone = {"vit": vit, "dino_v3": dino_v3, "siglip": siglip}[kind]()
    for variable in backbone.trainable_variables:
        variable.assign(variable + 0.05 * keras.random.normal(variable.shape, seed=len(variable.path)))
    pixels = images() / 127.5 - 1
    if kind == "siglip":
        expected = array(backbone.vision_encoder({"images": pixels}))
    else:
        expected = array(
            backbone(dict.fromkeys(backbone.input, pixels) if isinstance(backbone.input, dict) else pixels)
        )[:, 0]
    base = base_on(preset(tmp_path / "m", backbone, 1 / 127.5, -1.0))
    np.testing.assert_allclose(array(base(images())), expected, rtol=1e-4, atol=1e-4)
    assert GradCam.of(keras.Model(base.input, keras.layers.Dense(2)(base.output))) is None


def test_a_preset_of_dinov2_equals_the_folder_it_was_converted_from(dino: Path, tmp_path: Path) -> None:
    converted = keras_hub.models.Backbone.from_preset(str(dino))
    scale, offset = (1 / (255 * STD)).tolist(), (-MEAN / STD).tolist()
    base = base_on(preset(tmp_path / "preset", converted, scale, offset))
    np.testing.assert_allclose(array(base(images())), array(base_on(dino)(images())), rtol=1e-4, atol=1e-4)


def test_dinov2_takes_any_multiple_of_its_patches_and_others_their_own_size(dino: Path, tmp_path: Path) -> None:
    larger = base_on(dino, size=2 * SIDE)
    assert larger(images(2, 2 * SIDE)).shape == (2, WIDTH)
    with pytest.raises(SettingsError, match=r"patches of 7 px do not fill 30 px; give size=28"):
        base_on(dino, size=30)
    assert base_on(dino, ",size=28", size=30)(images(2, 30)).shape == (2, WIDTH)
    folder = preset(tmp_path / "vit", vit(), 1 / 255, 0.0)
    with pytest.raises(SettingsError, match="takes images of 28 px, not 35 px; give size=28 to have images resized"):
        base_on(folder, size=35)
    assert base_on(folder, ",size=28", size=35)(images(2, 35)).shape == (2, WIDTH)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_trained_model_is_the_same_in_plain_keras_without_the_folder(dino: Path, tmp_path: Path, policy: str) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        network = network_on(dino, ",pool=cls_mean").model
    finally:
        keras.config.set_dtype_policy("float32")
    assert [variable.path for variable in network.trainable_variables] == ["logits/kernel", "logits/bias"]
    assert network.output.dtype == "float32"
    logits = array(network(images()))
    network.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images())
    script = (
        "import sys, numpy as np, keras\n"
        "network = keras.saving.load_model(sys.argv[1] + '/model.keras')\n"
        "images = np.load(sys.argv[1] + '/images.npy')\n"
        "np.save(sys.argv[1] + '/logits.npy', keras.ops.convert_to_numpy(network(images)))\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), logits, rtol=1e-4, atol=1e-5)


def test_all_blocks_of_an_encoder_are_fine_tuned_together(dino: Path) -> None:
    network = network_on(dino)
    before = array(network.model(images()))
    assert {variable.path.split("/")[0] for variable in unfreeze(network, 2)} == {"encoder", "layernorm"}
    network.model.compile(optimizer=keras.optimizers.Adam(0.01), loss="sparse_categorical_crossentropy")
    network.model.train_on_batch(images(), np.array([0, 1, 2, 0]))
    assert np.abs(array(network.model(images())) - before).max() > 0.01


@pytest.mark.parametrize("file_format", ["savedmodel", "onnx", "tflite"])
def test_a_model_on_an_encoder_is_exported(dino: Path, tmp_path: Path, file_format: str) -> None:
    model = build_model_folder(tmp_path / "model", f"keras_hub:path={dino}", SIDE)
    config = ExportConfig(model_dir=str(model), output=str(tmp_path / "exported"), format=file_format)
    agreement = export_model(config).agreement
    assert agreement.classes_predicted > 1
    assert agreement.largest_difference < 1e-4


def test_a_model_on_an_encoder_may_itself_be_built_on(dino: Path, tmp_path: Path) -> None:
    earlier = network_on(dino)
    assert earlier.base is not None
    earlier.model.save(tmp_path / "model.keras")
    later = build_base(parse_spec(f"saved:path={tmp_path}"), SIDE)
    np.testing.assert_allclose(array(later(images())), array(earlier.base(images())), rtol=1e-4, atol=1e-5)


def test_what_is_no_encoder_is_refused_before_keras_is_needed(dino: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    spec = parse_spec(f"keras_hub:path={folder}")
    with pytest.raises(SettingsError, match=r"is no encoder: there is no config\.json in"):
        check_spec(spec, SIDE)
    shutil.copytree(dino, folder)
    check_spec(spec, SIDE)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(SettingsError, match="is a bert; expected one of DINOV2Backbone"):
        check_spec(spec, SIDE)
    (folder / "config.json").write_text(json.dumps({"hidden": 32}))
    with pytest.raises(TissueError, match=r"config\.json names no encoder of KerasHub or Hugging Face"):
        check_spec(spec, SIDE)


def test_a_folder_that_lacks_something_is_refused_in_one_line(dino: Path, tmp_path: Path) -> None:
    shutil.copytree(dino, tmp_path / "m")
    (tmp_path / "m/model.safetensors").write_bytes(b"damaged")
    with pytest.raises(SettingsError, match="keras_hub:path=") as caught:
        base_on(tmp_path / "m")
    assert "\n" not in str(caught.value)
    (tmp_path / "m/model.safetensors").unlink()
    with pytest.raises(SettingsError, match=r"model\.safetensors") as caught:
        base_on(tmp_path / "m")
    assert "\n" not in str(caught.value)


def test_a_folder_may_be_demanded_by_its_checksum(dino: Path) -> None:
    digest = weights_digest(parse_spec(f"keras_hub:path={dino}"), SIDE)
    base_on(dino, f",sha256={digest}")
    with pytest.raises(TissueError, match=f"are another file: sha256 is {digest}, expected 0000"):
        base_on(dino, f",sha256={'0' * 64}")


def test_a_preset_is_named_and_downloaded_before_anything_is_started(
    dino: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(handle: str) -> str:
        asked.append(handle)
        return str(dino)

    monkeypatch.setattr("kagglehub.model_download", download)
    spec = parse_spec("keras_hub:preset=dinov2_small")
    check_spec(spec, SIDE)
    require_weights_of([spec], SIDE)
    assert asked == ["keras/dinov2/keras/dinov2_small/1"]
    np.testing.assert_array_equal(array(build_base(spec, SIDE)(images())), array(base_on(dino)(images())))
    assert weights_digest(spec, SIDE) == weights_digest(parse_spec(f"keras_hub:path={dino}"), SIDE)
    with pytest.raises(SettingsError, match="has no preset 'dinov9'"):
        require_weights_of([parse_spec("keras_hub:preset=dinov9")], SIDE)


def test_a_machine_without_internet_is_told_to_bring_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(_: str) -> str:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("kagglehub.model_download", offline)
    with pytest.raises(TissueError, match=r"cannot be downloaded \(no route to host\); get its folder elsewhere"):
        require_weights_of([parse_spec("keras_hub:preset=dinov2_small")], SIDE)


def test_a_machine_without_keras_hub_is_told_what_to_install(dino: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.models.spec.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match="needs KerasHub: pip install keras-hub tensorflow-text safetensors"):
        check_spec(parse_spec(f"keras_hub:path={dino}"), SIDE)
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(TissueError, match="needs KerasHub, which cannot be imported here"):
        base_on(dino)
