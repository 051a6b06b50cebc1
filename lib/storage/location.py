"""Bytes by URI, behind one small object: a path, `file://`, `gs://bucket/prefix`, `gdrive://<id>/path`, `s3://...`."""

import json
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, TypeVar

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from pydantic import JsonValue

from lib.config.base import expected_instead_of, missing_client
from lib.errors import SettingsError, StorageError
from lib.storage.checksum import verified_checksum
from lib.storage.faults import attempt
from lib.storage.scan import StoredFile, leads_outside, modified_at, named_for_certain, scan

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

FETCH_CONCURRENCY = 64
VERSION_ARGUMENTS = {"gs": "generation", "gdrive": "version", "s3": "etag"}
"""How a filesystem is told which version of a file to read."""
CHANGED = "it was removed or replaced since it was listed; run the command again"
PARTIAL = re.compile(r"(^|/)\.[0-9a-f]{32}\.partial$")
"""What a writer that was killed leaves behind on a local disk."""


def _gcs() -> AbstractFileSystem:
    from lib.storage.gcs import gcs_filesystem

    return gcs_filesystem()


def _drive() -> AbstractFileSystem:
    from lib.storage.drive.filesystem import drive_filesystem

    return drive_filesystem()


def _s3() -> AbstractFileSystem:
    if (missing := missing_client("s3")) is not None:  # on this machine; where the job began it was there
        raise SettingsError(missing)
    from lib.storage.s3 import s3_filesystem

    return s3_filesystem()


FILESYSTEMS: dict[str, Callable[[], AbstractFileSystem]] = {
    "gs": _gcs,
    "gdrive": _drive,
    "s3": _s3,
    "file": LocalFileSystem,
}
"""What serves the URIs of each scheme: made when one is first opened, and once in a process."""


@lru_cache(maxsize=8)
def _made(filesystem: Callable[[], AbstractFileSystem]) -> AbstractFileSystem:
    return filesystem()


