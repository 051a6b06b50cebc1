"""Listing and reading Google Drive, against a server on loopback that fails as Drive does."""

import hashlib
import json
import pickle
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.auth import _helpers

from lib.errors import SettingsError, StorageError
from lib.storage.drive.answers import DriveRefused, Rejection
from lib.storage.drive.credentials import DriveCredential
from lib.storage.drive.filesystem import DriveFileSystem, drive_filesystem
from lib.storage.drive.options import DriveSettings
from tests.fakes.drive import PERSON, SERVICE_ACCOUNT, drive_server, private_pem
from tests.fakes.drive_lab import Lab
from tests.fakes.jobs import wait_for

LONGER_THAN_ANY_TEST_S = 3600


def listed(filesystem: DriveFileSystem, root: str) -> list[str]:
    return [path.removeprefix(f"{root}/") for path in filesystem.find(root)]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with drive_server() as drive:
        lab = Lab(drive, tmp_path)
        yield lab
        lab.close()


# Listing


def test_every_file_of_paged_folders_is_found_with_its_size_and_md5(lab: Lab) -> None:
    lab.drive.page_size = 7
    contents = {
        f"{split}/{label}/{n:03}.tif": b"x" * n for split in ("train", "test") for label in "ab" for n in range(30)
    }
    for path, content in contents.items():
        lab.add(path, content)
    found = lab.filesystem().find(lab.root, detail=True)
    assert list(found) == sorted(f"{lab.root}/{path}" for path in contents)
    for path, content in contents.items():
        info = found[f"{lab.root}/{path}"]
        assert (info["size"], info["checksum"]) == (len(content), "md5:" + hashlib.md5(content).hexdigest())
        assert (info["type"], info["unreadable"]) == ("file", None)


def test_pages_are_asked_for_by_the_thousand_and_with_the_fields_that_are_needed(lab: Lab) -> None:
    for number in range(1001):
        lab.add(f"{number}.tif", b"")
    assert len(lab.filesystem().find(lab.root)) == 1001
    requests = lab.drive.sent("GET", r"files\?")
    assert len(requests) == 2
    assert all("pageSize=1000" in request.target and "fields=nextPageToken" in request.target for request in requests)
    assert "pageToken" in requests[1].target


def test_a_listing_whose_page_token_is_refused_begins_again(lab: Lab) -> None:
    lab.drive.page_size = 2
    for number in range(6):
        lab.add(f"{number}.tif")
    lab.drive.fail(path="pageToken", skip=1, status=400, reason="invalid")
    assert len(lab.filesystem().find(lab.root)) == 6


def test_folders_are_listed_side_by_side(lab: Lab) -> None:
    for number in range(12):
        lab.add(f"{number}/a.tif")
    lab.drive.fail(path=r"in\+parents", skip=2, times=99, latency_s=LONGER_THAN_ANY_TEST_S)  # not the root's
    with ThreadPoolExecutor() as there:
        found = there.submit(lab.filesystem(timeout_s=LONGER_THAN_ANY_TEST_S).find, lab.root)
        wait_for(lambda: lab.drive.under_way >= 6, "six folders are asked for at once")
        lab.drive.end_faults()
        assert len(found.result()) == 12


def test_my_drive_is_the_folder_of_that_name_with_its_space(lab: Lab) -> None:
    lab.add("my images/a b.tif", b"1")
    filesystem = lab.filesystem(key_file=str(lab.token))
    assert filesystem.find("gdrive://My Drive/lab") == ["My Drive/lab/my images/a b.tif"]
    assert filesystem.cat_file("gdrive://My Drive/lab/my images/a b.tif") == b"1"


