"""Images in S3, played by a real server of moto on loopback, with faults and refusals by a proxy before it."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from lib.config.chain import DoctorConfig
from lib.config.conversion import ConvertConfig
from lib.errors import SettingsError, StorageError, TissueError
from lib.folders.dataset import DatasetRecord
from lib.folders.manifest import read_manifest
from lib.folders.output import read_complete
from lib.folders.shards import read_shard, read_verdicts, shards_of
from lib.runs.doctor.findings import look
from lib.runs.doctor.storage import reach_source
from lib.storage import faults as faults_module
from lib.storage import s3 as s3_module
from lib.storage import scan
from lib.storage.checksum import md5
from lib.storage.faults import RetryPolicy
from lib.storage.location import Location
from lib.storage.versions import ABSENT, write_over
from lib.storage.versions import look as look_at
from tests.fakes.conversion import convert_here
from tests.fakes.proxy import FaultyProxy, faulty_proxy
from tests.fakes.s3 import NOWHERE, S3Server, s3_server
from tests.fakes.sources import write_source
from tests.fakes.storage import storage_here

CONTENT = bytes(range(256)) * 40
NAMES = ("a.tif", "b/c/d/e.tif", "b/c/f.tif", "b/g.tif", "slide?versionId=7.tif", "ä é+%20[1].tif")
DOWNLOAD = r"GET /lab/faults/a\.tif"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def proxy_of_all(s3: S3Server) -> Iterator[FaultyProxy]:
    """This process works through the proxy, by one client, and does not pause."""

    class WithoutPauses(RetryPolicy):
        def delay_s(self, _: int) -> float:
            return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3_module, "RETRIES", WithoutPauses(**asdict(s3_module.RETRIES)))
        patch.setattr(faults_module, "RETRIES", WithoutPauses())
        with faulty_proxy(s3.url) as proxy, storage_here(s3.environment | {"AWS_ENDPOINT_URL": proxy.url}):
            yield proxy


@pytest.fixture
def proxy(proxy_of_all: FaultyProxy) -> Iterator[FaultyProxy]:
    """Without faults at first, and with an empty log."""
    proxy_of_all.heal()
    yield proxy_of_all
    proxy_of_all.heal()


@pytest.fixture
def folder(s3: S3Server, proxy: FaultyProxy) -> Location:
    """A folder with one object, seen through the proxy."""
    s3.put("faults/a.tif", CONTENT)
    return Location("s3://lab/faults")


def refusal(call: Callable[[], object], kind: type[TissueError] = StorageError) -> str:
    """The one line with which a call fails."""
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def answer(code: str, message: str) -> bytes:
    """A refusal as S3 words it."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'.encode()
    )


