"""From the bytes of a TIFF to 8-bit RGB, or a refusal with a reason code. Nothing is guessed.

In order: the structure is checked before anything is allocated, the samples are decoded, brought to 8 bits,
to RGB over white, and turned upright. What cannot be known from the file is refused, never assumed.
"""

import io
import logging
import math
import operator
import struct
from collections.abc import Sequence
from typing import Any, Final

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile
from tifffile.tifffile import jpeg_shape

from lib.config import TiffPolicy
from lib.errors import ImageRefused

UInt8Array = npt.NDArray[np.uint8]

REFUSAL_CODES: Final = {
    "not_tiff": "the bytes do not begin like a TIFF or BigTIFF",
    "truncated": "the file ends before what it declares, or a strip was cut short or never written",
    "damaged": "the structure contradicts itself, or a strip cannot be decoded",
    "too_large": "more pixels are declared than `max_pixels`",
    "no_pixels": "the width, the height or the number of samples is 0",
    "unsupported": "a compression, colour space or sample type that is not decoded here",
    "too_many_channels": "more than 4 samples a pixel",
    "unknown_channels": "samples whose meaning the file does not state",
    "not_finite": "NaN or infinity among the samples",
    "float_range": "floating-point samples outside [0, 1]: black and white are not stated",
    "signed_range": "signed integer samples: black and white are not stated",
}
"""Every code that `decode_tiff` refuses with, and what it means."""

# tifffile logs what it repairs or skips in a damaged file. Whatever matters is checked and refused here, and
# Python would print these messages on stderr once per bad image.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_BIG = 43  # the version number of BigTIFF
_LZW, _JPEG, _JPEG_2000 = 5, 7, (33005, 34712)
_BYTE_CODECS = {_LZW, 8, 32946, 32773, 34925, 50000}  # LZW, deflate, PackBits, LZMA, zstd
_RAW_CODECS = {1, 2, 3, 4, *_BYTE_CODECS}  # and none, fax
_RGB_CODECS = {*_JPEG_2000, 50001}  # JPEG 2000 and WebP carry their own colour transform
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3, _LAB: 3}
_ASSOCIATED, _UNASSOCIATED = 1, 2
_MAX_CHANNELS = 4
_PADDING = 16  # bytes a writer may add to align what follows
_OVERHEAD = 256  # bytes of headers and checksums in a compressed strip
_MAX_SEGMENT_PIXELS = 2**26  # a tile is decoded whole, however small the image it belongs to
_USED_TAGS: Final[tuple[int, ...]] = (
    *(256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 280, 281, 284, 317, 320, 322, 323, 324),
    *(325, 332, 338, 339, 340, 341, 347, 529, 530, 532, 32997),
)
_PHOTOMETRIC, _STRIP_OFFSETS, _TILE_OFFSETS = 262, 273, 324
_SHORT = 3  # the field type of 16-bit integers
_REQUIRED_TAGS = (256, 257, _PHOTOMETRIC)  # width, height and colour space have no default


def decode_tiff(data: bytes, policy: TiffPolicy) -> UInt8Array:
    """Decode the first page of a TIFF to 8-bit RGB.

    Unsigned integers are scaled from 0..2^bits - 1 (or a smaller stated maximum, see `_stated_maximum`) to
    0..255, rounding half up; floats from [0, 1]. Gray becomes RGB, alpha is laid over white, the orientation
    is applied; an ICC profile is not.

    Args:
        data: The whole file.
        policy: What to accept and how to convert it.

    Returns:
        RGB, shape (height, width, 3), contiguous, upright.

    Raises:
        ImageRefused: If the bytes cannot be decoded without guessing; `code` is one of `REFUSAL_CODES`.
        MemoryError: If an image within `max_pixels` does not fit; the machine is at fault, not the image.

    Source:
        TIFF Revision 6.0, Adobe 1992; tifffile, and libtiff through imagecodecs.
    """
    try:
        return _decode(data, policy)
    except (ImageRefused, MemoryError):
        raise
    # The boundary: damaged files escape from tifffile and imagecodecs as almost any type (TypeError,
    # IndexError, ZeroDivisionError, AssertionError, a class for each codec), so all mean one thing here.
    except Exception as error:
        raise ImageRefused("damaged", f"{type(error).__name__}: {error}"[:300]) from error