def test_a_shared_drive_is_found_by_its_id_a_folder_in_it_or_its_name(lab: Lab) -> None:
    shared = lab.drive.add_drive("Histology")
    folder = lab.drive.add_folder("set", shared)
    lab.drive.add_file("set/a.tif", b"1", shared)
    filesystem = lab.filesystem()
    for root in (f"{shared}/set", folder, "Shared drives/Histology/set"):
        assert filesystem.find(root) == [f"{root}/a.tif"]
        assert filesystem.cat_file(f"{root}/a.tif") == b"1"
    listings = lab.drive.sent("GET", r"in\+parents")
    assert all("supportsAllDrives=true" in request.target for request in listings)
    assert all(f"corpora=drive&driveId={shared}" in request.target for request in listings)


def test_two_shared_drives_of_a_name_are_not_guessed_between(lab: Lab) -> None:
    ids = [lab.drive.add_drive("Histology") for _ in range(2)]
    with pytest.raises(StorageError, match=f"2 shared drives of that name.*use the id of one: {ids[0]}, {ids[1]}"):
        lab.filesystem().find("Shared drives/Histology")
    with pytest.raises(StorageError, match=r"0 shared drives of that name.*add converter@"):
        lab.filesystem().find("Shared drives/Pathology")


def test_shortcuts_lead_to_files_and_folders_even_in_another_drive(lab: Lab) -> None:
    shared = lab.drive.add_drive("Histology")
    file_id = lab.drive.add_file("deep/a.tif", b"other", shared)
    folder = lab.drive.add_folder("deep", shared)
    lab.drive.add_shortcut("skin/link.tif", file_id, lab.root)
    lab.drive.add_shortcut("lung", folder, lab.root)
    filesystem = lab.filesystem()
    assert listed(filesystem, lab.root) == ["lung/a.tif", "skin/link.tif"]
    assert filesystem.info(f"{lab.root}/skin/link.tif")["size"] == 5
    assert lab.filesystem().cat([f"{lab.root}/lung/a.tif", f"{lab.root}/skin/link.tif"]) == {
        f"{lab.root}/lung/a.tif": b"other",
        f"{lab.root}/skin/link.tif": b"other",
    }


def test_a_shortcut_that_leads_back_is_told_and_not_followed(lab: Lab) -> None:
    lab.add("a/b/x.tif")
    lab.drive.add_shortcut("a/b/up", lab.drive.add_folder("a", lab.root), lab.root)
    lab.drive.add_shortcut("a/b/top", lab.root, lab.root)
    found = lab.filesystem().find(lab.root, detail=True)
    assert {path.removeprefix(f"{lab.root}/"): info["unreadable"] for path, info in found.items()} == {
        "a/b/top": "shortcut_cycle",
        "a/b/up": "shortcut_cycle",
        "a/b/x.tif": None,
    }


def test_a_shortcut_to_nothing_is_told(lab: Lab) -> None:
    gone = lab.add("gone.tif")
    lab.drive.add_shortcut("link.tif", gone, lab.root)
    lab.drive.record(gone).shared = False
    filesystem = lab.filesystem()
    assert filesystem.info(f"{lab.root}/link.tif")["unreadable"] == "broken_shortcut"
    with pytest.raises(StorageError, match="a shortcut to something that is gone, or not shared"):
        filesystem.cat_file(f"{lab.root}/link.tif")


def test_google_documents_are_listed_with_the_reason_why_they_cannot_be_read(lab: Lab) -> None:
    lab.add("a.tif")
    lab.drive.add_google_doc("Protocol", lab.root)
    found = lab.filesystem().find(lab.root, detail=True)
    info = found[f"{lab.root}/Protocol"]
    assert (info["type"], info["size"], info["checksum"]) == ("file", 0, None)
    assert info["unreadable"] == "google_document"
    with pytest.raises(StorageError, match=f"cannot read gdrive://{lab.root}/Protocol: it is a Google document"):
        lab.filesystem().cat_file(f"{lab.root}/Protocol")


