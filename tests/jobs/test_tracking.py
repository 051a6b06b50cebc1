"""How a training went can be followed in TensorBoard and in MLflow."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from lib.errors import SettingsError, TissueError
from lib.training.tracking import DEFAULT_EXPERIMENT
from tests.fakes.jobs import job_here
from tests.fakes.sources import write_source

EPOCHS, BATCH_SIZE = 3, 4
SIZE = ("--image-size", 32)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("tracked") / "source", {"liver": 8, "lung": 8}, size=32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's runs as files: what its small client has without a server."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="module")
def model(local_ray: None, source: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store.as_uri())
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        job_here("train", "--source", source, "--output", output, "--epochs", EPOCHS, "--batch-size", BATCH_SIZE, *SIZE)
    return output


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


def test_mlflow_has_the_settings_every_epoch_and_the_result(
    model: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient(store.as_uri())
    experiment = client.get_experiment_by_name(DEFAULT_EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id])
    history = pd.read_parquet(model / "history.parquet")
    record = json.loads((model / "model.json").read_text())
    assert run.info.status == "FINISHED"
    assert run.data.tags["model_dir"] == str(model)
    assert run.data.tags["spec"] == "cnn"
    assert (run.data.params["epochs"], run.data.params["batch_size"]) == (str(EPOCHS), str(BATCH_SIZE))
    for name in ("loss", "val_loss", "accuracy", "learning_rate", "images_per_s"):
        told = client.get_metric_history(run.info.run_id, name)
        assert [metric.step for metric in told] == list(history["epoch"])
        assert [metric.value for metric in told] == pytest.approx(list(history[name]))
    assert run.data.metrics["best_val_loss"] == pytest.approx(record["metrics"]["val_loss"])


@pytest.fixture
def server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where training would be told of; and no Ray may be started."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("lib.training.trainer.start_ray", pytest.fail)


@pytest.mark.usefixtures("server_that_does_not_answer")
def test_a_tracking_server_that_does_not_answer_is_named_before_ray_starts(source: Path, tmp_path: Path) -> None:
    with pytest.raises(TissueError, match="MLFLOW_TRACKING_URI") as refused:
        job_here("train", "--source", source, "--output", tmp_path / "model", *SIZE)
    assert refused.value.exit_code == 1


@pytest.mark.usefixtures("server_that_does_not_answer")
def test_a_missing_mlflow_is_named_before_ray_starts(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)  # as if it were not installed
    with pytest.raises(SettingsError, match="MLflow is not installed"):
        job_here("train", "--source", source, "--output", tmp_path / "model", *SIZE)
