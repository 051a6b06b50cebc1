"""Files that are written or deleted only over the version that was seen, so that of two writers one finds out.

Google Cloud Storage does this itself, by the generation of an object; a disk with a lock beside the file. Google Drive
has nothing of the kind: there the file is read before and after it is written.
"""

import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from lib.storage.faults import attempt, is_unmet_condition
from lib.storage.location import Location

ResultT = TypeVar("ResultT")

ABSENT = "absent"
"""Stands for the version of a file that is not there."""
LOCK = ".{}.partial"
"""A name that no listing tells (see `lib.storage.location.PARTIAL`)."""


@dataclass(frozen=True)
class Seen:
    """A file at one moment.

    Attributes:
        version: Another one after every write; `ABSENT` if the file is not there.
        data: Its content.
        age_s: Seconds since it was written, by the clock of the storage alone; None where that has none to ask.
    """

    version: str = ABSENT
    data: bytes = b""
    age_s: float | None = None


def look(file: Location) -> Seen:
    """The file as it is now.

    Raises:
        StorageError: If that cannot be told.
    """
    if file.scheme == "gs":
        return _attempt("read", file, lambda: _look_in_bucket(file))
    if file.is_local:
        return _attempt("read", file, lambda: _look_on_disk(file))
    return _look_elsewhere(file)


def write_over(file: Location, data: bytes, version: str) -> str | None:
    """Write a file if it still has a version, or is not there if that is `ABSENT`.

    Returns:
        The version that it has now; None if it had another one, or if that cannot be told since the answer was lost.

    Raises:
        StorageError: If it cannot be written.
    """
    if file.scheme == "gs":
        return _attempt("write", file, lambda: _unless_changed(lambda: _write_to_bucket(file, data, version), version))
    if file.is_local:
        return _attempt("write", file, lambda: _write_to_disk(file, data, version))
    if _look_elsewhere(file).version != version:
        return None
    file.write_bytes(data)
    there = _look_elsewhere(file)
    return there.version if there.data == data else None


def delete_over(file: Location, version: str) -> None:
    """Delete a file if it still has a version; nothing happens if it has another.

    Raises:
        StorageError: If it cannot be deleted.
    """
    if file.scheme == "gs":
        _attempt("delete", file, lambda: _unless_changed(lambda: _delete_in_bucket(file, version), version))
    elif file.is_local:
        _attempt("delete", file, lambda: _delete_on_disk(file, version))
    elif _look_elsewhere(file).version == version:
        file.delete()


def _attempt(action: str, file: Location, call: Callable[[], ResultT]) -> ResultT:
    return attempt(action, file.uri, call)


def _unless_changed(call: Callable[[], ResultT], version: str) -> ResultT | None:
    try:
        return call()
    except Exception as error:  # gcsfs has several kinds for what a server answers; all but two go on
        gone = isinstance(error, FileNotFoundError) and version != ABSENT  # otherwise there is no such bucket
        if gone or is_unmet_condition(error):
            return None
        raise


def _look_in_bucket(file: Location) -> Seen:
    bucket, _, key = file.path.partition("/")
    try:
        headers, content = file.filesystem.call("GET", "b/{}/o/{}", bucket, key)
        known = json.loads(content)
        data = bytes(file.filesystem.cat_file(file.path, generation=known["generation"]))
    except FileNotFoundError:
        return Seen()
    age = parsedate_to_datetime(headers["Date"]) - datetime.fromisoformat(known["updated"])
    return Seen(known["generation"], data, age.total_seconds())


def _write_to_bucket(file: Location, data: bytes, version: str) -> str:
    bucket, _, key = file.path.partition("/")
    boundary = uuid.uuid4().hex
    kinds = ("application/json; charset=UTF-8", "application/octet-stream")
    parts = zip(kinds, (json.dumps({"name": key}).encode(), data), strict=True)
    body = b"".join(f"--{boundary}\nContent-Type: {kind}\n\n".encode() + part + b"\n" for kind, part in parts)
    written: dict[str, Any] = file.filesystem.call(
        "POST",
        f"{file.filesystem._location}/upload/storage/v1/b/{quote(bucket)}/o",
        uploadType="multipart",
        ifGenerationMatch="0" if version == ABSENT else version,
        headers={"Content-Type": f'multipart/related; boundary="{boundary}"'},
        data=body + f"--{boundary}--".encode(),
        json_out=True,
    )
    return str(written["generation"])


def _delete_in_bucket(file: Location, version: str) -> None:
    bucket, _, key = file.path.partition("/")
    file.filesystem.call("DELETE", "b/{}/o/{}", bucket, key, ifGenerationMatch=version)


def _look_on_disk(file: Location) -> Seen:
    if not Path(file.path).exists():
        return Seen()
    with _locked(file) as now_s:
        return _on_disk(file, now_s)


def _on_disk(file: Location, now_s: float) -> Seen:
    path = Path(file.path)
    try:
        status = path.stat()
        return Seen(f"{status.st_ino}-{status.st_mtime_ns}", path.read_bytes(), now_s - status.st_mtime)
    except FileNotFoundError:
        return Seen()


def _write_to_disk(file: Location, data: bytes, version: str) -> str | None:
    with _locked(file) as now_s:
        if _on_disk(file, now_s).version != version:
            return None
        file.write_bytes(data)
        return _on_disk(file, now_s).version


def _delete_on_disk(file: Location, version: str) -> None:
    with _locked(file) as now_s:
        if _on_disk(file, now_s).version == version:
            Path(file.path).unlink()


@contextmanager
def _locked(file: Location) -> Iterator[float]:
    """Nobody else in here for the same file, on any machine that sees this disk; yields the time by the disk's clock.

    The lock is a file that is made for each time, and counts only while it is found under its name: so it can be
    removed again by whoever holds it.
    """
    path = Path(file.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(LOCK.format(hashlib.md5(path.name.encode(), usedforsecurity=False).hexdigest()))
    while True:
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            if not _is_at(lock, held.fileno()):
                continue
            try:
                held.write(str(os.getpid()))
                held.flush()
                yield os.fstat(held.fileno()).st_mtime
            finally:
                lock.unlink(missing_ok=True)
            return


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _look_elsewhere(file: Location) -> Seen:
    if not file.exists():
        return Seen()
    data = file.read_bytes()
    return Seen(hashlib.sha256(data).hexdigest(), data)