def test_repeated_names_are_kept_apart_by_id_and_each_is_read(lab: Lab) -> None:
    ids = [lab.add("skin/a.tif", content) for content in (b"first", b"second", b"third")]
    lab.drive.add_file(
        "in a second folder of the name.tif",
        b"4",
        lab.drive.add("skin", lab.root, "application/vnd.google-apps.folder").id,
    )
    filesystem = lab.filesystem()
    found = filesystem.find(lab.root)
    assert len(found) == 4
    assert f"{lab.root}/skin/a.tif" in found
    for reader in (filesystem, lab.filesystem()):  # one that remembers the listing, and one that has seen nothing
        assert sorted(reader.cat(found).values()) == [b"4", b"first", b"second", b"third"]
        assert reader.cat_file(f"{lab.root}/skin/a.tif") == b"first"
        assert reader.cat_file(f"{lab.root}/skin/a ({ids[2]}).tif") == b"third"
        assert reader.cat_file(f"{lab.root}/skin/a ({ids[0]}).tif") == b"first"


def test_an_id_in_a_path_means_a_file_of_that_folder_only(lab: Lab) -> None:
    elsewhere = lab.add("elsewhere/a.tif")
    lab.add("skin/a.tif")
    assert not lab.filesystem().exists(f"{lab.root}/skin/a ({elsewhere}).tif")
    assert not lab.filesystem().exists(f"{lab.root}/skin/b ({'x' * 20}).tif")


def test_strange_names_are_listed_and_read_by_what_was_listed(lab: Lab) -> None:
    names = [
        "it's.tif",
        "back\\slash.tif",
        "a/b.tif",
        "all*.tif",
        "slide[1].tif",
        "ä é.tif",
        "..",
        "A.tif",
        "a.tif",
        "%2F.tif",
    ]
    for name in names:
        folder = lab.drive.add_folder("strange", lab.root)
        lab.drive.add(name, folder, "image/tiff", content=name.encode())
    found = lab.filesystem().find(lab.root)
    assert len(found) == len(names)
    contents = lab.filesystem().cat(found)
    assert sorted(contents.values()) == sorted(name.encode() for name in names)


def test_what_is_in_the_bin_is_not_there(lab: Lab) -> None:
    lab.drive.record(lab.add("old/a.tif")).trashed = True
    lab.add("new.tif")
    lab.add("dropped/b.tif")
    lab.drive.record(lab.drive.add_folder("dropped", lab.root)).trashed = True
    filesystem = lab.filesystem()
    assert listed(filesystem, lab.root) == ["new.tif"]
    assert not filesystem.exists(f"{lab.root}/old/a.tif")
    lab.drive.record(lab.root).trashed = True
    with pytest.raises(StorageError, match="it is in the bin; restore it"):
        lab.filesystem().find(lab.root)


def test_looking_tells_files_from_folders_and_from_nothing(lab: Lab) -> None:
    lab.add("skin/a.tif", b"123")
    lab.drive.add_folder("empty", lab.root)
    filesystem, root = lab.filesystem(), lab.root
    assert [(i["name"], i["type"]) for i in filesystem.ls(root)] == [
        (f"{root}/empty", "directory"),
        (f"{root}/skin", "directory"),
    ]
    assert filesystem.ls(f"{root}/skin", detail=False) == [f"{root}/skin/a.tif"]
    assert filesystem.ls(f"{root}/skin/a.tif", detail=False) == [f"{root}/skin/a.tif"]
    assert filesystem.isdir(f"{root}/skin")
    assert filesystem.isfile(f"{root}/skin/a.tif")
    assert filesystem.exists(f"gdrive://{root}/empty/")
    assert filesystem.find(f"{root}/skin/a.tif") == [f"{root}/skin/a.tif"]
    assert filesystem.find(root, withdirs=True, maxdepth=1) == [f"{root}/empty", f"{root}/skin"]
    for missing in ("gone", "gone/deeper/x.tif", "skin/a.tif/x"):
        assert not filesystem.exists(f"{root}/{missing}")
        with pytest.raises(FileNotFoundError):
            filesystem.info(f"{root}/{missing}")
    with pytest.raises(IsADirectoryError):
        filesystem.cat_file(f"{root}/skin")


