"""How a training went can be followed in TensorBoard and in MLflow."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from lib.training.tracking import DEFAULT_EXPERIMENT
from tests.fakes.jobs import JobResult, run_job
from tests.fakes.sources import write_source

EPOCHS = 3
SIZE = ("--image-size", 32)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("tracked") / "source", {"liver": 8, "lung": 8}, size=32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's runs as files: what its small client has without a server."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="module")
def model(source: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("model")
    environment = {"MLFLOW_TRACKING_URI": store.as_uri(), "MLFLOW_ALLOW_FILE_STORE": "true"}
    flags = ("--source", source, "--output", output, "--epochs", EPOCHS, "--batch-size", 4, *SIZE)
    assert run_job("train", *flags, env=environment).exit_code == 0
    return output


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_tensorboard_shows_every_epoch(model: Path) -> None:
    history = pd.read_parquet(model / "history.parquet")
    train, validation = (events(model / "tensorboard" / "fit" / split) for split in ("train", "validation"))
    for name in ("loss", "accuracy", "learning_rate", "images_per_s", "wait_share"):
        assert scalars(train, f"epoch_{name}") == pytest.approx(list(history[name]), rel=1e-5)
    for name in ("loss", "accuracy"):
        assert scalars(validation, f"epoch_{name}") == pytest.approx(list(history[f"val_{name}"]), rel=1e-5)


def scalars(found: EventAccumulator, tag: str) -> list[float]:
    return [float(make_ndarray(event.tensor_proto)) for event in found.Tensors(tag)]


def test_tensorboard_shows_the_graph_of_the_network(model: Path) -> None:
    graph = events(model / "tensorboard" / "fit" / "train").Graph()
    operations = {node.op for node in graph.node}
    assert {"Conv2D", "MatMul", "Relu"} <= operations


@pytest.mark.usefixtures("allowed")
def test_mlflow_has_the_settings_every_epoch_and_the_result(model: Path, store: Path) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(store.as_uri())
    experiment = client.get_experiment_by_name(DEFAULT_EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id])
    history = pd.read_parquet(model / "history.parquet")
    record = json.loads((model / "model.json").read_text())
    assert run.info.status == "FINISHED"
    assert run.data.tags["model_dir"] == str(model)
    assert run.data.tags["spec"] == "cnn"
    assert (run.data.params["epochs"], run.data.params["batch_size"]) == (str(EPOCHS), "4")
    for name in ("loss", "val_loss", "accuracy", "learning_rate", "images_per_s"):
        told = client.get_metric_history(run.info.run_id, name)
        assert [metric.step for metric in told] == list(history["epoch"])
        assert [metric.value for metric in told] == pytest.approx(list(history[name]))
    assert run.data.metrics["best_val_loss"] == pytest.approx(record["metrics"]["val_loss"])


def refused(source: Path, output: Path, ray_folder: Path, **environment: str) -> JobResult:
    flags = ("--source", source, "--output", output, *SIZE)
    result = run_job("train", *flags, env=environment | {"RAY_TMPDIR": str(ray_folder)}, timeout=60)
    assert not any(ray_folder.iterdir())  # no Ray was started
    assert [line[:7] for line in result.stderr.splitlines()] == ["error: "], result.stderr
    return result


def test_a_tracking_server_that_does_not_answer_is_named_before_ray_starts(
    source: Path, tmp_path: Path, ray_folder: Path
) -> None:
    server = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    result = refused(source, tmp_path / "model", ray_folder, **server)
    assert result.exit_code == 1
    assert "MLFLOW_TRACKING_URI" in result.stderr


def test_a_missing_mlflow_is_named_before_ray_starts(source: Path, tmp_path: Path, ray_folder: Path) -> None:
    (tmp_path / "path" / "mlflow").mkdir(parents=True)
    (tmp_path / "path" / "mlflow" / "__init__.py").write_text("raise ImportError('as if it were not installed')")
    hidden = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "PYTHONPATH": str(tmp_path / "path")}
    result = refused(source, tmp_path / "model", ray_folder, **hidden)
    assert result.exit_code == 2
    assert "MLflow is not installed" in result.stderr
