"""What a TIFF page declares, checked before anything is allocated or decoded. Nothing is guessed.

What is missing or contradicts itself is refused here, since tifffile and the codecs would put a default in its place.
"""

import math
import operator
import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from tifffile.tifffile import jpeg_shape

from lib.config.images import TiffPolicy
from lib.errors import ImageRefused
from lib.ingest.tiff.pages import declared_tags

UNCOMPRESSED, LZW, JPEG, PREDICTED_FLOATS = 1, 5, 7, 3
JPEG_2000: Final = (33005, 34712)
DEFLATE: Final = (8, 32946)
ZSTD: Final = 50000
_BYTE_CODECS = {LZW, *DEFLATE, 32773, 34925, ZSTD}  # and PackBits, LZMA
_RAW_CODECS = {UNCOMPRESSED, 2, 3, 4, *_BYTE_CODECS}  # and fax
_TRUSTED = {UNCOMPRESSED, LZW, *DEFLATE, ZSTD}
_WHOLE_BYTES = {8, 16, 32, 64}
_RGB_CODECS = {*JPEG_2000, 50001}  # JPEG 2000 and WebP carry their own colour transform
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
COLOURS: Final = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, LAB: 3}
"""The colour spaces that are read, and how many samples each has."""
MAX_CHANNELS: Final = 4
_PADDING = 16  # bytes a writer may add to align what follows
_OVERHEAD = 256  # bytes of headers and checksums in a compressed strip
_MAX_SEGMENT_PIXELS = 2**26  # a tile is decoded whole, however small the image it belongs to
USED_TAGS: Final = frozenset(
    {256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 280, 281, 284, 317, 320, 322, 323, 324}
    | {325, 332, 338, 339, 340, 341, 347, 529, 530, 532, 32997}
)
PHOTOMETRIC: Final = 262
ORIENTATION: Final = 274
_STRIP_OFFSETS, _TILE_OFFSETS = 273, 324
_REQUIRED_TAGS = (256, 257, PHOTOMETRIC)  # width, height and colour space have no default


def check_pages(data: bytes, pages: Sequence[Any], policy: TiffPolicy) -> None:
    """Check all that can be checked of the pages that make one image without decoding them.

    Raises:
        ImageRefused: If a page is damaged, truncated, too large for `policy`, or of a kind that is not decoded; if
            several are unequal or too large together.

    Source:
        TIFF Revision 6.0, Adobe 1992.
    """
    for page in pages:
        _check_tags(data, page)
        _check_size(page, policy)
        _check_kind(page)
        _check_segments(data, page)
    if len(pages) > 1:
        _check_projection(pages, policy)


def _check_projection(pages: Sequence[Any], policy: TiffPolicy) -> None:
    """Refuse pages that do not lie on each other, or are too many."""
    first = pages[0]
    for number, page in enumerate(pages):
        if _kind_of(page) != _kind_of(first):
            found = f"page {number} is {page.shape} {page.dtype}, page 0 is {first.shape} {first.dtype}"
            raise ImageRefused("unequal_pages", f"{found}; or their orientation or colour space differs")
    pixels = len(pages) * first.imagewidth * first.imagelength * _weight(first.samplesperpixel)
    if pixels > policy.max_pixels:
        raise ImageRefused("too_large", f"{len(pages)} pages of {pixels} pixels together, at most {policy.max_pixels}")


def _kind_of(page: Any) -> tuple[Any, ...]:
    return page.shape, page.dtype, page.bitspersample, int(page.photometric), page.tags.valueof(ORIENTATION, 1)


def decoder_gives_rgb(page: Any) -> bool:
    """Whether the JPEG decoder turns YCbCr into RGB (tifffile's `jpeg_decode_colorspace`)."""
    return bool(page.compression == JPEG and page.planarconfig == 1 and not page.extrasamples)


def _check_tags(data: bytes, page: Any) -> None:
    """Refuse a tag that tifffile skipped as unreadable, or one given twice: either would become a default."""
    declared = [code for code in declared_tags(data, page.offset) if code in USED_TAGS]
    for code in declared:
        if code not in page.tags or declared.count(code) > 1:
            raise ImageRefused("damaged", f"tag {code} is unreadable or given more than once")
    if _STRIP_OFFSETS in page.tags and _TILE_OFFSETS in page.tags:
        raise ImageRefused("damaged", "both strips and tiles are given")
    for code in _REQUIRED_TAGS:
        if code not in page.tags:
            raise ImageRefused("damaged", f"tag {code} is missing, and it has no default")


