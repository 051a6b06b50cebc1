"""Writing to Drive: one file of a name in a folder, however often and by however many it is written."""

import threading

from lib.errors import SettingsError, StorageError
from lib.storage.checksum import md5
from lib.storage.drive.api import DriveApi
from lib.storage.drive.names import UNREADABLE, needs_suffix
from lib.storage.drive.tree import DriveTree, Entry, split
from lib.storage.drive.upload import Upload

SERVICE_ACCOUNT_DOMAIN = ".gserviceaccount.com"


class DriveWriter:
    """Changes at paths, from any thread."""

    def __init__(self, api: DriveApi, tree: DriveTree, chunk_bytes: int) -> None:
        self._api = api
        self._tree = tree
        self._chunk_bytes = chunk_bytes
        self._making = threading.RLock()

    def check(self, path: str) -> None:
        """Refuse a place that cannot be written to.

        Raises:
            SettingsError: If the account owns no storage there, or may not write there.
            StorageError: If Drive does not tell.

        Source: https://developers.google.com/workspace/drive/api/guides/about-shareddrives ("Service accounts don't
            have storage quota and can't own any files").
        """
        subject = f"write gdrive://{path}"
        folder = self._nearest(path).target
        address = self._api.user_address(subject)
        if address.endswith(SERVICE_ACCOUNT_DOMAIN) and folder.drive_id is None:
            raise SettingsError(
                f"cannot {subject}: {address} is a service account, which owns no storage; choose a folder of a "
                "shared drive, or gs://bucket/prefix, or log in as a person"
            )
        if self._api.get(folder.id, subject, ",capabilities(canAddChildren)").can_add_children is False:
            raise SettingsError(f"cannot {subject}: share the folder with {address} as an editor")

    def _nearest(self, path: str) -> Entry:
        """The deepest folder on the way to a path that is there already. A root is there, or is refused."""
        while True:
            try:
                entry = self._tree.entry(path)
            except FileNotFoundError:
                path = split(path)[0]
                continue
            if entry.target.is_folder:
                return entry
            if not split(path)[1]:
                raise SettingsError(f"cannot write gdrive://{path}: it is a file; expected a folder")
            path = split(path)[0]

    def write(self, path: str, value: bytes, *, only_new: bool) -> None:
        """Write a file in one piece; nothing is sent if it has this content already.

        Raises:
            FileExistsError: If it is there and `only_new`.
            StorageError: If it cannot be written.
        """
        subject = f"write gdrive://{path}"
        above, name = split(path)
        if not name:
            raise IsADirectoryError(f"gdrive://{path} is a folder")
        folder = self.make_folder(above)
        existing = self._tree.entries([path]).get(path)
        if existing is None:
            _refuse_name(name, subject)
            self._create(folder, path, value, subject)
        elif only_new:
            raise FileExistsError(f"gdrive://{path} is there already")
        else:
            self._replace(path, existing, value, subject)

    def _create(self, folder: Entry, path: str, value: bytes, subject: str) -> None:
        """Make a file, and settle it if another process has made one of the same name at the same time."""
        above, name = split(path)
        created = self._upload(value, subject).create(folder.target, name)
        if created.trashed:  # another process put the remembered folder into the bin
            self._tree.forget(above)
            self.write(path, value, only_new=False)
            return
        standing = self._tree.entries([path]).get(path)
        if standing is None or standing.item.id == created.id:
            self._tree.remember(path, Entry(created, created))
            return
        self._replace(path, standing, value, subject)
        self._api.trash(created, subject)

    def _replace(self, path: str, existing: Entry, value: bytes, subject: str) -> None:
        if existing.unreadable:
            raise StorageError(f"cannot {subject}: {UNREADABLE[existing.unreadable]}")
        if existing.target.is_folder:
            raise IsADirectoryError(f"gdrive://{path} is a folder")
        if (existing.target.size_bytes, f"md5:{existing.target.md5}") != (len(value), md5(value)):
            written = self._upload(value, subject).replace(existing.target)
            item = written if existing.item is existing.target else existing.item
            self._tree.remember(path, Entry(item, written))

    def _upload(self, value: bytes, subject: str) -> Upload:
        return Upload(self._api.client, value, subject, self._chunk_bytes)

    def make_folder(self, path: str) -> Entry:
        """The folder at a path, made once however many threads ask for it.

        Processes can still make it at the same time: all of them then go on with the oldest.

        Raises:
            NotADirectoryError: If there is a file.
            StorageError: If it cannot be made.
        """
        entry = self._tree.known(path)
        if entry is None:
            with self._making:
                entry = self._tree.known(path) or self._tree.entries([path]).get(path) or self._made(path)
        if not entry.target.is_folder:
            raise NotADirectoryError(f"gdrive://{path} is not a folder")
        return entry

    def _made(self, path: str) -> Entry:
        above, name = split(path)
        subject = f"make gdrive://{path}"
        _refuse_name(name, subject)
        self._api.create_folder(self.make_folder(above).target, name, subject)
        return self._tree.entry(path)

    def trash(self, path: str, *, recursive: bool) -> None:
        """Put what stands at a path into the bin.

        Raises:
            FileNotFoundError: If there is nothing.
            IsADirectoryError: If it is a folder and `recursive` is false.
            StorageError: If this account may not.
        """
        entry = self._tree.entry(path)
        if not split(path)[1]:
            raise StorageError(f"cannot delete gdrive://{path}: it was given as a place to work in; name what is in it")
        if entry.item.is_folder and not recursive:
            raise IsADirectoryError(f"gdrive://{path} is a folder")
        self._api.trash(entry.item, f"delete gdrive://{path}")
        self._tree.forget(path)


def _refuse_name(name: str, subject: str) -> None:
    if needs_suffix(name):
        raise StorageError(
            f"cannot {subject}: {name!r} can only mean something that is there already; choose another name"
        )