def _decode(data: bytes, policy: TiffPolicy) -> UInt8Array:
    _check_directory(data, _first_directory(data))
    # tifffile subtracts 16-bit tag values and numpy would warn of an overflow, which is harmless there.
    with np.errstate(over="ignore"), tifffile.TiffFile(io.BytesIO(data), _multifile=False) as file:
        page = file.pages.first
        _check_tags(data, page)
        _check_size(page, policy)
        _check_kind(page)
        _check_segments(data, page)
        samples = _read_samples(data, page)
    return np.ascontiguousarray(_upright(_to_rgb(samples, page), page))


def _byte_order(data: bytes) -> str:
    return "<" if data[:2] == b"II" else ">"


def _is_big(data: bytes) -> bool:
    return bool(struct.unpack_from(_byte_order(data) + "H", data, 2)[0] == _BIG)


def _first_directory(data: bytes) -> int:
    """Offset of the first image file directory."""
    if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        raise ImageRefused("not_tiff", f"begins with {data[:4]!r}")
    layout, at = ("Q", 8) if _is_big(data) else ("I", 4)
    if len(data) < at + struct.calcsize(layout):
        raise ImageRefused("truncated", f"{len(data)} bytes, which is less than a header")
    return int(struct.unpack_from(_byte_order(data) + layout, data, at)[0])


def _check_directory(data: bytes, offset: int) -> list[int]:
    """The codes of the tags in the directory at `offset`, once it is known to lie inside the file."""
    layout, size = ("Q", 20) if _is_big(data) else ("H", 12)
    start = offset + struct.calcsize(layout)
    if start > len(data):
        raise ImageRefused("truncated", f"the directory is at {offset}, the file has {len(data)} bytes")
    (count,) = struct.unpack_from(_byte_order(data) + layout, data, offset)
    if start + count * size > len(data):
        raise ImageRefused("truncated", f"a directory of {count} tags at {offset}, in {len(data)} bytes")
    return list(struct.unpack(_byte_order(data) + f"H{size - 2}x" * count, data[start : start + count * size]))


def _check_tags(data: bytes, page: Any) -> None:
    """Refuse a tag that tifffile skipped as unreadable, or one given twice: either would become a default."""
    declared = _check_directory(data, page.offset)
    for code in _USED_TAGS:
        if declared.count(code) != (code in page.tags):
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
    if width * height * depth > policy.max_pixels:
        raise ImageRefused("too_large", f"{width} x {height} x {depth} pixels, at most {policy.max_pixels}")
    if samples > _MAX_CHANNELS:
        raise ImageRefused("too_many_channels", f"{samples} samples a pixel, at most {_MAX_CHANNELS}")
    if depth > 1:
        raise ImageRefused("unsupported", f"a volume of {depth} slices in one page")


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
    if photometric == _YCBCR and page.is_subsampled and not _decoder_gives_rgb(page):
        raise ImageRefused("unsupported", "subsampled YCbCr that is not contiguous JPEG")
    if photometric == _CMYK and page.tags.valueof(332, 1) != 1:
        raise ImageRefused("unsupported", f"inks other than CMYK (InkSet {page.tags.valueof(332)})")


def _decodable_colours(compression: int) -> set[int]:
    """The colour spaces that are read from this compression."""
    if compression in _RAW_CODECS:
        return set(_COLOURS)
    if compression == _JPEG:
        return set(_COLOURS) - {_PALETTE, _LAB}
    return {_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB} if compression in _RGB_CODECS else set()