def _check_size(page: Any, policy: TiffPolicy) -> None:
    """Refuse declared sizes that are empty or absurd."""
    numbers = (page.imagewidth, page.imagelength, page.imagedepth, page.samplesperpixel)
    width, height, depth, samples = map(operator.index, numbers)
    if min(width, height, depth, samples) < 1:
        raise ImageRefused("no_pixels", f"{width} x {height} pixels of {samples} samples")
    if width * height * depth * _weight(samples) > policy.max_pixels:
        found = f"{width} x {height} x {depth} pixels of {samples} samples"
        raise ImageRefused("too_large", f"{found}, at most {policy.max_pixels} pixels of {MAX_CHANNELS}")
    if samples > MAX_CHANNELS and policy.tiff_channels == "auto":
        raise ImageRefused("too_many_channels", f"{samples} samples a pixel, at most {MAX_CHANNELS}")
    if depth > 1:
        raise ImageRefused("unsupported", f"a volume of {depth} slices in one page")


def _weight(samples: int) -> int:
    """How many pixels of `MAX_CHANNELS` samples a pixel takes the room of."""
    return math.ceil(samples / MAX_CHANNELS)


def _check_kind(page: Any) -> None:
    """Refuse compressions, colour spaces and sample types whose meaning is not handled."""
    compression, photometric = int(page.compression), int(page.photometric)
    if photometric not in _decodable_colours(compression):
        raise ImageRefused("unsupported", f"compression {compression} with photometric {photometric}")
    if page.dtype is None or page.dtype.kind not in "buif":
        raise ImageRefused("unsupported", f"bits {page.bitspersample}, sample format {page.sampleformat}")
    if np.ptp(page.tags.valueof(339, 1)) != 0:
        raise ImageRefused("unsupported", "samples of different formats")
    if compression in _RGB_CODECS and page.bitspersample not in (8, 16):
        raise ImageRefused("damaged", f"{page.bitspersample} bits with compression {compression}")
    if int(page.planarconfig) not in (1, 2) or int(page.predictor) not in (1, 2, 3):
        raise ImageRefused("damaged", f"planar {page.planarconfig}, predictor {page.predictor}")
    if photometric == YCBCR and page.is_subsampled and not decoder_gives_rgb(page):
        raise ImageRefused("unsupported", "subsampled YCbCr that is not contiguous JPEG")
    if photometric == CMYK and page.tags.valueof(332, 1) != 1:
        raise ImageRefused("unsupported", f"inks other than CMYK (InkSet {page.tags.valueof(332)})")


def _decodable_colours(compression: int) -> set[int]:
    """The colour spaces that are read from this compression."""
    if compression in _RAW_CODECS:
        return set(COLOURS)
    if compression == JPEG:
        return set(COLOURS) - {PALETTE, LAB}
    return {WHITE_IS_ZERO, BLACK_IS_ZERO, RGB} if compression in _RGB_CODECS else set()


def _check_segments(data: bytes, page: Any) -> None:
    """Refuse strips or tiles that are missing, too short, or not all inside the file."""
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    rows, columns = segment_shape(page)
    weight = _weight(page.samplesperpixel)
    if rows * columns * weight > max(_MAX_SEGMENT_PIXELS, page.imagewidth * page.imagelength * weight):
        raise ImageRefused("too_large", f"a tile of {columns} x {rows} pixels")
    planes = page.samplesperpixel if page.planarconfig == 2 else 1  # noqa: PLR2004 - separate planes
    expected = math.ceil(page.imagelength / rows) * math.ceil(page.imagewidth / columns) * planes
    if len(segments) != expected:
        raise ImageRefused("damaged", f"{len(segments)} strips or tiles where {expected} make the image")
    unwritten = segments.count((0, 0))
    if unwritten:
        raise ImageRefused("sparse", f"{unwritten} of {expected} strips or tiles were never written")
    for offset, size in segments:
        if min(offset, size) < 1 or offset + size > len(data):
            raise ImageRefused("truncated", f"{size} bytes at {offset}, in a file of {len(data)}")
    if page.compression == UNCOMPRESSED:
        _check_uncompressed(page)
    if page.compression in _BYTE_CODECS:
        _check_surplus(page)
    if page.compression == JPEG or page.compression in JPEG_2000:
        _check_codestreams([data[offset : offset + size] for offset, size in segments], page)


