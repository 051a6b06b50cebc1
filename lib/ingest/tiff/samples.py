"""From the strips or tiles of a checked page to its samples.

Three ways, the first that applies:

- isolated: a decoder that is not fuzzed by its makers, as most of imagecodecs' own ones are not, runs in a child
  process (`lib.ingest.tiff.isolate`). imagecodecs 2026.3.6 has one that crashes on damaged data: `lzw_decode`.
- fast: LZW through libtiff, twice as fast as tifffile, and 8-bit JPEG straight through libjpeg-turbo.
- strict: tifffile with libdeflate, zstd, or no codec.
"""

import itertools
import struct
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from tifffile.tifffile import jpeg_decode_colorspace

from lib.errors import ImageRefused
from lib.ingest.tiff.isolate import run_isolated
from lib.ingest.tiff.pages import byte_order, open_page
from lib.ingest.tiff.structure import (
    BLACK_IS_ZERO,
    CMYK,
    JPEG,
    LZW,
    PHOTOMETRIC,
    is_decoded_apart,
    is_nested,
    segment_shape,
)

Samples = npt.NDArray[Any]

_SEPARATE = 2  # planar configuration
_SHORT = 3  # the field type of 16-bit integers
ISOLATED_S, ISOLATED_S_PER_MEGAPIXEL = 30.0, 1.0
"""How long a page may take in the child process: ten times what the slowest decoder here, JPEG 2000, takes."""


def read_samples(data: bytes, page: Any) -> Samples:
    """Decode a page that `check_page` has passed.

    Args:
        data: The whole file.
        page: Its page, whose file is open.

    Returns:
        Samples as stored, shape (height, width, samples); bool, unsigned, signed or float of 1 to 8 bytes.

    Raises:
        ImageRefused: If its decoder runs in a child process and crashes, hangs or refuses; or if the pixels are not
            those that the page declares.
        Exception: Of almost any type, if the data is damaged.

    Source:
        libtiff, libjpeg-turbo and others through imagecodecs; tifffile.
    """
    stored = None
    if page.compression == JPEG:
        stored = _read_jpeg(data, page)
    elif not is_decoded_apart(page):
        stored = _read_directly(data, page)
    if stored is None:
        limit = ISOLATED_S + ISOLATED_S_PER_MEGAPIXEL * page.imagewidth * page.imagelength / 1e6
        return run_isolated(limit, decode_page, data, page.treeindex, page.offset)
    return _as_declared(stored, page)


def decode_page(data: bytes, index: tuple[int, ...], offset: int) -> Samples:
    """What the child process does: decode a checked page, given by its number(s) and where in the file it begins."""
    with open_page(data, index, offset) as page:
        return _as_declared(_read_directly(data, page), page)


def _read_directly(data: bytes, page: Any) -> Samples:
    if page.compression == LZW and not is_nested(page):
        return _read_lzw(data, page)
    return np.asarray(page.asarray(maxworkers=1))


def _as_declared(stored: Samples, page: Any) -> Samples:
    if stored.shape != page.shape or (stored.dtype.kind, stored.dtype.itemsize) != (
        page.dtype.kind,
        page.dtype.itemsize,
    ):
        raise ImageRefused("damaged", f"{stored.dtype} {stored.shape} where {page.dtype} {page.shape} is declared")
    if page.planarconfig == _SEPARATE and stored.ndim > 2:  # noqa: PLR2004 - planes come first
        stored = np.moveaxis(stored, 0, -1)
    return stored.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)


def _read_lzw(data: bytes, page: Any) -> Samples:
    """LZW through libtiff: as strict as tifffile, and twice as fast.

    imagecodecs 2026.3.6, which tifffile uses, crashes the process on some damaged LZW streams (one begins
    80 4b e0 40), so it is given none. Other compressions stay with tifffile: libtiff takes damaged deflate
    (it skips the checksum) and JPEG (it fills in gray), and is no faster there. Only packed bits (1, 4, 12)
    with more data than pixels pass here where tifffile refuses them.
    """
    readable = _as_gray(data, page) if page.photometric == CMYK else data
    return np.asarray(imagecodecs.tiff_decode(readable, index=page.index))


def _as_gray(data: bytes, page: Any) -> bytes:
    """The file with its colour space relabelled, since libtiff would turn CMYK into RGB, and skip damage."""
    tag = page.tags[PHOTOMETRIC]
    relabelled = bytearray(data)
    struct.pack_into(byte_order(data) + "H", relabelled, tag.valueoffset, BLACK_IS_ZERO)
    if tag.dtype != _SHORT:
        raise ImageRefused("damaged", f"tag {PHOTOMETRIC} has type {tag.dtype}, expected {_SHORT}")
    return bytes(relabelled)


def _read_jpeg(data: bytes, page: Any) -> Samples | None:
    """8-bit JPEG through libjpeg-turbo, strip by strip; None if any strip is not plainly that.

    tifffile would go on with imagecodecs' decoder for lossless JPEG where libjpeg-turbo refuses a strip, even a
    damaged ordinary one. Here that is left to the child process.
    """
    if page.bitspersample != 8 or page.jpegheader is not None:  # noqa: PLR2004
        return None
    colour, result_colour = jpeg_decode_colorspace(page.photometric, page.planarconfig, page.extrasamples, page.is_jfif)
    height, width, (rows, columns) = page.imagelength, page.imagewidth, segment_shape(page)
    planes, samples = (1, page.samplesperpixel) if page.planarconfig == 1 else (page.samplesperpixel, 1)
    image = np.empty((planes, height, width, samples), np.uint8)
    places = itertools.product(range(planes), range(0, height, rows), range(0, width, columns))
    segments = zip(page.dataoffsets, page.databytecounts, strict=True)
    for (plane, top, left), (offset, size) in zip(places, segments, strict=True):
        stored_rows = rows if page.is_tiled else min(rows, height - top)
        try:
            segment = imagecodecs.jpeg8_decode(
                data[offset : offset + size],
                tables=page.jpegtables,
                colorspace=colour,
                outcolorspace=result_colour,
                shape=(stored_rows, columns),
            )
        except imagecodecs.Jpeg8Error:
            return None
        if segment.size != len(segment) * columns * samples or not stored_rows <= len(segment) <= rows:
            return None
        place = image[plane, top : top + rows, left : left + columns]
        place[...] = segment.reshape(-1, columns, samples)[: place.shape[0], : place.shape[1]]
    return image.reshape(page.shape)
