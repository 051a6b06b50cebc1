"""Weights files: known by their SHA-256, and refused if they are not the ones meant."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format

from lib.errors import TissueError
from lib.models import applications as transfer
from lib.models.provenance import weights_digest
from lib.models.registry import build_base, build_network
from lib.models.spec import parse_spec
from tests.fakes.networks import write_random_weights

SIZE = 128  # the smallest for which Keras has a file of its own


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("weights") / "base.weights.h5"
    return write_random_weights(target, "MobileNet", alpha=0.25, input_shape=(SIZE, SIZE, 3))


@pytest.fixture
def kept_by_keras(file: Path) -> Iterator[Path]:
    """The same weights where Keras looks for those of ImageNet, in the older format that it wants there."""
    network = keras.applications.MobileNet(include_top=False, weights=None, alpha=0.25, input_shape=(SIZE, SIZE, 3))
    network.load_weights(file)
    target = Path(os.environ["KERAS_HOME"]) / "models" / "mobilenet_2_5_128_tf_no_top.h5"
    target.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(target, "w") as content:
        legacy_h5_format.save_weights_to_hdf5_group(content, network)
    transfer._imagenet_file.cache_clear()
    yield target
    target.unlink()
    transfer._imagenet_file.cache_clear()


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_right_file_is_taken_and_told(file: Path) -> None:
    for text in (f"mobilenet:alpha=0.25,weights={file}", f"mobilenet:alpha=0.25,weights={file},sha256={sha256(file)}"):
        assert weights_digest(parse_spec(text), SIZE) == sha256(file)
        build_base(parse_spec(text), SIZE)


def test_another_file_is_refused_wherever_it_is_read(file: Path) -> None:
    spec = parse_spec(f"mobilenet:alpha=0.25,weights={file},sha256={'0' * 64}")
    for read in (weights_digest, build_base):
        with pytest.raises(TissueError, match=f"{file} are another file: sha256 is {sha256(file)}, expected 000") as e:
            read(spec, SIZE)
        assert "\n" not in str(e.value)


def test_the_digest_of_imagenet_weights_is_that_of_the_file_that_keras_keeps(file: Path, kept_by_keras: Path) -> None:
    kept, given = parse_spec("mobilenet:alpha=0.25"), parse_spec(f"mobilenet:alpha=0.25,weights={file}")
    assert weights_digest(kept, SIZE) == sha256(kept_by_keras)
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    same = [keras.ops.convert_to_numpy(build_base(spec, SIZE)(images)) for spec in (kept, given)]
    np.testing.assert_array_equal(*same)


@pytest.mark.usefixtures("kept_by_keras")
def test_weights_that_keras_keeps_but_cannot_use_are_named() -> None:
    with pytest.raises(TissueError, match=r"ImageNet weights of mobilenet cannot be used: .*alpha"):
        weights_digest(parse_spec("mobilenet:alpha=0.3"), SIZE)


def test_the_digest_of_an_earlier_model_is_that_of_its_network(tmp_path: Path) -> None:
    build_network(parse_spec("cnn"), 3, SIZE, seed=0).model.save(tmp_path / "model.keras")
    assert weights_digest(parse_spec(f"saved:path={tmp_path}"), SIZE) == sha256(tmp_path / "model.keras")


@pytest.mark.parametrize("text", ["cnn", "vgg16:weights=none"])
def test_a_network_from_scratch_has_no_weights_to_tell(text: str) -> None:
    assert weights_digest(parse_spec(text), SIZE) is None
