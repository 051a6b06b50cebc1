"""Resumable uploads: a chunk that breaks is continued where the server has it, and a file is there whole or not at all.

Our own, since google-resumable-media cannot replace a file, nor go on within a chunk or after its last answer was lost.

Source: https://developers.google.com/workspace/drive/api/guides/manage-uploads#resumable
"""

import json
import re
from http import HTTPStatus

import requests

from lib.errors import StorageError
from lib.storage.checksum import md5
from lib.storage.drive.answers import DriveRefused
from lib.storage.drive.api import FIELDS, ITEM
from lib.storage.drive.client import UNITS_WRITE, Call, DriveClient, parsed
from lib.storage.drive.names import Item
from lib.storage.faults import TransientStorageError

UPLOADS = "/upload/drive/v3/files"
RESUME_INCOMPLETE = 308
"""What Google answers while bytes are missing; HTTP has come to use it for redirects."""
ANSWERS = frozenset({HTTPStatus.OK, HTTPStatus.CREATED, RESUME_INCOMPLETE})


class Upload:
    """One file on its way. `parent` is where a new file goes, `replaced` the file that gets the content instead."""

    def __init__(self, client: DriveClient, data: bytes, subject: str, chunk_bytes: int) -> None:
        self._client = client
        self._data = data
        self._subject = subject
        self._chunk_bytes = chunk_bytes
        self._session: str | None = None

    def create(self, parent: Item, name: str) -> Item:
        """Make a new file.

        Raises:
            StorageError: If it cannot be made.
        """
        return self._run("POST", UPLOADS, {"name": name, "parents": [parent.id]})

    def replace(self, item: Item) -> Item:
        """Give an existing file this content; its id stays.

        Raises:
            StorageError: If it cannot be written.
        """
        return self._run("PATCH", f"{UPLOADS}/{item.id}", {})

    def _run(self, method: str, path: str, content: dict[str, object]) -> Item:
        start = Call(
            method,
            path,
            self._subject,
            UNITS_WRITE,
            {"uploadType": "resumable", "supportsAllDrives": "true", "fields": FIELDS},
            {
                "Content-Type": "application/json; charset=UTF-8",
                "X-Upload-Content-Type": "application/octet-stream",
                "X-Upload-Content-Length": str(len(self._data)),
            },
            json.dumps(content).encode(),
        )
        stored = self._client.persist(lambda: self._attempt(start), self._subject)
        if stored.md5 is not None and f"md5:{stored.md5}" != md5(self._data):
            raise StorageError(f"cannot {self._subject}: Drive stored other bytes than were sent (md5 {stored.md5})")
        return stored

    def _attempt(self, start: Call) -> Item:
        """Send what the server does not have yet."""
        answer = None
        if self._session is None:
            self._session = self._client.once(start).headers["Location"]
        else:
            answer = self._put(b"", f"bytes */{len(self._data)}")  # how far did the last attempt come?
        while answer is None or answer.status_code == RESUME_INCOMPLETE:
            position = _received(answer) if answer is not None else 0
            chunk = self._data[position : position + self._chunk_bytes]
            last = position + len(chunk) - 1
            answer = self._put(chunk, f"bytes {position}-{last}/{len(self._data)}" if chunk else None)
        return parsed(answer, ITEM)

    def _put(self, chunk: bytes, content_range: str | None) -> requests.Response:
        headers = {"Content-Range": content_range} if content_range else {}
        call = Call("PUT", str(self._session), self._subject, UNITS_WRITE, {}, headers, chunk, ANSWERS)
        try:
            return self._client.once(call)
        except DriveRefused as refusal:
            if refusal.status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
                self._session = None
                raise TransientStorageError(
                    f"the upload session has ended ({refusal.status})", kind="upload_session"
                ) from refusal
            raise


def _received(answer: requests.Response) -> int:
    """How many bytes the server has; without a Range header, none."""
    match = re.fullmatch(r"bytes=0-(\d+)", answer.headers.get("Range", ""))
    return int(match.group(1)) + 1 if match else 0
