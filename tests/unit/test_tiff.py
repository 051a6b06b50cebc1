"""Decoding TIFFs: values by hand, tifffile, Pillow and lcms as references, and damage of every kind."""

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from lib.config import TiffPolicy
from lib.errors import ImageRefused
from lib.ingest import tiff
from lib.ingest.tiff import REFUSAL_CODES, decode_tiff

POLICY = TiffPolicy(max_pixels=4_000_000)
ODD_TIFFS = Path(__file__).parents[3] / "shared/data/odd-tiffs"

RNG = np.random.default_rng(7)
NOISE = RNG.integers(0, 256, (40, 36, 3), dtype=np.uint8)
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


def verdict_on(data: bytes) -> tiff.UInt8Array | ImageRefused:
    """The image, or why there is none; any other exception escapes."""
    try:
        return decode_tiff(data, POLICY)
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


def gray_of(data: bytes) -> list[int]:
    """The first row of an image that must be gray."""
    rgb = decode_tiff(data, POLICY)
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


@pytest.mark.parametrize("options", LOSSLESS.values(), ids=LOSSLESS)
def test_lossless_rgb_comes_back_as_it_was_written(options: dict[str, Any]) -> None:
    rgb = decode_tiff(written(NOISE, **options), POLICY)
    np.testing.assert_array_equal(rgb, NOISE)
    assert rgb.dtype == np.uint8
    assert rgb.flags.c_contiguous


@pytest.mark.parametrize("layout", [{}, {"compression": "lzw"}, {"compression": "zlib", "tile": (16, 16)}], ids=str)
def test_separate_planes_are_put_together(layout: dict[str, Any]) -> None:
    planes = written(np.moveaxis(NOISE, -1, 0), planarconfig="separate", **layout)
    np.testing.assert_array_equal(decode_tiff(planes, POLICY), NOISE)


@pytest.mark.parametrize("layout", [{}, {"tile": (16, 16)}, {"rowsperstrip": 16}], ids=str)
def test_jpeg_is_decoded_as_tifffile_and_pillow_decode_it(layout: dict[str, Any]) -> None:
    data = written(SMOOTH, compression="jpeg", **layout)
    rgb = decode_tiff(data, POLICY)
    np.testing.assert_array_equal(rgb, tifffile.imread(io.BytesIO(data)))
    with Image.open(io.BytesIO(data)) as image:
        assert np.abs(rgb.astype(int) - np.asarray(image.convert("RGB"))).max() <= 8


def test_16_bits_are_scaled_with_rounding() -> None:
    # 128 / 65535 * 255 = 0.498, 129 -> 0.502, 32768 -> 127.502
    samples = np.array([[0, 128, 129, 32768, 65535]], dtype=np.uint16)
    assert gray_of(written(samples, "minisblack")) == [0, 0, 1, 128, 255]


def test_32_bits_are_scaled_with_rounding() -> None:
    samples = np.array([[0, 2**24, 2**31, 2**32 - 1]], dtype=np.uint32)
    assert gray_of(written(samples, "minisblack")) == [0, 1, 128, 255]


def test_a_stated_maximum_of_12_bits_is_white() -> None:
    samples = np.array([[0, 2048, 4095]], dtype=np.uint16)
    stated = written(samples, "minisblack", extratags=[(281, "H", 1, 4095, True)])
    assert gray_of(stated) == [0, 128, 255]
    assert gray_of(written(samples, "minisblack")) == [0, 8, 16]


@pytest.mark.parametrize("maximum", [3912, 2047, 127])
def test_a_stated_maximum_that_is_only_a_statistic_or_exceeded_is_not_white(maximum: int) -> None:
    samples = np.array([[0, 2048, 4095]], dtype=np.uint16)
    assert gray_of(written(samples, "minisblack", extratags=[(281, "H", 1, maximum, True)])) == [0, 8, 16]


