"""The chain on a fake Google Drive with paging, repeated names, shortcuts, documents and faults."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.fakes.drive import FakeDrive, drive_server
from tests.fakes.jobs import run_job
from tests.fakes.sources import write_source


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


def test_drive_gives_the_same_images_as_a_disk_whatever_fails_on_the_way(
    drive: FakeDrive, source: Path, tmp_path: Path
) -> None:
    root = drive.add_folder("organs")
    upload(drive, source, root)
    drive.add_google_doc("train/liver/notes", root)
    environment = drive.environment(drive.write_key(tmp_path / "key.json"))
    drive.fail(path="alt=media", times=3, status=403, reason="userRateLimitExceeded")
    drive.fail(path="alt=media", times=2, status=503)
    drive.fail(path="alt=media", times=2, reset=True)

    there = run_job("convert", "--source", f"gdrive://{root}", "--output", tmp_path / "there", env=environment)
    here = run_job("convert", "--source", source, "--output", tmp_path / "here")

    assert (there.exit_code, here.exit_code) == (0, 0), there.stderr
    assert there.summary["accepted"] == here.summary["accepted"] == 16
    assert (there.summary["listed"], there.summary["excluded"], there.summary["quarantined"]) == (17, 1, 0)
    manifest = pq.read_table(tmp_path / "there" / "manifest.parquet").to_pylist()
    assert [row["reason"] for row in manifest if row["verdict"] == "excluded"] == ["google_document"]
    assert all(row["checksum"].startswith("md5:") for row in manifest if row["verdict"] == "accepted")
    assert images(tmp_path / "there") == images(tmp_path / "here")


def images(dataset: Path) -> dict[str, bytes]:
    rows = pq.read_table(dataset / "images", columns=["path", "image"]).to_pylist()
    return {row["path"]: row["image"] for row in rows}


def test_results_are_written_into_a_shared_drive(drive: FakeDrive, source: Path, tmp_path: Path) -> None:
    shared = drive.add_drive("Histology")
    upload(drive, source, drive.add_folder("organs", shared))
    environment = drive.environment(drive.write_key(tmp_path / "key.json"))
    flags = ("--source", f"gdrive://{shared}/organs", "--output", f"gdrive://{shared}/results", "--layout", "folder")
    result = run_job("convert", *flags, env=environment)
    assert result.exit_code == 0, result.stderr
    [record] = drive.named("dataset.json")
    assert json.loads(record.content)["counts"]["accepted"] == 16
    assert len([name for name in (f"liver_train_{n:03d}.jpg" for n in range(6)) if drive.named(name)]) == 6

    uploads = len(drive.sent("POST", "uploadType=resumable"))
    again = run_job("convert", *flags, env=environment)
    assert (again.exit_code, again.summary["accepted"]) == (0, 16)
    assert len(drive.sent("POST", "uploadType=resumable")) == uploads


def test_an_account_without_storage_is_refused_before_any_work(drive: FakeDrive, source: Path, tmp_path: Path) -> None:
    root = drive.add_folder("organs")
    environment = drive.environment(drive.write_key(tmp_path / "key.json"))
    result = run_job("convert", "--source", source, "--output", f"gdrive://{root}/out", env=environment)
    assert result.exit_code == 2
    assert "shared drive" in result.stderr
    assert not drive.sent("POST", "/files")


def test_a_folder_that_is_not_shared_is_refused_with_the_address_to_share_it_with(
    drive: FakeDrive, tmp_path: Path
) -> None:
    environment = drive.environment(drive.write_key(tmp_path / "key.json"))
    result = run_job("convert", "--source", "gdrive://1NotShared", "--output", tmp_path / "out", env=environment)
    assert result.exit_code in {1, 2}
    assert len(result.stderr.strip().splitlines()) == 1
    assert "iam.gserviceaccount.com" in result.stderr
