"""What every test needs: an environment that is set before anything imports Ray or Keras, and no trace left behind."""

import os
import shutil
import tempfile
from collections.abc import Iterator
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
os.environ["RAY_TMPDIR"] = str(SCRATCH)
os.environ["KERAS_HOME"] = str(SCRATCH / "keras")  # so that no weights of this machine's user are found
os.environ["MPLBACKEND"] = "agg"
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # before a test imports gcsfs (see lib.storage.gcs)
prepare_environment()


# No test fails because the machine is busy.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


def pytest_unconfigure() -> None:
    """Remove what Ray and Keras left behind."""
    shutil.rmtree(SCRATCH, ignore_errors=True)


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """An empty folder for a Ray of its own: it stays empty if no Ray is started."""
    folder = Path(tempfile.mkdtemp(dir=SCRATCH))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of striped TIFFs; one has no test image, two files are damaged, two are no images."""
    from tests.fakes.sources import damage, write_source

    classes = {"liver": 10, "lung": 10, "skin": 10}
    folder = write_source(tmp_path_factory.mktemp("tiny") / "source", classes, test_per_class=4, without_test="skin")
    damage(folder / "train" / "lung" / "lung_train_003.tif")
    (folder / "test" / "liver" / "no_tiff.tif").write_text("these are no pixels")
    (folder / "train" / "liver" / "notes.txt").write_text("taken on a Monday")
    (folder / "train" / "liver" / ".DS_Store").write_bytes(b"\0")
    return folder


@pytest.fixture(scope="session")
def chain(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> "Chain":
    """The whole chain, run once on the tiny source with three models."""
    from tests.fakes.chain import Chain

    return Chain.run(tiny_source, tmp_path_factory.mktemp("chain") / "output")
