"""What `status` tells of folders in each state a run can leave them in."""

import json
import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from lib.errors import DataError, SettingsError
from lib.evaluation.predict import PREDICTIONS_FILE
from lib.folders.evaluation import EVALUATION_FILE
from lib.folders.markers import MARKERS
from lib.folders.model import MODEL_FILE
from lib.folders.output import OutputFolder
from lib.folders.shards import DATASET_FILE
from lib.runs.pipeline import PIPELINE_FILE
from lib.runs.status import FolderStatus, read_status
from lib.storage.location import Location


def status_of(folder: Path) -> dict[str, FolderStatus]:
    return {found.folder: found for found in read_status(Location(str(folder)))}


def output_folder(folder: Path, marker: str = DATASET_FILE) -> OutputFolder:
    return OutputFolder(Location(str(folder)), marker, {"size": 1})


def write(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def writer(pid: int, started_at: float) -> dict[str, Any]:
    return {"host": os.uname().nodename, "pid": pid, "process_started_at": started_at, "started_at": "2026-11-24"}


def test_every_completion_file_is_known() -> None:
    assert {DATASET_FILE, MODEL_FILE, EVALUATION_FILE, PREDICTIONS_FILE, PIPELINE_FILE} <= set(MARKERS)


def test_a_complete_folder_is_done(tmp_path: Path) -> None:
    folder = output_folder(tmp_path / "dataset")
    folder.once(lambda: folder.complete({}))
    found = status_of(tmp_path)["dataset"]
    assert (found.job, found.state) == ("convert", "done")
    assert found.detail.startswith("20")


def test_a_failure_is_told_with_its_message_until_the_next_start(tmp_path: Path) -> None:
    def fail() -> dict[str, Any]:
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
    write(tmp_path / "writer.json", writer(other.pid, other.create_time()))
    write(tmp_path / "images" / "part-0.parquet", {})
    found = status_of(tmp_path)["."]
    assert (found.job, found.state) == ("convert", "running")
    assert f"process {other.pid}" in found.detail
    assert "1 files in images/ so far" in found.detail


def test_a_folder_whose_writer_was_killed_is_stopped(tmp_path: Path) -> None:
    output_folder(tmp_path).begin()
    gone = 2**22 - 1
    assert not psutil.pid_exists(gone)
    write(tmp_path / "writer.json", writer(gone, 0.0))
    assert status_of(tmp_path)["."].state == "stopped"


def test_stages_that_a_pipeline_has_not_begun_are_waiting(tmp_path: Path) -> None:
    write(tmp_path / "run.json", {"marker": PIPELINE_FILE, "stages": {"dataset": "convert", "report": "report"}})
    write(tmp_path / "dataset" / "dataset.json", {"completed_at": "2026-11-24"})
    states = {name: found.state for name, found in status_of(tmp_path).items()}
    assert states == {".": "stopped", "dataset": "done", "report": "waiting"}


def test_a_folder_without_any_output_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing of ours")
    with pytest.raises(SettingsError, match="holds no output"):
        read_status(Location(str(tmp_path)))
