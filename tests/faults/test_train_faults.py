"""Disturbed training ends with the weights of an undisturbed run, or at once with the message of its own fault."""

import io
import json
import logging
import os
import re
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import psutil
import pytest

from lib.config.conversion import ConvertConfig
from lib.errors import TooManyBadImagesError, expected_cause
from tests.fakes.cluster import ray_cluster
from tests.fakes.conversion import convert_here
from tests.fakes.jobs import JobResult, finish_job, job_here, kill_job, start_job, wait_until
from tests.fakes.sources import damage, write_source

EPOCHS = 15
SIZE = ("--image-size", 32)
SETTINGS = (
    *SIZE,
    *("--epochs", EPOCHS),
    *("--batch-size", 4),
    *("--learning-rate", 0.003),
    *("--patience", EPOCHS),
    *("--checkpoint-every", 2),
)
"""18 training images and 2 to validate: 5 steps an epoch."""
RESTART = "training restarts from its last checkpoint"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("organs")
    source = write_source(folder / "source", {"liver": 10, "lung": 10}, size=32)
    config = ConvertConfig(source=str(source), output=f"{folder}/dataset", image_size=32, validation_fraction=0.1)
    assert convert_here(config).counts.accepted == 24
    return folder / "dataset"


@pytest.fixture(scope="module")
def undisturbed(local_ray: None, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed")
    assert job_here("train", "--dataset", dataset, "--output", output, *SETTINGS)["world_size"] == 1
    return output


@dataclass
class Training:
    """A job that trains, and what can be seen of it from outside.

    Attributes:
        process: The job.
        output: Its model folder.
        ray_folder: Where its Ray writes.
    """

    process: "subprocess.Popen[str]"
    output: Path
    ray_folder: Path

    def groups(self) -> list[dict[int, int]]:
        """The process of each rank, of every group of workers that was started, as Ray Train's controller logs them."""
        started = re.findall(r"Started training worker group of size.*", self._log("controller"))
        return [
            {int(rank): int(pid) for pid, rank in re.findall(r"pid=(\d+)\) world_rank=(\d+)", it)} for it in started
        ]

    def node(self, pid: int) -> str:
        """Where a worker runs, as it logs it itself."""
        nodes = []
        self.wait(lambda: bool(nodes.extend(self._nodes(pid)) or nodes), f"worker {pid} has logged something")
        return nodes[0]

    def _nodes(self, pid: int) -> list[str]:
        return re.findall(rf'"process": {pid},.*"node_id": "(\w+)"', self._log("worker"))

    def _log(self, of: str) -> str:
        logs = self.ray_folder.glob(f"ray/session_2*/logs/train/ray-train-sys-{of}-*.log")
        return "".join(log.read_text() for log in logs)

    def place(self) -> tuple[int, int]:
        """Epochs that are done, and steps of the next one, of the newest checkpoint."""
        names = [re.search(r"-(\d{6})-(\d{9})\.npz$", file.name) for file in self.checkpoints("checkpoint-*")]
        return max(((int(name[1]), int(name[2])) for name in names if name), default=(0, 0))

    def checkpoints(self, pattern: str) -> list[Path]:
        return list((self.output / "checkpoints").glob(pattern))

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(self.process, condition, what)

    def stop_worker_when(self, pid: int, condition: Callable[[], bool], what: str) -> None:
        """Leave a worker standing still as soon as something is so; it goes on in small pieces until then."""
        worker = psutil.Process(pid)

        def met() -> bool:
            worker.suspend()
            if condition():
                return True
            worker.resume()
            return False

        self.wait(met, what)

    def wait_for_group(self, number: int) -> dict[int, int]:
        self.wait(lambda: len(self.groups()) > number, f"group {number} of workers trains")
        return self.groups()[number]

    def end(self) -> JobResult:
        return finish_job(self.process)


@pytest.fixture
def start_training(dataset: Path, tmp_path: Path, ray_folder: Path) -> Iterator[Callable[..., Training]]:
    """Starts a training, and ends it if it still runs when its test is over."""
    started: list[subprocess.Popen[str]] = []

    def start(*flags: object, env: Mapping[str, str] | None = None) -> Training:
        output = tmp_path / "model"
        flags = ("--dataset", dataset, "--output", output, *SETTINGS, *flags)
        started.append(start_job("train", *flags, env={"RAY_TMPDIR": str(ray_folder)} | dict(env or {})))
        return Training(started[-1], output, ray_folder)

    yield start
    for process in started:
        if process.poll() is None:
            kill_job(process)


def saved_weights(model: Path) -> dict[str, npt.NDArray[np.float32]]:
    """All arrays in `model.keras`, by name."""
    found = {}
    with zipfile.ZipFile(model / "model.keras") as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(content) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def assert_same_model(found: Path, expected: Path) -> None:
    weights = saved_weights(expected)
    assert weights.keys() == saved_weights(found).keys()
    for name, array in saved_weights(found).items():
        difference = np.linalg.norm(array - weights[name]) / max(float(np.linalg.norm(weights[name])), 1e-12)
        assert difference < 1e-5, f"{name}: {difference}"
    assert json.loads((found / "model.json").read_text())["metrics"]["epochs"] == EPOCHS
    assert not list(found.rglob("*.partial"))


def test_workers_killed_at_any_moment_are_replaced_and_the_weights_are_the_same(
    start_training: Callable[..., Training], undisturbed: Path
) -> None:
    training = start_training("--num-workers", 2, "--max-failures", 4)
    half_written: set[Path] = set()

    def writes() -> bool:
        return bool(set(training.checkpoints(".*.partial")) - half_written)

    moments: list[tuple[str, int, Callable[[], bool]]] = [
        ("before the first step", 1, lambda: True),
        ("in the middle of an epoch", 1, lambda: training.place() >= (1, 2) and training.place()[1] > 0),
        ("while a checkpoint is written", 0, writes),
        ("in the last epoch", 1, lambda: training.place()[0] == EPOCHS - 1),
    ]
    for number, (moment, rank, has_come) in enumerate(moments):
        pid = training.wait_for_group(number)[rank]
        half_written = set(training.checkpoints(".*.partial"))
        training.stop_worker_when(pid, has_come, moment)
        psutil.Process(pid).kill()

    result = training.end()

    assert result.summary["world_size"] == 2
    restarts = re.findall(
        rf"rank (\d) was lost \(its process is gone\); {RESTART} \(restarts left: (\d)\)", result.stderr
    )
    assert restarts == [("1", "3"), ("1", "2"), ("0", "1"), ("1", "0")]
    assert_same_model(training.output, undisturbed)


def test_the_same_command_goes_on_after_the_driver_was_killed_also_with_fewer_workers(
    start_training: Callable[..., Training], undisturbed: Path
) -> None:
    training = start_training("--num-workers", 2)
    training.wait(lambda: training.place() >= (2, 2), "two epochs are done")
    kill_job(training.process)
    assert not (training.output / "model.json").exists()

    result = start_training("--num-workers", 1).end()

    assert result.summary["world_size"] == 1
    assert "epoch 1/" not in result.stderr
    assert_same_model(training.output, undisturbed)


def test_a_stopped_worker_is_named_ended_and_replaced(
    start_training: Callable[..., Training], undisturbed: Path
) -> None:
    training = start_training("--num-workers", 2, "--stall-timeout", 10, "--max-failures", 9)
    stopped = training.wait_for_group(0)[1]
    training.wait(lambda: training.place() >= (1, 2), "an epoch is done")
    os.kill(stopped, signal.SIGSTOP)

    result = training.end()

    assert re.search(rf"rank 1 \(process {stopped} on node \w+, step \d+\) made no step for \d+ s", result.stderr)
    assert RESTART in result.stderr
    assert not psutil.pid_exists(stopped)
    assert_same_model(training.output, undisturbed)


def test_a_machine_that_is_to_be_taken_away_is_left_with_a_checkpoint_and_without_it_one_worker_goes_on(
    start_training: Callable[..., Training], undisturbed: Path, ray_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._raylet import GcsClient

    monkeypatch.setenv("RAY_TMPDIR", str(ray_folder))
    with ray_cluster({}, nodes=2) as cluster:
        training = start_training("--num-workers", "1:2", "--max-failures", 0, env=cluster.environment)
        node = training.node(training.wait_for_group(0)[1])
        training.wait(lambda: training.place() >= (1, 2), "an epoch is done")
        deadline_ms = int(time.time() * 1000) + 600_000  # so that nothing but the notice makes the workers leave
        preemption = 2
        assert GcsClient(address=cluster.environment["RAY_ADDRESS"]).drain_node(node, preemption, "spot", deadline_ms)[
            0
        ]

        result = training.end()

    assert result.summary["world_size"] == 1
    assert "a machine is about to be reclaimed; training continues elsewhere" in result.stderr
    assert_same_model(training.output, undisturbed)


@pytest.mark.usefixtures("local_ray")
def test_an_error_of_the_data_ends_training_once_with_its_own_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_source(tmp_path / "source", {"liver": 6, "lung": 6}, size=32)
    damage(source / "train" / "lung" / "lung_train_003.tif")
    flags = ("--source", source, "--output", tmp_path / "model", *SETTINGS, "--num-workers", 2)

    caplog.set_level(logging.INFO, "lib")
    with pytest.raises(Exception, match="1 of 12 images are bad") as failure:
        job_here("train", *flags)

    cause = expected_cause(failure.value)
    assert isinstance(cause, TooManyBadImagesError)
    assert "1 of 12 images are bad, more than --max-bad-fraction 0 allows" in str(cause)
    assert RESTART not in caplog.text