def _check_segments(data: bytes, page: Any) -> None:
    """Refuse strips or tiles that are missing, too short, or not all inside the file."""
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    rows, columns = _segment_shape(page)
    if rows * columns > max(_MAX_SEGMENT_PIXELS, page.imagewidth * page.imagelength):
        raise ImageRefused("too_large", f"a tile of {columns} x {rows} pixels")
    planes = page.samplesperpixel if page.planarconfig == 2 else 1  # noqa: PLR2004 - separate planes
    expected = math.ceil(page.imagelength / rows) * math.ceil(page.imagewidth / columns) * planes
    if len(segments) != expected:
        raise ImageRefused("damaged", f"{len(segments)} strips or tiles where {expected} make the image")
    for offset, size in segments:
        if min(offset, size) < 1 or offset + size > len(data):
            raise ImageRefused("truncated", f"{size} bytes at {offset}, in a file of {len(data)}")
    if page.compression == 1:
        _check_uncompressed(page)
    if page.compression in _BYTE_CODECS:
        _check_surplus(page)
    if page.compression == _JPEG or page.compression in _JPEG_2000:
        _check_codestreams([data[offset : offset + size] for offset, size in segments], page)


def _segment_shape(page: Any) -> tuple[int, int]:
    """Rows and columns of a full strip or tile."""
    if page.is_tiled:
        return operator.index(page.tilelength), operator.index(page.tilewidth)
    return operator.index(page.rowsperstrip), page.imagewidth


def _row_bytes(page: Any) -> int:
    """Bytes of one row of a strip or tile, decoded."""
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    return math.ceil(operator.index(_segment_shape(page)[1] * samples * page.bitspersample) / 8)


def _check_surplus(page: Any) -> None:
    """No such codec doubles its data, so more than twice the pixels' bytes contradicts what is declared.

    Without this, 8 bits damaged to read as 1 would decode to a black and white picture: tifffile and libtiff
    both pass over the surplus.
    """
    limit = 2 * _segment_shape(page)[0] * _row_bytes(page) + _OVERHEAD
    if max(page.databytecounts) > limit:
        raise ImageRefused("damaged", f"{max(page.databytecounts)} bytes compressed, {limit} are plausible")


def _check_uncompressed(page: Any) -> None:
    """Each segment has exactly its bytes; the last may be padded to a full strip.

    Source: `TiffPage.asarray` reads adjoining segments as one run from the first offset.
    """
    rows, row_bytes = _segment_shape(page)[0], _row_bytes(page)
    per_plane = math.ceil(page.imagelength / rows)
    final_rows = rows if page.is_tiled else (page.imagelength - 1) % rows + 1
    for index, size in enumerate(page.databytecounts):
        needed = row_bytes * (rows if (index + 1) % per_plane or page.is_tiled else final_rows)
        found = f"strip or tile {index} has {size} bytes, its pixels need {needed}"
        if size < needed:
            raise ImageRefused("truncated", found)
        if size > needed and (index + 1 < len(page.databytecounts) or size > rows * row_bytes + _PADDING):
            raise ImageRefused("damaged", found)


def _check_codestreams(streams: Sequence[bytes], page: Any) -> None:
    """Each JPEG or JPEG 2000 stream has its end, the declared bits, and no more pixels than its segment.

    Source: libjpeg and OpenJPEG fill in what is missing at the end, with no error; the marker is that of
    ITU T.81 B.1.1.3 and T.800 A.4.4. The size inside the stream decides what the decoder allocates.
    """
    rows, columns = _segment_shape(page)
    for index, stream in enumerate(streams):
        if not stream.rstrip(b"\0").endswith(b"\xff\xd9"):
            raise ImageRefused("truncated", f"strip or tile {index} has no end marker")
        bits, height, width = _codestream_size(stream, jpeg=page.compression == _JPEG)
        if height * width > rows * columns or bits != page.bitspersample:
            raise ImageRefused("damaged", f"strip or tile {index} holds {width} x {height} pixels of {bits} bits")


def _codestream_size(stream: bytes, *, jpeg: bool) -> tuple[int, int, int]:
    """Bits, height and width that a JPEG or JPEG 2000 stream declares."""
    if jpeg:
        return jpeg_shape(stream)[:3]  # type: ignore[no-any-return]
    start = stream.index(b"\xff\x4f\xff\x51")
    width, height = struct.unpack_from(">II", stream, start + 8)
    return (stream[start + 42] & 0x7F) + 1, height, width


