"""Writing to Google Drive: one file of a name, whole or not at all, however often and by however many it is written."""

import gc
import hashlib
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import FileSelector, FileType, FSSpecHandler, PyFileSystem, copy_files

from lib.errors import SettingsError, StorageError
from lib.storage.drive.filesystem import DriveFileSystem
from lib.storage.location import FILESYSTEMS, Location
from tests.fakes.drive import PERSON, SERVICE_ACCOUNT, drive_server
from tests.fakes.drive_lab import Lab

CHUNK = 2**18
UPLOADS = "upload/drive"


class WritableLab(Lab):
    """A lab whose folder is in a shared drive, so that a service account can write."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.shared_drive = self.drive.add_drive("Histology")
        self.root = self.drive.add_folder("lab", self.shared_drive)

    def content(self, name: str) -> bytes | None:
        (record,) = self.drive.named(name)
        return record.content


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[WritableLab]:
    with drive_server() as drive:
        lab = WritableLab(drive, tmp_path)
        yield lab
        lab.close()


def side_by_side(*works: Callable[[], object]) -> None:
    failures: list[BaseException] = []
    ready = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> None:
        ready.wait()
        try:
            work()
        except BaseException as failure:  # noqa: BLE001 - told below, in the thread of the test
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_what_is_written_is_read_whatever_its_size(lab: WritableLab, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    filesystem = lab.filesystem(chunk_bytes=CHUNK)
    filesystem.pipe_file(f"{lab.root}/deep/er/a.bin", content)
    assert lab.content("a.bin") == content
    assert filesystem.cat_file(f"{lab.root}/deep/er/a.bin") == content
    assert lab.filesystem().cat_file(f"{lab.root}/deep/er/a.bin") == content
    assert len(lab.drive.sent("PUT", UPLOADS)) == max(-(-size // CHUNK), 1)


def test_what_is_there_already_is_not_sent_again(lab: WritableLab) -> None:
    for filesystem in (lab.filesystem(), lab.filesystem()):
        filesystem.pipe_file(f"{lab.root}/a.bin", b"same")
    assert len(lab.drive.sent("POST", UPLOADS)) == 1
    assert not lab.drive.sent("PATCH")
    assert lab.content("a.bin") == b"same"


def test_other_content_replaces_that_of_the_same_file(lab: WritableLab) -> None:
    file_id = lab.add("a.bin", b"old")
    filesystem = lab.filesystem()
    filesystem.pipe_file(f"{lab.root}/a.bin", b"new")
    assert [(record.id, record.content) for record in lab.drive.named("a.bin")] == [(file_id, b"new")]
    assert filesystem.cat_file(f"{lab.root}/a.bin") == b"new"
    assert filesystem.info(f"{lab.root}/a.bin")["checksum"] == "md5:" + hashlib.md5(b"new").hexdigest()


def test_a_file_that_must_be_new_is_not_replaced(lab: WritableLab) -> None:
    lab.add("a.bin", b"old")
    with pytest.raises(FileExistsError):
        lab.filesystem().pipe_file(f"{lab.root}/a.bin", b"new", mode="create")
    assert lab.content("a.bin") == b"old"


def test_a_shortcut_that_is_written_to_keeps_leading_there(lab: WritableLab) -> None:
    target = lab.add("target.bin", b"old")
    link = lab.drive.add_shortcut("link.bin", target, lab.root)
    filesystem = lab.filesystem()
    filesystem.pipe_file(f"{lab.root}/link.bin", b"new")
    assert lab.content("target.bin") == b"new"
    assert filesystem.cat_file(f"{lab.root}/link.bin") == b"new"
    filesystem.rm(f"{lab.root}/link.bin")
    assert lab.drive.record(link).trashed
    assert lab.content("target.bin") == b"new"


# Uploads that break


@pytest.mark.parametrize("cut", [0, 1, CHUNK // 2])
def test_a_chunk_that_breaks_is_continued_where_the_server_has_it(lab: WritableLab, cut: int) -> None:
    content = bytes(range(256)) * (3 * CHUNK // 256)
    lab.drive.fail(method="PUT", path=UPLOADS, skip=1, cut_upload=cut)
    lab.filesystem(chunk_bytes=CHUNK).pipe_file(f"{lab.root}/a.bin", content)
    assert lab.content("a.bin") == content
    assert len(lab.drive.sent("POST", UPLOADS)) == 1
    sent = sum(request.bytes_in for request in lab.drive.sent("PUT", UPLOADS))
    assert sent == len(content) - cut


@pytest.mark.parametrize("fault", [{"status": 503}, {"reset": True}, {"lose_answer": True}, {"status": 429}])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_an_upload_that_fails_for_a_time_ends_with_one_file(
    lab: WritableLab, method: str, fault: dict[str, Any]
) -> None:
    lab.drive.fail(method=method, path=UPLOADS, times=2, **fault)
    lab.filesystem().pipe_file(f"{lab.root}/a.bin", b"content")
    assert lab.content("a.bin") == b"content"


def test_an_upload_whose_session_has_ended_begins_again(lab: WritableLab) -> None:
    content = b"x" * 3 * CHUNK
    lab.drive.fail(method="PUT", path=UPLOADS, skip=1, status=404, reason="notFound")
    lab.filesystem(chunk_bytes=CHUNK).pipe_file(f"{lab.root}/a.bin", content)
    assert lab.content("a.bin") == content
    assert len(lab.drive.sent("POST", UPLOADS)) == 2


def test_an_upload_that_keeps_failing_leaves_the_old_content(lab: WritableLab) -> None:
    lab.add("a.bin", b"old")
    lab.drive.fail(method="PUT", path=UPLOADS, times=99, status=503)
    with pytest.raises(StorageError, match=r"cannot write gdrive://.*/a\.bin: error \(503\) \(tried 10 times\)"):
        lab.filesystem().pipe_file(f"{lab.root}/a.bin", b"new")
    assert lab.content("a.bin") == b"old"


# Many writers


def test_threads_that_need_the_same_folders_make_each_once(lab: WritableLab) -> None:
    filesystem = lab.filesystem()
    side_by_side(*(lambda n=n: filesystem.pipe_file(f"{lab.root}/out/images/{n}.bin", b"%d" % n) for n in range(12)))
    assert len(lab.drive.named("out")) == len(lab.drive.named("images")) == 1
    assert len(lab.filesystem().find(f"{lab.root}/out")) == 12


def test_processes_that_make_the_same_folder_all_go_on_with_the_oldest(lab: WritableLab) -> None:
    lab.drive.fail(path="generateIds", times=9, latency_s=0.3)  # so that each has looked before any has made it
    writers = [lab.filesystem(), lab.filesystem()]
    side_by_side(*(lambda n=n, w=w: w.pipe_file(f"{lab.root}/out/{n}.bin", b"1") for n, w in enumerate(writers)))
    folders = lab.drive.named("out")
    assert len(folders) == 2
    oldest = min(folders, key=lambda record: (record.created, record.id))
    assert {record.parent for n in range(2) for record in lab.drive.named(f"{n}.bin")} == {oldest.id}
    assert len(lab.filesystem().find(f"{lab.root}/out")) == 2


@pytest.mark.parametrize("contents", [(b"same", b"same"), (b"one", b"two")])
def test_processes_that_write_the_same_file_leave_one(lab: WritableLab, contents: tuple[bytes, bytes]) -> None:
    lab.drive.fail(method="POST", path=UPLOADS, times=9, latency_s=0.3)
    writers = [lab.filesystem(), lab.filesystem()]
    for writer in writers:
        writer.ls(lab.root)
    paired = zip(writers, contents, strict=True)
    side_by_side(*(lambda w=w, c=c: w.pipe_file(f"{lab.root}/shard.parquet", c) for w, c in paired))
    assert lab.content("shard.parquet") in contents


def test_a_folder_whose_answer_got_lost_is_made_once(lab: WritableLab) -> None:
    lab.drive.fail(method="POST", path="files", lose_answer=True)
    lab.filesystem().makedirs(f"{lab.root}/out")
    assert len(lab.drive.named("out")) == 1


def test_a_folder_that_another_process_dropped_is_made_again(lab: WritableLab) -> None:
    filesystem = lab.filesystem()
    filesystem.pipe_file(f"{lab.root}/out/a.bin", b"1")
    (folder,) = lab.drive.named("out")
    folder.trashed = True
    filesystem.pipe_file(f"{lab.root}/out/b.bin", b"2")
    assert lab.filesystem().find(f"{lab.root}/out") == [f"{lab.root}/out/b.bin"]


# Deleting


def test_deleting_puts_files_and_folders_into_the_bin(lab: WritableLab) -> None:
    for path in ("out/a.bin", "out/sub/b.bin", "other.bin"):
        lab.add(path)
    filesystem = lab.filesystem()
    filesystem.find(lab.root)
    with pytest.raises(IsADirectoryError):
        filesystem.rm(f"{lab.root}/out")
    filesystem.rm(f"{lab.root}/out", recursive=True)
    assert not filesystem.exists(f"{lab.root}/out/a.bin")
    assert filesystem.find(lab.root) == [f"{lab.root}/other.bin"]
    assert [record.trashed for record in lab.drive.model.records.values() if record.name == "out"] == [True]
    with pytest.raises(FileNotFoundError):
        filesystem.rm(f"{lab.root}/out", recursive=True)


def test_the_folder_that_was_given_is_never_deleted(lab: WritableLab) -> None:
    with pytest.raises(StorageError, match="name what is in it"):
        lab.filesystem().rm(lab.root, recursive=True)
    assert not lab.drive.record(lab.root).trashed


def test_folders_are_made_and_made_only_once(lab: WritableLab) -> None:
    filesystem = lab.filesystem()
    filesystem.mkdir(f"{lab.root}/a/b")
    filesystem.makedirs(f"{lab.root}/a/b", exist_ok=True)
    with pytest.raises(FileExistsError):
        filesystem.makedirs(f"{lab.root}/a/b")
    lab.add("file")
    with pytest.raises(NotADirectoryError):
        filesystem.pipe_file(f"{lab.root}/file/x", b"1")
    with pytest.raises(IsADirectoryError):
        filesystem.pipe_file(f"{lab.root}/a", b"1")


# What cannot be written


def refused_before_any_work(lab: WritableLab, filesystem: DriveFileSystem, path: str) -> str:
    with pytest.raises(SettingsError) as caught:
        filesystem.check_writable(path)
    assert {request.method for request in lab.drive.sent(path="drive")} == {"GET"}
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_service_account_is_told_that_it_owns_no_storage(lab: WritableLab) -> None:
    own = lab.drive.add_folder("somebody's folder")
    told = refused_before_any_work(lab, lab.filesystem(), f"{own}/results/run 1")
    assert told.startswith(f"cannot write gdrive://{own}/results/run 1: {SERVICE_ACCOUNT} is a service account")
    assert "choose a folder of a shared drive, or gs://bucket/prefix" in told
    with pytest.raises(StorageError, match=r"storageQuotaExceeded.*write to a shared drive or to gs://"):
        lab.filesystem().pipe_file(f"{own}/a.bin", b"1")


def test_a_shared_drive_and_a_person_s_own_folder_can_be_written_to(lab: WritableLab) -> None:
    lab.filesystem().check_writable(f"{lab.root}/new/run 1")
    lab.filesystem(key_file=str(lab.token)).check_writable("My Drive/results")


def test_an_account_that_may_only_read_is_told_whom_to_share_with(lab: WritableLab) -> None:
    lab.drive.record(lab.root).read_only = True
    for account, key_file in ((SERVICE_ACCOUNT, lab.key), (PERSON, lab.token)):
        told = refused_before_any_work(lab, lab.filesystem(key_file=str(key_file)), f"{lab.root}/new")
        assert f"share the folder with {account} as an editor" in told
    with pytest.raises(StorageError, match=f"share the folder with {re.escape(SERVICE_ACCOUNT)} as an editor"):
        lab.filesystem().pipe_file(f"{lab.root}/a.bin", b"1")


def test_a_file_is_no_place_to_write_below(lab: WritableLab) -> None:
    file_id = lab.add("a.bin")
    assert "it is a file; expected a folder" in refused_before_any_work(lab, lab.filesystem(), f"{file_id}/x")


def test_a_name_that_can_only_mean_an_existing_file_is_refused(lab: WritableLab) -> None:
    for name in (f"a ({'x' * 20}).tif", ".."):
        with pytest.raises(StorageError, match="can only mean something that is there already"):
            lab.filesystem().pipe_file(f"{lab.root}/{name}", b"1")


def test_a_google_document_is_not_overwritten(lab: WritableLab) -> None:
    lab.drive.add_google_doc("Notes", lab.root)
    with pytest.raises(StorageError, match="it is a Google document"):
        lab.filesystem().pipe_file(f"{lab.root}/Notes", b"1")


# Opened files, as Ray writes its own


def test_an_open_file_is_written_in_one_piece_when_it_is_closed(lab: WritableLab) -> None:
    file = lab.filesystem().open(f"{lab.root}/out/a.bin", "wb")
    file.write(b"one, ")
    file.write(b"two")
    assert not lab.drive.named("a.bin")
    file.close()
    file.close()
    assert lab.content("a.bin") == b"one, two"
    assert len(lab.drive.sent("POST", UPLOADS)) == 1


def test_a_file_whose_block_fails_or_that_nobody_closes_is_not_written(lab: WritableLab) -> None:
    filesystem = lab.filesystem()

    def fail_while_writing() -> None:
        with filesystem.open(f"{lab.root}/a.bin", "wb") as file:
            file.write(b"half of i")
            raise KeyError

    with pytest.raises(KeyError):
        fail_while_writing()
    file = filesystem.open(f"{lab.root}/b.bin", "wb")
    file.write(b"half of i")
    del file
    gc.collect()
    assert not lab.drive.sent("POST", UPLOADS)


def test_an_open_file_that_cannot_be_written_says_so_when_it_is_closed(lab: WritableLab) -> None:
    lab.drive.fail(method="PUT", path=UPLOADS, times=99, status=503)
    file = lab.filesystem().open(f"{lab.root}/a.bin", "wb")
    with pytest.raises(StorageError, match=r"cannot write gdrive://.*/a\.bin: "):
        file.close()
    assert file.closed


@pytest.mark.parametrize("mode", ["ab", "r+b", "xb"])
def test_a_file_is_opened_for_reading_or_for_writing_it_anew(lab: WritableLab, mode: str) -> None:
    with pytest.raises(ValueError, match="expected rb or wb"):
        lab.filesystem().open(f"{lab.root}/a.bin", mode)


def test_ray_s_own_storage_works_in_drive(lab: WritableLab, tmp_path: Path) -> None:
    """What `StorageContext` of Ray Train and Ray Tune does with its filesystem."""
    drive = pickle.loads(pickle.dumps(PyFileSystem(FSSpecHandler(lab.filesystem()))))
    folder = f"{lab.root}/model/sweep/ray"
    drive.create_dir(folder)
    drive.create_dir(folder)
    with drive.open_output_stream(f"{folder}/.validate_storage_marker"):
        pass
    assert drive.get_file_info(f"{folder}/.validate_storage_marker").is_file
    drive.delete_file(f"{folder}/.validate_storage_marker")
    assert drive.get_file_info(f"{folder}/.validate_storage_marker").type == FileType.NotFound
    for name in ("state.json", "trial/result.json"):
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).write_text(name)
    copy_files(str(tmp_path / "here"), folder, destination_filesystem=drive)
    copy_files(folder, str(tmp_path / "back"), source_filesystem=drive)
    assert (tmp_path / "back" / "trial" / "result.json").read_text() == "trial/result.json"
    listed = drive.get_file_info(FileSelector(folder, recursive=False))
    assert [(info.base_name, info.is_file) for info in listed] == [("state.json", True), ("trial", False)]
    drive.delete_dir(folder)
    assert not drive.get_file_info(FileSelector(folder, allow_not_found=True))


# Through Location, as every stage reads and writes


@pytest.fixture
def folder(lab: WritableLab, monkeypatch: pytest.MonkeyPatch) -> Location:
    opened = lab.filesystem()
    monkeypatch.setitem(FILESYSTEMS, "gdrive", lambda: opened)
    return Location(f"gdrive://{lab.root}/my results")


def test_a_location_in_drive_behaves_as_any_other(folder: Location, tmp_path: Path) -> None:
    assert folder.is_empty()
    assert folder.list_files() == []
    names = ["b.tif", "slide[1].tif", "train/lung tissue/a b.tif", "ä é.tif"]
    for name in names:
        (folder / name).write_bytes(name.encode())
    assert [(file.path, file.size_bytes) for file in folder.list_files()] == [(n, len(n.encode())) for n in names]
    assert folder.read_many(names[::-1]) == [name.encode() for name in names[::-1]]
    (folder / "r.json").write_json({"a": 1})
    (folder / "r.json").write_json({"a": 2})
    assert (folder / "r.json").read_json() == {"a": 2}
    with (folder / "train/lung tissue/a b.tif").as_local_file() as path:
        assert path.read_bytes() == b"train/lung tissue/a b.tif"
    (folder / "train").delete()
    (folder / "b.tif").delete()
    (folder / "b.tif").delete()
    assert [file.path for file in folder.list_files()] == ["r.json", "slide[1].tif", "ä é.tif"]


def test_a_location_names_what_is_missing_and_passes_a_refusal_on(folder: Location, lab: WritableLab) -> None:
    with pytest.raises(StorageError, match=f"cannot read {folder.uri}/x: there is no such file"):
        (folder / "x").read_bytes()
    lab.drive.record(lab.root).shared = False
    fresh = Location(f"gdrive://{lab.root}")
    with pytest.raises(StorageError, match=re.escape(f"share the folder with {SERVICE_ACCOUNT}")):
        fresh.list_files()
