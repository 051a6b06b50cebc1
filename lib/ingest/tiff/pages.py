"""Finding the pages of a TIFF: its header and the chain of its directories, checked before tifffile reads them."""

import io
import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import tifffile

from lib.config.images import TiffPolicy
from lib.errors import ImageRefused

# tifffile logs what it repairs or skips in a damaged file. Whatever matters is checked and refused here, and
# Python would print these messages on stderr once per bad image.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_BIG = 43  # the version number of BigTIFF


@contextmanager
def open_pages(data: bytes, policy: TiffPolicy) -> Iterator[list[Any]]:
    """The pages (`tifffile.TiffPage`) that a policy chooses, at least one; their pixels can be read inside.

    Raises:
        ImageRefused: If the bytes are no TIFF, the chain of directories is damaged, or a page is not there.
    """
    chosen = list(_chosen_directories(data, policy))
    with _tiff_file(data) as file:
        if policy.tiff_page == "max-projection" and file.pages.first.is_imagej:
            _check_hyperstack(file, len(chosen))
        yield [_page(file, *directory) for directory in chosen]


@contextmanager
def open_page(data: bytes, index: int, offset: int) -> Iterator[Any]:
    """One page of a file that `open_pages` has opened before."""
    with _tiff_file(data) as file:
        yield _page(file, index, offset)


@contextmanager
def _tiff_file(data: bytes) -> Iterator[Any]:
    # tifffile subtracts 16-bit tag values and numpy would warn of an overflow, which is harmless there.
    with np.errstate(over="ignore"), tifffile.TiffFile(io.BytesIO(data), _multifile=False) as file:
        yield file


def _page(file: Any, index: int, offset: int) -> Any:
    if index == 0:
        return file.pages.first
    file.filehandle.seek(offset)
    return tifffile.TiffPage(file, index)


def _chosen_directories(data: bytes, policy: TiffPolicy) -> Iterator[tuple[int, int]]:
    """Index and offset of each chosen directory."""
    if policy.tiff_page == "max-projection":
        yield from enumerate(_directories(data))
        return
    number = 0 if policy.tiff_page == "first" else int(policy.tiff_page)
    found = list(enumerate(islice(_directories(data), number + 1)))
    if len(found) <= number:
        raise ImageRefused("no_such_page", f"page {number} of {len(found)}, counted from 0")
    yield found[-1]


def _check_hyperstack(file: Any, directories: int) -> None:
    """ImageJ writes a stack above 4 GB with one directory only; a projection of that would be its first page."""
    images = int((file.imagej_metadata or {}).get("images", directories))
    if images != directories:
        raise ImageRefused("unsupported", f"an ImageJ stack of {images} images in {directories} directories")


def byte_order(data: bytes) -> str:
    """`<` or `>`, as `struct` wants it."""
    return "<" if data[:2] == b"II" else ">"


def _is_big(data: bytes) -> bool:
    return bool(struct.unpack_from(byte_order(data) + "H", data, 2)[0] == _BIG)


def _directories(data: bytes) -> Iterator[int]:
    """Offsets of the image file directories, each known to lie inside the file, in the order of their chain."""
    offset, seen = _first_directory(data), set[int]()
    pointer = byte_order(data) + ("Q" if _is_big(data) else "I")
    while offset or not seen:
        if offset in seen:
            raise ImageRefused("damaged", f"the directories form a loop at {offset}")
        seen.add(offset)
        start, size = _directory_extent(data, offset)
        yield offset
        if start + size + struct.calcsize(pointer) > len(data):
            raise ImageRefused("truncated", f"the directory at {offset} ends before it says where the next one is")
        (offset,) = struct.unpack_from(pointer, data, start + size)


def _first_directory(data: bytes) -> int:
    if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        raise ImageRefused("not_tiff", f"begins with {data[:4]!r}")
    layout, at = ("Q", 8) if _is_big(data) else ("I", 4)
    if len(data) < at + struct.calcsize(layout):
        raise ImageRefused("truncated", f"{len(data)} bytes, which is less than a header")
    return int(struct.unpack_from(byte_order(data) + layout, data, at)[0])


def _directory_extent(data: bytes, offset: int) -> tuple[int, int]:
    """Start and size in bytes of the tags of a directory, once they are known to lie inside the file."""
    layout, tag_size = ("Q", 20) if _is_big(data) else ("H", 12)
    start = offset + struct.calcsize(layout)
    if start > len(data):
        raise ImageRefused("truncated", f"the directory is at {offset}, the file has {len(data)} bytes")
    (count,) = struct.unpack_from(byte_order(data) + layout, data, offset)
    if start + count * tag_size > len(data):
        raise ImageRefused("truncated", f"a directory of {count} tags at {offset}, in {len(data)} bytes")
    return start, count * tag_size


def declared_tags(data: bytes, offset: int) -> list[int]:
    """The codes of the tags in a directory, in their order, repeated ones too."""
    tag_size = 20 if _is_big(data) else 12
    start, size = _directory_extent(data, offset)
    tags = struct.iter_unpack(byte_order(data) + f"H{tag_size - 2}x", data[start : start + size])
    return [code for (code,) in tags]
