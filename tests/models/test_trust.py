"""A model.keras of others brings no program with it, unless it is a SavedModel whose makers are trusted."""

import subprocess
import sys
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from lib.config.prediction import ExportConfig, PredictConfig
from lib.errors import SettingsError, StorageError, TissueError
from lib.evaluation.predict import predict_images
from lib.folders.model import NETWORK_FILE
from lib.models.export.export import export_model
from lib.models.registry import build_network
from lib.models.saved import load_network
from lib.models.spec import parse_spec
from lib.models.trust import check_earlier, read_trusted, refuse_programs
from lib.storage.location import Location
from tests.fakes.model_folders import write_model_folder

SIZE = 20


class Writer(tf.Module):
    """A SavedModel that writes a file whenever it is called."""

    def __init__(self, file: Path) -> None:
        self._file = str(file)

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)])
    def features(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([tf.io.write_file(self._file, "written by a model")]):
            return {"features": tf.reduce_mean(pixels, (1, 2))}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("victim") / "written"


@pytest.fixture(scope="module")
def hub_model(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    module = Writer(written)
    tf.saved_model.save(module, str(folder / "writer"), signatures=module.features)
    spec = f"hub:path={folder}/writer"
    network = build_network(parse_spec(spec), 3, SIZE, seed=0).model
    write_model_folder(folder / "model", network, spec)
    written.unlink(missing_ok=True)
    return folder / "model"


def test_a_saved_model_is_opened_where_it_is_trusted_alone(hub_model: Path, written: Path) -> None:
    folder = Location(str(hub_model))
    with pytest.raises(SettingsError, match=r"model\.keras holds a SavedModel.*add --trust-saved-model") as caught:
        read_trusted(folder, trusts_saved_model=False)
    assert "\n" not in str(caught.value)
    with pytest.raises(StorageError, match=r"cannot open .*model\.keras with Keras: .*could not be deserialized"):
        load_network(folder)
    assert read_trusted(folder, trusts_saved_model=True).spec.startswith("hub:")
    network = load_network(folder, trusts_saved_model=True)
    assert not written.exists()
    network(tf.zeros((1, SIZE, SIZE, 3), tf.uint8))
    assert written.exists()


def test_trust_in_one_model_does_not_open_another(hub_model: Path) -> None:
    load_network(Location(str(hub_model)), trusts_saved_model=True)
    with pytest.raises(StorageError):
        load_network(Location(str(hub_model)))


@pytest.mark.slow
def test_keras_in_safe_mode_does_not_know_the_layer_where_this_library_is_imported(hub_model: Path) -> None:
    script = "import sys, keras, lib.models.registry\nkeras.saving.load_model(sys.argv[1])"
    ended = subprocess.run(
        [sys.executable, "-c", script, hub_model / NETWORK_FILE], capture_output=True, text=True, check=False
    )
    assert "Could not locate class 'SavedModelLayer'" in ended.stderr


def test_a_saved_model_in_what_says_to_be_another_network_is_never_opened(hub_model: Path) -> None:
    with pytest.raises(SettingsError, match=r"holds a SavedModel, though model\.json says 'cnn'; it is not opened"):
        refuse_programs(Location(str(hub_model)), "cnn", trusts_saved_model=True)


def test_every_job_that_opens_a_model_asks(hub_model: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    with pytest.raises(SettingsError, match="add --trust-saved-model"):
        predict_images(PredictConfig(model_dir=str(hub_model), source=str(tmp_path), output=output))
    with pytest.raises(SettingsError, match="add --trust-saved-model"):
        export_model(ExportConfig(model_dir=str(hub_model), output=output))
    with pytest.raises(SettingsError, match="add --trust-saved-model"):
        check_earlier([parse_spec(f"saved:path={hub_model}")], trusts_saved_model=False)
    check_earlier([parse_spec("cnn"), parse_spec(f"saved:path={hub_model}")], trusts_saved_model=True)


def lambda_network() -> keras.Model:
    images = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    pixels = keras.layers.Lambda(lambda images: images / 255, output_shape=(SIZE, SIZE, 3))(images)
    inner = keras.Model(images, keras.layers.GlobalAveragePooling2D()(pixels))
    return keras.Model(images, keras.layers.Dense(3)(inner(images)))


def test_a_lambda_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = Location(str(write_model_folder(tmp_path, lambda_network())))
    for trusts_saved_model in (False, True):
        with pytest.raises(SettingsError, match="has a Lambda layer, which is a program of whoever made it") as caught:
            read_trusted(folder, trusts_saved_model=trusts_saved_model)
        assert "\n" not in str(caught.value)
        with pytest.raises(TissueError, match=r"cannot open .*Lambda") as caught:
            load_network(folder, trusts_saved_model=trusts_saved_model)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 but no more", b"no archive"])
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path, hub_model: Path) -> None:
    (tmp_path / NETWORK_FILE).write_bytes(content)
    with pytest.raises(StorageError, match="is no model that Keras saved, or a damaged one"):
        refuse_programs(Location(str(tmp_path)), "cnn", trusts_saved_model=False)


def test_networks_of_our_own_need_no_trust(tmp_path: Path) -> None:
    folder = Location(str(write_model_folder(tmp_path, build_network(parse_spec("cnn"), 3, SIZE, seed=0).model)))
    read_trusted(folder, trusts_saved_model=False)
    load_network(folder)
