"""Output folders: begun by one run, continued only by the same run, complete when their JSON file exists."""

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from lib.errors import SettingsError
from lib.folders.model import ModelRecord
from lib.folders.output import OutputFolder, read_complete
from lib.folders.sample_folder import SampleRecord
from lib.storage.location import Location
from tests.fakes.records import sample_record

MARKER = SampleRecord.FILE
SETTINGS = {"image_size": 180, "models": ["cnn", "vgg16"], "learning_rate": None}


@pytest.fixture
def location(tmp_path: Path) -> Location:
    return Location(str(tmp_path / "out"))


def folder_of(location: Location, **changes: Any) -> OutputFolder[SampleRecord]:
    return OutputFolder(location, SampleRecord, SETTINGS | changes)


def test_a_fresh_folder_is_taken(location: Location) -> None:
    assert folder_of(location).begin() is None
    assert [file.path for file in location.list_files()] == ["run.json"]


def test_an_empty_folder_is_taken(location: Location) -> None:
    Path(location.path, "sub").mkdir(parents=True)
    assert folder_of(location).begin() is None


def test_an_incomplete_run_is_continued_with_its_files_in_place(location: Location) -> None:
    folder_of(location).begin()
    (location / "images/0.parquet").write_bytes(b"half of the work")
    assert folder_of(location).begin() is None
    assert (location / "images/0.parquet").read_bytes() == b"half of the work"


def test_a_complete_run_gives_back_its_record(location: Location) -> None:
    folder_of(location).begin()
    written = folder_of(location).complete(sample_record())
    assert folder_of(location).begin() == written == read_complete(location, SampleRecord)
    assert written.images == 7
    assert written.settings == SETTINGS
    assert written.versions["numpy"].count(".") == 2
    assert datetime.fromisoformat(written.completed_at).tzinfo is not None


def test_a_complete_folder_no_longer_says_that_it_is_under_way(location: Location) -> None:
    folder_of(location).begin()
    folder_of(location).complete(sample_record())
    assert [file.path for file in location.list_files()] == [MARKER]


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_with_other_settings_is_refused_by_the_name_of_what_differs(location: Location, finished: bool) -> None:
    folder_of(location).begin()
    if finished:
        folder_of(location).complete(sample_record())
    before = location.list_files()
    with pytest.raises(SettingsError, match=r"\(image_size is 180 there and 96 here\)") as caught:
        folder_of(location, image_size=96).begin()
    assert location.uri in str(caught.value)
    assert location.list_files() == before


def test_a_setting_that_only_one_of_the_runs_has_differs(location: Location) -> None:
    folder_of(location, seed=3).begin()
    with pytest.raises(SettingsError, match="seed is 3 there and None here"):
        folder_of(location).begin()
    with pytest.raises(SettingsError, match="layout is None there and 'folder' here"):
        folder_of(location, seed=3, layout="folder").begin()


def test_of_many_differences_a_few_are_named(location: Location) -> None:
    folder_of(location).begin()
    with pytest.raises(SettingsError, match=r"a is None .*, b is None .*, c is None [^,]*\); choose another folder$"):
        folder_of(location, a=1, b=2, c=3, d=4).begin()


def test_a_folder_with_files_that_no_run_wrote_is_refused(location: Location) -> None:
    (location / "thesis/chapter.txt").write_bytes(b"precious")
    with pytest.raises(
        SettingsError, match=re.escape(f"--output {location.uri} is not empty and holds no sample.json")
    ):
        folder_of(location).begin()
    assert [file.path for file in location.list_files()] == ["thesis/chapter.txt"]


def test_an_incomplete_folder_is_not_an_input(location: Location) -> None:
    expected = re.escape(f"{location.uri} is not a complete folder: sample.json is missing") + ".*jobs.sample"
    with pytest.raises(SettingsError, match=expected):
        read_complete(location, SampleRecord)
    folder_of(location).begin()
    (location / "images/0.parquet").write_bytes(b"half of the work")
    with pytest.raises(SettingsError, match=expected):
        read_complete(location, SampleRecord)


