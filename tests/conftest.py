"""What every test needs: an environment that is set before anything imports Ray or Keras, and no trace left behind."""

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from lib.runtime.environment import prepare_environment

if TYPE_CHECKING:
    from tests.fakes.chain import Chain

SCRATCH = Path(tempfile.mkdtemp(prefix="tt", dir="/tmp"))
"""Where Ray and Keras may write. A short path, since the names of Ray's sockets below it may have 107 characters."""

for name in ("RAY_ADDRESS", "STORAGE_EMULATOR_HOST", "DRIVE_API_ENDPOINT", "GOOGLE_APPLICATION_CREDENTIALS"):
    os.environ.pop(name, None)
for name in [name for name in os.environ if name.startswith("AWS_")]:
    os.environ.pop(name)
os.environ["RAY_TMPDIR"] = str(SCRATCH)
os.environ["KERAS_HOME"] = str(SCRATCH / "keras")  # so that no weights of this machine's user are found
os.environ["MPLBACKEND"] = "agg"
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # before a test imports gcsfs (see lib.storage.gcs)
prepare_environment()


# No test fails because the machine is busy.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


def pytest_unconfigure() -> None:
    """End the Ray of this process, and remove what Ray and Keras left behind."""
    end_ray()
    shutil.rmtree(SCRATCH, ignore_errors=True)


def end_ray() -> None:
    """End the Ray of this process, if it has one."""
    if "ray" in sys.modules:
        from lib.runtime.ray_data import stop_ray

        stop_ray()


@pytest.fixture(scope="module")
def local_ray() -> None:
    """The local Ray of this process. It takes 10 s to start, so it stays for later modules that ask for it."""
    from lib.config.base import JobConfig
    from lib.runtime.ray_data import start_ray

    start_ray(JobConfig())


@pytest.fixture(scope="module")
def no_ray() -> None:
    """No Ray in this process."""
    end_ray()


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """An empty folder for a Ray of its own: it stays empty if no Ray is started."""
    folder = Path(tempfile.mkdtemp(dir=SCRATCH))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Path]:
    """A folder that all processes of a test run have in common, for one of them at a time."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "shared"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Three classes of striped TIFFs; one has no test image, two files are damaged, two are no images."""
    from tests.fakes.sources import damage, write_source

    with shared_folder(tmp_path_factory, worker_id) as shared:
        folder = shared / "source"
        if not folder.exists():
            classes = {"liver": 10, "lung": 10, "skin": 10}
            write_source(folder, classes, test_per_class=4, without_test="skin")
            damage(folder / "train" / "lung" / "lung_train_003.tif")
            (folder / "test" / "liver" / "no_tiff.tif").write_text("these are no pixels")
            (folder / "train" / "liver" / "notes.txt").write_text("taken on a Monday")
            (folder / "train" / "liver" / ".DS_Store").write_bytes(b"\0")
    return folder


@pytest.fixture(scope="session")
def chain(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> "Chain":
    """The whole chain on the tiny source with three models, run once for all tests."""
    from tests.fakes.chain import Chain

    with shared_folder(tmp_path_factory, worker_id) as shared:
        return Chain.of(tiny_source, shared)