def test_one_bit_is_black_or_white_and_inverted_where_white_is_zero() -> None:
    samples = np.array([[True, False, True]])
    assert gray_of(written(samples, "minisblack")) == [255, 0, 255]
    assert gray_of(written(samples, "miniswhite")) == [0, 255, 0]
    assert gray_of(written(np.array([[0, 10]], np.uint8), "miniswhite")) == [255, 245]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_within_0_and_1_are_scaled(dtype: type) -> None:
    assert gray_of(written(np.array([[0, 0.5, 1]], dtype=dtype), "minisblack")) == [0, 128, 255]


@pytest.mark.parametrize(
    ("value", "code"),
    [(np.nan, "not_finite"), (np.inf, "not_finite"), (1.01, "float_range"), (-0.1, "float_range")],
)
def test_floats_of_unknown_meaning_are_refused(value: float, code: str) -> None:
    assert refusal_of(written(np.array([[0, value]], dtype=np.float32), "minisblack")).code == code


def test_signed_and_complex_samples_are_refused() -> None:
    assert refusal_of(written(np.array([[-1, 1]], dtype=np.int16), "minisblack")).code == "signed_range"
    assert refusal_of(written(np.array([[1j, 1]], dtype=np.complex64), "minisblack")).code == "unsupported"


def test_unassociated_alpha_is_laid_over_white() -> None:
    # 100 * 51/255 + 255 * (1 - 51/255) = 20 + 204
    samples = np.array([[[100, 0, 255, 51], [9, 8, 7, 255], [9, 8, 7, 0]]], dtype=np.uint8)
    rgb = decode_tiff(written(samples, extrasamples=["unassalpha"]), POLICY)
    assert rgb[0].tolist() == [[224, 204, 255], [9, 8, 7], [255, 255, 255]]


def test_associated_alpha_is_already_multiplied() -> None:
    samples = np.array([[[20, 0, 51, 51], [9, 8, 7, 255], [0, 0, 0, 0]]], dtype=np.uint8)
    rgb = decode_tiff(written(samples, extrasamples=["assocalpha"]), POLICY)
    assert rgb[0].tolist() == [[224, 204, 255], [9, 8, 7], [255, 255, 255]]


def test_gray_with_alpha_is_laid_over_white() -> None:
    samples = np.array([[[100, 51], [7, 255]]], dtype=np.uint8)
    assert gray_of(written(samples, "minisblack", extrasamples=["unassalpha"])) == [224, 7]


def test_an_unstated_extra_sample_is_accepted_only_where_it_changes_nothing() -> None:
    samples = np.dstack([NOISE, np.full((40, 36), 255, np.uint8)])
    np.testing.assert_array_equal(decode_tiff(written(samples, extrasamples=["unspecified"]), POLICY), NOISE)
    samples[3, 3, 3] = 254
    assert refusal_of(written(samples, extrasamples=["unspecified"])).code == "unknown_channels"


def test_channels_without_a_meaning_are_refused() -> None:
    assert refusal_of(written(NOISE, "minisblack", planarconfig="contig")).code == "unknown_channels"
    five = np.zeros((8, 8, 5), dtype=np.uint8)
    assert refusal_of(written(five, "minisblack", planarconfig="contig")).code == "too_many_channels"


@pytest.mark.parametrize("layout", [{}, {"compression": "lzw"}], ids=str)
def test_cmyk_is_converted_as_pillow_converts_it(layout: dict[str, Any]) -> None:
    inks = RNG.integers(0, 256, (16, 16, 4), dtype=np.uint8)
    by_pillow = np.asarray(Image.frombytes("CMYK", (16, 16), inks.tobytes()).convert("RGB"))
    rgb = decode_tiff(written(inks, "separated", **layout), POLICY)
    assert np.abs(rgb.astype(int) - by_pillow).max() <= 1


def test_a_palette_of_16_bit_values_is_looked_up() -> None:
    colours = np.zeros((3, 256), dtype=np.uint16)
    colours[:, 5] = [65535, 32896, 0]
    rgb = decode_tiff(written(np.array([[0, 5]], np.uint8), "palette", colormap=colours), POLICY)
    assert rgb[0].tolist() == [[0, 0, 0], [255, 128, 0]]