def _read_samples(data: bytes, page: Any) -> npt.NDArray[Any]:
    """Samples as stored, shape (height, width, samples)."""
    stored = _read_lzw(data, page) if page.compression == _LZW else page.asarray(maxworkers=1)
    if stored.shape != page.shape or (stored.dtype.kind, stored.dtype.itemsize) != (
        page.dtype.kind,
        page.dtype.itemsize,
    ):
        raise ImageRefused("damaged", f"{stored.dtype} {stored.shape} where {page.dtype} {page.shape} is declared")
    if page.planarconfig == 2 and stored.ndim > 2:  # noqa: PLR2004 - separate planes come first
        stored = np.moveaxis(stored, 0, -1)
    return stored.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)


def _read_lzw(data: bytes, page: Any) -> npt.NDArray[Any]:
    """LZW through libtiff: as strict as tifffile, and twice as fast.

    imagecodecs 2026.3.6, which tifffile uses, crashes the process on some damaged LZW streams (one begins
    80 4b e0 40), so it is given none. Other compressions stay with tifffile: libtiff takes damaged deflate
    (it skips the checksum) and JPEG (it fills in gray), and is no faster there. Only packed bits (1, 4, 12)
    with more data than pixels pass here where tifffile refuses them.
    """
    return np.asarray(imagecodecs.tiff_decode(_as_gray(data, page) if page.photometric == _CMYK else data))


def _as_gray(data: bytes, page: Any) -> bytes:
    """The file with its colour space relabelled, since libtiff would turn CMYK into RGB, and skip damage."""
    tag = page.tags[_PHOTOMETRIC]
    relabelled = bytearray(data)
    struct.pack_into(_byte_order(data) + "H", relabelled, tag.valueoffset, _BLACK_IS_ZERO)
    if tag.dtype != _SHORT:
        raise ImageRefused("damaged", f"tag {_PHOTOMETRIC} has type {tag.dtype}, expected {_SHORT}")
    return bytes(relabelled)


def _decoder_gives_rgb(page: Any) -> bool:
    """Whether the JPEG decoder has already turned YCbCr into RGB (tifffile's `jpeg_decode_colorspace`)."""
    return bool(page.compression == _JPEG and page.planarconfig == 1 and not page.extrasamples)


def _to_rgb(samples: npt.NDArray[Any], page: Any) -> UInt8Array:
    """8-bit RGB over white, shape (height, width, 3), not yet upright."""
    photometric = int(page.photometric)
    colours, alpha = np.split(samples, [_COLOURS[photometric]], axis=2)
    opacity = _opacity(alpha, page)
    if photometric == _PALETTE:
        rgb = _palette_to_rgb(colours, page)
    elif photometric == _LAB:
        rgb = _lab_to_rgb(colours)
    elif photometric == _CMYK:
        rgb = _cmyk_to_rgb(_to_8_bits(colours, page))
    elif photometric == _YCBCR and not _decoder_gives_rgb(page):
        rgb = _ycbcr_to_rgb(colours, page)
    else:
        rgb = _to_8_bits(colours, page)
        rgb = 255 - rgb if photometric == _WHITE_IS_ZERO else rgb
        rgb = np.repeat(rgb, 3, axis=2) if rgb.shape[2] == 1 else rgb
    return rgb if opacity is None else _over_white(rgb, opacity, associated=_ASSOCIATED in page.extrasamples)


