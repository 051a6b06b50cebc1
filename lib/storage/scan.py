"""Every file below a folder as it is found: nothing is kept, so that a listing of millions costs what is made of it.

Each file comes with its path relative to the folder and what fsspec's `find(detail=True)` would say of it. fsspec
itself has no such listing: its `find` returns all files at once, and that of gcsfs keeps every field of each.
"""

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

from fsspec import AbstractFileSystem

from lib.storage.faults import attempt, named

Found = tuple[str, dict[str, Any]]

GCS_FIELDS = "nextPageToken,items(name,size,crc32c,generation)"
GCS_PAGE_SIZE = 5000
"""Objects to ask for at once; a server may answer with fewer."""


def scan(scheme: str, filesystem: AbstractFileSystem, path: str, uri: str) -> Iterator[Found]:
    """Every file below a folder, in no order.

    Args:
        scheme: What kind of storage it is, as in `Location.scheme`.
        filesystem: Serves it.
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
    if scheme == "gdrive":
        found: Iterator[Found] = attempt("list", uri, lambda: filesystem.scan(path))
        return found
    return attempt("list", uri, lambda: _find(filesystem, path))


def _scan_disk(folder: str) -> Iterator[Found]:
    """The files below a folder; links are told, not followed, and what vanishes meanwhile is not told."""
    pending = [""]
    while pending:
        above = pending.pop()
        try:
            with os.scandir(os.path.join(folder, above)) as entries:  # noqa: PTH118 - faster by far than paths
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(f"{above}{entry.name}/")
                    elif (info := _disk_info(entry)) is not None:
                        yield above + entry.name, info
        except FileNotFoundError:
            continue
        except OSError as error:
            raise named(error, "list", os.path.join(folder, above)) or error from error  # noqa: PTH118


def _disk_info(entry: "os.DirEntry[str]") -> dict[str, Any] | None:
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
    return {"size": size, "mtime": status.st_mtime}


def _scan_bucket(filesystem: AbstractFileSystem, path: str, uri: str) -> Iterator[Found]:
    """The objects below a prefix, page by page, each page asked for again until it arrives whole.

    Source: https://cloud.google.com/storage/docs/json_api/v1/objects/list
    """
    bucket, _, key = path.strip("/").partition("/")
    prefix = f"{key}/" if key else ""

    def page(token: str | None) -> dict[str, Any]:
        answer: dict[str, Any] = filesystem.call(
            "GET",
            "b/{}/o",
            bucket,
            json_out=True,
            prefix=prefix or None,
            pageToken=token,
            maxResults=GCS_PAGE_SIZE,
            fields=GCS_FIELDS,
        )
        return answer

    token: str | None = None
    while True:
        answer = attempt("list", uri, partial(page, token))
        for item in answer.get("items", []):
            yield item["name"][len(prefix) :], item
        token = answer.get("nextPageToken")
        if not token:
            return


def _find(filesystem: AbstractFileSystem, path: str) -> Iterator[Found]:
    root = str(filesystem._strip_protocol(path)).rstrip("/") + "/"
    return ((name.removeprefix(root), info) for name, info in filesystem.find(path, detail=True).items())
