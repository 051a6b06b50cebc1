"""Training whose output is in a cloud, where what Ray Train and Ray Tune keep for themselves goes too."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lib.config.conversion import ConvertConfig
from tests.fakes.conversion import convert_here
from tests.fakes.drive import FakeDrive, drive_server
from tests.fakes.gcs import GcsServer, gcs_server
from tests.fakes.jobs import JOB_TIMEOUT_S, kill_job, run_job, start_job, wait_until
from tests.fakes.sources import write_source

pytestmark = pytest.mark.slow

EPOCHS, TRIALS = 5, 2


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("organs")
    source = write_source(folder / "source", {"liver": 8, "lung": 8}, size=32)
    settings = {"image_size": 32, "tiff_range": "0:255", "validation_fraction": 0.25}
    convert_here(ConvertConfig(source=str(source), output=str(folder / "dataset"), **settings))
    return folder / "dataset"


@pytest.fixture(scope="module")
def sweep_flags(dataset: Path) -> tuple[object, ...]:
    plan = {
        "trials": TRIALS,
        "parameters": {"model": {"values": ["cnn"]}, "learning_rate": {"low": 1e-4, "high": 1e-2}},
    }
    (dataset.parent / "sweep.yaml").write_text(json.dumps(plan))
    return ("--dataset", dataset, "--sweep", dataset.parent / "sweep.yaml", "--image-size", 32, "--epochs", 1)


@pytest.fixture(scope="module")
def drive() -> Iterator[FakeDrive]:
    with drive_server() as server:
        yield server


@pytest.fixture(scope="module")
def gcs() -> Iterator[GcsServer]:
    with gcs_server() as server:
        yield server


def test_two_workers_train_into_drive_and_a_killed_run_resumes(drive: FakeDrive, dataset: Path, tmp_path: Path) -> None:
    root = drive.add_folder("models", drive.add_drive("Histology"))
    environment = drive.environment(drive.write_key(tmp_path / "key.json"))
    settings = ("--dataset", dataset, "--image-size", 32, "--epochs", EPOCHS, "--patience", EPOCHS, "--batch-size", 4)
    flags = (*settings, "--num-workers", 2, "--output", f"gdrive://{root}/cnn")
    job = start_job("train", *flags, env=environment)
    wait_until(job, lambda: "checkpoint-0-" in " ".join(drive.names()), "a checkpoint is written", JOB_TIMEOUT_S)
    kill_job(job)
    assert not drive.named("model.json")

    result = run_job("train", *flags, env=environment)

    assert result.summary["world_size"] == 2
    assert f"epoch {EPOCHS}/{EPOCHS}" in result.stderr
    assert f"epoch 1/{EPOCHS}" not in result.stderr
    model = drive.download(root, tmp_path / "models") / "cnn"
    assert json.loads((model / "model.json").read_text())["metrics"]["epochs"] == EPOCHS
    assert len(pq.read_table(model / "history.parquet")) == EPOCHS


def test_a_sweep_ends_with_a_model_in_drive(drive: FakeDrive, sweep_flags: tuple[object, ...], tmp_path: Path) -> None:
    root = drive.add_folder("sweeps", drive.add_drive("Pathology"))
    environment = drive.environment(drive.write_key(tmp_path / "key.json"))
    result = run_job("train", *sweep_flags, "--output", f"gdrive://{root}/cnn", env=environment)
    assert_swept(drive.download(root, tmp_path / "sweeps") / "cnn", result.summary["trials"])


def test_a_sweep_ends_with_a_model_in_gcs(gcs: GcsServer, sweep_flags: tuple[object, ...], tmp_path: Path) -> None:
    result = run_job("train", *sweep_flags, "--output", f"gs://{gcs.bucket}/sweeps/cnn", env=gcs.environment)
    assert_swept(gcs.download("sweeps", tmp_path / "sweeps") / "cnn", result.summary["trials"])


def assert_swept(output: Path, trials: int) -> None:
    """Check that the best of all trials is the model, and that nothing of Ray's is left."""
    assert trials == TRIALS
    rows = pq.read_table(output / "sweep" / "leaderboard.parquet").to_pylist()
    assert sorted(row["trial"] for row in rows) == list(range(1, TRIALS + 1))
    best = output / "sweep" / "trials" / f"{json.loads((output / 'model.json').read_text())['sweep']['best']:04d}"
    assert (output / "model.keras").read_bytes() == (best / "model.keras").read_bytes()
    assert not (output / "sweep" / "ray").exists()
