"""Google Cloud Storage with faults on its way, played by a real fake-gcs-server behind a proxy of ours."""

import base64
import hashlib
import json
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from lib.config.conversion import ConvertConfig
from lib.errors import StorageError
from lib.folders.shards import read_verdicts
from lib.storage import faults as faults_module
from lib.storage import gcs as gcs_module
from lib.storage.faults import RetryPolicy
from lib.storage.location import Location
from lib.storage.scan import StoredFile
from tests.fakes.conversion import convert_here
from tests.fakes.gcs import GcsServer, gcs_server
from tests.fakes.jobs import JobResult, run_job, wait_for
from tests.fakes.proxy import FaultyProxy, faulty_proxy
from tests.fakes.sources import write_source
from tests.fakes.storage import storage_here

pytestmark = pytest.mark.slow

os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # before any test imports gcsfs

CONTENT = bytes(range(256)) * 40
DOWNLOAD = r"GET .*a\.tif\?alt=media"
STALL_S, USUAL_STALL_S = 0.25, gcs_module.STALL_S
FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "429": ("status", {"status": 429}),
    "500": ("status", {"status": 500}),
    "502": ("status", {"status": 502}),
    "503": ("status", {"status": 503}),
    "507": ("status", {"status": 507}),
    "reset": ("reset", {}),
    "lost answer": ("lose_answer", {}),
    "short body": ("short", {}),
    "truncated body": ("truncate", {}),
    "flipped bit": ("flip", {}),
    "stall": ("stall", {"seconds": 5 * STALL_S}),
}
REASONS = {
    "429": "HTTP 429",
    "500": "HTTP 500",
    "502": "ProxyError",
    "503": "HTTP 503",
    "507": "HTTP 507",
    "reset": "[Rr]eset by peer",
    "lost answer": "[Rr]eset by peer",
    "short body": "received 5120 of 10240 bytes",
    "truncated body": "5120 bytes",
    "flipped bit": "crc32c:.* was listed|checksum",
    "stall": "no answer from storage within 0.25 s",
}
TRIES = {"stall": 4, "truncated body": 5, "flipped bit": 5}
"""How often a request is made before it is given up, if not 8 times."""
every_fault = pytest.mark.parametrize("name", FAULTS)


@pytest.fixture(scope="module")
def gcs() -> Iterator[GcsServer]:
    with gcs_server() as server:
        yield server


@pytest.fixture
def proxy(gcs: GcsServer) -> Iterator[FaultyProxy]:
    with faulty_proxy(gcs.url) as proxy:
        yield proxy


@pytest.fixture
def stall_s(request: pytest.FixtureRequest) -> float:
    """How long an answer may take: as usual, but where one is to stall, since all are late on a busy machine."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    return STALL_S if parameters.get("name") == "stall" else USUAL_STALL_S


@pytest.fixture
def waits(proxy: FaultyProxy, stall_s: float, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The pauses between requests, which are not made. This process works through the proxy."""
    pauses: list[float] = []

    class WithoutPauses(RetryPolicy):
        def delay_s(self, attempt: int) -> float:
            pauses.append(super().delay_s(attempt))
            return 0

    monkeypatch.setattr(gcs_module, "RETRIES", WithoutPauses(**asdict(gcs_module.RETRIES)))
    monkeypatch.setattr(faults_module, "RETRIES", RetryPolicy(first_delay_s=0.001))
    monkeypatch.setattr(gcs_module, "STALL_S", stall_s)
    with storage_here({"STORAGE_EMULATOR_HOST": proxy.url}):
        yield pauses


@pytest.fixture
def folder(waits: list[float], proxy: FaultyProxy) -> Location:
    """A folder with one object, seen through the proxy."""
    folder = Location("gs://lab/faults")
    folder.delete()
    (folder / "a.tif").write_bytes(CONTENT)
    proxy.heal()
    return folder


