"""One writer a folder."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lib.errors import SettingsError
from lib.folders import lease
from lib.folders.lease import WriterRecord, only_writer, refuse_second_writer
from lib.folders.output import OutputFolder
from lib.folders.sample_folder import SampleRecord
from lib.storage.location import Location


@pytest.fixture
def folder(tmp_path: Path) -> Location:
    return Location(str(tmp_path))


def written_by(folder: Location, **changes: object) -> None:
    here = WriterRecord.here()
    start = {"host": "elsewhere", "pid": 1, "process_started_at": 0.0, "started_at": "2026-11-23T20:00:00+00:00"}
    here.model_copy(update=start | changes).write(folder)


def test_the_file_is_there_while_the_folder_is_written_and_gone_afterwards(folder: Location) -> None:
    with only_writer(folder):
        assert WriterRecord.read(folder).pid == os.getpid()
    assert not (folder / WriterRecord.FILE).exists()


def test_a_failure_lets_go_of_the_folder(folder: Location) -> None:
    with pytest.raises(ZeroDivisionError), only_writer(folder):
        raise ZeroDivisionError
    assert not (folder / WriterRecord.FILE).exists()


def test_a_second_run_is_refused_and_the_first_one_named(folder: Location) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        started_at = psutil.Process(sleeper.pid).create_time()
        written_by(folder, host=lease.socket.gethostname(), pid=sleeper.pid, process_started_at=started_at)
        with pytest.raises(SettingsError, match=f"written by process {sleeper.pid} on .* since 2026-11-23T20:00:00"):
            OutputFolder(folder, SampleRecord, {}).begin()
    finally:
        sleeper.kill()
        sleeper.wait()
    assert OutputFolder(folder, SampleRecord, {}).begin() is None


def test_another_process_with_the_number_of_a_dead_writer_is_no_writer(folder: Location) -> None:
    written_by(folder, host=lease.socket.gethostname(), pid=os.getppid(), process_started_at=1.0)
    refuse_second_writer(folder)


def test_a_writer_on_another_machine_counts_until_its_file_is_no_longer_renewed(folder: Location) -> None:
    written_by(folder)
    with pytest.raises(SettingsError, match="on elsewhere"):
        refuse_second_writer(folder)
    written_by(folder, renewed_at_unix_s=time.time() - lease.EXPIRY_S - 1)
    refuse_second_writer(folder)


def test_the_file_is_renewed(folder: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWAL_S", 0.01)
    with only_writer(folder):
        first = WriterRecord.read(folder).renewed_at_unix_s
        deadline = time.monotonic() + 300
        while WriterRecord.read(folder).renewed_at_unix_s == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)
