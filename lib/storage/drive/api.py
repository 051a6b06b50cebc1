"""The methods of the Drive v3 API that the filesystem needs, each with the fields it asks for."""

import json
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus

from pydantic import AliasPath, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from lib.errors import StorageError
from lib.storage.checksum import verified_checksum
from lib.storage.drive.answers import ContentChangedError, DriveRefused
from lib.storage.drive.client import (
    UNITS_DOWNLOAD,
    UNITS_LIST,
    UNITS_OTHER,
    UNITS_WRITE,
    Call,
    DriveClient,
)
from lib.storage.drive.names import FOLDER_TYPE, Item
from lib.storage.faults import TransientStorageError

FILES = "/drive/v3/files"
FIELDS = "id,name,mimeType,size,md5Checksum,createdTime,parents,driveId,trashed,shortcutDetails(targetId)"
PAGE_SIZE = 1000
NAMES_A_QUERY, CHARACTERS_A_QUERY = 40, 3000
LISTING_ATTEMPTS = 3


@dataclass(frozen=True)
class _Page:
    files: tuple[Item, ...] = ()
    next_token: str | None = Field(default=None, validation_alias="nextPageToken")
    is_incomplete: bool = Field(default=False, validation_alias="incompleteSearch")


@dataclass(frozen=True)
class _Ids:
    ids: tuple[str, ...]


@dataclass(frozen=True)
class _About:
    address: str = Field(default="", validation_alias=AliasPath("user", "emailAddress"))


@dataclass(frozen=True)
class _SharedDrive:
    id: str
    name: str


@dataclass(frozen=True)
class _SharedDrives:
    drives: tuple[_SharedDrive, ...] = ()


ITEM, PAGE, IDS = TypeAdapter(Item), TypeAdapter(_Page), TypeAdapter(_Ids)
ABOUT, DRIVES = TypeAdapter(_About), TypeAdapter(_SharedDrives)
"""What Drive answers, with the fields that are asked for."""


