"""Every file below a folder as it is found: nothing is kept, so that a listing of millions costs what is made of it.

fsspec itself has no such listing: its `find` returns all files at once, and that of gcsfs keeps every field of each.
"""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, NotRequired, Self, TypedDict

from fsspec import AbstractFileSystem

from lib.storage.faults import attempt, named

GCS_FIELDS = "nextPageToken,prefixes,items(name,size,crc32c,generation)"
GCS_PAGE_SIZE = 5000
"""Objects to ask for at once; a server may answer with fewer."""
FOLDER_LEVELS = 2
"""How deep each folder is listed on its own, as `train/<label>`; what lies deeper is listed together."""
FOLDERS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One object below a folder.

    Attributes:
        path: Relative to the folder, with `/` between its parts.
        size_bytes: As the listing states it.
        checksum: As the listing states it (see `lib.storage.checksum`), or None where listing does not tell.
        version: Changes whenever the content is replaced: the generation, or the time of the last change.
        unreadable: Why it has no bytes to read, as a reason code; None for a file.
    """

    path: str
    size_bytes: int
    checksum: str | None
    version: str | None = None
    unreadable: str | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """The file of a row of a listing, as the columns of `lib.folders.manifest` name its fields."""
        return cls(row["path"], row["size_bytes"], row["checksum"], row["version"])


def scan(scheme: str, filesystem: AbstractFileSystem, path: str, uri: str) -> Iterator[StoredFile]:
    """Every file below a folder, in no order.

    Args:
        scheme: What kind of storage it is, as in `Location.scheme`.
        path: The folder, as the filesystem wants it.
        uri: The folder, for messages.

    Raises:
        StorageError: If the folder, or one below it, cannot be listed to its end.
    """
    if scheme == "file":
        return _scan_disk(path)
    if scheme == "gs":
        return _scan_bucket(filesystem, path, uri)
    filesystem.invalidate_cache()
    files: Iterator[StoredFile] = attempt("list", uri, lambda: filesystem.scan(path))
    return files


def _scan_disk(folder: str) -> Iterator[StoredFile]:
    """The files below a folder; links are told, not followed, and what vanishes meanwhile is not told."""
    pending = [""]
    while pending:
        above = pending.pop()
        try:
            with os.scandir(os.path.join(folder, above)) as entries:  # noqa: PTH118 - faster by far than paths
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(f"{above}{entry.name}/")
                    elif (file := _file_on_disk(above, entry)) is not None:
                        yield file
        except FileNotFoundError:
            continue
        except OSError as error:
            raise named(error, "list", os.path.join(folder, above)) or error from error  # noqa: PTH118


def _file_on_disk(above: str, entry: "os.DirEntry[str]") -> StoredFile | None:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    size = status.st_size
    if entry.is_symlink():
        try:
            size = entry.stat().st_size
        except OSError:
            size = 0  # a broken link is listed, and refused when it is read
    return StoredFile(above + entry.name, size, None, str(status.st_mtime))


def _scan_bucket(filesystem: AbstractFileSystem, path: str, uri: str) -> Iterator[StoredFile]:
    """The objects below a prefix, page by page, each page asked for again until it arrives whole.

    A page names the next one, so one prefix is one page after the other: folders are listed side by side.

    Source: https://cloud.google.com/storage/docs/json_api/v1/objects/list
    """
    bucket, _, key = path.strip("/").partition("/")
    root = f"{key}/" if key else ""

    def page(listed: _Listed, token: str | None) -> tuple[_Listed, _Page]:
        request = partial(
            filesystem.call,
            "GET",
            "b/{}/o",
            bucket,
            json_out=True,
            prefix=listed.prefix or None,
            delimiter="/" if listed.depth < FOLDER_LEVELS else None,
            pageToken=token,
            maxResults=GCS_PAGE_SIZE,
            fields=GCS_FIELDS,
        )
        return listed, attempt("list", uri, request)

    with ThreadPoolExecutor(max_workers=FOLDERS_AT_ONCE) as pool:
        try:
            coming = {pool.submit(page, _Listed(root, 0), None)}
            while coming:
                arrived, coming = wait(coming, return_when=FIRST_COMPLETED)
                for listed, answer in (future.result() for future in arrived):
                    below = [_Listed(prefix, listed.depth + 1) for prefix in answer.get("prefixes", [])]
                    coming |= {pool.submit(page, folder, None) for folder in below}
                    if token := answer.get("nextPageToken"):
                        coming.add(pool.submit(page, listed, token))
                    for item in answer.get("items", []):
                        checksum = f"crc32c:{item['crc32c']}" if "crc32c" in item else None
                        yield StoredFile(item["name"][len(root) :], int(item["size"]), checksum, item["generation"])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class _Object(TypedDict):
    name: str
    size: str
    crc32c: NotRequired[str]
    generation: str


class _Page(TypedDict):
    nextPageToken: NotRequired[str]
    prefixes: NotRequired[list[str]]
    items: NotRequired[list[_Object]]


@dataclass(frozen=True)
class _Listed:
    """What one chain of pages lists: objects below a prefix, `depth` folders below the one that was asked for."""

    prefix: str
    depth: int
