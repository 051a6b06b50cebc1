"""Google Drive as a filesystem.

`gdrive://<folder id>/path`, `gdrive://My Drive/path`, or `gdrive://Shared drives/<name>/path`.

Our own, over the Drive v3 REST API, since neither gdrive-fsspec nor PyDrive2 lists completely, retries, or keeps the
private key out of its pickle. Lists by folder id, reads by file id, checks every whole file against its md5.
"""

import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fsspec import AbstractFileSystem

from lib.errors import StorageError
from lib.storage.drive.answers import ContentChangedError, DriveRefused
from lib.storage.drive.api import DriveApi
from lib.storage.drive.client import DriveClient
from lib.storage.drive.credentials import DriveCredential
from lib.storage.drive.limiter import shared_limiter
from lib.storage.drive.names import UNREADABLE, Item
from lib.storage.drive.options import DriveSettings
from lib.storage.drive.tree import DriveTree, Entry
from lib.storage.drive.writer import DriveWriter
from lib.storage.scan import StoredFile


def drive_filesystem() -> AbstractFileSystem:
    """The filesystem for `gdrive://`, with the settings of the environment.

    Raises:
        SettingsError: If an environment variable has a value that its setting does not take.
    """
    return DriveFileSystem(DriveSettings.from_environment())


class DriveFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Files of one account, from any thread. Its pickle is its settings.

    Every failure is a `StorageError` that says what to do, but for those that fsspec names otherwise:
    `FileNotFoundError`, `FileExistsError`, `IsADirectoryError`, `NotADirectoryError`.
    """

    protocol = "gdrive"
    cachable = False

    def __init__(self, settings: DriveSettings, **options: Any) -> None:
        super().__init__(**options)
        self._settings = settings
        self._credential = DriveCredential(settings.key_file)
        self._starting = threading.Lock()
        self._started: tuple[DriveApi, DriveTree, DriveWriter] | None = None
        self._pool = ThreadPoolExecutor(settings.concurrency, "drive")

    def close(self) -> None:
        """End its threads and connections."""
        self._pool.shutdown()
        if self._started is not None:
            self._api.client.close()

    @property
    def _api(self) -> DriveApi:
        return self._start()[0]

    @property
    def _tree(self) -> DriveTree:
        return self._start()[1]

    @property
    def _writer(self) -> DriveWriter:
        return self._start()[2]

    def _start(self) -> tuple[DriveApi, DriveTree, DriveWriter]:
        """Made at the first request, since it reads the credential."""
        with self._starting:
            if self._started is None:
                name = f"{self._settings.endpoint} {self._credential.account}"
                limiter = shared_limiter(name, self._settings.units_per_minute)
                client = DriveClient(self._settings, self._credential, limiter)
                api = DriveApi(client, acknowledge_abuse=self._settings.acknowledge_abuse)
                tree = DriveTree(api, self._pool)
                self._started = (api, tree, DriveWriter(api, tree, self._settings.chunk_bytes))
            return self._started

    # Looking

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """What is at a path: `name`, `type`, `size` (bytes), `checksum` (`md5:<hex>`), `id`, `version`, `unreadable`.

        Raises:
            FileNotFoundError: If there is nothing.
            StorageError: If Drive does not tell.
        """
        path = self._strip_protocol(path)
        return _info(path, self._tree.entry(path))

    def exists(self, path: str, **_: Any) -> bool:
        """Whether there is a file or folder. Unlike fsspec's own, it does not take a failure for a no.

        Raises:
            StorageError: If Drive does not tell.
        """
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """What is in a folder, sorted; a file lists itself.

        Raises:
            FileNotFoundError: If there is nothing.
            StorageError: If the folder cannot be listed.
        """
        path = self._strip_protocol(path)
        entry = self._tree.entry(path)
        if entry.target.is_folder:
            children = self._tree.children(path, entry.target)
            infos = [_info(f"{path}/{name}", child) for name, child in children.items()]
        else:
            infos = [_info(path, entry)]
        return infos if detail else [info["name"] for info in infos]

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **_: Any,
    ) -> Any:
        """Every file below a folder, sorted; those without bytes too, with `unreadable` in their info.

        Raises:
            FileNotFoundError: If there is nothing.
            StorageError: If any folder cannot be listed to its end.
        """
        path = self._strip_protocol(path)
        root = self._tree.entry(path)
        entries = dict(self._tree.walk(path, root.target)) if root.target.is_folder else {path: root}
        depth = path.count("/") + (maxdepth or 0)
        infos = {
            name: info
            for name, info in ((name, _info(name, entry)) for name, entry in sorted(entries.items()))
            if (withdirs or info["type"] == "file") and (maxdepth is None or name.count("/") <= depth)
        }
        return infos if detail else list(infos)

    def scan(self, path: str) -> Iterator[StoredFile]:
        """Every file below a folder as it is found.

        Raises:
            FileNotFoundError: If there is nothing.
            StorageError: If any folder cannot be listed to its end.
        """
        path = self._strip_protocol(path)
        root = self._tree.entry(path).target  # now, not when the first file is asked for
        found = ((name.removeprefix(f"{path}/"), entry) for name, entry in self._tree.walk(path, root))
        return (_stored_file(name, entry) for name, entry in found if not entry.is_folder)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Look up anew what is at and below a path, or everything."""
        if self._started is not None:
            self._tree.forget(None if path is None else self._strip_protocol(path))

    # Reading

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, version: str | None = None, **_: Any
    ) -> bytes:
        """The content of a file, or a part of it as a slice would give it; a whole file is checked against its md5.

        Args:
            start: First byte, as in a slice.
            end: Byte after the last one, as in a slice.
            version: What a listing states of the file: it is then read by its id, without looking for it, and refused
                if its content is another one by now.

        Raises:
            FileNotFoundError: If there is none.
            StorageError: If it cannot be read.
        """
        path = self._strip_protocol(path)
        if version is not None:
            return self._read(path, _entry_of(version), start, end)
        known = self._tree.known(path)
        if known is not None:
            try:
                return self._read(path, known, start, end)
            except ContentChangedError:
                pass  # since it was looked up: now its new content
            except DriveRefused as refusal:
                if not refusal.is_missing:
                    raise
        return self._read(path, self._tree.entry(path), start, end)

    def _read(self, path: str, entry: Entry, start: int | None, end: int | None) -> bytes:
        if entry.unreadable:
            raise StorageError(f"cannot read gdrive://{path}: {UNREADABLE[entry.unreadable]}")
        if entry.target.is_folder:
            raise IsADirectoryError(f"gdrive://{path} is a folder")
        first, last, _ = slice(start, end).indices(entry.target.size_bytes)
        return self._api.content(entry.target, f"read gdrive://{path}", first, last)

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **_: Any) -> Any:
        """The content of a file, or of many by their paths, fetched side by side. A name is never a pattern.

        Args:
            path: One path, or a list of them.
            recursive: Not supported: names are taken as they are.
            on_error: `raise`, or `omit`, or `return` for the exception in the place of the content.

        Raises:
            FileNotFoundError: If one is not there.
            StorageError: If one cannot be read.
        """
        if recursive:
            raise ValueError("cat of a folder; give the paths that find returns")
        if isinstance(path, str):
            return self.cat_file(path)
        stripped = [self._strip_protocol(name) for name in path]
        self._tree.entries([name for name in stripped if self._tree.known(name) is None])
        futures = [self._pool.submit(self.cat_file, name) for name in stripped]
        contents: dict[str, Any] = {}
        try:
            for name, future in zip(path, futures, strict=True):
                failure = future.exception()
                if failure is None:
                    contents[name] = future.result()
                elif on_error == "return":
                    contents[name] = failure
                elif on_error == "raise":
                    raise failure
        finally:
            for future in futures:
                future.cancel()
        return contents

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BytesIO:
        if mode == "rb":
            return io.BytesIO(self.cat_file(path))
        if mode == "wb":
            return _OpenForWriting(lambda content: self.pipe_file(path, content))
        raise ValueError(f"open with mode {mode!r}; expected rb or wb")

    # Writing

    def check_writable(self, path: str) -> None:
        """Refuse a place that cannot be written to, before any work is done for it.

        Raises:
            SettingsError: If the account owns no storage there, or may not write there.
            StorageError: If Drive does not tell.
        """
        self._writer.check(self._strip_protocol(path))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """Write a file in one piece: a reader sees the old content or the new. Folders above it are made.

        Nothing is sent if the file has this content already; a file with other content keeps its id.

        Raises:
            FileExistsError: If it is there and `mode` is `create`.
            StorageError: If it cannot be written.
        """
        self._writer.write(self._strip_protocol(path), bytes(value), only_new=mode == "create")

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Make a folder, and those above it.

        Raises:
            FileExistsError: If it is there already.
            StorageError: If it cannot be made.
        """
        self.makedirs(path, exist_ok=False)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a folder, and those above it.

        Raises:
            FileExistsError: If it is there already and `exist_ok` is false.
            StorageError: If it cannot be made.
        """
        path = self._strip_protocol(path)
        if not exist_ok and self.exists(path):
            raise FileExistsError(f"gdrive://{path} is there already")
        self._writer.make_folder(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Put files, or folders with all that is in them, into the bin; of a shortcut, only the shortcut itself.

        The bin, since in a shared drive only managers may delete for good, and since people can take things back.

        Raises:
            FileNotFoundError: If one is not there.
            IsADirectoryError: If one is a folder and `recursive` is false.
            StorageError: If this account may not.
        """
        for name in [path] if isinstance(path, str) else path:
            self._writer.trash(self._strip_protocol(name), recursive=recursive)

    def rm_file(self, path: str) -> None:
        """Put one file into the bin."""
        self.rm(path)


class _OpenForWriting(io.BytesIO):
    """Is written in one piece when it is closed, and not at all if its block fails or nobody closes it."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        super().__init__()
        self._write = write

    def close(self) -> None:
        if self.closed:
            return
        try:
            self._write(self.getvalue())
        finally:
            super().close()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            super().close()

    def __del__(self) -> None:
        super().close()


def _info(path: str, entry: Entry) -> dict[str, Any]:
    file = _stored_file(path, entry)
    return {
        "name": path,
        "type": "directory" if entry.is_folder else "file",
        "size": file.size_bytes,
        "checksum": file.checksum,
        "id": entry.target.id,
        "version": file.version,
        "unreadable": file.unreadable,
    }


def _stored_file(path: str, entry: Entry) -> StoredFile:
    target = entry.target
    size_bytes = 0 if entry.unreadable else target.size_bytes
    checksum = f"md5:{target.md5}" if target.md5 else None
    return StoredFile(
        path, size_bytes, checksum, f"{target.id}:{target.size_bytes}:{target.md5 or ''}", entry.unreadable
    )


def _entry_of(version: str) -> Entry:
    file_id, size_bytes, digest = version.split(":")
    item = Item(file_id, size_bytes=int(size_bytes), md5=digest or None)
    return Entry(item, item)
