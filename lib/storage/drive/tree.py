"""From paths to items and back: folders walked side by side, shortcuts followed, every lookup remembered."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from lib.errors import StorageError
from lib.storage.drive.answers import DriveRefused
from lib.storage.drive.api import DriveApi
from lib.storage.drive.names import (
    BROKEN_SHORTCUT,
    CYCLE,
    GOOGLE_DOCUMENT,
    Item,
    id_in,
    named,
    needs_suffix,
    oldest,
    suffixed,
)

MY_DRIVE, SHARED_DRIVES = "My Drive", "Shared drives"
REMEMBERED_PATHS = 200_000
SHORTCUTS_IN_A_ROW = 8


@dataclass(frozen=True)
class Entry:
    """What stands at a path.

    Attributes:
        item: The thing itself, which deleting removes.
        target: What it leads to: itself, unless it is a shortcut.
        unreadable: Why it has no bytes, None for files and folders.
    """

    item: Item
    target: Item
    unreadable: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it can be entered."""
        return self.target.is_folder and not self.unreadable


@dataclass(frozen=True)
class _Folder:
    """A folder on the way through a tree: where it is, and the folders above it."""

    path: str
    item: Item
    above: frozenset[str]


class DriveTree:
    """The paths of one account."""

    def __init__(self, api: DriveApi, pool: ThreadPoolExecutor) -> None:
        self._api = api
        self._pool = pool
        self._lock = threading.Lock()
        self._remembered: dict[str, Entry] = {}

    def forget(self, path: str | None = None) -> None:
        """Look up anew what is at and below a path, or everything."""
        with self._lock:
            if path is None:
                self._remembered.clear()
            for known in [known for known in self._remembered if known == path or known.startswith(f"{path}/")]:
                del self._remembered[known]

    def remember(self, path: str, entry: Entry) -> None:
        """Keep what was found at a path."""
        with self._lock:
            if len(self._remembered) >= REMEMBERED_PATHS:
                self._remembered.clear()
            self._remembered[path] = entry

    def known(self, path: str) -> Entry | None:
        """What was found at a path earlier."""
        return self._remembered.get(path)

    def entry(self, path: str) -> Entry:
        """What stands at a path now; the folders above it may be remembered.

        Raises:
            FileNotFoundError: If there is nothing.
            StorageError: If Drive does not tell.
        """
        found = self.entries([path])
        if path not in found:
            raise FileNotFoundError(path)
        return found[path]

    def entries(self, paths: Sequence[str]) -> dict[str, Entry]:
        """What stands at these paths now, without those where there is nothing.

        Raises:
            StorageError: If Drive does not tell.
        """
        by_folder: dict[str, list[str]] = {}
        found = {}
        for path in dict.fromkeys(paths):
            folder, name = split(path)
            if name:
                by_folder.setdefault(folder, []).append(name)
            else:
                found[path] = self._root(path)
        for folder, names in by_folder.items():
            above = self._known_folder(folder)
            if above is not None:
                children = self._named_children(above, names, f"look for {_uri(folder)}/{names[0]}")
                found |= {f"{folder}/{name}": entry for name, entry in children.items()}
        for path, entry in found.items():
            self.remember(path, entry)
        return found

    def children(self, path: str, folder: Item) -> dict[str, Entry]:
        """What is in a folder, by its part of a path.

        Raises:
            StorageError: If it cannot be listed.
        """
        subject = f"list {_uri(path)}"
        items = named(self._api.children(folder, subject))
        entries = self._pool.map(lambda item: self._followed(item, subject), items.values())
        found = dict(zip(items, entries, strict=True))
        for name, entry in found.items():
            self.remember(f"{path}/{name}", entry)
        return found

    def walk(self, path: str, root: Item) -> Iterator[tuple[str, Entry]]:
        """Everything below a folder, folders too, in the order in which it is found.

        Folders are listed side by side. A folder that leads back to one above it is told as unreadable, not entered.

        Raises:
            StorageError: If a folder cannot be listed.
        """
        pending: set[Future[list[tuple[_Folder, str, Entry]]]] = set()
        pending.add(self._pool.submit(self._list, _Folder(path, root, frozenset())))
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for folder, name, entry in (result for future in done for result in future.result()):
                    if entry.item.is_shortcut and entry.target is entry.item and not entry.unreadable:
                        pending.add(self._pool.submit(self._follow, folder, name, entry.item))
                        continue
                    found, below = _entered(folder, name, entry)
                    self.remember(f"{folder.path}/{name}", found)
                    yield f"{folder.path}/{name}", found
                    if below is not None:
                        pending.add(self._pool.submit(self._list, below))
        finally:
            for future in pending:
                future.cancel()

    def _list(self, folder: _Folder) -> list[tuple[_Folder, str, Entry]]:
        items = named(self._api.children(folder.item, f"list {_uri(folder.path)}"))
        return [(folder, name, _plain(item)) for name, item in items.items()]

    def _follow(self, folder: _Folder, name: str, item: Item) -> list[tuple[_Folder, str, Entry]]:
        return [(folder, name, self._followed(item, f"list {_uri(folder.path)}"))]

    def _followed(self, item: Item, subject: str) -> Entry:
        """Where a shortcut leads to."""
        target = item
        for _ in range(SHORTCUTS_IN_A_ROW):
            if not target.is_shortcut:
                return Entry(item, target, GOOGLE_DOCUMENT if target.is_google_document else None)
            try:
                target = self._api.get(str(target.target_id), subject)
            except DriveRefused as refusal:
                if not refusal.is_missing:
                    raise
                return Entry(item, item, BROKEN_SHORTCUT)
            if target.trashed:
                return Entry(item, item, BROKEN_SHORTCUT)
        return Entry(item, item, CYCLE)

    def _known_folder(self, path: str) -> Item | None:
        entry = self.known(path) or self.entries([path]).get(path)
        return entry.target if entry is not None and entry.target.is_folder else None

    def _named_children(self, folder: Item, names: Sequence[str], subject: str) -> dict[str, Entry]:
        plain = [name for name in names if not needs_suffix(name)]
        same: dict[str, list[Item]] = {}
        for item in self._api.children(folder, subject, plain) if plain else ():
            same.setdefault(item.name, []).append(item)
        found = {name: oldest(items) for name, items in same.items()}
        found |= {name: self._by_id(folder, name, subject) for name in names if needs_suffix(name)}
        chosen = {name: item for name, item in found.items() if item is not None}
        # A single one is followed in this thread, which may be one of the pool's and must not wait for others of them.
        each = self._pool.map if len(chosen) > 1 else map
        return dict(zip(chosen, each(lambda item: self._followed(item, subject), chosen.values()), strict=True))

    def _by_id(self, folder: Item, part: str, subject: str) -> Item | None:
        file_id = id_in(part)
        if file_id is None:
            return None
        try:
            item = self._api.get(file_id, subject)
        except DriveRefused as refusal:
            if not refusal.is_missing:
                raise
            return None
        return item if folder.id in item.parents and suffixed(item) == part and not item.trashed else None

    def _root(self, path: str) -> Entry:
        subject = f"open {_uri(path)}"
        if path == SHARED_DRIVES or not path:
            raise StorageError(
                f"cannot {subject}: expected gdrive://<folder id>/path, gdrive://{MY_DRIVE}/path "
                f"or gdrive://{SHARED_DRIVES}/<name>/path"
            )
        file_id = "root" if path == MY_DRIVE else path
        if path.startswith(f"{SHARED_DRIVES}/"):
            file_id = self._shared_drive(path.removeprefix(f"{SHARED_DRIVES}/"), subject)
        entry = self._followed(self._api.get(file_id, subject), subject)
        if entry.item.trashed:
            raise StorageError(f"cannot {subject}: it is in the bin; restore it, or choose another folder")
        return entry

    def _shared_drive(self, name: str, subject: str) -> str:
        ids = self._api.shared_drives(name, subject)
        if len(ids) != 1:
            address = self._api.client.credential.account
            raise StorageError(
                f"cannot {subject}: {len(ids)} shared drives of that name are shared with {address}; "
                + ("use the id of one: " + ", ".join(ids) if ids else f"add {address} to the drive, or use its id")
            )
        return ids[0]


def split(path: str) -> tuple[str, str]:
    """A path as its folder and its last part; the last part of a root is empty."""
    parts = path.split("/")
    depth = 2 if parts[0] == SHARED_DRIVES else 1
    if len(parts) <= depth:
        return path, ""
    return "/".join(parts[:-1]), parts[-1]


def _plain(item: Item) -> Entry:
    return Entry(item, item, GOOGLE_DOCUMENT if item.is_google_document else None)


def _entered(folder: _Folder, name: str, entry: Entry) -> tuple[Entry, _Folder | None]:
    """The entry as it is told, and the folder to go on with if it is one."""
    if not entry.is_folder:
        return entry, None
    above = folder.above | {folder.item.id}
    if entry.target.id in above:
        return Entry(entry.item, entry.item, CYCLE), None
    return entry, _Folder(f"{folder.path}/{name}", entry.target, above)


def _uri(path: str) -> str:
    return f"gdrive://{path}"