def refusal(call: Callable[[], object]) -> str:
    """The one line with which a call fails."""
    with pytest.raises(StorageError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def most_often(proxy: FaultyProxy) -> int:
    """How often the request was made that was made most often; gcsfs looks for a file and a folder side by side."""
    return max(Counter((request.method, request.target) for request in proxy.requests).values())


def check_tries(name: str, line: str, proxy: FaultyProxy) -> None:
    """The line says how often a request was made, and so often it was.

    The proxy may see one later that was given up, and gcsfs may go on with a request beside the one that failed.
    """
    tries = TRIES.get(name, 8)
    assert f"(tried {tries} times)" in line
    wait_for(lambda: most_often(proxy) >= tries, "each request has arrived")


@every_fault
def test_a_fault_that_passes_does_not_change_what_is_read(name: str, folder: Location, proxy: FaultyProxy) -> None:
    files = folder.list_files()
    kind, details = FAULTS[name]
    fault = proxy.fail(kind, DOWNLOAD, times=2, **details)
    [(data, checksum)] = folder.read_listed(files)
    assert data == CONTENT
    assert checksum == files[0].checksum
    assert fault.hits == 2


@every_fault
def test_a_fault_that_stays_is_one_line_with_the_file_and_the_reason(
    name: str, folder: Location, proxy: FaultyProxy
) -> None:
    files = folder.list_files()
    kind, details = FAULTS[name]
    proxy.fail(kind, DOWNLOAD, **details)
    message = refusal(lambda: folder.read_listed(files))
    assert "gs://lab/faults/a.tif" in message
    assert re.search(REASONS[name], message)
    assert f"tried {TRIES.get(name, 8)} times" in message


@pytest.mark.parametrize("stall_s", [STALL_S])
def test_one_fault_of_each_kind_in_a_row_is_survived(folder: Location, proxy: FaultyProxy) -> None:
    files = folder.list_files()
    for position, (kind, details) in enumerate(FAULTS.values()):
        fault = proxy.fail(kind, DOWNLOAD, times=1, **details)
        assert folder.read_listed(files)[0][0] == CONTENT
        assert fault.hits == 1, f"{kind} at position {position}"


def test_many_files_read_through_many_faults_are_each_what_was_listed(folder: Location, proxy: FaultyProxy) -> None:
    for number in range(60):
        (folder / f"{number}.bin").write_bytes(bytes([number]) * (1000 + number))
    files = folder.list_files()
    for kind in ("status", "reset", "short", "truncate", "flip"):
        proxy.fail(kind, "GET .*alt=media", probability=0.1)
    contents = {file.path: data for file, (data, _) in zip(files, folder.read_listed(files), strict=True)}
    assert contents.pop("a.tif") == CONTENT
    assert contents == {f"{number}.bin": bytes([number]) * (1000 + number) for number in range(60)}
    assert all(fault.hits for fault in proxy.faults)


@pytest.mark.parametrize("stall_s", [5])
def test_a_slow_store_is_no_fault(folder: Location, proxy: FaultyProxy) -> None:
    proxy.fail("latency", ".*", seconds=0.5)
    files = folder.list_files()
    proxy.heal()
    proxy.fail("latency", DOWNLOAD, seconds=0.5)
    assert folder.read_listed(files)[0][0] == CONTENT
    assert len(proxy.matching(DOWNLOAD)) == 1


@pytest.mark.parametrize("name", ["429", "503", "502", "reset", "lost answer", "short body", "stall"])
def test_listing_looking_writing_and_deleting_survive_a_fault_at_each_request(
    name: str, folder: Location, proxy: FaultyProxy
) -> None:
    kind, details = FAULTS[name]

    def tried(call: Callable[[], object]) -> object:
        proxy.heal()
        fault = proxy.fail(kind, ".*", times=2, **details)
        answer = call()
        assert fault.hits == 2
        return answer

    assert tried(folder.exists) is True
    assert [file.path for file in tried(folder.list_files)] == ["a.tif"]  # type: ignore[attr-defined]
    tried(lambda: (folder / "b.json").write_json({"n": 1}))
    assert tried((folder / "b.json").read_json) == {"n": 1}
    tried((folder / "b.json").delete)
    proxy.heal()
    assert [file.path for file in folder.list_files()] == ["a.tif"]


@pytest.mark.parametrize(
    ("status", "message", "remedy"),
    [
        (401, "not signed in", "gcloud auth application-default login"),
        (403, "no access", "Storage Object Viewer"),
        (404, "gone", "no such file or bucket|removed or replaced since it was listed"),
    ],
)
def test_what_does_not_pass_by_itself_fails_at_the_first_request_with_its_remedy(
    status: int, message: str, remedy: str, folder: Location, proxy: FaultyProxy
) -> None:
    files = folder.list_files()
    proxy.heal()
    proxy.fail("status", ".*", status=status, message=message)
    line = refusal(lambda: folder.read_listed(files))
    assert "gs://lab/faults/a.tif" in line
    assert re.search(remedy, line)
    assert len(proxy.requests) == 1
    proxy.requests.clear()
    line = refusal(lambda: (folder / "b").write_bytes(b"x"))
    assert "gs://lab/faults/b" in line
    assert re.search(remedy, line)
    assert len(proxy.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 503])
