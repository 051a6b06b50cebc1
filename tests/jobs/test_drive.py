"""The chain on a fake Google Drive with paging, repeated names, shortcuts, documents and faults."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lib.config.conversion import ConvertConfig
from lib.errors import SettingsError, TissueError
from tests.fakes.conversion import convert_here
from tests.fakes.drive import FakeDrive, drive_server
from tests.fakes.jobs import job_here, run_job
from tests.fakes.sources import write_source
from tests.fakes.storage import storage_here

pytestmark = pytest.mark.slow


@pytest.fixture
def drive() -> Iterator[FakeDrive]:
    with drive_server() as server:
        yield server


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "local", {"liver": 6, "lung": 6}, test_per_class=2)


def upload(drive: FakeDrive, folder: Path, parent: str) -> None:
    for file in sorted(folder.rglob("*.tif")):
        drive.add_file(file.relative_to(folder).as_posix(), file.read_bytes(), parent)


def test_drive_gives_the_same_images_as_a_disk_whatever_fails_on_the_way_and_takes_the_results(
    drive: FakeDrive, source: Path, tmp_path: Path
) -> None:
    root, shared = drive.add_folder("organs"), drive.add_drive("Histology")
    upload(drive, source, root)
    drive.add_google_doc("train/liver/notes", root)
    environment = drive.environment(drive.write_key(tmp_path / "key.json"))
    drive.fail(path="alt=media", times=3, status=403, reason="userRateLimitExceeded")
    drive.fail(path="alt=media", times=2, status=503)
    drive.fail(path="alt=media", times=2, reset=True)
    flags = ("--source", f"gdrive://{root}", "--output", f"gdrive://{shared}/results", "--layout", "folder")

    there = run_job("convert", *flags, env=environment)
    here = convert_here(ConvertConfig(source=str(source), output=str(tmp_path / "here")))

    assert there.exit_code == 0, there.stderr
    assert there.summary["accepted"] == here.counts.accepted == 16
    assert (there.summary["listed"], there.summary["excluded"], there.summary["quarantined"]) == (17, 1, 0)
    [results] = drive.named("results")
    written = drive.download(results.id, tmp_path / "there")
    assert json.loads((written / "dataset.json").read_text())["counts"]["accepted"] == 16
    manifest = pq.read_table(written / "manifest.parquet").to_pylist()
    assert [row["reason"] for row in manifest if row["verdict"] == "excluded"] == ["google_document"]
    assert all(row["checksum"].startswith("md5:") for row in manifest if row["verdict"] == "accepted")
    assert images(written) == images(tmp_path / "here")
    assert len(list(written.glob("*/liver/liver_train_00?.jpg"))) == 6

    uploads = len(drive.sent("POST", "uploadType=resumable"))
    with storage_here(environment):
        assert job_here("convert", *flags)["accepted"] == 16
    assert len(drive.sent("POST", "uploadType=resumable")) == uploads


def images(dataset: Path) -> dict[str, bytes]:
    rows = pq.read_table(dataset / "images", columns=["path", "image"]).to_pylist()
    return {row["path"]: row["image"] for row in rows}


def test_an_account_without_storage_is_refused_before_any_work(drive: FakeDrive, source: Path, tmp_path: Path) -> None:
    root = drive.add_folder("organs")
    environment = drive.environment(drive.write_key(tmp_path / "key.json"))
    with storage_here(environment), pytest.raises(SettingsError, match="shared drive"):
        job_here("convert", "--source", source, "--output", f"gdrive://{root}/out")
    assert not drive.sent("POST", "/files")


def test_a_folder_that_is_not_shared_is_refused_with_the_address_to_share_it_with(
    drive: FakeDrive, tmp_path: Path
) -> None:
    environment = drive.environment(drive.write_key(tmp_path / "key.json"))
    with storage_here(environment), pytest.raises(TissueError, match=r"iam\.gserviceaccount\.com"):
        job_here("convert", "--source", "gdrive://1NotShared", "--output", tmp_path / "out")
