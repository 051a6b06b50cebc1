"""Exports as commands: onto this machine and into a bucket, and what is refused."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.fakes.gcs import gcs_server
from tests.fakes.jobs import run_job
from tests.fakes.model_folders import CLASS_NAMES, build_model_folder

SIZE = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_folder(tmp_path_factory.mktemp("models") / "cnn", "cnn", SIZE)


def test_a_model_in_a_bucket_is_exported_into_the_bucket(model: Path) -> None:
    with gcs_server() as gcs:
        flags = ("--model-dir", gcs.upload(model, "cnn"), "--output", f"gs://{gcs.bucket}/onnx", "--format", "onnx")
        result = run_job("export", *flags, env=gcs.environment)
        assert result.summary["largest_difference"] < 1e-5
        assert result.summary["output"] == f"gs://{gcs.bucket}/onnx"
        assert {name for name in gcs.names() if name.startswith("onnx/")} == {"onnx/model.onnx", "onnx/export.json"}
        content, record = gcs.read("onnx/model.onnx"), json.loads(gcs.read("onnx/export.json"))
    assert record["files"][0]["sha256"] == hashlib.sha256(content).hexdigest()
    images = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    (found,) = onnxruntime.InferenceSession(content).run(["probabilities"], {"images": images})
    assert found.shape == (2, len(CLASS_NAMES))


def test_every_file_of_a_saved_model_is_accounted_for(model: Path, tmp_path: Path) -> None:
    result = run_job("export", "--model-dir", model, "--output", tmp_path)  # savedmodel unless asked otherwise
    assert result.summary["format"] == "savedmodel"
    assert result.summary["equal_top_1"] == 1
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    record = json.loads((tmp_path / "export.json").read_text())
    assert {entry["path"] for entry in record["files"]} == written - {"export.json"}
    assert "saved_model/saved_model.pb" in written
    assert sum(entry["size_bytes"] for entry in record["files"]) == result.summary["size_bytes"]


def test_an_incomplete_model_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    result = run_job("export", "--model-dir", tmp_path / "model", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "model.json is missing; make it with `python -m jobs.train`" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_only_tflite_is_quantised(model: Path, tmp_path: Path) -> None:
    flags = ("--format", "onnx", "--quantize", "float16")
    result = run_job("export", "--model-dir", model, "--output", tmp_path / "out", *flags)
    assert result.exit_code == 2
    assert "--quantize float16 is for --format tflite" in result.stderr