def test_a_folder_that_cannot_be_looked_at_is_not_taken_for_an_empty_one(
    status: int, folder: Location, proxy: FaultyProxy
) -> None:
    proxy.fail("status", ".*", status=status)
    for call in (folder.exists, folder.is_empty, folder.list_files):
        assert "gs://lab/faults" in refusal(call)


def test_an_object_overwritten_after_it_was_listed_is_refused(folder: Location, proxy: FaultyProxy) -> None:
    files = folder.list_files()
    (folder / "a.tif").write_bytes(CONTENT[::-1])
    proxy.heal()
    assert "gs://lab/faults/a.tif" in refusal(lambda: folder.read_listed(files))
    [request] = proxy.matching(DOWNLOAD)
    assert f"generation={files[0].version}" in request.target


def test_an_object_that_differs_from_its_listing_is_refused_without_generations_too(folder: Location) -> None:
    [listed] = folder.list_files()
    (folder / "a.tif").write_bytes(CONTENT[::-1])
    without = StoredFile(listed.path, listed.size_bytes, listed.checksum)
    assert "did it change?" in refusal(lambda: folder.read_listed([without]))


def test_an_object_overwritten_after_it_was_listed_is_said_to_be_that(folder: Location) -> None:
    files = folder.list_files()
    (folder / "a.tif").write_bytes(CONTENT[::-1])
    assert "since it was listed" in refusal(lambda: folder.read_listed(files))


# aiohttp makes a request at once again if a connection that it has kept is reset, so those are not counted here.
@pytest.mark.parametrize("name", sorted(FAULTS.keys() - {"reset", "lost answer"}))
def test_a_fault_that_stays_is_given_up_after_a_stated_number_of_requests(
    name: str, folder: Location, proxy: FaultyProxy
) -> None:
    files = folder.list_files()
    proxy.heal()
    kind, details = FAULTS[name]
    proxy.fail(kind, DOWNLOAD, **details)
    check_tries(name, refusal(lambda: folder.read_listed(files)), proxy)


