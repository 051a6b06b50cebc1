"""What `status` tells of folders in each state a run can leave them in."""

import os
from pathlib import Path

import psutil
import pytest

from lib.errors import DataError, SettingsError
from lib.folders.dataset import DatasetRecord
from lib.folders.lease import WriterRecord
from lib.folders.output import OutputFolder, RunRecord
from lib.folders.pipeline_folder import PipelineRecord
from lib.runs.status import FolderStatus, read_status
from lib.storage.location import Location
from tests.fakes.records import dataset_record


def status_of(folder: Path) -> dict[str, FolderStatus]:
    return {found.folder: found for found in read_status(Location(str(folder)))}


def output_folder(folder: Path) -> OutputFolder[DatasetRecord]:
    return OutputFolder(Location(str(folder)), DatasetRecord, {"size": 1})


def write_writer(folder: Path, pid: int, started_at: float) -> None:
    WriterRecord.here().model_copy(update={"pid": pid, "process_started_at": started_at}).write(Location(str(folder)))


def test_a_complete_folder_is_done(tmp_path: Path) -> None:
    folder = output_folder(tmp_path / "dataset")
    folder.once(lambda: folder.complete(dataset_record()))
    found = status_of(tmp_path)["dataset"]
    assert (found.job, found.state) == ("convert", "done")
    assert found.detail.startswith("20")


def test_a_failure_is_told_with_its_message_until_the_next_start(tmp_path: Path) -> None:
    def fail() -> DatasetRecord:
        raise DataError("the slides are upside down")

    folder = output_folder(tmp_path)
    with pytest.raises(DataError):
        folder.once(fail)
    found = status_of(tmp_path)["."]
    assert (found.job, found.state) == ("convert", "failed")
    assert "the slides are upside down" in found.detail
    folder.begin()
    assert status_of(tmp_path)["."].state == "stopped"


def test_a_folder_that_somebody_writes_is_running_with_its_parts_so_far(tmp_path: Path) -> None:
    output_folder(tmp_path).begin()
    other = psutil.Process(os.getppid())
    write_writer(tmp_path, other.pid, other.create_time())
    Location(str(tmp_path / "images" / "part-0.parquet")).write_bytes(b"a part")
    found = status_of(tmp_path)["."]
    assert (found.job, found.state) == ("convert", "running")
    assert f"process {other.pid}" in found.detail
    assert "1 files in images/ so far" in found.detail


def test_a_folder_whose_writer_was_killed_is_stopped(tmp_path: Path) -> None:
    output_folder(tmp_path).begin()
    gone = 2**22 - 1
    assert not psutil.pid_exists(gone)
    write_writer(tmp_path, gone, 0.0)
    assert status_of(tmp_path)["."].state == "stopped"


def test_stages_that_a_pipeline_has_not_begun_are_waiting(tmp_path: Path) -> None:
    stages = {"dataset": "convert", "report": "report"}
    RunRecord(marker=PipelineRecord.FILE, stages=stages).write(Location(str(tmp_path)))
    dataset_record().write(Location(str(tmp_path / "dataset")))
    states = {name: found.state for name, found in status_of(tmp_path).items()}
    assert states == {".": "stopped", "dataset": "done", "report": "waiting"}


def test_a_folder_without_any_output_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing of ours")
    with pytest.raises(SettingsError, match="holds no output"):
        read_status(Location(str(tmp_path)))