def test_a_failure_is_not_taken_for_an_absence(lab: Lab) -> None:
    lab.drive.fail(path=r"in\+parents", times=99, status=500)
    with pytest.raises(StorageError, match=r"cannot look for gdrive://.*: error \(500\) \(tried 10 times\)"):
        lab.filesystem().exists(f"{lab.root}/a.tif")


# Reading


def test_many_files_are_fetched_side_by_side_with_few_lookups(lab: Lab) -> None:
    contents = {f"{lab.root}/skin/{n}.tif": bytes([n]) * 50 for n in range(100)}
    for path, content in contents.items():
        lab.add(path.removeprefix(f"{lab.root}/"), content)
    lab.drive.fail(path="alt=media", times=999, latency_s=LONGER_THAN_ANY_TEST_S)
    with ThreadPoolExecutor() as there:
        found = there.submit(lab.filesystem(timeout_s=LONGER_THAN_ANY_TEST_S).cat, list(contents))
        wait_for(lambda: lab.drive.under_way >= 10, "ten files are asked for at once")
        lab.drive.end_faults()
        assert found.result() == contents
    assert lab.drive.max_concurrency <= 32
    media = lab.drive.sent("GET", "alt=media")
    assert len(media) == 100
    assert len(lab.drive.sent()) - len(media) <= 6  # token, root, folder, and 40 names a query
    assert len({request.connection for request in media}) <= 32


def test_a_listed_file_is_read_by_its_id_without_looking_for_it(lab: Lab) -> None:
    lab.drive.add_shortcut("skin/link.tif", lab.add("elsewhere/a.tif", b"pixels"), lab.root)
    path = f"{lab.root}/skin/link.tif"
    version = lab.filesystem().info(path)["version"]
    lab.drive.forget_requests()
    worker = lab.filesystem()
    assert worker.cat_file(path, version=version) == b"pixels"
    assert worker.cat_file(path, 2, 4, version=version) == b"xe"
    assert [request.units for request in lab.drive.sent(path="drive")] == [200, 200]
    (record,) = lab.drive.named("a.tif")
    record.content = b"other"
    with pytest.raises(StorageError, match=r"skin/link\.tif: the file was changed after it was looked up"):
        worker.cat_file(path, version=version)


def test_threads_that_come_and_go_share_connections_and_stay_within_the_bound(lab: Lab) -> None:
    paths = [f"{lab.root}/{n}.tif" for n in range(24)]
    for path in paths:
        lab.add(path.rpartition("/")[-1])
    filesystem = lab.filesystem(concurrency=4)
    filesystem.find(lab.root)
    lab.drive.forget_requests()
    lab.drive.fail(path="alt=media", times=99, latency_s=0.01)
    for _ in range(2):
        with ThreadPoolExecutor(12) as threads:
            assert list(threads.map(filesystem.cat_file, paths)) == [b"pixels"] * 24
    assert lab.drive.max_concurrency <= 4
    assert len({request.connection for request in lab.drive.sent()}) <= 4


def test_one_thread_keeps_one_connection(lab: Lab) -> None:
    for number in range(5):
        lab.add(f"{number}.tif")
    filesystem = lab.filesystem(concurrency=1)
    filesystem.cat(filesystem.find(lab.root))
    assert len({request.connection for request in lab.drive.sent("GET", "alt=media")}) == 1


def test_what_was_looked_up_is_not_looked_up_again(lab: Lab) -> None:
    lab.add("skin/a.tif")
    filesystem = lab.filesystem()
    filesystem.cat_file(f"{lab.root}/skin/a.tif")
    lab.drive.forget_requests()
    filesystem.cat_file(f"{lab.root}/skin/a.tif")
    assert [request.units for request in lab.drive.sent()] == [200]
    filesystem.invalidate_cache()
    lab.drive.forget_requests()
    filesystem.cat_file(f"{lab.root}/skin/a.tif")
    assert len(lab.drive.sent()) == 4


