"""Every file below a folder as it is found: nothing is kept, so that a listing of millions costs what is made of it.

fsspec itself has no such listing: its `find` returns all files at once, and that of gcsfs keeps every field of each.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any, Self

from fsspec import AbstractFileSystem

from lib.storage.drive.names import UNREADABLE as UNREADABLE_IN_DRIVE
from lib.storage.faults import attempt, named

GCS_FIELDS = "nextPageToken,prefixes,items(name,size,crc32c,generation)"
GCS_PAGE_SIZE, S3_PAGE_SIZE = 5000, 1000
"""Objects to ask for at once; a server may answer with fewer."""
FOLDER_LEVELS = 2
"""How deep each folder is listed on its own, as `train/<label>`; what lies deeper is listed together."""
FOLDERS_AT_ONCE = 16
LEADS_OUTSIDE, NOT_UTF8, BROKEN_LINK, LINK_CYCLE = "leads_outside", "not_utf8", "broken_link", "link_cycle"
UNREADABLE = {
    **UNREADABLE_IN_DRIVE,
    LEADS_OUTSIDE: "its name has a part `..`, which leads out of its folder; rename it",
    NOT_UTF8: "its name is not UTF-8, as old archives and shares leave it; rename it, for example with convmv",
    BROKEN_LINK: "it is a symbolic link to something that is not there; copy the file in its place",
    LINK_CYCLE: "it is a symbolic link that leads back to a folder it is in",
}
"""Why a listed object is not read: the values of `unreadable`, each with what a message says."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One object below a folder.

    Attributes:
        path: Relative to the folder, with `/` between its parts.
        size_bytes: As the listing states it.
        checksum: As the listing states it (see `lib.storage.checksum`), or None where listing does not tell.
        version: Changes whenever the content is replaced: the generation, the ETag, or the time of the last change.
        unreadable: Why it is not read, as a code of `UNREADABLE`; None for a file.
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
    if scheme in BUCKETS:
        return _scan_bucket(BUCKETS[scheme], filesystem, path, uri)
    filesystem.invalidate_cache()
    files: Iterator[StoredFile] = attempt("list", uri, lambda: filesystem.scan(path))
    return files


def leads_outside(path: str) -> bool:
    """Whether a path, relative to a folder, may end up above it."""
    return ".." in path and ".." in path.split("/")


def named_for_certain(file: StoredFile) -> StoredFile:
    """The file, or why its name is none to read it by; the path can be written into any table then."""
    if leads_outside(file.path):
        file = replace(file, unreadable=LEADS_OUTSIDE)
    if not file.path.isascii() and (spelling := _utf8(file.path)) != file.path:
        file = replace(file, path=spelling, unreadable=file.unreadable or NOT_UTF8)
    return file


def _scan_disk(folder: str) -> Iterator[StoredFile]:
    """The files below a folder, links followed; what vanishes meanwhile is not told."""
    pending = [""]
    while pending:
        above = pending.pop()
        try:
            with os.scandir(os.path.join(folder, above)) as entries:  # noqa: PTH118 - faster by far than paths
                for entry in entries:
                    is_link = entry.is_symlink()
                    if entry.is_dir(follow_symlinks=False) or (is_link and _may_enter(folder, above, entry)):
                        pending.append(f"{above}{entry.name}/")
                    elif (file := _file_on_disk(above, entry)) is not None:
                        yield file
        except FileNotFoundError:
            continue
        except OSError as error:
            raise named(error, "list", os.path.join(folder, above)) or error from error  # noqa: PTH118


def _may_enter(folder: str, above: str, link: "os.DirEntry[str]") -> bool:
    """Whether a link leads to a folder that it is not in itself."""
    try:
        return link.is_dir() and not _leads_back(folder, above, link)
    except OSError:
        return False  # it leads nowhere, or round in circles, and is told as a file


def _leads_back(folder: str, above: str, link: "os.DirEntry[str]") -> bool:
    target, parts = link.stat(), above.split("/")
    ways = [os.path.join(folder, *parts[:depth]) for depth in range(len(parts))]  # noqa: PTH118
    return any(os.path.samestat(target, os.stat(way)) for way in ways)  # noqa: PTH116


def _file_on_disk(above: str, entry: "os.DirEntry[str]") -> StoredFile | None:
    path = above + entry.name
    try:
        status = entry.stat()
    except OSError:
        return StoredFile(path, 0, None, unreadable=BROKEN_LINK) if entry.is_symlink() else None
    if stat.S_ISDIR(status.st_mode):
        return StoredFile(path, 0, None, unreadable=LINK_CYCLE)
    return StoredFile(path, status.st_size, None, str(status.st_mtime))