def _opacity(extra: npt.NDArray[Any], page: Any) -> UInt8Array | None:
    """The 8-bit alpha channel, shape (height, width, 1), or None where every pixel is opaque."""
    stated = tuple(map(int, page.extrasamples))
    if extra.shape[2] > 1 or page.samplesperpixel < _COLOURS[int(page.photometric)]:
        raise ImageRefused(
            "unknown_channels", f"{page.samplesperpixel} samples with photometric {int(page.photometric)}"
        )
    if len(stated) > extra.shape[2]:
        raise ImageRefused("damaged", f"extra samples {stated}, but {extra.shape[2]} are stored")
    if extra.shape[2] == 0:
        return None
    opacity = _to_8_bits(extra, page)
    if opacity.min() == 255:  # noqa: PLR2004 - opaque, whatever it means
        return None
    if stated not in {(_ASSOCIATED,), (_UNASSOCIATED,)}:
        raise ImageRefused("unknown_channels", "an extra sample that is not stated to be alpha")
    if page.photometric == _WHITE_IS_ZERO and stated == (_ASSOCIATED,):
        raise ImageRefused("unsupported", "associated alpha where 0 is white")
    return opacity


def _over_white(rgb: UInt8Array, opacity: UInt8Array, *, associated: bool) -> UInt8Array:
    """Composite over white: c + 1 - a where c is already multiplied by alpha, else c * a + 1 - a."""
    white = 255 - opacity.astype(np.uint16)
    colour = rgb.astype(np.uint16) if associated else (rgb * opacity.astype(np.uint16) + 127) // 255
    return np.asarray(np.minimum(colour + white, 255), dtype=np.uint8)


def _to_8_bits(samples: npt.NDArray[Any], page: Any) -> UInt8Array:
    """Samples as uint8, from black at 0 to white at 255, rounding half up."""
    if samples.dtype == np.bool_:
        return samples * np.uint8(255)
    if samples.dtype.kind == "f":
        return _unit_floats_to_8_bits(samples)
    if samples.dtype.kind != "u":
        raise ImageRefused("signed_range", f"{samples.dtype}: no value is stated to be black or white")
    white = _stated_maximum(samples, page)
    if samples.dtype == np.uint8 and white == 255:  # noqa: PLR2004 - already so
        return samples
    if samples.dtype.itemsize <= 2:  # noqa: PLR2004 - a table of at most 65,536 entries
        table = (np.arange(white + 1, dtype=np.uint64) * 510 + white) // (2 * white)
        return np.take(np.asarray(table, dtype=np.uint8), samples)
    return _rounded(samples * (255 / white))


def _rounded(values: npt.NDArray[Any]) -> UInt8Array:
    """Values in [0, 255] as uint8, rounding half up."""
    return np.asarray(np.floor(values + 0.5), dtype=np.uint8)


def _unit_floats_to_8_bits(samples: npt.NDArray[Any]) -> UInt8Array:
    """Floats in [0, 1] as uint8; any other range is refused."""
    if not np.isfinite(samples).all():
        raise ImageRefused("not_finite", f"{np.count_nonzero(~np.isfinite(samples))} samples are NaN or infinite")
    low, high = float(samples.min()), float(samples.max())
    if low < 0 or high > 1:
        raise ImageRefused("float_range", f"samples from {low:g} to {high:g}, expected within [0, 1]")
    return _rounded(samples.astype(np.float64) * 255)


def _stated_maximum(samples: npt.NDArray[Any], page: Any) -> int:
    """The value of white: 2^bits - 1 with the significant bits that the file states.

    MaxSampleValue or SMaxSampleValue narrows BitsPerSample (12-bit data in 16 bits) when it is the top of at
    least 8 whole bits and no sample exceeds it; otherwise it is only a statistic of this image.
    """
    stated = np.unique(np.concatenate([np.ravel(page.tags.valueof(code, ())) for code in (281, 341)]))
    bits = int(stated[0]).bit_length() if stated.size == 1 and np.isfinite(stated[0]) else 0
    if 8 <= bits < page.bitspersample and stated[0] == 2**bits - 1 >= samples.max():  # noqa: PLR2004
        return int(2**bits - 1)
    return int(2**page.bitspersample - 1)