def test_the_server_of_these_tests_listens_on_loopback_alone(s3: S3Server) -> None:
    sockets = psutil.Process(s3.pid).net_connections()
    assert {it.laddr.ip for it in sockets if it.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


@pytest.mark.usefixtures("proxy")
@pytest.mark.parametrize("page_size", [2, 1000])
def test_objects_are_listed_page_by_page_with_their_etags(
    page_size: int, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "S3_PAGE_SIZE", page_size)
    etags = {name: s3.put(f"listed/{name}", name.encode()) for name in NAMES}
    s3.put("listed/b/", b"")  # what consoles make for a folder
    s3.put("listed-not/a.tif", b"")
    folder = Location("s3://lab/listed")
    files = folder.list_files()
    assert {file.path: file.version for file in files} == etags
    assert {(file.path, file.size_bytes, file.checksum) for file in files} == {
        (name, len(name.encode()), None) for name in NAMES
    }
    assert [data.decode() for data, _ in folder.read_listed(files)] == [file.path for file in files]


@pytest.mark.usefixtures("proxy")
def test_files_and_folders_are_told_apart(s3: S3Server) -> None:
    for name in ("a", "a-b", "a.tif", "c/d"):
        s3.put(f"looked/{name}", name.encode())
    folder = Location("s3://lab/looked")
    assert [(folder / name).exists() for name in ("a", "c", "c/d", "", "b", "a-")] == [True] * 4 + [False] * 2
    assert [(folder / name).is_file() for name in ("a", "c", "c/d", "b")] == [True, False, True, False]
    assert not folder.is_empty()
    assert (folder / "b").is_empty()
    assert Location("s3://lab").exists()
    assert (folder / "c/d").read_bytes() == b"c/d"
    assert folder.read_many(["a.tif", "a"]) == [b"a.tif", b"a"]
    assert (folder / "a.tif").read_parts(lambda file: (file.seek(2), file.read(2))[1]) == b"ti"
    assert "there is no such file" in refusal((folder / "b").read_bytes)


@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_an_object_that_is_no_longer_the_one_that_was_listed_is_not_read(
    change: str, s3: S3Server, folder: Location
) -> None:
    files = folder.list_files()
    if change == "replaced":
        s3.put("faults/a.tif", CONTENT[::-1])
    else:
        s3.client.delete_object(Bucket="lab", Key="faults/a.tif")
    line = refusal(lambda: folder.read_listed(files))
    assert line.startswith("cannot read s3://lab/faults/a.tif: it was removed or replaced since it was listed")


@pytest.mark.usefixtures("proxy")
def test_a_conversion_gives_the_same_from_s3_as_from_a_disk(s3: S3Server, tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", {"liver": 3, "lung": 3}, test_per_class=1, size=32)
    uri = s3.upload(source, "organs")
    settings = {"image_size": 32, "validation_fraction": 0.4}
    here = convert_here(ConvertConfig(source=str(source), output=str(tmp_path / "here"), **settings))
    there = convert_here(ConvertConfig(source=uri, output=str(tmp_path / "there"), **settings))
    assert (there.content_hash, there.counts) == (here.content_hash, here.counts)
    manifest = pq.read_table(tmp_path / "there/manifest.parquet").to_pydict()
    assert sorted(manifest["version"]) == sorted(
        md5(path.read_bytes()).removeprefix("md5:") for path in source.rglob("*.tif")
    )


@pytest.mark.usefixtures("proxy")
def test_a_data_set_that_was_copied_to_s3_is_read_there(s3: S3Server, tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", {"liver": 3, "lung": 3}, test_per_class=1, size=32)
    output = tmp_path / "dataset"
    convert_here(ConvertConfig(source=str(source), output=str(output), image_size=32, validation_fraction=0.4))
    here, there = Location(str(output)), Location(s3.upload(output, "dataset"))
    assert read_complete(there, DatasetRecord) == read_complete(here, DatasetRecord)
    assert read_manifest(there) == read_manifest(here)
    shards = [file.path for file in shards_of(here).list_files()]
    assert len(shards) > 1
    for name in shards:
        assert read_shard(shards_of(there) / name) == read_shard(shards_of(here) / name)
        assert read_verdicts(shards_of(there) / name) == read_verdicts(shards_of(here) / name)


@pytest.mark.parametrize(
    ("status", "code", "message", "advice"),
    [
        (403, "AccessDenied", "Access Denied", "the account needs s3:ListBucket on the bucket and s3:GetObject"),
        (403, "AccessDenied", "User: x is not authorized to perform: kms:Decrypt on this key", "needs kms:Decrypt"),
        (
            403,
            "InvalidAccessKeyId",
            "The Access Key Id you provided does not exist in our records",
            "check AWS_PROFILE",
        ),
        (403, "SignatureDoesNotMatch", "The request signature we calculated does not match", "AWS_ENDPOINT_URL names"),
        (400, "ExpiredToken", "The provided token has expired", "log in again (`aws sso login`)"),
        (403, "RequestTimeTooSkewed", "The difference between the times is too large", "set the clock"),
        (400, "AuthorizationHeaderMalformed", "the region is wrong; expecting eu-west-1", "set AWS_DEFAULT_REGION"),
        (403, "InvalidObjectState", "The operation is not valid for the storage class", "restore it first"),
    ],
)
def test_a_refusal_says_the_reason_of_s3_first_and_then_the_advice_that_fits(
    status: int, code: str, message: str, advice: str, folder: Location, proxy: FaultyProxy
) -> None:
    files = folder.list_files()
    proxy.fail("status", ".*", status=status, body=answer(code, message))
    for call in (folder.exists, folder.is_empty, folder.list_files, lambda: folder.read_listed(files)):
        proxy.requests.clear()
        line = refusal(call)
        assert f" s3://lab/faults{'/a.tif' if line.startswith('cannot read') else ''}: " in line
        assert f": HTTP {status}: {code}: {message}; " in line
        assert advice in line.partition(message)[2]
        assert len(proxy.requests) == 1


def test_without_credentials_the_line_says_where_they_go(s3: S3Server, proxy: FaultyProxy) -> None:
    with storage_here(NOWHERE | {"AWS_ENDPOINT_URL": proxy.url}), pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        line = refusal(Location("s3://lab/organs").exists)
        assert "NoCredentialsError: Unable to locate credentials; log in with `aws configure`" in line
        assert "AWS_NO_SIGN_REQUEST=1" in line
        assert proxy.requests == []
        s3.put("public.tif", CONTENT, ACL="public-read")
    with storage_here({"AWS_NO_SIGN_REQUEST": "1"}):
        assert Location("s3://lab/public.tif").read_bytes() == CONTENT
    assert "Authorization" not in proxy.requests[-1].headers


def test_whoever_reads_pays_where_the_environment_says_so(folder: Location, proxy: FaultyProxy) -> None:
    files = folder.list_files()
    assert not [it for it in proxy.requests if "x-amz-request-payer" in it.headers]
    proxy.heal()
    with storage_here({"AWS_REQUEST_PAYER": "requester"}):
        folder.list_files()
        folder.read_listed(files)
    assert {it.headers.get("x-amz-request-payer") for it in proxy.requests} == {"requester"}


@pytest.mark.usefixtures("proxy")
def test_a_bucket_that_is_not_there_is_a_wrong_setting_and_named(tmp_path: Path) -> None:
    line = refusal(
        lambda: convert_here(ConvertConfig(source="s3://nobody/organs", output=str(tmp_path / "out"))),
        SettingsError,
    )
    assert line.startswith(
        "cannot open s3://nobody: HTTP 404: NoSuchBucket: The specified bucket does not exist; check"
    )
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_to_s3(s3: S3Server, folder: Location) -> None:
    before = s3.names()
    writes: list[Callable[[], object]] = [
        lambda: (folder / "b").write_bytes(b"1"),
        (folder / "a.tif").delete,
        folder.delete,
        lambda: write_over(folder / "writer.json", b"{}", ABSENT),
    ]
    for write in writes:
        assert "s3:// is read, but not written; expected a local path, file://, gs://" in refusal(write)
    assert look_at(folder / "writer.json").version == ABSENT
    assert s3.names() == before
    assert (folder / "a.tif").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("kind", "details", "reason"),
    [
        ("status", {"status": 503, "body": answer("SlowDown", "Reduce your request rate.")}, "HTTP 503 SlowDown"),
        (
            "status",
            {"status": 400, "body": answer("RequestTimeout", "Your socket was idle")},
            "HTTP 400 RequestTimeout",
        ),
        ("status", {"status": 502, "body": b"<html>Bad Gateway</html>"}, "HTTP 502 Bad Gateway"),
        ("reset", {}, "Connection"),
        ("short", {}, "Error"),
        ("truncate", {}, "did not match calculated checksum"),
        ("flip", {}, "did not match calculated checksum"),
    ],
    ids=["busy", "idle", "gateway", "reset", "short", "truncated", "changed"],
)
def test_a_fault_that_passes_is_survived_and_one_that_stays_is_named(
    kind: str, details: dict[str, object], reason: str, folder: Location, proxy: FaultyProxy
) -> None:
    files = folder.list_files()
    fault = proxy.fail(kind, DOWNLOAD, times=2, **details)  # type: ignore[arg-type]
    assert folder.read_listed(files)[0][0] == CONTENT
    assert fault.hits == 2
    fault = proxy.fail(kind, DOWNLOAD, **details)  # type: ignore[arg-type]
    line = refusal(lambda: folder.read_listed(files))
    assert fault.hits == 8 or kind == "reset"  # after which aiohttp asks once more by itself
    assert "s3://lab/faults/a.tif" in line
    assert reason in line
    assert "(tried 8 times)" in line


def test_a_server_that_says_nothing_is_given_up_after_four_requests(
    folder: Location, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = folder.list_files()
    fault = proxy.fail("stall", DOWNLOAD, seconds=300)
    monkeypatch.setattr(s3_module, "STALL_S", 0.25)
    with storage_here({}):
        line = refusal(lambda: folder.read_listed(files))
    assert line == "cannot read s3://lab/faults/a.tif: no answer from storage within 0.25 s (tried 4 times)"
    assert fault.hits <= 4


def test_a_listing_and_a_part_of_a_file_survive_faults_too(folder: Location, proxy: FaultyProxy) -> None:
    calls: list[Callable[[], object]] = [
        folder.list_files,
        folder.exists,
        lambda: (folder / "a.tif").read_parts(lambda file: file.read(9)),
    ]
    for call in calls:
        expected = call()
        fault = proxy.fail("status", ".*", times=2, status=503, body=answer("SlowDown", "Reduce your request rate."))
        assert call() == expected
        assert fault.hits == 2


@pytest.mark.usefixtures("proxy")
@pytest.mark.parametrize(("source", "state"), [("organs", "ok"), ("nothing", "blocks")])
def test_doctor_tries_a_source_in_s3(source: str, state: str, s3: S3Server, tmp_path: Path) -> None:
    s3.put("organs/train/liver/a.tif", CONTENT)
    config = DoctorConfig(source=f"s3://lab/{source}", output=str(tmp_path))
    finding = look("source", lambda: reach_source(config))
    assert finding.state == state
    assert f"s3://lab/{source}" in finding.detail


def test_without_s3fs_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with (
        storage_here({}),
        pytest.raises(SettingsError, match=r"\(the extra `s3`\).*: pip install s3fs==\d+\.\d+\.\d+$"),
    ):
        Location("s3://lab/organs").exists()