@pytest.mark.parametrize(("name", "longest_s"), [("429", 95), ("503", 95), ("stall", 127)])
def test_a_busy_server_is_waited_for_a_minute_or_so_and_a_silent_one_for_two(
    name: str,
    longest_s: float,
    folder: Location,
    proxy: FaultyProxy,
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(faults_module.random, "uniform", lambda _, limit: limit)
    files = folder.list_files()
    proxy.heal()
    kind, details = FAULTS[name]
    proxy.fail(kind, DOWNLOAD, **details)
    refusal(lambda: folder.read_listed(files))
    silent_s = USUAL_STALL_S * len(proxy.requests) if name == "stall" else 0
    assert silent_s + sum(waits) == longest_s


@pytest.mark.parametrize("name", ["429", "503", "507", "stall"])
def test_every_operation_gives_up_after_the_same_number_of_requests(
    name: str, folder: Location, proxy: FaultyProxy
) -> None:
    kind, details = FAULTS[name]
    operations: list[Callable[[], object]] = [
        folder.exists,
        folder.list_files,
        (folder / "a.tif").read_bytes,
        (folder / "a.tif").is_file,
        lambda: (folder / "b").write_bytes(CONTENT),
        lambda: (folder / "a.tif").read_parts(lambda file: file.read(10)),
    ]
    for operation in operations:
        proxy.heal()
        proxy.fail(kind, ".*", **details)
        line = refusal(operation)
        assert "gs://lab/faults" in line
        assert re.search(REASONS[name], line)
        check_tries(name, line, proxy)


@pytest.mark.parametrize("stall_s", [STALL_S])
def test_a_server_that_stops_reading_an_upload_is_given_up_too(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # connections are made, but nobody reads
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        line = refusal(lambda: Location("gs://lab/large").write_bytes(bytes(16 * 2**20)))
    assert line == "cannot write gs://lab/large: no answer from storage within 0.25 s (tried 4 times)"


class SlowReader(BaseHTTPRequestHandler):
    """Takes 1.6 s for an upload, and then answers as GCS does."""

    content = bytes(40 * 2**20)
    md5 = base64.b64encode(hashlib.md5(content).digest()).decode()

    def do_POST(self) -> None:
        left = int(self.headers["Content-Length"])
        while left:
            time.sleep(0.04)
            left -= len(self.rfile.read(min(left, 2**20)))
        answer = json.dumps({"md5Hash": self.md5}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Keep pytest's output clean."""


@pytest.mark.parametrize("stall_s", [1])
def test_a_slow_upload_is_no_stall(waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), SlowReader) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
        Thread(target=server.handle_request).start()
        Location("gs://lab/large").write_bytes(SlowReader.content)
    assert waits == []


def test_credentials_that_google_calls_invalid_are_tried_again_with_another_token(
    folder: Location, proxy: FaultyProxy
) -> None:
    """It may have been a token's last second."""
    proxy.fail("status", ".*", times=2, status=401, message="Invalid Credentials")
    assert (folder / "a.tif").read_bytes() == CONTENT
    proxy.heal()
    proxy.fail("status", ".*", status=401, message="Invalid Credentials")
    assert "gcloud auth application-default login" in refusal((folder / "a.tif").read_bytes)
    assert len(proxy.requests) == 8


@pytest.mark.parametrize("status", [401, 403, 503])
def test_a_file_that_cannot_be_looked_at_is_not_taken_for_a_missing_one(
    status: int, folder: Location, proxy: FaultyProxy
) -> None:
    proxy.fail("status", ".*", status=status)
    assert "gs://lab/faults/a.tif" in refusal((folder / "a.tif").is_file)


@pytest.mark.parametrize(
    ("status", "message"),
    [(400, "User project specified in the request is invalid."), (400, "Bucket is a requester pays bucket")],
)
def test_a_request_that_google_calls_invalid_is_one_line(
    status: int, message: str, folder: Location, proxy: FaultyProxy
) -> None:
    files = folder.list_files()
    proxy.fail("status", ".*", status=status, message=message)
    for call in (folder.list_files, lambda: folder.read_listed(files), lambda: (folder / "b").write_bytes(b"x")):
        assert "gs://lab/faults" in refusal(call)


def test_a_truncated_listing_is_asked_for_again(folder: Location, proxy: FaultyProxy) -> None:
    proxy.fail("truncate", r"GET .*/o\?", times=3)
    assert [file.path for file in folder.list_files()] == ["a.tif"]


@pytest.mark.parametrize("kind", ["truncate", "flip"])
def test_a_file_that_was_not_listed_is_verified_too(kind: str, folder: Location, proxy: FaultyProxy) -> None:
    proxy.fail(kind, DOWNLOAD, times=1)
    assert (folder / "a.tif").read_bytes() == CONTENT


def test_an_upload_that_arrives_changed_is_sent_again(folder: Location, proxy: FaultyProxy) -> None:
    proxy.fail("flip_upload", "POST", times=1)
    (folder / "b").write_bytes(CONTENT)
    proxy.heal()
    assert (folder / "b").read_bytes() == CONTENT


# Jobs


CLASSES, PER_SHARD = {"liver": 20, "lung": 20}, 6
RANGE = "0:255"  # so that no image is read to measure it


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("faults") / "source", CLASSES, test_per_class=10, size=32)


def settings(source: str, output: str) -> ConvertConfig:
    return ConvertConfig(
        source=source, output=output, image_size=32, images_per_shard=PER_SHARD, tiff_range=RANGE
    )  # fmt: skip


@pytest.mark.usefixtures("waits")
def test_credentials_that_are_refused_are_one_line_of_the_job(proxy: FaultyProxy, tmp_path: Path) -> None:
    proxy.fail("status", ".*", status=401, message="not signed in")
    line = refusal(lambda: convert_here(settings("gs://lab/organs", str(tmp_path / "dataset"))))
    assert "gs://lab/organs" in line
    assert "gcloud auth application-default login" in line


@pytest.mark.usefixtures("waits")
def test_a_conversion_through_random_faults_gives_the_same_as_one_without(
    gcs: GcsServer, source: Path, tmp_path: Path
) -> None:
    expected = convert_here(settings(str(source), str(tmp_path / "dataset")))
    with faulty_proxy(gcs.url, seed=1) as proxy, storage_here({"STORAGE_EMULATOR_HOST": proxy.url}):
        uri = gcs.upload(source, "organs")
        proxy.fail("status", ".*", probability=0.05)
        proxy.fail("reset", ".*", probability=0.02)
        proxy.fail("truncate", "GET .*alt=media", probability=0.02)
        record = convert_here(settings(uri, "gs://lab/random/dataset"))
        assert all(fault.hits for fault in proxy.faults), [(fault.kind, fault.hits) for fault in proxy.faults]
    assert (record.counts.listed, record.counts.accepted, record.counts.quarantined) == (60, 60, 0)
    assert record.content_hash == expected.content_hash
    assert record.counts == expected.counts


@pytest.fixture(scope="module")
def failed(gcs: GcsServer, source: Path) -> JobResult:
    """A conversion of which one image never arrives as a whole."""
    uri = gcs.upload(source, "tissues")
    with faulty_proxy(gcs.url) as proxy:
        proxy.fail("truncate", r"GET .*liver_train_003\.tif\?alt=media")
        flags = ("--source", uri, "--output", "gs://lab/stays/dataset", "--image-size", 32)
        environment = {"STORAGE_EMULATOR_HOST": proxy.url}
        result = run_job("convert", *flags, "--tiff-range", RANGE, "--images-per-shard", PER_SHARD, env=environment)
        assert len(proxy.matching(r"liver_train_003\.tif\?alt=media")) == 5
    return result


def test_a_fault_that_stays_is_one_line_of_the_job(failed: JobResult) -> None:
    *before, line = failed.stderr.splitlines()
    assert re.match(r"error: (cannot read )?gs://lab/tissues/train/liver/liver_train_003\.tif: ", line)
    assert line.endswith("(tried 5 times)")
    assert all(re.match(r"\d\d:\d\d:\d\d convert: ", progress) for progress in before)


@pytest.mark.usefixtures("waits")
def test_a_fault_that_stays_fails_the_run_and_the_next_one_fetches_only_what_is_missing(
    gcs: GcsServer, failed: JobResult, proxy: FaultyProxy, tmp_path: Path
) -> None:
    assert failed.exit_code == 1
    assert "gs://lab/tissues/train/liver/liver_train_003.tif" in failed.stderr.splitlines()[-1]

    names = [name.removeprefix("stays/dataset/") for name in gcs.names() if name.startswith("stays/dataset/")]
    shards = [name for name in names if name.startswith("images/")]
    assert sorted(set(names) - set(shards)) == ["run.json"]
    written = gcs.download("stays/dataset", tmp_path)
    verdicts = [row for name in shards for row in read_verdicts(Location(str(written / name))).to_pylist()]
    assert {row["verdict"] for row in verdicts} == {"accepted"}
    assert len(verdicts) < 60

    record = convert_here(settings("gs://lab/tissues", "gs://lab/stays/dataset"))
    assert record.counts.accepted == record.counts.listed == 60
    done = {f"tissues/{row['path']}" for row in verdicts}
    fetched = [
        request.target.split("/o/")[1].split("?")[0] for request in proxy.matching("GET .*/o/tissues/.*alt=media")
    ]
    expected = {name for name in gcs.names() if name.startswith("tissues/")} - done
    assert sorted(fetched) == sorted(expected)


def test_whoever_pays_for_reading_is_named_in_every_request(
    gcs: GcsServer, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GCS_USER_PROJECT", "lab-project")
    with storage_here({"STORAGE_EMULATOR_HOST": proxy.url}):
        folder = Location("gs://lab/paid")
        (folder / "a.tif").write_bytes(CONTENT)
        assert folder.read_listed(folder.list_files())[0][0] == CONTENT
    assert len(proxy.requests) > 2
    assert [request.target for request in proxy.requests if "userProject=lab-project" not in request.target] == []
