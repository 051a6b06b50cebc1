"""Exports as commands: onto this machine and into a bucket, and what is refused."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from lib.errors import SettingsError
from tests.fakes.gcs import gcs_server
from tests.fakes.jobs import job_here
from tests.fakes.model_folders import CLASS_NAMES, build_model_folder
from tests.fakes.storage import storage_here

SIZE = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_folder(tmp_path_factory.mktemp("models") / "cnn", "cnn", SIZE)


def test_a_model_in_a_bucket_is_exported_into_the_bucket(model: Path) -> None:
    with gcs_server() as gcs, storage_here(gcs.environment):
        flags = ("--model-dir", gcs.upload(model, "cnn"), "--output", f"gs://{gcs.bucket}/onnx", "--format", "onnx")
        summary = job_here("export", *flags)
        assert summary["largest_difference"] < 1e-5
        assert summary["output"] == f"gs://{gcs.bucket}/onnx"
        assert {name for name in gcs.names() if name.startswith("onnx/")} == {"onnx/model.onnx", "onnx/export.json"}
        content, record = gcs.read("onnx/model.onnx"), json.loads(gcs.read("onnx/export.json"))
    assert record["files"][0]["sha256"] == hashlib.sha256(content).hexdigest()
    images = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    (found,) = onnxruntime.InferenceSession(content).run(["probabilities"], {"images": images})
    assert found.shape == (2, len(CLASS_NAMES))


def test_every_file_of_a_saved_model_is_accounted_for(model: Path, tmp_path: Path) -> None:
    summary = job_here("export", "--model-dir", model, "--output", tmp_path)  # savedmodel unless asked otherwise
    assert summary["format"] == "savedmodel"
    assert summary["equal_top_1"] == 1
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    record = json.loads((tmp_path / "export.json").read_text())
    assert {entry["path"] for entry in record["files"]} == written - {"export.json"}
    assert "saved_model/saved_model.pb" in written
    assert sum(entry["size_bytes"] for entry in record["files"]) == summary["size_bytes"]


def test_an_incomplete_model_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"model\.json is missing; make it with `python -m jobs\.train`"):
        job_here("export", "--model-dir", tmp_path / "model", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_tflite_is_quantised(model: Path, tmp_path: Path) -> None:
    flags = ("--format", "onnx", "--quantize", "float16")
    with pytest.raises(SettingsError, match="--quantize float16 is for --format tflite"):
        job_here("export", "--model-dir", model, "--output", tmp_path / "out", *flags)