def test_a_missing_file_among_many_is_named_or_omitted_as_asked(lab: Lab) -> None:
    lab.add("a.tif", b"1")
    paths = [f"{lab.root}/a.tif", f"{lab.root}/gone.tif"]
    with pytest.raises(FileNotFoundError, match=r"gone\.tif"):
        lab.filesystem().cat(paths)
    assert lab.filesystem().cat(paths, on_error="omit") == {paths[0]: b"1"}
    assert isinstance(lab.filesystem().cat(paths, on_error="return")[paths[1]], FileNotFoundError)


def test_a_part_of_a_file_is_what_a_slice_would_give(lab: Lab) -> None:
    content = bytes(range(200))
    lab.add("a.bin", content)
    filesystem = lab.filesystem()
    for start, end in ((0, 10), (50, None), (None, 7), (-20, None), (-20, -5), (190, 500), (300, 400), (9, 9)):
        assert filesystem.cat_file(f"{lab.root}/a.bin", start, end) == content[start:end]
    parts = [request for request in lab.drive.sent("GET", "alt=media") if request.status == 206]
    assert max(request.bytes_out for request in parts) < 200
    with filesystem.open(f"{lab.root}/a.bin", "rb") as file:
        file.seek(100)
        assert file.read(3) == content[100:103]


def test_an_empty_file_is_read(lab: Lab) -> None:
    lab.add("a.bin", b"")
    assert lab.filesystem().cat_file(f"{lab.root}/a.bin") == b""


def test_bytes_that_do_not_match_the_md5_are_fetched_again(lab: Lab) -> None:
    lab.add("a.tif", b"right")
    lab.drive.fail(path="alt=media", times=2, garble=True)
    assert lab.filesystem().cat_file(f"{lab.root}/a.tif") == b"right"
    lab.drive.fail(path="alt=media", times=99, garble=True)
    with pytest.raises(StorageError, match=r"has md5:\w+ where md5:\w+ was listed.*\(tried 10 times\)"):
        lab.filesystem().cat_file(f"{lab.root}/a.tif")


def test_a_file_that_was_changed_since_it_was_looked_up_is_read_as_it_is_now(lab: Lab) -> None:
    file_id = lab.add("a.json", b"old")
    filesystem = lab.filesystem()
    assert filesystem.cat_file(f"{lab.root}/a.json") == b"old"
    lab.drive.record(file_id).content = b"newer"
    assert filesystem.cat_file(f"{lab.root}/a.json") == b"newer"
    lab.drive.record(file_id).trashed = True
    lab.drive.record(file_id).shared = False
    lab.add("a.json", b"another")
    assert filesystem.cat_file(f"{lab.root}/a.json") == b"another"


# Failures that pass

