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
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import psutil
import pytest

from lib.config.conversion import ConvertConfig
from lib.errors import TooManyBadImagesError, expected_cause
from tests.fakes.cluster import ray_cluster
from tests.fakes.conversion import convert_here
from tests.fakes.jobs import RunningJob, finish_job, job_beside, job_here, kill_job, logged, start_job, wait_until
from tests.fakes.sources import damage, write_source

pytestmark = pytest.mark.slow

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
        job: A process, or a thread of this one.
        output: Its model folder.
        sessions: Folders of Ray's sessions that it may log in.
        earlier: Logs that are of other trainings.
    """

    job: RunningJob
    output: Path
    sessions: Callable[[], Iterable[Path]]
    earlier: frozenset[Path] = frozenset()

    def groups(self) -> list[dict[int, int]]:
        """The process of each rank, of every group of workers that was started, as Ray Train's controller logs them."""
        started = re.findall(r"Started training worker group of size.*", self._log("controller"))
        return [
            {int(rank): int(pid) for pid, rank in re.findall(r"pid=(\d+)\) world_rank=(\d+)", it)} for it in started
        ]

    @property
    def process(self) -> "subprocess.Popen[str]":
        assert isinstance(self.job, subprocess.Popen)
        return self.job

    @property
    def summary(self) -> dict[str, Any]:
        assert isinstance(self.job, Future)
        return self.job.result()

    def node(self, pid: int) -> str:
        """Where a worker runs, as it logs it itself."""
        nodes = []
        self.wait(lambda: bool(nodes.extend(self._nodes(pid)) or nodes), f"worker {pid} has logged something")
        return nodes[0]

    def _nodes(self, pid: int) -> list[str]:
        return re.findall(rf'"process": {pid},.*"node_id": "(\w+)"', self._log("worker"))

    def _log(self, of: str) -> str:
        logs = {log for folder in self.sessions() for log in folder.glob(f"logs/train/ray-train-sys-{of}-*.log")}
        return "".join(log.read_text() for log in logs - self.earlier)

    def place(self) -> tuple[int, int]:
        """Epochs that are done, and steps of the next one, of the newest checkpoint."""
        names = [re.search(r"-(\d{6})-(\d{9})\.npz$", file.name) for file in self.checkpoints("checkpoint-*")]
        return max(((int(name[1]), int(name[2])) for name in names if name), default=(0, 0))

    def checkpoints(self, pattern: str) -> list[Path]:
        return list((self.output / "checkpoints").glob(pattern))

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(self.job, condition, what)

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


@pytest.fixture
def flags(dataset: Path, tmp_path: Path) -> tuple[object, ...]:
    return ("--dataset", dataset, "--output", tmp_path / "model", *SETTINGS)


@pytest.fixture
def train_beside(
    flags: tuple[object, ...], tmp_path: Path, local_ray: None, caplog: pytest.LogCaptureFixture
) -> Callable[..., AbstractContextManager[Training]]:
    """Trains in a thread, with the Ray of this process."""
    import ray

    session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
    caplog.set_level(logging.INFO, "lib")

    @contextmanager
    def train(*more: object) -> Iterator[Training]:
        earlier = frozenset(session.glob("logs/train/*.log"))
        with job_beside("train", *flags, *more) as job:
            yield Training(job, tmp_path / "model", lambda: [session], earlier)

    return train


@pytest.fixture
def start_process(flags: tuple[object, ...], tmp_path: Path, ray_folder: Path) -> Iterator[Callable[..., Training]]:
    """Trains in a process with a Ray of its own, and ends it if it still runs when its test is over."""
    started: list[subprocess.Popen[str]] = []

    def start(*more: object, env: Mapping[str, str] | None = None) -> Training:
        started.append(start_job("train", *flags, *more, env={"RAY_TMPDIR": str(ray_folder)} | dict(env or {})))
        return Training(started[-1], tmp_path / "model", lambda: ray_folder.glob("ray/session_2*"))

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
    train_beside: Callable[..., AbstractContextManager[Training]], undisturbed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with train_beside("--num-workers", 2, "--max-failures", 4) as training:
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

    assert training.summary["world_size"] == 2
    restarts = re.findall(
        rf"rank (\d) was lost \(its process is gone\); {RESTART} \(restarts left: (\d)\)", caplog.text
    )
    assert restarts == [("1", "3"), ("1", "2"), ("0", "1"), ("1", "0")]
    assert_same_model(training.output, undisturbed)


@pytest.mark.usefixtures("local_ray")
def test_the_same_command_goes_on_after_the_driver_was_killed_also_with_fewer_workers(
    start_process: Callable[..., Training], flags: tuple[object, ...], undisturbed: Path
) -> None:
    training = start_process("--num-workers", 2)
    training.wait(lambda: training.place() >= (2, 2), "two epochs are done")
    kill_job(training.process)
    assert not (training.output / "model.json").exists()

    with logged() as log:
        assert job_here("train", *flags, "--num-workers", 1)["world_size"] == 1

    assert f"epoch {EPOCHS}/{EPOCHS}" in log.getvalue()
    assert "epoch 1/" not in log.getvalue()
    assert_same_model(training.output, undisturbed)


def test_a_stopped_worker_is_named_ended_and_replaced(
    train_beside: Callable[..., AbstractContextManager[Training]], undisturbed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with train_beside("--num-workers", 2, "--stall-timeout", 10, "--max-failures", 9) as training:
        stopped = training.wait_for_group(0)[1]
        training.wait(lambda: training.place() >= (1, 2), "an epoch is done")
        os.kill(stopped, signal.SIGSTOP)

    assert training.summary["world_size"] == 2
    assert re.search(rf"rank 1 \(process {stopped} on node \w+, step \d+\) made no step for \d+ s", caplog.text)
    assert RESTART in caplog.text
    assert not psutil.pid_exists(stopped)
    assert_same_model(training.output, undisturbed)


def test_a_machine_that_is_to_be_taken_away_is_left_with_a_checkpoint_and_without_it_one_worker_goes_on(
    start_process: Callable[..., Training], undisturbed: Path, ray_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._raylet import GcsClient

    monkeypatch.setenv("RAY_TMPDIR", str(ray_folder))
    with ray_cluster({}, nodes=2) as cluster:
        training = start_process("--num-workers", "1:2", "--max-failures", 0, env=cluster.environment)
        node = training.node(training.wait_for_group(0)[1])
        training.wait(lambda: training.place() >= (1, 2), "an epoch is done")
        deadline_ms = int(time.time() * 1000) + 600_000  # so that nothing but the notice makes the workers leave
        preemption = 2
        assert GcsClient(address=cluster.environment["RAY_ADDRESS"]).drain_node(node, preemption, "spot", deadline_ms)[
            0
        ]

        result = finish_job(training.process)

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
