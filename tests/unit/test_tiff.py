"""Decoding TIFFs: values by hand, tifffile, Pillow and lcms as references, and damage of every kind."""

import io
import pickle
import struct
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from lib.config.images import TiffPolicy
from lib.errors import ImageRefused
from lib.ingest.tiff import decode as tiff
from lib.ingest.tiff.decode import decode_tiff
from tests.fakes.tiff_bytes import (
    LOSSLESS,
    NOISE,
    POLICY,
    SMOOTH,
    check_verdict,
    damaged_tiffs,
    entry_of,
    gray_of,
    refusal_of,
    segments_of,
    verdict_on,
    with_tag,
    written,
)


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
    inks = np.random.default_rng(7).integers(0, 256, (16, 16, 4), dtype=np.uint8)
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
    codes[..., 1:] = np.random.default_rng(7).integers(-12, 13, (16, 16, 2)).astype(np.int8).view(np.uint8)
    image = Image.frombytes("LAB", (16, 16), codes.tobytes())
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    exactly = ImageCms.Flags.NOOPTIMIZE  # without the table of 33 steps that lcms interpolates in otherwise
    by_lcms = np.asarray(ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB", flags=exactly))  # type: ignore[arg-type]
    assert np.abs(decode_tiff(written(codes, "cielab"), POLICY).astype(int) - by_lcms).max() <= 1


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


@settings(derandomize=True, max_examples=150)
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


@settings(derandomize=True, max_examples=150)
@given(position=st.floats(0, 1), bit=st.integers(0, 7), tiled=st.booleans())
def test_damaged_jpeg_is_read_as_tifffile_reads_it(position: float, bit: int, tiled: bool) -> None:
    data = bytearray(written(SMOOTH, compression="jpeg", **({"tile": (16, 16)} if tiled else {"rowsperstrip": 16})))
    segments = segments_of(bytes(data))
    low, high = segments[0][0], sum(segments[-1])
    data[low + int(position * (high - low - 1))] ^= 1 << bit
    verdict = verdict_on(bytes(data))
    if isinstance(verdict, ImageRefused):
        assert verdict.code in {"damaged", "truncated"}
    else:
        np.testing.assert_array_equal(verdict, tifffile.imread(io.BytesIO(data)))


def test_jpeg_of_separate_planes_is_read_as_tifffile_reads_it() -> None:
    planes = written(np.moveaxis(SMOOTH, -1, 0), planarconfig="separate", compression="jpeg", rowsperstrip=16)
    expected = np.moveaxis(tifffile.imread(io.BytesIO(planes)), 0, -1)
    np.testing.assert_array_equal(decode_tiff(planes, POLICY), expected)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "jpeg"])
def test_fewer_bits_than_the_data_holds_are_refused(compression: str | None) -> None:
    data = bytearray(written(NOISE[..., 0], "minisblack", compression=compression))
    assert refusal_of(with_tag(bytes(data), 258, 1)).code == "damaged"


def test_the_lzw_stream_that_crashes_imagecodecs_is_refused() -> None:
    for layout in ({"photometric": "separated"}, {"photometric": "rgb"}):
        samples = np.random.default_rng(7).integers(
            0, 256, (16, 16, 4 if layout["photometric"] == "separated" else 3), dtype=np.uint8
        )
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

    monkeypatch.setattr(tiff, "read_samples", exhausted)
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


@settings(derandomize=True, max_examples=1500)
@given(data=damaged_tiffs())
def test_a_damaged_tiff_is_an_image_or_a_refusal(data: bytes) -> None:
    check_verdict(data)


@settings(derandomize=True, max_examples=300)
@given(
    head=st.sampled_from([b"", b"II*\0", b"MM\0*", b"II+\0", b"II*\0\x08\0\0\0"]),
    tail=st.binary(max_size=400),
)
def test_any_bytes_are_an_image_or_a_refusal(head: bytes, tail: bytes) -> None:
    check_verdict(head + tail)