def is_decoded_apart(page: Any) -> bool:
    """Whether its decoder is not fuzzed by its makers, and so runs in a child process."""
    if page.compression == JPEG:
        return False
    is_trusted = page.compression in _TRUSTED and page.bitspersample in _WHOLE_BYTES
    is_beyond_libtiff = page.compression == LZW and is_nested(page)
    return not is_trusted or is_beyond_libtiff or page.predictor == PREDICTED_FLOATS


def is_nested(page: Any) -> bool:
    """Whether it is a SubIFD of another page, which libtiff, as it is called here, cannot be asked for."""
    return len(page.treeindex) > 1


def segment_shape(page: Any) -> tuple[int, int]:
    """Rows and columns of a full strip or tile."""
    if page.is_tiled:
        return operator.index(page.tilelength), operator.index(page.tilewidth)
    return operator.index(page.rowsperstrip), page.imagewidth


def row_bytes(page: Any) -> int:
    """Bytes of one row of a strip or tile, decoded."""
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    return math.ceil(operator.index(segment_shape(page)[1] * samples * page.bitspersample) / 8)


def _check_surplus(page: Any) -> None:
    """No such codec doubles its data, so more than twice the pixels' bytes contradicts what is declared.

    Without this, 8 bits damaged to read as 1 would decode to a black and white picture: tifffile and libtiff
    both pass over the surplus.
    """
    limit = 2 * segment_shape(page)[0] * row_bytes(page) + _OVERHEAD
    if max(page.databytecounts) > limit:
        raise ImageRefused("damaged", f"{max(page.databytecounts)} bytes compressed, {limit} are plausible")


def _check_uncompressed(page: Any) -> None:
    """Each segment has exactly its bytes; the last may be padded to a full strip.

    Source: `TiffPage.asarray` reads adjoining segments as one run from the first offset.
    """
    rows, bytes_of_row = segment_shape(page)[0], row_bytes(page)
    per_plane = math.ceil(page.imagelength / rows)
    final_rows = rows if page.is_tiled else (page.imagelength - 1) % rows + 1
    for index, size in enumerate(page.databytecounts):
        needed = bytes_of_row * (rows if (index + 1) % per_plane or page.is_tiled else final_rows)
        found = f"strip or tile {index} has {size} bytes, its pixels need {needed}"
        if size < needed:
            raise ImageRefused("truncated", found)
        if size > needed and (index + 1 < len(page.databytecounts) or size > rows * bytes_of_row + _PADDING):
            raise ImageRefused("damaged", found)


def _check_codestreams(streams: Sequence[bytes], page: Any) -> None:
    """Each JPEG or JPEG 2000 stream has its end, the declared bits, and no more pixels than its segment.

    Bytes of 0 or 255 after the end are filling.

    Source: libjpeg and OpenJPEG fill in what is missing at the end, with no error; the marker is that of
    ITU T.81 B.1.1.3 and T.800 A.4.4. The size inside the stream decides what the decoder allocates.
    """
    rows, columns = segment_shape(page)
    for index, stream in enumerate(streams):
        if not stream.rstrip(b"\0\xff").endswith(b"\xff\xd9"):
            raise ImageRefused("truncated", f"strip or tile {index} has no end marker")
        bits, height, width = _codestream_size(stream, jpeg=page.compression == JPEG)
        if height * width > rows * columns or bits != page.bitspersample:
            raise ImageRefused("damaged", f"strip or tile {index} holds {width} x {height} pixels of {bits} bits")


def _codestream_size(stream: bytes, *, jpeg: bool) -> tuple[int, int, int]:
    """Bits, height and width that a JPEG or JPEG 2000 stream declares."""
    if jpeg:
        return jpeg_shape(stream)[:3]  # type: ignore[no-any-return]
    start = stream.index(b"\xff\x4f\xff\x51")
    width, height = struct.unpack_from(">II", stream, start + 8)
    return (stream[start + 42] & 0x7F) + 1, height, width