def _palette_to_rgb(indices: npt.NDArray[Any], page: Any) -> UInt8Array:
    """Look up (height, width, 1) indices in the 16-bit ColorMap."""
    if indices.dtype.kind not in "bu":
        raise ImageRefused("unsupported", f"palette indices of type {indices.dtype}")
    colours = np.asarray(page.tags.valueof(320), dtype=np.uint32).reshape(3, -1).T
    if indices.max() >= len(colours):
        raise ImageRefused("damaged", f"index {indices.max()} in a palette of {len(colours)} colours")
    if 0 < colours.max() < 256:  # noqa: PLR2004
        raise ImageRefused("unsupported", "a palette of 8-bit values where the format has 16")
    table = ((colours * 255 + 32767) // 65535).astype(np.uint8)
    return table[indices[..., 0].astype(np.intp)]


def _cmyk_to_rgb(inks: UInt8Array) -> UInt8Array:
    """(255 - ink) * (255 - black) / 255 for each of RGB. Source: libtiff and Pillow, no profile."""
    light = 255 - inks.astype(np.uint32)
    return ((light[..., :3] * light[..., 3:] + 127) // 255).astype(np.uint8)


def _ycbcr_to_rgb(codes: npt.NDArray[Any], page: Any) -> UInt8Array:
    """8-bit YCbCr, not subsampled, to RGB. Source: TIFF 6.0, sections 20 and 21."""
    if codes.dtype != np.uint8:
        raise ImageRefused("unsupported", f"YCbCr of {page.bitspersample} bits")
    red, green, blue = _rationals(page, 529, (0.299, 0.587, 0.114))
    limits = _rationals(page, 532, (0, 255, 128, 255, 128, 255))
    steps = [
        top / (white - black) for top, black, white in zip((255, 127, 127), limits[::2], limits[1::2], strict=True)
    ]
    y, cb, cr = np.moveaxis((codes - np.array(limits[::2])) * np.array(steps), -1, 0)
    r, b = y + cr * (2 - 2 * red), y + cb * (2 - 2 * blue)
    rgb = np.stack([r, (y - red * r - blue * b) / green, b], axis=-1)
    return _rounded(np.clip(rgb, 0, 255))


def _rationals(page: Any, code: int, default: Sequence[float]) -> Sequence[float]:
    """The values of a RATIONAL tag, which tifffile gives as numerators and denominators in turn."""
    value = page.tags.valueof(code)
    if value is None:
        return default
    return [top / bottom for top, bottom in zip(value[::2], value[1::2], strict=True)]


def _lab_to_rgb(codes: npt.NDArray[Any]) -> UInt8Array:
    """CIE L*a*b* (D50) to sRGB; a and b are signed. Colours outside sRGB are clipped.

    Source: TIFF 6.0, section 23; CIE 15; the matrix is XYZ (D50, Bradford) to sRGB of IEC 61966-2-1.
    """
    if codes.dtype not in (np.uint8, np.uint16):
        raise ImageRefused("unsupported", f"CIELab of type {codes.dtype}")
    full, step = (255, 1) if codes.dtype == np.uint8 else (65535, 256)
    signed = codes[..., 1:].astype(codes.dtype.str.replace("u", "i")) / step
    fy = (codes[..., 0] * (100 / full) + 16) / 116
    f = np.stack([fy + signed[..., 0] / 500, fy, fy - signed[..., 1] / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, (f - 4 / 29) * 3 * (6 / 29) ** 2) * (0.96422, 1.0, 0.82521)
    to_srgb = [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
    linear = np.clip(xyz @ np.transpose(to_srgb), 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)  # noqa: PLR2004
    return _rounded(encoded * 255)


def _upright(rgb: UInt8Array, page: Any) -> UInt8Array:
    """Apply the Orientation tag. Source: TIFF 6.0, section 8, tag 274."""
    orientation = page.tags.valueof(274, 1)
    if orientation not in range(1, 9):
        raise ImageRefused("damaged", f"orientation {orientation}, expected 1 to 8")
    mirrored, quarter_turns = {
        1: (0, 0),
        2: (1, 0),
        3: (0, 2),
        4: (1, 2),
        5: (1, 1),
        6: (0, 3),
        7: (1, 3),
        8: (0, 1),
    }[orientation]
    return np.rot90(rgb[:, ::-1] if mirrored else rgb, quarter_turns)
