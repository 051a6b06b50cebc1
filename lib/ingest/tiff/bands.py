"""A large page some rows at a time: each band is made a small TIFF of its strips or tiles, and read as any other.

So an image that is to become small takes the memory of a band, and not that of all its samples. Its pixels are the same
to the last bit: only what is exact for a band is done to it.
"""

import itertools
import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from lib.config.images import TiffPolicy
from lib.ingest.tiff.halving import halvings
from lib.ingest.tiff.pages import byte_order, open_page
from lib.ingest.tiff.samples import Samples, read_samples
from lib.ingest.tiff.structure import COLOURS, ORIENTATION, UNCOMPRESSED, USED_TAGS, row_bytes, segment_shape

BAND_BYTES: Final = 2**25
"""Of the samples of a band, unless one row of tiles or a strip has more."""
_GREATEST_SAMPLE = (281, 341)
_LENGTH, _ROWS_PER_STRIP = 257, 278
_STRIPS, _TILES = (273, 279), (324, 325)
_LONG, _LONG8 = 4, 16
_CLASSIC, _HEADER_BYTES, _INLINE_BYTES = 42, 8, 4


class Bands(NamedTuple):
    """How an image is read by bands.

    Attributes:
        rows: Of a band, but for the last one.
        halvings: How often both its sides are then halved, once at least.
    """

    rows: int
    halvings: int


def bands_of(channels: Sequence[Sequence[Any]], policy: TiffPolicy, size: int | None) -> Bands | None:
    """How an image is read by bands; None if it is to be read whole.

    It is if it is small, if its layout has no bands, or if a pixel may depend on those of other bands: on other pages,
    on the greatest sample, on whether anything is opaque, on whether all are equal, on how the image is turned.

    Args:
        channels: Its checked pages (`lib.ingest.tiff.pages.open_pages`).
        policy: How they become RGB.
        size: Side of the square that it is to become, in pixels; None if it stays as it is.
    """
    page = channels[0][0]
    if size is None or [len(pages) for pages in channels] != [1] or not _is_separable(page, policy):
        return None
    times = halvings(page.imagelength, page.imagewidth, size)
    step = math.lcm(1 if _is_one_piece(page) else segment_shape(page)[0], 2**times)
    row = page.imagewidth * page.samplesperpixel * page.dtype.itemsize
    rows = step * max(1, BAND_BYTES // (step * row))
    return Bands(rows, times) if times and 2 * rows <= page.imagelength else None


def _is_separable(page: Any, policy: TiffPolicy) -> bool:
    is_upright = policy.tiff_orientation == "ignore" or page.tags.valueof(ORIENTATION, 1) in {0, 1}
    is_opaque = (
        policy.tiff_alpha == "ignore"
        or policy.tiff_channels != "auto"
        or page.samplesperpixel == COLOURS[int(page.photometric)]
    )
    states_greatest = any(code in page.tags for code in _GREATEST_SAMPLE)
    is_one_plane = policy.tiff_pages_as == "pages" and page.imagedepth == 1 and min(page.databytecounts) > 0
    return is_upright and is_opaque and is_one_plane and not states_greatest and policy.tiff_constant == "keep"


def _is_one_piece(page: Any) -> bool:
    """Whether rows lie one after the other as they are, so that they can be cut anywhere."""
    return bool(page.compression == UNCOMPRESSED and not page.is_tiled and segment_shape(page)[0] >= page.imagelength)


def read_bands(data: bytes, page: Any, rows: int) -> Iterator[Samples]:
    """The samples of a checked page, from above, some rows at a time (see `lib.ingest.tiff.samples.read_samples`).

    Args:
        data: The whole file.
        page: Its page.
        rows: Of a band; see `bands_of`.
    """
    for top in range(0, page.imagelength, rows):
        yield _read_band(data, page, top, min(rows, page.imagelength - top))


def _read_band(data: bytes, page: Any, top: int, rows: int) -> Samples:
    band = _as_tiff(data, page, top, rows)
    with open_page(band, (0,), 0) as part:
        return read_samples(band, part)


def _as_tiff(data: bytes, page: Any, top: int, rows: int) -> bytes:
    """A file of one page, which says of itself what the page says: header, strips or tiles, values, directory."""
    order, whole = byte_order(data), memoryview(data)
    pieces = [whole[offset : offset + count] for offset, count in _segments(page, top, rows)]
    sizes = [len(piece) for piece in pieces]
    *offsets, end = itertools.accumulate(sizes, initial=_HEADER_BYTES)
    replaced = {_LENGTH: [rows]} | dict(zip(_TILES if page.is_tiled else _STRIPS, (offsets, sizes), strict=True))
    if not page.is_tiled:
        replaced[_ROWS_PER_STRIP] = [min(segment_shape(page)[0], rows)]
    values = {code: (_LONG, len(some), struct.pack(f"{order}{len(some)}I", *some)) for code, some in replaced.items()}
    entries = []
    for code, (kind, count, value) in sorted((_stated(data, page, USED_TAGS - values.keys()) | values).items()):
        place = value.ljust(_INLINE_BYTES, b"\0")
        if len(value) > _INLINE_BYTES:
            place = struct.pack(order + "I", end)
            pieces.append(memoryview(value))
            end += len(value)
        entries.append(struct.pack(order + "HHI", code, kind, count) + place)
    header = data[:2] + struct.pack(order + "HI", _CLASSIC, end)
    return b"".join([header, *pieces, struct.pack(order + "H", len(entries)), *entries, bytes(4)])


def _stated(data: bytes, page: Any, codes: Iterable[int]) -> dict[int, tuple[int, int, bytes]]:
    """The type, the count and the bytes of each of some tags that a page has."""
    found = {}
    for code in codes:
        if (tag := page.tags.get(code)) is not None:
            kind, value = int(tag.dtype), data[tag.valueoffset : tag.valueoffset + tag.valuebytecount]
            if kind == _LONG8:  # of BigTIFF
                order = byte_order(data)
                kind, value = _LONG, struct.pack(f"{order}{tag.count}I", *struct.unpack(f"{order}{tag.count}Q", value))
            found[code] = kind, tag.count, value
    return found


def _segments(page: Any, top: int, rows: int) -> Iterator[tuple[int, int]]:
    """Offsets and sizes of the strips or tiles of a band, plane after plane."""
    planes = 1 if page.planarconfig == 1 else page.samplesperpixel
    if _is_one_piece(page):
        for plane in range(planes):
            yield page.dataoffsets[plane] + top * row_bytes(page), rows * row_bytes(page)
        return
    height, width = segment_shape(page)
    across, down = math.ceil(page.imagewidth / width), math.ceil(page.imagelength / height)
    for plane in range(planes):
        first = (plane * down + top // height) * across
        last = (plane * down + math.ceil((top + rows) / height)) * across
        yield from zip(page.dataoffsets[first:last], page.databytecounts[first:last], strict=True)
