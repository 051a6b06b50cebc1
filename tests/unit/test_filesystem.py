"""Bytes by URI: local files, and fsspec's filesystem in memory in the place of a remote one."""

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lib.errors import SettingsError, StorageError
from lib.storage.location import FILESYSTEMS, Location
from lib.storage.scan import StoredFile


class ScannedMemory(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Tells files as they are found, as our filesystem of Google Drive does."""

    def scan(self, path: str) -> Iterator[StoredFile]:
        root = self._strip_protocol(path) + "/"
        found = self.find(path, detail=True).items()
        return (StoredFile(name.removeprefix(root), info["size"], None) for name, info in found)


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[Location]:
    """A folder that is not on this machine, as far as `Location` knows."""
    monkeypatch.setitem(FILESYSTEMS, "memory", lambda: ScannedMemory(skip_instance_cache=True))
    yield Location("memory:///bucket/folder")
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture(params=["local", "remote"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return Location(str(tmp_path / "folder")) if request.param == "local" else request.getfixturevalue("remote")


def test_a_name_is_joined_with_one_slash() -> None:
    assert (Location("gs://b/x") / "y" / "z.tif").uri == "gs://b/x/y/z.tif"
    assert (Location("gs://b/x/") / "y").uri == "gs://b/x/y"
    assert (Location("/") / "y").uri == "/y"
    assert Location("gs://b/x/y.tif").name == "y.tif"
    assert Location("/data/x/").name == "x"


@pytest.mark.parametrize(
    ("uri", "scheme", "path"),
    [("/data/x", "file", "/data/x"), ("file:///data/x", "file", "/data/x"), ("gs://b/x", "gs", "b/x")],
)
def test_a_uri_has_a_scheme_and_a_path(uri: str, scheme: str, path: str) -> None:
    location = Location(uri)
    assert (location.scheme, location.path, location.is_local) == (scheme, path, scheme == "file")


@pytest.mark.parametrize("uri", ["az://b/x", "http://h/x", "GS://b/x", "://x"])
def test_an_unknown_scheme_is_a_wrong_setting(uri: str) -> None:
    with pytest.raises(SettingsError, match=f"^cannot open {uri}; expected a local path, file://, gs://"):
        Location(uri).read_bytes()


def test_what_is_written_is_read_whatever_the_bytes(folder: Location) -> None:
    content = bytes(range(256)) * 3
    for data in (content, b""):
        (folder / "deep/er/x.bin").write_bytes(data)
        assert (folder / "deep/er/x.bin").read_bytes() == data


def test_a_file_uri_is_a_local_path(tmp_path: Path) -> None:
    (Location(f"file://{tmp_path}") / "x").write_bytes(b"1")
    assert (tmp_path / "x").read_bytes() == b"1"
    assert [file.path for file in Location(f"file://{tmp_path}").list_files()] == ["x"]


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    location = Location(str(tmp_path / "x"))
    whole = {letter * 1_000_000 for letter in (b"a", b"b")}
    location.write_bytes(b"a" * 1_000_000)
    done = threading.Event()

    def rewrite() -> None:
        for _ in range(15):
            for content in whole:
                location.write_bytes(content)
        done.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(location.read_bytes())
    writer.join()
    assert seen <= whole


def test_a_write_that_fails_leaves_the_old_content_and_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = Location(str(tmp_path / "x"))
    location.write_bytes(b"old")
    write = Path.write_bytes

    def run_out_of_space(path: Path, data: bytes) -> int:
        write(path, data[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", run_out_of_space)
    with pytest.raises(StorageError, match=re.escape(f"cannot write {location.uri}: No space left on device")):
        location.write_bytes(b"new content")
    assert location.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_a_killed_writer_left_is_not_a_file_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lib.storage.location.os.replace", killed)
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            Location(str(tmp_path / "x")).write_bytes(b"1")
    assert len(list(tmp_path.iterdir())) == 1
    assert Location(str(tmp_path)).list_files() == []


def test_files_are_listed_below_a_folder_sorted_and_relative_to_it(folder: Location) -> None:
    for name in ("b.tif", "a/z.tif", "a.tif", "a/b/c.tif", "ä é.tif"):
        (folder / name).write_bytes(name.encode())
    Location(folder.uri + "er/x").write_bytes(b"other")
    listed = folder.list_files()
    assert [file.path for file in listed] == ["a.tif", "a/b/c.tif", "a/z.tif", "b.tif", "ä é.tif"]
    assert listed[-1] == StoredFile("ä é.tif", len("ä é.tif".encode()), None, listed[-1].version)
    assert Location(folder.uri + "/").list_files() == listed


def test_a_file_that_is_replaced_by_one_of_the_same_size_has_another_version(tmp_path: Path) -> None:
    folder = Location(str(tmp_path))
    (folder / "x.tif").write_bytes(b"before")
    os.utime(tmp_path / "x.tif", (0, 1))
    [before] = folder.list_files()
    (folder / "x.tif").write_bytes(b"behind")
    [after] = folder.list_files()
    assert (before.size_bytes, before.checksum) == (after.size_bytes, after.checksum)
    assert before.version != after.version


@pytest.mark.parametrize("name", ["..", "../x", "a/../../x", "a/..", "images/train-../../x/.."])
def test_no_name_leads_out_of_its_folder(name: str, folder: Location) -> None:
    for use in (lambda: folder / name, lambda: folder.write_many({name: b"1"}), lambda: folder.read_many([name])):
        with pytest.raises(StorageError, match=re.escape(f"{name!r} below {folder.uri} leads out of its folder")):
            use()


def test_an_object_whose_name_leads_out_is_listed_and_not_read(
    remote: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [StoredFile(name, 1, None) for name in ("hub/../../../x", "..a/b..tif")]
    monkeypatch.setattr(ScannedMemory, "scan", lambda *_: iter(listed))
    (remote / "x").write_bytes(b"1")
    found = {file.path: file.unreadable for file in remote.list_files()}
    assert found == {"hub/../../../x": "leads_outside", "..a/b..tif": None}


def test_a_name_of_another_encoding_has_a_spelling_and_a_reason(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"1")
    with open(os.fsencode(tmp_path) + b"/Pr\xe4parat.tif", "wb") as file:  # noqa: PTH123 - of bytes
        file.write(b"12")
    listed = Location(str(tmp_path)).list_files()
    assert [(file.path, file.unreadable) for file in listed] == [(r"Pr\xe4parat.tif", "not_utf8"), ("a.tif", None)]
    [unreadable, _] = listed
    unreadable.path.encode()


def test_a_folder_that_is_a_link_is_listed_and_one_that_leads_back_is_told(tmp_path: Path) -> None:
    folder, store = tmp_path / "source", tmp_path / "store"
    for path in (folder / "train/lung/a.tif", store / "liver/b.tif"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"1")
    (folder / "train/liver").symlink_to(store / "liver")
    (folder / "train/lung/linked.tif").symlink_to(store / "liver/b.tif")
    (folder / "train/lung/loop").symlink_to(folder / "train")
    (folder / "train/lung/broken.tif").symlink_to(store / "nowhere.tif")
    (folder / "train/self").symlink_to(folder / "train/self")
    found = {file.path: file.unreadable for file in Location(str(folder)).list_files()}
    assert found == {
        "train/liver/b.tif": None,
        "train/lung/a.tif": None,
        "train/lung/linked.tif": None,
        "train/lung/loop": "link_cycle",
        "train/lung/broken.tif": "broken_link",
        "train/self": "broken_link",
    }


@pytest.mark.parametrize("linked", [False, True])
def test_a_file_that_is_replaced_by_one_of_the_same_size_after_it_was_listed_is_not_read(
    linked: bool, tmp_path: Path
) -> None:
    original = tmp_path / ("original.bin" if linked else "folder/x.tif")
    (tmp_path / "folder").mkdir()
    original.write_bytes(b"before")
    if linked:
        (tmp_path / "folder/x.tif").symlink_to(original)
    os.utime(original, (0, 1))
    folder = Location(str(tmp_path / "folder"))
    listed = folder.list_files()
    assert [data for data, _ in folder.read_listed(listed)] == [b"before"]
    original.write_bytes(b"behind")
    with pytest.raises(StorageError, match=r"x\.tif: it was removed or replaced since it was listed"):
        folder.read_listed(listed)


def test_a_folder_that_is_not_there_is_an_empty_list(folder: Location) -> None:
    assert folder.list_files() == []
    assert folder.is_empty()
    assert not folder.exists()
    (folder / "x").write_bytes(b"")
    assert folder.exists()
    assert not folder.is_empty()


def test_empty_folders_are_empty(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    assert Location(str(tmp_path)).is_empty()
    assert Location(str(tmp_path)).list_files() == []


def test_what_a_listing_states_is_kept_and_what_stands_for_a_folder_is_no_file(
    remote: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [StoredFile("x", 7, "crc32c:4waSgw==", "12"), StoredFile("sub/", 0, None), StoredFile("", 0, None)]
    monkeypatch.setattr(ScannedMemory, "scan", lambda *_: iter(listed))
    (remote / "x").write_bytes(b"1234567")
    assert remote.list_files() == listed[:1]


def test_json_comes_back_and_stays_readable_for_people(folder: Location) -> None:
    record = {"name": "Gewebe ü", "counts": {"a": 1}, "list": [1.5, None, True]}
    (folder / "r.json").write_json(record)
    assert (folder / "r.json").read_json() == record
    text = (folder / "r.json").read_bytes().decode()
    assert "Gewebe ü" in text
    assert text.endswith("}\n")
    assert len(text.splitlines()) > 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not JSON"),
        (b'{"a": 1', "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[1]", "holds list; expected a JSON object"),
        (b"null", "holds NoneType"),
    ],
)
def test_what_is_not_a_json_object_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    location = Location(str(tmp_path / "r.json"))
    location.write_bytes(content)
    with pytest.raises(StorageError, match=re.escape(f"{location.uri} {reason}")):
        location.read_json()


def test_many_files_are_read_in_the_order_asked_for(folder: Location) -> None:
    names = [f"{number}.bin" for number in (3, 1, 2, 10)]
    for name in names:
        (folder / name).write_bytes(name.encode())
    assert folder.read_many(names) == [name.encode() for name in names]
    assert folder.read_many(names[:1]) == [names[0].encode()]


@pytest.mark.parametrize(
    ("which", "name"),
    [
        *(("local", name) for name in ("slide[1].tif", "what?.tif", "all*.tif")),
        *(("remote", name) for name in ("slide[1].tif", "what?.tif", "all*.tif")),
    ],
)
def test_a_name_that_looks_like_a_pattern_is_only_a_name(
    which: str, name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = Location(str(tmp_path)) if which == "local" else request.getfixturevalue("remote")
    for other in (name, "slide1.tif", "whatx.tif", "allx.tif"):
        (folder / other).write_bytes(other.encode())
    assert folder.read_many([name, "slide1.tif"]) == [name.encode(), b"slide1.tif"]


def test_deleting_removes_a_file_or_a_whole_folder_and_nothing_else(folder: Location) -> None:
    for name in ("a/x", "a/b/y", "ab/z"):
        (folder / name).write_bytes(b"1")
    (folder / "a").delete()
    assert [file.path for file in folder.list_files()] == ["ab/z"]
    (folder / "ab/z").delete()
    (folder / "ab/z").delete()
    assert folder.is_empty()


def test_a_local_file_is_its_own_local_file(tmp_path: Path) -> None:
    (tmp_path / "x.keras").write_bytes(b"1")
    with (Location(str(tmp_path)) / "x.keras").as_local_file() as path:
        assert path == tmp_path / "x.keras"
    assert path.exists()


def test_a_remote_file_is_copied_under_its_name_for_as_long_as_it_is_needed(remote: Location) -> None:
    (remote / "x.keras").write_bytes(b"weights")
    with (remote / "x.keras").as_local_file() as path:
        assert path.name == "x.keras"
        assert path.read_bytes() == b"weights"
    assert not path.exists()


def test_a_folder_is_uploaded_with_its_tree(folder: Location, tmp_path: Path) -> None:
    for name in ("top.txt", "a/b/deep.txt"):
        (tmp_path / "from" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "from" / name).write_bytes(name.encode())
    (folder / "to").upload_folder(tmp_path / "from")
    assert [file.path for file in (folder / "to").list_files()] == ["a/b/deep.txt", "top.txt"]
    assert (folder / "to/a/b/deep.txt").read_bytes() == b"a/b/deep.txt"


def test_a_missing_file_is_named(folder: Location) -> None:
    missing = folder / "gone.tif"
    for failing in (missing.read_bytes, missing.read_json, lambda: folder.read_many(["gone.tif"])):
        with pytest.raises(StorageError, match=rf"^cannot read .*{re.escape(folder.uri)}.*: there is no such file"):
            failing()


def test_a_failure_of_the_server_is_named_on_one_line(remote: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise OSError("the account\n  has no access")

    for method in ("cat_file", "cat", "cat_ranges", "pipe_file", "find", "rm", "exists"):
        monkeypatch.setattr(MemoryFileSystem, method, forbidden, raising=False)
    attempts = {
        "read": (remote / "x").read_bytes,
        "write": lambda: (remote / "x").write_bytes(b"1"),
        "look for": remote.exists,
    }
    for action, attempt in attempts.items():
        with pytest.raises(StorageError) as caught:
            attempt()
        named = remote.uri if action == "look for" else (remote / "x").uri
        assert str(caught.value) == f"cannot {action} {named}: the account has no access"


def test_a_folder_where_a_file_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "x/y").mkdir(parents=True)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=re.escape(f"cannot read {tmp_path}/x: Is a directory")):
        Location(f"{tmp_path}/x").read_bytes()
    with pytest.raises(StorageError, match=re.escape(f"cannot write {tmp_path}/x: ")):
        Location(f"{tmp_path}/x").write_bytes(b"1")
    with pytest.raises(StorageError, match=re.escape(f"cannot write {tmp_path}/file/x: ")):
        Location(f"{tmp_path}/file/x").write_bytes(b"1")