def test_a_palette_of_8_bit_values_is_refused() -> None:
    colours = np.tile(np.arange(256, dtype=np.uint16), (3, 1))
    assert refusal_of(written(np.array([[0, 5]], np.uint8), "palette", colormap=colours)).code == "unsupported"


def test_ycbcr_that_is_not_subsampled_is_converted_as_pillow_converts_it() -> None:
    codes = NOISE.reshape(-1, 30, 3)
    by_pillow = np.asarray(Image.frombytes("YCbCr", codes.shape[1::-1], codes.tobytes()).convert("RGB"))
    data = written(codes, "ycbcr", subsampling=(1, 1), compression="zlib")
    assert np.abs(decode_tiff(data, POLICY).astype(int) - by_pillow).max() <= 1


def test_lab_is_converted_as_lcms_converts_it() -> None:
    codes = np.zeros((16, 16, 3), dtype=np.uint8)
    codes[..., 0] = np.linspace(60, 200, 256).reshape(16, 16)
    codes[..., 1:] = RNG.integers(-12, 13, (16, 16, 2)).astype(np.int8).view(np.uint8)
    image = Image.frombytes("LAB", (16, 16), codes.tobytes())
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    by_lcms = np.asarray(ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB"))  # type: ignore[arg-type]
    assert np.abs(decode_tiff(written(codes, "cielab"), POLICY).astype(int) - by_lcms).max() <= 2


def test_lab_white_and_black_are_white_and_black() -> None:
    wide = np.array([[[65535, 0, 0], [0, 0, 0]]], dtype=np.uint16)
    assert decode_tiff(written(wide, "cielab"), POLICY)[0].tolist() == [[255, 255, 255], [0, 0, 0]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_as_pillow_applies_it(orientation: int) -> None:
    image = Image.fromarray(NOISE)
    exif = image.getexif()
    exif[274] = orientation
    image.info["exif"] = exif.tobytes()
    data = written(NOISE, extratags=[(274, "H", 1, orientation, True)])
    np.testing.assert_array_equal(decode_tiff(data, POLICY), np.asarray(ImageOps.exif_transpose(image)))


def test_an_orientation_that_does_not_exist_is_refused() -> None:
    assert refusal_of(written(NOISE, extratags=[(274, "H", 1, 9, True)])).code == "damaged"


def test_a_constant_image_is_an_image() -> None:
    white = np.full((16, 16, 3), 255, dtype=np.uint8)
    np.testing.assert_array_equal(decode_tiff(written(white), POLICY), white)


def test_the_first_page_of_a_stack_is_read() -> None:
    stack = np.stack([NOISE, 255 - NOISE])
    for compression in (None, "lzw"):
        np.testing.assert_array_equal(decode_tiff(written(stack, compression=compression), POLICY), NOISE)


@pytest.mark.parametrize("data", [b"", b"II", b"\xff\xd8\xff\xe0", b"this is text"])
def test_other_files_are_refused_as_not_tiff(data: bytes) -> None:
    assert refusal_of(data).code == "not_tiff"


def test_a_size_above_the_policy_is_refused_before_anything_is_read() -> None:
    data = written(NOISE)
    assert refusal_of(data, TiffPolicy(max_pixels=40 * 36 - 1)).code == "too_large"
    assert decode_tiff(data, TiffPolicy(max_pixels=40 * 36)).shape == NOISE.shape
    claims_terabytes = with_tag(with_tag(data, 256, 60_000), 257, 60_000)
    assert refusal_of(claims_terabytes, TiffPolicy()).code == "too_large"


def test_a_huge_tile_of_a_small_image_is_refused() -> None:
    data = written(NOISE, tile=(16, 16))
    assert refusal_of(with_tag(with_tag(data, 322, 65520), 323, 65520)).code == "too_large"


@pytest.mark.parametrize("code", [256, 257])
def test_an_image_without_pixels_is_refused(code: int) -> None:
    assert refusal_of(with_tag(written(NOISE), code, 0)).code == "no_pixels"


@pytest.mark.parametrize("compression", [6, 50002, 34887, 12345])
def test_a_compression_that_is_not_read_is_named(compression: int) -> None:
    refusal = refusal_of(with_tag(written(NOISE), 259, compression))
    assert refusal.code == "unsupported"
    assert str(compression) in refusal.detail


def test_a_missing_or_repeated_tag_is_not_replaced_by_a_default() -> None:
    data = bytearray(written(NOISE))
    struct.pack_into("<H", data, entry_of(bytes(data), 262), 263)
    assert "262" in refusal_of(bytes(data)).detail
    data = bytearray(written(NOISE))
    struct.pack_into("<H", data, entry_of(bytes(data), 258) + 2, 99)  # a field type that does not exist
    assert refusal_of(bytes(data)).code == "damaged"


@pytest.mark.parametrize("options", LOSSLESS.values(), ids=LOSSLESS)
def test_a_file_cut_anywhere_in_its_pixels_is_truncated(options: dict[str, Any]) -> None:
    data = written(NOISE, **options)
    last = max(offset + size for offset, size in segments_of(data))
    for cut in (1, 7, 100):
        assert refusal_of(data[: last - cut]).code == "truncated"


def test_jpeg_and_jpeg_2000_without_their_end_are_truncated() -> None:
    for compression in ("jpeg", "jpeg2000"):
        data = bytearray(written(SMOOTH, compression=compression))
        offset, size = segments_of(bytes(data))[0]
        data[offset + size // 2 : offset + size] = bytes(size - size // 2)
        assert refusal_of(bytes(data)).code == "truncated"


def test_a_jpeg_larger_than_its_strip_is_refused_before_it_is_decoded() -> None:
    data = bytearray(written(SMOOTH, compression="jpeg"))
    offset, size = segments_of(bytes(data))[0]
    frame = data.index(b"\xff\xc0", offset, offset + size)
    struct.pack_into(">HH", data, frame + 5, 65000, 65000)
    assert "65000" in refusal_of(bytes(data)).detail


@pytest.mark.parametrize("compression", ["lzw", "zlib", "zstd", "packbits", "lzma"])
def test_a_strip_whose_end_was_never_written_is_refused(compression: str) -> None:
    data = bytearray(written(SMOOTH, compression=compression, rowsperstrip=16))
    for offset, size in segments_of(bytes(data)):
        cut = bytearray(data)
        cut[offset + size // 2 : offset + size] = bytes(size - size // 2)
        assert refusal_of(bytes(cut)).code in {"damaged", "truncated"}


def test_any_flipped_bit_in_deflate_is_refused_or_changes_nothing() -> None:
    data = written(NOISE, compression="zlib")
    offset, size = segments_of(data)[0]
    for index in range(offset, offset + size, 37):
        flipped = bytearray(data)
        flipped[index] ^= 16
        assert refusal_of(bytes(flipped)).code == "damaged"


@settings(derandomize=True, deadline=None, max_examples=150)
@given(position=st.floats(0, 1), bit=st.integers(0, 7), predictor=st.booleans())
def test_libtiff_reads_damaged_lzw_as_tifffile_does(position: float, bit: int, predictor: bool) -> None:
    data = bytearray(written(NOISE, compression="lzw", predictor=predictor, rowsperstrip=16))
    segments = segments_of(bytes(data))
    low, high = segments[0][0], sum(segments[-1])
    data[low + int(position * (high - low - 1))] ^= 1 << bit
    verdict = verdict_on(bytes(data))
    if isinstance(verdict, ImageRefused):
        assert verdict.code == "damaged"
    else:
        np.testing.assert_array_equal(verdict, tifffile.imread(io.BytesIO(data)))


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "jpeg"])
def test_fewer_bits_than_the_data_holds_are_refused(compression: str | None) -> None:
    data = bytearray(written(NOISE[..., 0], "minisblack", compression=compression))
    assert refusal_of(with_tag(bytes(data), 258, 1)).code == "damaged"


def test_the_lzw_stream_that_crashes_imagecodecs_is_refused() -> None:
    for layout in ({"photometric": "separated"}, {"photometric": "rgb"}):
        samples = RNG.integers(0, 256, (16, 16, 4 if layout["photometric"] == "separated" else 3), dtype=np.uint8)
        data = bytearray(written(samples, compression="lzw", **layout))
        offset, _ = segments_of(bytes(data))[0]
        data[offset : offset + 4] = bytes.fromhex("804be040")
        assert refusal_of(bytes(data)).code == "damaged"


def test_a_refusal_survives_a_pickle_round_trip() -> None:
    refusal = refusal_of(b"text")
    again = pickle.loads(pickle.dumps(refusal))
    assert (again.code, again.detail, str(again)) == (refusal.code, refusal.detail, str(refusal))


def test_memory_trouble_is_not_a_verdict_on_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(tiff, "_read_samples", exhausted)
    with pytest.raises(MemoryError):
        decode_tiff(written(NOISE), POLICY)


def test_a_damaged_file_is_refused_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(written(NOISE, compression="lzw"))
    struct.pack_into("<H", data, entry_of(bytes(data), 258) + 2, 99)
    refusal_of(bytes(data))
    data = bytearray(written(NOISE, compression="lzw"))
    data[segments_of(bytes(data))[0][0]] ^= 255
    refusal_of(bytes(data))
    assert capfd.readouterr() == ("", "")


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


def check_verdict(data: bytes) -> None:
    """An RGB image or a refusal with a known code, and the same each time."""
    verdict = verdict_on(data)
    if isinstance(verdict, ImageRefused):
        assert verdict.code in REFUSAL_CODES
        assert pickle.loads(pickle.dumps(verdict)).code == verdict.code
    else:
        assert verdict.dtype == np.uint8
        assert verdict.ndim == verdict.shape[2] == 3
        assert 0 < verdict.shape[0] * verdict.shape[1] <= POLICY.max_pixels
        assert verdict.flags.c_contiguous
        np.testing.assert_array_equal(verdict, decode_tiff(data, POLICY))


@settings(derandomize=True, deadline=None, max_examples=1500)
@given(data=damaged_tiffs())
def test_a_damaged_tiff_is_an_image_or_a_refusal(data: bytes) -> None:
    check_verdict(data)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    head=st.sampled_from([b"", b"II*\0", b"MM\0*", b"II+\0", b"II*\0\x08\0\0\0"]),
    tail=st.binary(max_size=400),
)
def test_any_bytes_are_an_image_or_a_refusal(head: bytes, tail: bytes) -> None:
    check_verdict(head + tail)


# What becomes of each file: the shape of its image, or the code of its refusal.
VERDICTS: dict[str, tuple[int, int] | str] = {
    "._human_liver_01.tif": "not_tiff",
    "0x0.tiff": "no_pixels",
    "10ct_32bit_128.tiff": "damaged",
    "16bit.MM.deflate.tif": (64, 64),
    "BigTIFFMotorola.tif": (64, 64),
    "BigTIFFSubIFD8.tif": (64, 64),
    "bali.tif": (489, 725),
    "binuc1.tiff": (200, 200),
    "cmyk-with-non-alpha-extra-channel.tiff": "too_many_channels",
    "cogeo.tif": (1024, 1024),
    "corrupt.tif": "truncated",
    "crash-2020-10-test.tif": "damaged",
    "crash-63b1dffefc8c075ddc606c0a2f5fdc15ece78863.tif": "damaged",
    "float_nan.tif": "not_finite",
    "floatingpoint-16bit.tif": (151, 151),
    "floatingpoint-64bit.tif": "not_finite",
    "flower-ycbcr42-contig-08.tif": "unsupported",
    "g4_orientation_6.tif": (88, 590),
    "graydepth-invert-overflow-5a0aad5024cc4ff3.tiff": "damaged",
    "grayscale-alpha.tiff": (351, 248),
    "hopper.Lab.tif": (128, 128),
    "hopper.iccprofile.tif": (128, 128),
    "hopper2I.tif": (128, 128),
    "hopper_bigtiff.tif": (128, 128),
    "hopper_g4_500.tif": (500, 500),
    "hopper_gray_4bpp.tif": (128, 128),
    "hopper_lzw.tif": (128, 128),
    "hopper_webp.tif": (128, 128),
    "invalid-palette-ref.tiff": "damaged",
    "jpeg-lossless-12bit-gray.tif": (512, 512),
    "libtiff_segfault.tif": "too_large",
    "lymphoma_eosin_channel_MCL_test_img_sj-05-3362-R2_001_E.tif": (1040, 1388),
    "made_empty.tif": "not_tiff",
    "made_jpeg2000.tif": (256, 256),
    "made_jpeg_named.tif": "not_tiff",
    "made_rgb_4page_stack.tif": (128, 128),
    "made_text_named.tif": "not_tiff",
    "made_truncated_8bytes.tif": "truncated",
    "made_truncated_half.tif": "truncated",
    "made_uint16_rgb_lowrange.tif": (256, 256),
    "mri.tif": (128, 128),
    "multi-channel-z-series.ome.tif": "signed_range",
    "multifile-Z1.ome.tiff": (24, 18),
    "noeof.tif": (4, 6),
    "poppies.tif": (1008, 756),
    "sample-get-lzw-stuck.tiff": "truncated",
    "seq-3c-24b-contig-27b9f8ce.tiff": (16, 16),
    "shapes_deflate.tif": (72, 128),
    "shapes_lzw.tif": (72, 128),
    "shapes_lzw_14bps.tif": (72, 128),
    "shapes_lzw_palette.tif": (72, 128),
    "shapes_lzw_planar_10bps.tif": (72, 128),
    "shapes_lzw_predictor3.tif": (72, 128),
    "shapes_uncompressed.tif": (72, 128),
    "shapes_uncompressed_tiled_planar.tif": (72, 128),
    "shapes_zstd.tif": (72, 128),
    "tiff_adobe_deflate.tif": (374, 278),
    "tiff_strip_cmyk_16l_jpeg.tif": (100, 100),
    "tiff_tiled_ycbcr_jpeg_2x2_sampling.tif": (360, 480),
    "total-pages-zero.tif": (2156, 1728),
}
SHAPES = "shapes_uncompressed.tif"
SAME_PICTURE = [
    "shapes_deflate.tif",
    "shapes_lzw.tif",
    "shapes_zstd.tif",
    "shapes_uncompressed_tiled_planar.tif",
]
SAME_BUT_FOR_ROUNDING = ["shapes_lzw_14bps.tif", "shapes_lzw_planar_10bps.tif", "shapes_lzw_predictor3.tif"]
# Largest difference from Pillow, whose Lab goes through 8-bit tables and whose palettes are not rounded.
PILLOW_TOLERANCE: dict[str, int] = {
    "BigTIFFSubIFD8.tif": 0,
    "bali.tif": 0,
    "cogeo.tif": 0,
    "g4_orientation_6.tif": 0,
    "grayscale-alpha.tiff": 0,
    "hopper.Lab.tif": 9,
    "hopper.iccprofile.tif": 0,
    "hopper2I.tif": 0,
    "hopper_bigtiff.tif": 0,
    "hopper_g4_500.tif": 0,
    "hopper_gray_4bpp.tif": 0,
    "hopper_lzw.tif": 0,
    "lymphoma_eosin_channel_MCL_test_img_sj-05-3362-R2_001_E.tif": 0,
    "made_rgb_4page_stack.tif": 0,
    "made_uint16_rgb_lowrange.tif": 1,
    "mri.tif": 0,
    "multifile-Z1.ome.tiff": 0,
    "noeof.tif": 0,
    "shapes_deflate.tif": 0,
    "shapes_lzw.tif": 0,
    "shapes_lzw_palette.tif": 1,
    "shapes_uncompressed.tif": 0,
    "shapes_uncompressed_tiled_planar.tif": 0,
    "shapes_zstd.tif": 0,
    "tiff_adobe_deflate.tif": 0,
    "tiff_strip_cmyk_16l_jpeg.tif": 0,
    "tiff_tiled_ycbcr_jpeg_2x2_sampling.tif": 0,
    "total-pages-zero.tif": 0,
}
needs_odd_tiffs = pytest.mark.skipif(not ODD_TIFFS.is_dir(), reason=f"{ODD_TIFFS} is not there")


@needs_odd_tiffs
def test_every_odd_tiff_has_an_expected_verdict() -> None:
    present = {path.name for path in ODD_TIFFS.iterdir() if path.suffix in {".tif", ".tiff"}}
    assert present == set(VERDICTS)


@needs_odd_tiffs
@pytest.mark.parametrize("name", VERDICTS)
def test_an_odd_tiff_gets_its_verdict(name: str) -> None:
    data = (ODD_TIFFS / name).read_bytes()
    expected = VERDICTS[name]
    if isinstance(expected, str):
        assert refusal_of(data).code == expected
    else:
        assert decode_tiff(data, POLICY).shape == (*expected, 3)


@needs_odd_tiffs
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow, about the directory of noeof.tif
@pytest.mark.parametrize("name", PILLOW_TOLERANCE)
def test_an_odd_tiff_looks_as_pillow_shows_it(name: str) -> None:
    rgb = decode_tiff((ODD_TIFFS / name).read_bytes(), POLICY)
    difference = np.abs(rgb.astype(int) - by_pillow(ODD_TIFFS / name))
    assert difference.max() <= PILLOW_TOLERANCE[name]


def by_pillow(path: Path) -> np.ndarray[Any, Any]:
    """Pillow's picture, upright, over white."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        rgba = upright.convert("RGBA" if upright.mode in {"LA", "RGBA"} else "RGB").convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return np.asarray(Image.alpha_composite(white, rgba).convert("RGB")).astype(int)


@needs_odd_tiffs
@pytest.mark.parametrize(
    ("name", "tolerance"), [(n, 0) for n in SAME_PICTURE] + [(n, 1) for n in SAME_BUT_FOR_ROUNDING]
)
def test_one_picture_in_many_encodings_is_one_picture(name: str, tolerance: int) -> None:
    reference = decode_tiff((ODD_TIFFS / SHAPES).read_bytes(), POLICY).astype(int)
    assert np.abs(decode_tiff((ODD_TIFFS / name).read_bytes(), POLICY) - reference).max() <= tolerance


@needs_odd_tiffs
@pytest.mark.parametrize(
    ("name", "white"),
    [
        ("16bit.MM.deflate.tif", 65535),
        ("binuc1.tiff", 65535),
        ("jpeg-lossless-12bit-gray.tif", 4095),
        ("seq-3c-24b-contig-27b9f8ce.tiff", 2**24 - 1),
        ("floatingpoint-16bit.tif", 1),
        ("made_jpeg2000.tif", 255),
        ("hopper_webp.tif", 255),
        ("BigTIFFMotorola.tif", 255),
    ],
)
def test_an_odd_tiff_is_scaled_from_what_tifffile_reads(name: str, white: int) -> None:
    stored = tifffile.imread(ODD_TIFFS / name, key=0).astype(np.float64)
    expected = np.floor(stored.reshape(*stored.shape[:2], -1) * 255 / white + 0.5)
    rgb = decode_tiff((ODD_TIFFS / name).read_bytes(), POLICY)
    np.testing.assert_array_equal(rgb, np.broadcast_to(expected, rgb.shape))


@needs_odd_tiffs
def test_a_palette_image_that_lies_on_its_side_is_turned_a_quarter_clockwise() -> None:
    with tifffile.TiffFile(ODD_TIFFS / "poppies.tif") as file:
        page = file.pages.first
        colours = np.floor(page.tags[320].value.T * (255 / 65535) + 0.5)
        expected = np.rot90(colours[page.asarray()], -1)
    np.testing.assert_array_equal(decode_tiff((ODD_TIFFS / "poppies.tif").read_bytes(), POLICY), expected)