class DriveApi:
    """Typed requests about files.

    Source: https://developers.google.com/workspace/drive/api/reference/rest/v3
    """

    def __init__(self, client: DriveClient, *, acknowledge_abuse: bool) -> None:
        self.client = client
        self._acknowledge_abuse = acknowledge_abuse

    def children(self, folder: Item, subject: str, names: Sequence[str] = ()) -> list[Item]:
        """What is in a folder, all of it or what has one of these names. Bins are left out.

        Raises:
            StorageError: If the folder cannot be listed, or not to its end.
        """
        condition = f"{_quoted(folder.id)} in parents and trashed=false"
        if not names:
            return self._list(condition, folder.drive_id, subject)
        wanted = set(names)
        found = [
            item
            for some in _batches(sorted(wanted))
            for item in self._list(
                f"{condition} and ({' or '.join(f'name={_quoted(name)}' for name in some)})", folder.drive_id, subject
            )
        ]
        return [item for item in found if item.name in wanted]  # Drive compares without regard to case

    def _list(self, query: str, drive_id: str | None, subject: str) -> list[Item]:
        """Pages until the last. A page token that is no longer taken means to begin again, says the reference."""
        for attempt in range(1, LISTING_ATTEMPTS + 1):
            try:
                return list({item.id: item for item in self._pages(query, drive_id, subject)}.values())
            except _TokenRefused as refused:
                if attempt == LISTING_ATTEMPTS:
                    raise refused.refusal from refused
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _pages(self, query: str, drive_id: str | None, subject: str) -> Iterator[Item]:
        where = {"corpora": "drive", "driveId": drive_id} if drive_id else {"corpora": "user"}
        params = {
            "q": query,
            "pageSize": str(PAGE_SIZE),
            "fields": f"nextPageToken,incompleteSearch,files({FIELDS})",
            "supportsAllDrives": "true",
            "includeItemsFromAllDrives": "true",
            "spaces": "drive",
            **where,
        }
        token: str | None = ""
        while token is not None:
            call = Call("GET", FILES, subject, UNITS_LIST, params | ({"pageToken": token} if token else {}))
            try:
                page = self.client.answer(call, PAGE)
            except DriveRefused as refusal:
                if token and refusal.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.GONE}:
                    raise _TokenRefused(refusal) from refusal
                raise
            if page.is_incomplete:
                raise StorageError(f"cannot {subject}: Drive says that its listing is incomplete; try again later")
            yield from page.files
            token = page.next_token or None

    def get(self, file_id: str, subject: str, more_fields: str = "") -> Item:
        """Look an item up by its id.

        Raises:
            DriveRefused: If it is not there, or not shared with this account.
        """
        params = {"fields": FIELDS + more_fields, "supportsAllDrives": "true"}
        return self.client.answer(Call("GET", f"{FILES}/{file_id}", subject, UNITS_OTHER, params), ITEM)

    def content(self, item: Item, subject: str, start: int = 0, end: int | None = None) -> bytes:
        """The bytes of a file, or those from `start` to before `end`; a whole file is checked against its md5.

        Raises:
            ContentChangedError: If the file is not what `item` says any more.
            StorageError: If it cannot be read.
        """
        end = item.size_bytes if end is None else min(end, item.size_bytes)
        if start >= end:
            return b""
        whole = (start, end) == (0, item.size_bytes)
        params = {"alt": "media", "supportsAllDrives": "true"}
        if self._acknowledge_abuse:
            params["acknowledgeAbuse"] = "true"
        headers = {"Accept-Encoding": "identity"} | ({} if whole else {"Range": f"bytes={start}-{end - 1}"})
        call = Call("GET", f"{FILES}/{item.id}", subject, UNITS_DOWNLOAD, params, headers)

        def download() -> bytes:
            response = self.client.once(call)
            data = response.content
            if not whole and response.status_code != HTTPStatus.PARTIAL_CONTENT:
                data = data[start:end]
            try:
                verified_checksum(data, end - start, f"md5:{item.md5}" if whole and item.md5 else None)
            except TransientStorageError:
                self._refuse_changed(item, subject)
                raise
            return data

        return self.client.persist(download, subject)

    def _refuse_changed(self, item: Item, subject: str) -> None:
        if self.get(item.id, subject).md5 != item.md5:
            raise ContentChangedError(f"cannot {subject}: the file was changed after it was looked up")

    def create_folder(self, parent: Item, name: str, subject: str) -> None:
        """Make a folder, once even if the answer gets lost: its id is fetched before.

        Raises:
            StorageError: If it cannot be made.
        """
        call = Call("GET", f"{FILES}/generateIds", subject, UNITS_OTHER, {"count": "1"})
        [new_id] = self.client.answer(call, IDS).ids
        content = {"id": new_id, "name": name, "mimeType": FOLDER_TYPE, "parents": [parent.id]}
        accepted = frozenset({HTTPStatus.OK, HTTPStatus.CONFLICT})  # conflict: an earlier attempt has made it
        self.client.send(json_call("POST", FILES, subject, content, accepted))

    def trash(self, item: Item, subject: str) -> None:
        """Put an item, with all that is in it, into the bin, from which people can take it back.

        Raises:
            StorageError: If this account may not.
        """
        self.client.send(json_call("PATCH", f"{FILES}/{item.id}", subject, {"trashed": True}))

    def user_address(self, subject: str) -> str:
        """The address of the account that Drive takes us for.

        Raises:
            StorageError: If Drive does not tell.
        """
        call = Call("GET", "/drive/v3/about", subject, UNITS_OTHER, {"fields": "user(emailAddress)"})
        return self.client.answer(call, ABOUT).address

    def shared_drives(self, name: str, subject: str) -> list[str]:
        """The ids of the shared drives of that name.

        Raises:
            StorageError: If they cannot be listed.
        """
        params = {"q": f"name={_quoted(name)}", "pageSize": "100", "fields": "drives(id,name)"}
        answer = self.client.answer(Call("GET", "/drive/v3/drives", subject, UNITS_LIST, params), DRIVES)
        return [drive.id for drive in answer.drives if drive.name == name]


class _TokenRefused(Exception):  # noqa: N818 - caught where the listing begins again
    def __init__(self, refusal: DriveRefused) -> None:
        super().__init__(refusal)
        self.refusal = refusal


def json_call(
    method: str, path: str, subject: str, content: Mapping[str, object], accepted: frozenset[int] = frozenset({200})
) -> Call:
    """A request that writes metadata and is answered with the item."""
    params = {"supportsAllDrives": "true", "fields": FIELDS}
    headers = {"Content-Type": "application/json; charset=UTF-8"}
    return Call(method, path, subject, UNITS_WRITE, params, headers, json.dumps(content).encode(), accepted)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _batches(names: Sequence[str]) -> Iterator[list[str]]:
    """Names that fit into one query, which is part of a URL."""
    batch: list[str] = []
    length = 0
    for name in names:
        if batch and (len(batch) == NAMES_A_QUERY or length > CHARACTERS_A_QUERY):
            yield batch
            batch, length = [], 0
        batch.append(name)
        length += len(name.encode()) * 3  # as it is percent-encoded at worst
    if batch:
        yield batch