def modified_at(path: str) -> str | None:
    """The version of a file of this machine, as its listing states it; None if it is gone."""
    try:
        return str(os.stat(path).st_mtime)  # noqa: PTH116 - as `os.scandir` gives it
    except OSError:
        return None


def _utf8(path: str) -> str:
    """A path, spelled with an escape for each byte of a disk's name, or surrogate of another, that is not UTF-8."""
    try:
        return os.fsencode(path).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return path.encode("utf-8", "backslashreplace").decode()


def _scan_bucket(ask: "_AskForPage", filesystem: AbstractFileSystem, path: str, uri: str) -> Iterator[StoredFile]:
    """The objects below a prefix, page by page, each page asked for again until it arrives whole.

    A page names the next one, so one prefix is one page after the other: folders are listed side by side.
    """
    bucket, _, key = path.strip("/").partition("/")
    root = f"{key}/" if key else ""

    def page(listed: _Listed, token: str | None) -> tuple[_Listed, _Page]:
        return listed, attempt("list", uri, lambda: ask(filesystem, bucket, listed, token))

    with ThreadPoolExecutor(max_workers=FOLDERS_AT_ONCE) as pool:
        try:
            coming = {pool.submit(page, _Listed(root, 0, len(root)), None)}
            while coming:
                arrived, coming = wait(coming, return_when=FIRST_COMPLETED)
                for listed, answer in (future.result() for future in arrived):
                    coming |= {pool.submit(page, listed.below(prefix), None) for prefix in answer.prefixes}
                    if answer.next_token:
                        coming.add(pool.submit(page, listed, answer.next_token))
                    yield from answer.files
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class _Listed:
    """What one chain of pages lists: objects below a prefix, `depth` folders below the one that was asked for.

    The name of that one takes the first `root_length` letters of the prefix.
    """

    prefix: str
    depth: int
    root_length: int

    @property
    def delimiter(self) -> str | None:
        """What ends the names of folders that are listed on their own; None if all are listed together."""
        return "/" if self.depth < FOLDER_LEVELS else None

    def below(self, prefix: str) -> "_Listed":
        return replace(self, prefix=prefix, depth=self.depth + 1)


@dataclass(frozen=True)
class _Page:
    """Some of the objects below a prefix, the folders that are to be listed on their own, and where it goes on."""

    files: list[StoredFile]
    prefixes: list[str]
    next_token: str | None


_AskForPage = Callable[[AbstractFileSystem, str, _Listed, str | None], _Page]


def _page_of_gcs(filesystem: AbstractFileSystem, bucket: str, listed: _Listed, token: str | None) -> _Page:
    """The version is the generation.

    Source: https://cloud.google.com/storage/docs/json_api/v1/objects/list
    """
    answer = filesystem.call(
        "GET",
        "b/{}/o",
        bucket,
        json_out=True,
        prefix=listed.prefix or None,
        delimiter=listed.delimiter,
        pageToken=token,
        maxResults=GCS_PAGE_SIZE,
        fields=GCS_FIELDS,
    )
    files = [
        StoredFile(
            item["name"][listed.root_length :],
            int(item["size"]),
            f"crc32c:{item['crc32c']}" if "crc32c" in item else None,
            item["generation"],
        )
        for item in answer.get("items", [])
    ]
    return _Page(files, answer.get("prefixes", []), answer.get("nextPageToken"))


def _page_of_s3(filesystem: AbstractFileSystem, bucket: str, listed: _Listed, token: str | None) -> _Page:
    """The version is the ETag, which is the MD5 of some objects and not of others, and so no checksum.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
    """
    options = {"Delimiter": listed.delimiter, "ContinuationToken": token}
    given = {name: value for name, value in options.items() if value is not None}
    answer = filesystem.call_s3("list_objects_v2", Bucket=bucket, Prefix=listed.prefix, MaxKeys=S3_PAGE_SIZE, **given)
    files = [
        StoredFile(item["Key"][listed.root_length :], int(item["Size"]), None, item["ETag"].strip('"'))
        for item in answer.get("Contents", [])
    ]
    return _Page(files, [it["Prefix"] for it in answer.get("CommonPrefixes", [])], answer.get("NextContinuationToken"))


BUCKETS: dict[str, _AskForPage] = {"gs": _page_of_gcs, "s3": _page_of_s3}
"""How a page is asked for, by scheme."""
