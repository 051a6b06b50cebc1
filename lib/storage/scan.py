"""Every file below a folder as it is found: nothing is kept, so that a listing of millions costs what is made of it.

Each file comes with its path relative to the folder and what fsspec's `find(detail=True)` would say of it. fsspec
itself has no such listing: its `find` returns all files at once, and that of gcsfs keeps every field of each.
"""

import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any

from fsspec import AbstractFileSystem

from lib.storage.faults import attempt, named

Found = tuple[str, dict[str, Any]]

GCS_FIELDS = "nextPageToken,prefixes,items(name,size,crc32c,generation)"
GCS_PAGE_SIZE = 5000
"""Objects to ask for at once; a server may answer with fewer."""
FOLDER_LEVELS = 2
"""How deep each folder is listed on its own, as `train/<label>`; what lies deeper is listed together."""
FOLDERS_AT_ONCE = 16


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
    found: Iterator[Found] = attempt("list", uri, lambda: filesystem.scan(path))
    return found


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

    A page names the next one, so one prefix is one page after the other: folders are listed side by side.

    Source: https://cloud.google.com/storage/docs/json_api/v1/objects/list
    """
    bucket, _, key = path.strip("/").partition("/")
    root = f"{key}/" if key else ""

    def page(listed: _Listed, token: str | None) -> tuple[_Listed, dict[str, Any]]:
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
                        yield item["name"][len(root) :], item
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class _Listed:
    """What one chain of pages lists: objects below a prefix, `depth` folders below the one that was asked for."""

    prefix: str
    depth: int
