"""Two runs that begin at the same moment: one writes, wherever the folder is."""

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lib.errors import SettingsError, StorageError
from lib.folders import lease
from lib.folders.lease import LeaseLostError, WriterRecord, only_writer, refuse_second_writer, renew_lease
from lib.storage.location import Location
from lib.storage.versions import ABSENT, delete_over, look, write_over
from tests.fakes.drive import drive_server
from tests.fakes.gcs import GcsServer, gcs_server
from tests.fakes.proxy import faulty_proxy
from tests.fakes.storage import storage_here

pytestmark = pytest.mark.slow

RACES = 50


@pytest.fixture(scope="module")
def gcs() -> Iterator[GcsServer]:
    with gcs_server() as server:
        yield server


@pytest.fixture(params=["gs", "disk"])
def place(request: pytest.FixtureRequest, gcs: GcsServer, tmp_path: Path) -> Iterator[Location]:
    with storage_here(gcs.environment):
        yield Location(f"gs://{gcs.bucket}/{tmp_path.name}") if request.param == "gs" else Location(str(tmp_path))


@pytest.fixture
def two_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each thread be on a machine of its own, so that nothing but the folder tells one run of the other."""
    monkeypatch.setattr(socket, "gethostname", lambda: threading.current_thread().name)


def written_by_dead(folder: Location, **changes: object) -> None:
    WriterRecord.here().model_copy(update={"host": "dead", "pid": 1} | changes).write(folder)


@pytest.mark.usefixtures("two_machines")
@pytest.mark.parametrize("left", ["nothing", "the lease of a dead run"])
def test_of_two_runs_that_begin_at_once_one_writes(left: str, place: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WriterRecord, "is_writing_at", lambda writer, _: writer.host != "dead")
    start, decided = threading.Barrier(2), threading.Barrier(2)

    def enter(folder: Location) -> str:
        start.wait(60)
        try:
            with only_writer(folder):
                decided.wait(60)
                return "wrote"
        except SettingsError as error:
            decided.wait(60)
            return str(error)

    with ThreadPoolExecutor(2) as runs:
        for number in range(RACES):
            folder = place / f"{number}"
            if left != "nothing":
                written_by_dead(folder)
            refused, wrote = sorted(runs.map(enter, [folder, folder]))
            assert wrote == "wrote", f"race {number}"
            assert "is being written by process" in refused, f"race {number}"
            assert not (folder / WriterRecord.FILE).exists()


def test_a_lease_is_as_old_as_its_object_whatever_the_clock_of_its_writer(
    place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_by_dead(place, renewed_at_unix_s=0.0)
    with pytest.raises(SettingsError, match="is being written by process 1 on dead"):
        refuse_second_writer(place)
    written_by_dead(place, renewed_at_unix_s=1e11)
    monkeypatch.setattr(lease, "EXPIRY_S", -2.0)  # so that a lease of this second is too old already
    refuse_second_writer(place)


def test_a_run_whose_lease_is_anothers_stops_and_leaves_it(place: Location) -> None:
    def stand_still() -> None:
        with only_writer(place):
            written_by_dead(place)
            renew_lease(place)

    with pytest.raises(LeaseLostError, match="was taken over by process 1 on dead"):
        stand_still()
    assert WriterRecord.read(place).host == "dead"


def test_a_file_is_written_and_deleted_only_over_the_version_that_was_seen(place: Location) -> None:
    file = place / "x.json"
    assert look(file).version == ABSENT
    first = write_over(file, b"1", ABSENT)
    assert first is not None
    assert write_over(file, b"other", ABSENT) is None
    seen = look(file)
    assert (seen.version, seen.data) == (first, b"1")
    assert seen.age_s is not None
    assert -2 < seen.age_s < 60
    second = write_over(file, b"2", first)
    assert second not in {None, first}
    assert write_over(file, b"other", first) is None
    if place.is_local:  # a bucket's own condition is not heeded by the server here: see the next test
        delete_over(file, first)
        assert look(file).data == b"2"
    delete_over(file, str(second))
    assert look(file).version == ABSENT
    assert write_over(file, b"3", str(second)) is None


def test_a_bucket_is_asked_to_delete_one_version_alone(gcs: GcsServer) -> None:
    with faulty_proxy(gcs.url) as proxy, storage_here({"STORAGE_EMULATOR_HOST": proxy.url}):
        file = Location(f"gs://{gcs.bucket}/deleted.json")
        version = write_over(file, b"1", ABSENT)
        delete_over(file, str(version))
        [request] = proxy.matching(r"^DELETE .*deleted\.json")
        assert f"ifGenerationMatch={version}" in request.target
        delete_over(file, str(version))  # which is gone
        proxy.fail("status", "^DELETE", status=412, message="conditionNotMet")
        delete_over(file, str(version))


def test_an_answer_that_is_lost_does_not_lose_the_lease(gcs: GcsServer) -> None:
    with faulty_proxy(gcs.url) as proxy, storage_here({"STORAGE_EMULATOR_HOST": proxy.url}):
        folder = Location(f"gs://{gcs.bucket}/lost")
        lost = proxy.fail("lose_answer", "^POST", times=1)
        with only_writer(folder):
            assert lost.hits == 1
            lost = proxy.fail("lose_answer", "^POST", times=1)
            renew_lease(folder)
            assert lost.hits == 1
        assert not (folder / WriterRecord.FILE).exists()


@pytest.mark.usefixtures("two_machines")
def test_on_drive_a_second_run_is_refused_and_one_whose_lease_is_anothers_stops(tmp_path: Path) -> None:
    def enter(folder: Location) -> str:
        with pytest.raises(SettingsError, match="is being written by process") as caught, only_writer(folder):
            pass
        return str(caught.value)

    def stand_still(folder: Location) -> None:
        with only_writer(folder):
            written_by_dead(folder)
            renew_lease(folder)

    with drive_server() as drive, storage_here(drive.environment(drive.write_key(tmp_path / "key.json"))):
        place = Location(f"gdrive://{drive.add_folder('runs', drive.add_drive('Histology'))}/cnn")
        with only_writer(place), ThreadPoolExecutor(1) as other_machine:
            assert f"process {os.getpid()} on MainThread" in other_machine.submit(enter, place).result()
        assert not (place / WriterRecord.FILE).exists()
        with pytest.raises(LeaseLostError, match="was taken over by process 1 on dead"):
            stand_still(place)
        assert WriterRecord.read(place).host == "dead"


def test_a_bucket_that_is_not_there_is_no_lost_race(gcs: GcsServer) -> None:
    with storage_here(gcs.environment), pytest.raises(StorageError, match="there is no such file or bucket"):
        write_over(Location("gs://no-such-bucket/x.json"), b"1", ABSENT)