@dataclass(frozen=True)
class Location:
    """A file or folder in storage, by URI. Cheap to make and to send to another process."""

    uri: str

    def __truediv__(self, name: str) -> "Location":
        """The location below this one: the one place where names are joined to folders.

        Raises:
            StorageError: If the name leads out of this folder.
        """
        if leads_outside(name):
            raise StorageError(f"{name!r} below {self.uri} leads out of its folder, so it is neither read nor written")
        return Location(f"{self.uri.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part of the URI."""
        return self.uri.rstrip("/").rsplit("/", 1)[-1]

    @property
    def above(self) -> "Location | None":
        """The folder that this one is in; None for a whole disk, bucket or drive."""
        if self.is_local:
            path = Path(self.path)
            return None if path.parent == path else Location(str(path.parent))
        scheme, path_in_storage = self.uri.rstrip("/").split("://", 1)
        folder, slash, _ = path_in_storage.rpartition("/")
        return Location(f"{scheme}://{folder}") if slash else None

    @property
    def is_local(self) -> bool:
        """Whether this is a path on this machine."""
        return self.scheme == "file"

    @property
    def scheme(self) -> str:
        """`file` for local paths, otherwise what stands before `://`.

        Raises:
            SettingsError: If the scheme is not one of `FILESYSTEMS`.
        """
        scheme = self.uri.split("://", 1)[0] if "://" in self.uri else "file"
        if scheme not in FILESYSTEMS:
            raise SettingsError(f"cannot open {self.uri}; {expected_instead_of(scheme)}")
        return scheme

    @property
    def path(self) -> str:
        """The path as the filesystem of this scheme wants it."""
        return self.uri.split("://", 1)[-1]

    @property
    def filesystem(self) -> AbstractFileSystem:
        """The fsspec filesystem that serves this location."""
        return _made(FILESYSTEMS[self.scheme])

    def exists(self) -> bool:
        """Whether there is a file, or a folder with something in it."""
        return bool(self._attempt("look for", lambda: self.filesystem.exists(self.path)))

    def is_file(self) -> bool:
        """Whether this is a file, not a folder."""
        return bool(self._attempt("look for", self._is_file))

    def _is_file(self) -> bool:
        try:
            return bool(self.filesystem.info(self.path)["type"] == "file")
        except (FileNotFoundError, NotADirectoryError):
            return False

    def is_empty(self) -> bool:
        """Whether there is no file at or below this location."""
        return not self.is_file() and next(self.scan_files(), None) is None

    def read_bytes(self) -> bytes:
        """The whole content of a file.

        Raises:
            StorageError: If it cannot be read.
        """
        return bytes(self._attempt("read", lambda: self.filesystem.cat_file(self.path)))

    def read_parts(self, parse: Callable[[IO[bytes]], ResultT]) -> ResultT:
        """What `parse` makes of an open file that it need not read as a whole.

        Raises:
            StorageError: If it cannot be read.
        """

        def read() -> ResultT:
            # Without a cache, which would fetch 5 MiB where a footer or a row group is asked for.
            with self.filesystem.open(self.path, "rb", cache_type="none") as file:
                return parse(file)

        return self._attempt("read", read)

    def write_bytes(self, data: bytes) -> None:
        """Replace a file in one step: a reader sees the old content or the new, never a part.

        Raises:
            StorageError: If it cannot be written.
        """
        if self.is_local:
            self._attempt("write", lambda: _write_local(Path(self.path), data))
        else:
            self._attempt("write", lambda: self.filesystem.pipe_file(self.path, data))

    def read_json(self) -> dict[str, JsonValue]:
        """A JSON object.

        Raises:
            StorageError: If it cannot be read or is not a JSON object.
        """
        try:
            content = json.loads(self.read_bytes())
        except ValueError as error:
            raise StorageError(f"{self.uri} is not JSON: {error}") from error
        if not isinstance(content, dict):
            raise StorageError(f"{self.uri} holds {type(content).__name__}; expected a JSON object")
        return content

    def write_json(self, content: Mapping[str, JsonValue]) -> None:
        """Write a JSON object, indented for people."""
        self.write_bytes((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())

    def delete(self) -> None:
        """Remove a file, or a folder with all that is in it; nothing happens if it is not there."""
        if self.exists():
            self._attempt("delete", lambda: self.filesystem.rm(self.path, recursive=True))

    def list_files(self) -> list[StoredFile]:
        """Every file below this folder, sorted by path.

        Raises:
            StorageError: If the folder cannot be listed; a folder that does not exist is an empty list.
        """
        return sorted(self.scan_files(), key=lambda file: file.path)

    def scan_files(self) -> Iterator[StoredFile]:
        """Every file below this folder as it is found, in no order, for listings that are not to be kept as a whole.

        Raises:
            StorageError: If the folder cannot be listed to its end; a folder that does not exist holds nothing.
        """
        if not self.exists():
            return
        for file in scan(self.scheme, self.filesystem, self.path, self.uri):
            if file.path and not file.path.endswith("/") and not PARTIAL.search(file.path):
                yield named_for_certain(file)

    def local_folders(self) -> list[str]:
        """The names of the folders in this one, empty ones too; none where folders are only parts of names."""
        if not self.is_local or not Path(self.path).is_dir():
            return []
        return sorted(path.name for path in Path(self.path).iterdir() if path.is_dir())

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        """The contents of many files below this folder, fetched side by side, in the order of `names`.

        Raises:
            StorageError: If any of them cannot be read.
        """
        return self._side_by_side(lambda name: (self / name).read_bytes(), names)

    def write_many(self, contents: Mapping[str, bytes]) -> None:
        """Write many files below this folder, side by side, each as `write_bytes` does.

        Raises:
            StorageError: If any of them cannot be written.
        """
        self._side_by_side(lambda item: (self / item[0]).write_bytes(item[1]), list(contents.items()))

    def read_listed(self, files: Sequence[StoredFile]) -> list[tuple[bytes, str]]:
        """The content and checksum of listed files, fetched side by side, each known to be what was listed.

        Raises:
            StorageError: If one of them cannot be read, or is not what was listed.
        """
        return self._side_by_side(self._read_listed, files)

    def _read_listed(self, file: StoredFile) -> tuple[bytes, str]:
        location = self / file.path
        name = VERSION_ARGUMENTS.get(self.scheme)
        options = {name: file.version} if name and file.version else {}

        def read() -> tuple[bytes, str]:
            try:
                data = bytes(self.filesystem.cat_file(location.path, **options))
            except FileNotFoundError as error:
                raise StorageError(f"cannot read {location.uri}: {CHANGED}") from error
            if self.is_local and file.version not in {None, modified_at(location.path)}:
                raise StorageError(f"cannot read {location.uri}: {CHANGED}")
            return data, verified_checksum(data, file.size_bytes, file.checksum)

        return location._attempt("read", read)

    def _side_by_side(self, read: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> list[ResultT]:
        if self.is_local or len(items) < 2:  # noqa: PLR2004 - a disk gains nothing from threads
            return [read(item) for item in items]
        with ThreadPoolExecutor(min(FETCH_CONCURRENCY, len(items))) as threads:
            return list(threads.map(read, items))

    def _attempt(self, action: str, call: Callable[[], ResultT]) -> ResultT:
        return attempt(action, self.uri, call)

    @contextmanager
    def as_local_file(self) -> Iterator[Path]:
        """A path on this machine with the content of this file, for libraries that open nothing else."""
        if self.is_local:
            yield Path(self.path)
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = Location(folder) / self.name
            copy.write_bytes(self.read_bytes())
            yield Path(copy.path)

    def check_writable(self) -> None:
        """Refuse a place that can never be written to, where that can be told beforehand.

        Raises:
            SettingsError: If the account owns no storage there.
        """
        if self.scheme == "gdrive":
            self.filesystem.check_writable(self.path)

    def delete_partials(self) -> None:
        """Remove what writers that were killed have left in folders below this one. Nobody may be writing there."""
        if self.is_local:
            for path in Path(self.path).glob("*/**/.*.partial"):
                if PARTIAL.search(str(path)):
                    path.unlink(missing_ok=True)

    def upload_folder(self, folder: Path) -> None:
        """Copy every file below a local folder to the same relative path here."""
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            (self / file.relative_to(folder).as_posix()).write_bytes(file.read_bytes())


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)  # noqa: PTH105 - the one call that is atomic on every platform
    finally:
        partial.unlink(missing_ok=True)
