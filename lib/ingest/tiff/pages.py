"""Finding the pages of a TIFF: its header and the chain of its directories, checked before tifffile reads them."""

import io
import logging
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any

import numpy as np
import tifffile

from lib.config.images import WHOLE_LEVEL, TiffPolicy
from lib.errors import ImageRefused
from lib.ingest.tiff.levels import choose_level
from lib.ingest.tiff.planes import PlaneLayout, plane_layout

# tifffile logs what it repairs or skips in a damaged file. Whatever matters is checked and refused here, and
# Python would print these messages on stderr once per bad image.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_BIG = 43  # the version number of BigTIFF
_REDUCED = 1  # of NewSubfileType
_COLOURS = 3


@contextmanager
def open_pages(data: bytes, policy: TiffPolicy) -> Iterator[list[list[Any]]]:
    """The pages (`tifffile.TiffPage`) that a policy chooses; their pixels can be read inside.

    Yields:
        For each channel that is a page of its own the pages to project, at least one; a single list where pages are
        whole images.

    Raises:
        ImageRefused: If the bytes are no TIFF, the chain of directories is damaged, or a page is not there.
    """
    if policy.tiff_page != "max-projection" and policy.tiff_pages_as == "pages":
        chosen = [[_directory(data, 0 if policy.tiff_page == "first" else int(policy.tiff_page))]]
        with _tiff_file(data) as file:
            (page,) = _pages(file, chosen)[0]
            if policy.tiff_level != WHOLE_LEVEL:
                page = choose_level(file, policy)
            elif policy.tiff_page == "first" and page.subfiletype & _REDUCED:
                page = _whole_image(data, file, page)
            yield [[page]]
        return
    directories = list(enumerate(_directories(data)))
    with _tiff_file(data) as file:
        if file.pages.first.is_imagej:
            _check_hyperstack(file, len(directories))
        yield _pages(
            file, [[directories[plane] for plane in some] for some in choose_planes(file, directories, policy)]
        )


def _pages(file: Any, chosen: list[list[tuple[int, int]]]) -> list[list[Any]]:
    return [[_page(file, *directory) for directory in some] for some in chosen]


def choose_planes(file: Any, directories: Sequence[tuple[int, int]], policy: TiffPolicy) -> list[list[int]]:
    """The numbers of the pages to project, for each channel that is a page of its own."""
    layout = plane_layout(file, len(directories))
    if policy.tiff_pages_as == "pages" and layout is None:
        return [list(range(len(directories)))]
    layout = layout or PlaneLayout(channels=len(directories), depths=1, channel_step=1, depth_step=1)
    if policy.tiff_pages_as == "pages" and layout.channels > 1:
        found = f"{layout.channels} channels, each a page of its own; --tiff-pages-as channels reads them as colours"
        raise ImageRefused("too_many_channels", found)
    depths = list(range(layout.depths))
    if policy.tiff_page != "max-projection":
        number = 0 if policy.tiff_page == "first" else int(policy.tiff_page)
        if number >= layout.depths:
            raise ImageRefused("no_such_page", f"plane {number} of {layout.depths}, counted from 0")
        depths = [number]
    return [
        [channel * layout.channel_step + depth * layout.depth_step for depth in depths]
        for channel in _chosen_channels(layout.channels, policy)
    ]


def _chosen_channels(count: int, policy: TiffPolicy) -> Sequence[int]:
    if policy.tiff_pages_as == "pages":
        return [0]
    if policy.tiff_channels == "auto":
        if count > _COLOURS:
            raise ImageRefused("too_many_channels", f"{count} channels as pages, at most {_COLOURS}")
        return range(count)
    chosen = [int(number) for number in policy.tiff_channels.split(",")]
    if max(chosen) >= count:
        raise ImageRefused("no_such_channel", f"channel {max(chosen)} of {count} pages, counted from 0")
    return chosen


@contextmanager
def all_pages(data: bytes) -> Iterator[list[Any]]:
    """Every page of a file."""
    with _tiff_file(data) as file:
        yield [_page(file, *directory) for directory in enumerate(_directories(data))]


@contextmanager
def open_page(data: bytes, index: tuple[int, ...], offset: int) -> Iterator[Any]:
    """One page of a file that `open_pages` has opened before, by its number, and its number within that page."""
    with _tiff_file(data) as file:
        yield _page(file, index, offset)


@contextmanager
def _tiff_file(data: bytes) -> Iterator[Any]:
    # tifffile subtracts 16-bit tag values and numpy would warn of an overflow, which is harmless there.
    # Its pages and files refer to each other; the stream is closed so that they do not keep the bytes until collected.
    with np.errstate(over="ignore"), io.BytesIO(data) as stream, tifffile.TiffFile(stream, _multifile=False) as file:
        yield file


def _whole_image(data: bytes, file: Any, first: Any) -> Any:
    """The first larger page that is no reduced copy, where the first of all says it is one; else that one itself."""
    for index, offset in islice(enumerate(_directories(data)), 1, None):
        page = _page(file, index, offset)
        if (
            not page.subfiletype & _REDUCED
            and page.imagewidth * page.imagelength > first.imagewidth * first.imagelength
        ):
            return page
    return first


def _page(file: Any, index: int | tuple[int, ...], offset: int) -> Any:
    if index in (0, (0,)):
        return file.pages.first
    file.filehandle.seek(offset)
    return tifffile.TiffPage(file, index)


def _directory(data: bytes, number: int) -> tuple[int, int]:
    """Index and offset of a directory."""
    found = list(enumerate(islice(_directories(data), number + 1)))
    if len(found) <= number:
        raise ImageRefused("no_such_page", f"page {number} of {len(found)}, counted from 0")
    return found[-1]


def count_pages(data: bytes) -> int:
    """How many pages a file has; those before the damage, where the chain of directories is damaged."""
    count = 0
    with suppress(ImageRefused):
        for _ in _directories(data):
            count += 1
    return count


def _check_hyperstack(file: Any, directories: int) -> None:
    """ImageJ writes a stack above 4 GB with one directory only; a projection of that would be its first page."""
    images = int((file.imagej_metadata or {}).get("images", directories))
    if images != directories:
        raise ImageRefused("unsupported", f"an ImageJ stack of {images} images in {directories} directories")


def byte_order(data: bytes | bytearray) -> str:
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
