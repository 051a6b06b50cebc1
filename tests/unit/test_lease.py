"""One writer a folder."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from lib.errors import SettingsError
from lib.folders import lease
from lib.folders.lease import LeaseLostError, WriterRecord, only_writer, refuse_second_writer, renew_lease
from lib.folders.output import OutputFolder, RunRecord
from lib.folders.sample_folder import SampleRecord
from lib.storage.location import Location
from tests.fakes.records import sample_record


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
    long_ago = time.time() - lease.EXPIRY_S - 1
    os.utime((folder / WriterRecord.FILE).path, (long_ago, long_ago))
    refuse_second_writer(folder)


def test_the_file_is_renewed(folder: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWAL_S", 0.01)
    with only_writer(folder):
        first = WriterRecord.read(folder).renewed_at_unix_s
        deadline = time.monotonic() + 300
        while WriterRecord.read(folder).renewed_at_unix_s == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_lease_is_renewed_and_let_go_only_while_it_is_ones_own(folder: Location) -> None:
    def stand_still() -> None:
        with only_writer(folder):
            written_by(folder)
            renew_lease(folder)

    with pytest.raises(LeaseLostError, match=r"was taken over by process 1 on elsewhere since 2026-11-23.*it stops"):
        stand_still()
    assert WriterRecord.read(folder).host == "elsewhere"


def test_a_lease_that_was_removed_by_hand_is_taken_again(folder: Location) -> None:
    with only_writer(folder):
        (folder / WriterRecord.FILE).delete()
        renew_lease(folder)
        assert WriterRecord.read(folder).pid == os.getpid()


def test_a_run_that_stood_still_completes_nothing_and_notes_no_failure(folder: Location) -> None:
    output = OutputFolder(folder, SampleRecord, {})

    def work() -> SampleRecord:
        written_by(folder)
        return output.complete(sample_record())

    with pytest.raises(LeaseLostError, match="taken over"):
        output.once(work)
    assert not output.is_complete()
    assert RunRecord.read(folder).failed is None


def test_a_run_that_wakes_up_is_interrupted_where_it_waits(folder: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWAL_S", 0.01)
    woke_by_itself = []

    def stand_still() -> None:
        with only_writer(folder):
            written_by(folder)
            time.sleep(300)
            woke_by_itself.append(True)

    with pytest.raises(LeaseLostError, match="was taken over by process 1 on elsewhere"):
        stand_still()
    assert not woke_by_itself


def test_ctrl_c_stays_ctrl_c(folder: Location) -> None:
    with pytest.raises(KeyboardInterrupt), only_writer(folder):
        raise KeyboardInterrupt
    assert not (folder / WriterRecord.FILE).exists()


def test_a_second_attempt_in_the_same_process_is_refused_too(folder: Location) -> None:
    def attempt() -> str:
        with pytest.raises(SettingsError, match="is being written by process") as caught, only_writer(folder):
            pass
        return str(caught.value)

    with only_writer(folder), ThreadPoolExecutor(1) as other:
        assert f"process {os.getpid()} on" in other.submit(attempt).result()


def test_a_lease_of_another_machine_is_as_old_as_the_disk_says(folder: Location) -> None:
    written_by(folder, renewed_at_unix_s=time.time() + 3600)  # by a clock that is wrong
    with pytest.raises(SettingsError, match="on elsewhere"):
        refuse_second_writer(folder)
    long_ago = time.time() - lease.EXPIRY_S - 1
    os.utime((folder / WriterRecord.FILE).path, (long_ago, long_ago))
    refuse_second_writer(folder)


def test_a_lease_leaves_no_file_behind(folder: Location) -> None:
    with only_writer(folder):
        pass
    assert list(Path(folder.path).iterdir()) == []


def test_nothing_is_written_into_a_folder_of_others(folder: Location) -> None:
    (folder / "thesis.docx").write_bytes(b"1")
    before = Path(folder.path).stat().st_mtime_ns
    with pytest.raises(SettingsError, match="is not empty"):
        OutputFolder(folder, SampleRecord, {}).once(lambda: pytest.fail("it worked"))
    assert [path.name for path in Path(folder.path).iterdir()] == ["thesis.docx"]
    assert Path(folder.path).stat().st_mtime_ns == before
