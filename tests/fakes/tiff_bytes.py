"""The bytes of TIFFs that tests need: valid, with a tag changed, or damaged."""

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import strategies as st

from lib.config.images import TiffPolicy
from lib.errors import ImageRefused
from lib.ingest.tiff.decode import UInt8Array, decode_tiff
from lib.ingest.tiff.refusals import REFUSAL_CODES

POLICY = TiffPolicy(max_pixels=4_000_000)
ODD_TIFFS = Path(__file__).parents[3] / "shared/data/odd-tiffs"

NOISE = np.random.default_rng(7).integers(0, 256, (40, 36, 3), dtype=np.uint8)
SMOOTH = np.add.outer(np.arange(0, 160, 4), np.arange(72).reshape(36, 2)[:, :1] + [[0, 20, 40]]).astype(np.uint8)


def written(samples: Any, photometric: str = "rgb", **options: Any) -> bytes:
    """The bytes of a TIFF that tifffile writes."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.asarray(samples), photometric=photometric, metadata=None, **options)
    return buffer.getvalue()


def refusal_of(data: bytes, policy: TiffPolicy = POLICY) -> ImageRefused:
    with pytest.raises(ImageRefused) as caught:
        decode_tiff(data, policy)
    assert caught.value.code in REFUSAL_CODES
    return caught.value


def verdict_on(data: bytes, policy: TiffPolicy = POLICY) -> UInt8Array | ImageRefused:
    """The image, or why there is none; any other exception escapes."""
    try:
        return decode_tiff(data, policy)
    except ImageRefused as refusal:
        return refusal


def with_tag(data: bytes, code: int, value: int) -> bytes:
    """A little-endian classic TIFF with the inline value of one tag of its first directory replaced."""
    changed = bytearray(data)
    at = entry_of(data, code)
    struct.pack_into("<H" if data[at + 2] == 3 else "<I", changed, at + 8, value)
    return bytes(changed)


def entry_of(data: bytes, code: int) -> int:
    """Offset of the 12-byte entry of a tag."""
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    entries = range(start + 2, start + 2 + 12 * count, 12)
    return next(entry for entry in entries if struct.unpack_from("<H", data, entry)[0] == code)


def segments_of(data: bytes) -> list[tuple[int, int]]:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        return list(zip(page.dataoffsets, page.databytecounts, strict=True))


def gray_of(data: bytes, policy: TiffPolicy = POLICY) -> list[int]:
    """The first row of an image that must be gray."""
    rgb = decode_tiff(data, policy)
    assert (rgb == rgb[..., :1]).all()
    return [int(value) for value in rgb[0, :, 0]]


LOSSLESS = {
    "plain": {},
    "strips": {"rowsperstrip": 7},
    "tiles": {"tile": (16, 16)},
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
    "LZW": {"compression": "lzw"},
    "LZW, predictor": {"compression": "lzw", "predictor": True, "rowsperstrip": 7},
    "LZW, tiles, big-endian": {"compression": "lzw", "tile": (16, 32), "byteorder": ">"},
    "deflate": {"compression": "zlib"},
    "deflate, predictor": {"compression": "zlib", "predictor": True, "tile": (16, 16)},
    "zstd": {"compression": "zstd"},
    "LZMA": {"compression": "lzma"},
    "PackBits": {"compression": "packbits"},
    "WebP": {"compression": "webp", "compressionargs": {"lossless": True}},
    "JPEG 2000": {"compression": "jpeg2000"},
}


SEEDS = [
    *(written(NOISE, **options) for options in LOSSLESS.values()),
    written(SMOOTH, compression="jpeg", tile=(16, 16)),
    written(np.moveaxis(NOISE, -1, 0), planarconfig="separate", compression="zlib"),
    written(NOISE[..., :2], "minisblack", planarconfig="contig", extrasamples=["unassalpha"]),
    written(NOISE[..., 0] > 99, "miniswhite"),
    written(NOISE[..., 0], "palette", colormap=np.arange(768, dtype=np.uint16).reshape(3, 256) * 80),
    written(NOISE.astype(np.uint16) * 257, byteorder=">", compression="lzw"),
    written(NOISE.astype(np.float32) / 255, compression="lzw", predictor=3),
]


@st.composite
def damaged_tiffs(draw: st.DrawFn) -> bytes:
    """A valid TIFF with a few bytes changed, most of them in its directory, and sometimes its end cut off."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    anywhere = st.integers(0, len(data) - 1)
    for position in draw(st.lists(st.integers(0, 300) | anywhere, min_size=1, max_size=4)):
        data[position % len(data)] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.sampled_from([len(data)] * 4 + [len(data) // 2])) or draw(anywhere)])


def check_verdict(data: bytes, policy: TiffPolicy = POLICY) -> None:
    """An RGB image or a refusal with a known code, and the same each time."""
    verdict = verdict_on(data, policy)
    if isinstance(verdict, ImageRefused):
        assert verdict.code in REFUSAL_CODES
        assert pickle.loads(pickle.dumps(verdict)).code == verdict.code
    else:
        assert verdict.dtype == np.uint8
        assert verdict.ndim == verdict.shape[2] == 3
        assert 0 < verdict.shape[0] * verdict.shape[1] <= policy.max_pixels
        assert verdict.flags.c_contiguous
        np.testing.assert_array_equal(verdict, decode_tiff(data, policy))