def test_a_run_stopped_between_its_last_two_writes_is_complete(location: Location) -> None:
    folder_of(location).begin()
    under_way = (location / "run.json").read_bytes()
    record = folder_of(location).complete(sample_record())
    (location / "run.json").write_bytes(under_way)
    assert folder_of(location).begin() == record


def test_a_run_under_way_goes_on_after_its_inputs_changed_without_the_parts_made_from_the_old_ones(
    location: Location, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "lib")  # as jobs do: a Ray of another test may have made the root logger silent
    OutputFolder(location, SampleRecord, {"size": 1}, {"listing": "a"}).begin()
    (location / "part").write_bytes(b"made from a")
    changed = OutputFolder(location, SampleRecord, {"size": 1}, {"listing": "b"})
    assert changed.begin() is None
    assert not (location / "part").exists()
    assert "inputs have changed" in caplog.text


def test_parts_that_name_their_inputs_stay_when_the_inputs_change(location: Location) -> None:
    OutputFolder(location, SampleRecord, {"size": 1}, {"listing": "a"}, parts_name_their_inputs=True).begin()
    (location / "part-a").write_bytes(b"made from a")
    OutputFolder(location, SampleRecord, {"size": 1}, {"listing": "b"}, parts_name_their_inputs=True).begin()
    assert (location / "part-a").exists()


def test_a_complete_folder_made_from_other_inputs_is_refused(location: Location) -> None:
    OutputFolder(location, SampleRecord, {"size": 1}, {"listing": "a"}).complete(sample_record())
    with pytest.raises(SettingsError, match="listing is 'a' there and 'b' here"):
        OutputFolder(location, SampleRecord, {"size": 1}, {"listing": "b"}).begin()


def test_a_folder_of_another_job_is_refused(location: Location) -> None:
    OutputFolder(location, SampleRecord, {"size": 1}).begin()
    with pytest.raises(SettingsError, match="marker is"):
        OutputFolder(location, ModelRecord, {"size": 1}).begin()


def test_what_was_measured_is_known_to_the_next_start_of_the_same_run(location: Location) -> None:
    folder = OutputFolder(location, SampleRecord, SETTINGS, {"listing": "a"})
    folder.begin()
    assert folder.measured_once("range", lambda: "0:4095") == "0:4095"
    assert folder.begin() is None
    assert folder.measured_once("range", lambda: "0:1") == "0:4095"


def test_what_was_measured_on_other_inputs_is_measured_again(location: Location) -> None:
    for listing, parts_stay in (("a", True), ("b", True), ("c", False)):
        folder = OutputFolder(
            location, SampleRecord, SETTINGS, {"listing": listing}, parts_name_their_inputs=parts_stay
        )
        folder.begin()
        assert folder.measured_once("range", lambda found=listing: found) == listing


def test_a_complete_folder_that_is_brought_up_to_date_keeps_no_measurement(location: Location) -> None:
    OutputFolder(location, SampleRecord, SETTINGS, {"listing": "a"}).complete(sample_record())
    folder = OutputFolder(location, SampleRecord, SETTINGS, {"listing": "b"}, may_update=True)
    assert folder.begin() is None
    assert folder.measured_once("range", lambda: "0:1") == "0:1"
    assert [file.path for file in location.list_files()] == [MARKER]


def test_what_killed_writers_left_is_gone_when_a_folder_is_complete(tmp_path: Path) -> None:
    left = tmp_path / "out/checkpoints" / f".{'a' * 32}.partial"
    folder = OutputFolder(Location(str(tmp_path / "out")), SampleRecord, {})
    folder.begin()
    left.parent.mkdir()
    left.write_bytes(b"half")
    folder.complete(sample_record())
    assert not left.exists()