PASSING = {
    "408": {"status": 408},
    "429": {"status": 429, "reason": "rateLimitExceeded"},
    "500": {"status": 500, "reason": "backendError"},
    "502": {"status": 502},
    "503": {"status": 503},
    "user rate limit": {"status": 403, "reason": "userRateLimitExceeded"},
    "rate limit": {"status": 403, "reason": "rateLimitExceeded"},
    "reset": {"reset": True},
    "answer lost": {"lose_answer": True},
    "short body": {"short": True},
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
@pytest.mark.parametrize("path", [r"in\+parents", "alt=media"])
def test_a_failure_that_passes_is_tried_again(lab: Lab, path: str, fault: dict[str, Any]) -> None:
    lab.add("a.tif", b"pixels" * 100)
    lab.drive.fail(path=path, times=2, **fault)
    assert lab.filesystem().cat_file(f"{lab.root}/a.tif") == b"pixels" * 100


def test_a_server_that_falls_silent_is_asked_again(lab: Lab) -> None:
    lab.add("a.tif")
    lab.drive.fail(path="alt=media", stall_s=LONGER_THAN_ANY_TEST_S)
    began = time.monotonic()
    assert lab.filesystem(timeout_s=1).cat_file(f"{lab.root}/a.tif") == b"pixels"
    assert time.monotonic() - began >= 1
    assert len(lab.drive.sent("GET", "alt=media")) == 2


def test_an_answer_that_is_not_json_is_asked_for_again(lab: Lab) -> None:
    lab.add("a.tif")
    lab.drive.fail(path=r"in\+parents", garble=True)
    assert listed(lab.filesystem(), lab.root) == ["a.tif"]


def test_attempts_are_bounded_and_the_last_failure_is_named(lab: Lab) -> None:
    lab.add("a.tif")
    fault = lab.drive.fail(path="alt=media", times=999, status=503)
    with pytest.raises(StorageError, match=r"^cannot read gdrive://.*/a\.tif: error \(503\) \(tried 4 times\)$"):
        lab.filesystem(attempts=4).cat_file(f"{lab.root}/a.tif")
    assert fault.hits == 4


def test_pauses_grow_and_are_jittered(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    lab.add("a.tif")
    filesystem = lab.filesystem(first_pause_s=1, longest_pause_s=8, attempts=7)
    filesystem.info(f"{lab.root}/a.tif")
    monkeypatch.setattr("lib.storage.faults.time.sleep", lambda s: pauses.append(s) if s else None)
    monkeypatch.setattr("lib.storage.faults.random.uniform", lambda low, high: low + 0.75 * (high - low))
    lab.drive.fail(path="alt=media", times=6, status=503)
    assert filesystem.cat_file(f"{lab.root}/a.tif") == b"pixels"
    assert pauses == [0.75 * longest for longest in (1, 2, 4, 8, 8, 8)]


def test_the_pause_that_the_server_asks_for_is_kept(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("lib.storage.faults.time.sleep", lambda s: pauses.append(s) if s else None)
    lab.add("a.tif")
    lab.drive.fail(path="alt=media", status=503, retry_after="17")
    assert lab.filesystem().cat_file(f"{lab.root}/a.tif") == b"pixels"
    assert pauses == [17]
    lab.drive.fail(path="alt=media", times=9, status=429, retry_after="90000")
    with pytest.raises(StorageError, match=r"; the server asks to wait 90000 s \(tried once\)"):
        lab.filesystem(units_per_minute=50_000_000).cat_file(f"{lab.root}/a.tif")


def test_a_date_to_wait_for_is_understood() -> None:
    class Answer:
        status_code, reason, content = 503, "Service Unavailable", b"<html>busy</html>"
        headers: dict[str, str]

    answer = Answer()
    for value, expected in {
        "Fri, 01 Jan 2100 00:00:00 GMT": True,
        "Fri, 01 Jan 1999 00:00:00 GMT": False,
        "soon": False,
    }.items():
        answer.headers = {"Retry-After": value}
        assert (Rejection.of(answer).pause_s > 1e6) == expected  # type: ignore[arg-type]


def test_rejections_for_too_many_requests_slow_the_limiter(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    monkeypatch.setattr("lib.storage.drive.limiter.SharedLimiter.slow_down", lambda _, pause_s: told.append(pause_s))
    lab.add("a.tif")
    lab.drive.fail(path="alt=media", status=403, reason="userRateLimitExceeded")
    lab.drive.fail(path="alt=media", status=429, retry_after="0")
    lab.drive.fail(path="alt=media", status=503)
    assert lab.filesystem().cat_file(f"{lab.root}/a.tif") == b"pixels"
    assert told == [0, 0]


def test_requests_stay_within_the_units_a_minute(lab: Lab) -> None:
    for number in range(55):
        lab.add(f"{number}.tif")
    filesystem = lab.filesystem(units_per_minute=60_000)  # 1,000 a second, 10,000 saved up
    began = time.monotonic()
    filesystem.cat(filesystem.find(lab.root))
    assert lab.drive.units == 11_105  # the root 5, the listing 100, 55 files 11,000
    assert time.monotonic() - began > 0.9


# Failures that do not pass

REFUSALS = {
    "notFound": (404, f"share the folder with {SERVICE_ACCOUNT}"),
    "insufficientFilePermissions": (403, f"share the folder with {SERVICE_ACCOUNT} as an editor"),
    "forbidden": (403, f"share the folder with {SERVICE_ACCOUNT}"),
    "downloadQuotaExceeded": (403, "wait a day, or work on a copy"),
    "cannotDownloadAbusiveFile": (403, "set DRIVE_ACKNOWLEDGE_ABUSE=1"),
    "storageQuotaExceeded": (403, "write to a shared drive or to gs://"),
    "accessNotConfigured": (403, "enable the Google Drive API in project 123456: https://"),
    "dailyLimitExceeded": (403, "wait a day, or raise its quota"),
    "insufficientPermissions": (403, "lacks the Drive scope"),
}


@pytest.mark.parametrize(("reason", "expected"), REFUSALS.items(), ids=REFUSALS)
def test_a_refusal_is_final_and_names_the_remedy_on_one_line(lab: Lab, reason: str, expected: tuple[int, str]) -> None:
    status, remedy = expected
    fault = lab.drive.fail(path=f"files/{lab.root}", times=99, status=status, reason=reason)
    with pytest.raises(StorageError) as caught:
        lab.filesystem().find(lab.root)
    assert fault.hits == 1
    assert remedy in str(caught.value)
    assert str(caught.value).startswith(f"cannot open gdrive://{lab.root}: ")
    assert "\n" not in str(caught.value)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(copy, DriveRefused)
    assert (str(copy), copy.status, copy.reason) == (str(caught.value), status, reason)


def test_a_folder_that_is_not_shared_is_a_refusal_and_not_an_empty_folder(lab: Lab) -> None:
    lab.drive.record(lab.root).shared = False
    for look in (lab.filesystem().exists, lab.filesystem().find):
        with pytest.raises(StorageError, match=re.escape(f"share the folder with {SERVICE_ACCOUNT}")):
            look(lab.root)


def test_flagged_files_are_read_only_if_that_is_asked_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.add("a.tif", b"1", abusive=True)
    with pytest.raises(StorageError, match="set DRIVE_ACKNOWLEDGE_ABUSE=1"):
        lab.filesystem().cat_file(f"{lab.root}/a.tif")
    assert lab.filesystem(acknowledge_abuse=True).cat_file(f"{lab.root}/a.tif") == b"1"
    monkeypatch.setenv("DRIVE_ACKNOWLEDGE_ABUSE", "1")
    assert DriveSettings.from_environment().acknowledge_abuse


# Credentials


def test_a_service_account_signs_for_its_token_once(lab: Lab) -> None:
    for number in range(20):
        lab.add(f"{number}.tif")
    filesystem = lab.filesystem()
    filesystem.cat(filesystem.find(lab.root))
    assert lab.drive.grants == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]


def test_a_user_token_is_refreshed(lab: Lab) -> None:
    lab.add("a.tif")
    assert listed(lab.filesystem(key_file=str(lab.token)), lab.root) == ["a.tif"]
    assert lab.drive.grants == ["refresh_token"]
    assert set(lab.drive.tokens.values()) == {PERSON}


@pytest.mark.parametrize("kind", ["key", "token"])
def test_the_environment_names_server_and_credential(lab: Lab, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.add("a.tif")
    for name, value in lab.drive.environment(getattr(lab, kind)).items():
        monkeypatch.setenv(name, value)
    filesystem = drive_filesystem()
    assert listed(filesystem, lab.root) == ["a.tif"]
    filesystem.close()


def test_a_token_is_renewed_before_it_ends(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.add("a.tif")
    filesystem = lab.filesystem()
    filesystem.find(lab.root)
    now = _helpers.utcnow()
    for later_s, grants in ((3600 - 300, 1), (3600 - 200, 2)):
        monkeypatch.setattr(_helpers, "utcnow", lambda later_s=later_s: now + timedelta(seconds=later_s))
        filesystem.find(lab.root)
        assert len(lab.drive.grants) == grants
    assert not [request for request in lab.drive.sent() if request.status == 401]


def test_a_token_that_is_not_taken_is_renewed_once_by_all_threads_together(lab: Lab) -> None:
    for number in range(40):
        lab.add(f"{number}.tif")
    filesystem = lab.filesystem()
    found = filesystem.find(lab.root)
    lab.drive.expire_tokens()
    assert len(filesystem.cat(found)) == 40
    assert len(lab.drive.grants) == 2


def test_a_credential_that_is_never_taken_is_final(lab: Lab) -> None:
    lab.drive.fail(path="files", times=99, status=401, reason="authError")
    with pytest.raises(StorageError, match=r"Invalid|authError.*make a new key, or log in again"):
        lab.filesystem().find(lab.root)
    assert len(lab.drive.sent("GET", "files")) == 2


def test_a_revoked_key_is_named(lab: Lab) -> None:
    lab.drive.accepts_grants = False
    with pytest.raises(
        StorageError, match=f"does not accept the credential of {SERVICE_ACCOUNT}: invalid_grant.*clock"
    ):
        lab.filesystem().find(lab.root)


def test_a_token_server_that_is_away_is_asked_again(lab: Lab) -> None:
    lab.add("a.tif")
    lab.drive.fail(path="token", times=2, reset=True)
    assert listed(lab.filesystem(), lab.root) == ["a.tif"]


@pytest.mark.parametrize("content", ["", "no json", "[]", '{"type": "other"}', '{"type": "service_account"}', None])
def test_a_key_file_that_cannot_be_used_is_a_wrong_setting(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "key.json"
    if content is not None:
        path.write_text(content)
    filesystem = DriveFileSystem(DriveSettings(key_file=str(path)))
    with pytest.raises(SettingsError, match=r"there is no usable credential for Drive.*GOOGLE_APPLICATION_CREDENTIALS"):
        filesystem.find("folder")


def test_a_missing_credential_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")
    with pytest.raises(SettingsError, match="there is no usable credential for Drive"):
        drive_filesystem().find("folder")


def test_a_pickle_holds_where_the_key_is_and_never_the_key(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.add("a.tif")
    from_file = lab.filesystem()
    for name, value in lab.drive.environment(lab.key).items():
        monkeypatch.setenv(name, value)
    from_environment = drive_filesystem()
    secret = json.loads(lab.key.read_text())["private_key"]
    assert secret == private_pem()
    for filesystem in (from_file, from_environment):
        assert filesystem.find(lab.root)  # the key is loaded, and a token fetched
        assert_keeps_secrets(filesystem, secret, lab)
        copy = pickle.loads(pickle.dumps(filesystem))
        assert copy.find(lab.root) == filesystem.find(lab.root)
        copy.close()
    from_environment.close()
    credential = DriveCredential(str(lab.key))
    assert credential.token() in lab.drive.tokens
    assert_keeps_secrets(credential, secret, lab)


def assert_keeps_secrets(thing: object, secret: str, lab: Lab) -> None:
    hidden = ["PRIVATE KEY", secret[40:80], *lab.drive.tokens]
    assert len(hidden) > 2
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        pickled = pickle.dumps(thing, protocol)
        assert not [text for text in hidden if text.encode() in pickled]
    assert not [text for text in hidden if text in repr(thing)]


# Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DRIVE_API_ENDPOINT", "localhost:80"),
        ("DRIVE_UNITS_PER_MINUTE", "many"),
        ("DRIVE_ACKNOWLEDGE_ABUSE", "perhaps"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name}='{value}' cannot be used: "):
        drive_filesystem()


def test_the_default_stays_below_what_drive_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert DriveSettings().units_per_minute <= 260_000
    monkeypatch.setenv("DRIVE_UNITS_PER_MINUTE", "5000")
    assert DriveSettings.from_environment().units_per_minute == 5000


@pytest.mark.parametrize("path", ["gdrive://", "gdrive://Shared drives"])
def test_a_place_without_a_folder_is_explained(lab: Lab, path: str) -> None:
    with pytest.raises(StorageError, match="expected gdrive://<folder id>/path, gdrive://My Drive/path"):
        lab.filesystem().find(path)
