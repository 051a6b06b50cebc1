"""What the settings of a `TiffPolicy` do to an image: values by hand, Pillow as the reference, and any bytes."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lib.config.conversion import ConvertConfig
from lib.config.images import TiffPolicy, parse_ranges
from lib.errors import SettingsError
from lib.ingest.tiff.decode import decode_tiff
from lib.runs.command_line import parse_settings
from tests.fakes.tiff_bytes import (
    NOISE,
    POLICY,
    check_verdict,
    damaged_tiffs,
    gray_of,
    refusal_of,
    with_tag,
    written,
)

STACK = np.stack([NOISE, 255 - NOISE, NOISE // 2])
SEVEN = np.random.default_rng(7).integers(0, 256, (12, 10, 7), dtype=np.uint8)
COMPRESSIONS = [None, "lzw", "zlib", "packbits"]


def policy(**changes: Any) -> TiffPolicy:
    return TiffPolicy.model_validate({"max_pixels": POLICY.max_pixels} | changes)


def test_an_explicit_range_is_black_and_white_and_what_lies_outside_is_clipped() -> None:
    samples = np.array([[0, 100, 1000, 2000, 4100]], dtype=np.uint16)
    # (1000 - 100) * 255 / 4000 = 57.375, (2000 - 100) * 255 / 4000 = 121.125
    assert gray_of(written(samples, "minisblack"), policy(tiff_range="100:4100")) == [0, 0, 57, 121, 255]
    stated = written(samples, "minisblack", extratags=[(281, "H", 1, 8191, True)])
    assert gray_of(stated, policy(tiff_range="100:4100")) == [0, 0, 57, 121, 255]


def test_a_range_rounds_half_up() -> None:
    # 1 * 255 / 510 = 0.5
    assert gray_of(written(np.array([[0, 1, 2]], np.uint16), "minisblack"), policy(tiff_range="0:510")) == [0, 1, 1]


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_signed_samples_and_floats_are_accepted_with_a_range(dtype: type, order: str) -> None:
    samples = np.array([[-100, -50, 0, 51, 100]], dtype=dtype)
    data = written(samples.astype(np.dtype(dtype).newbyteorder(order)), "minisblack", byteorder=order)
    assert gray_of(data, policy(tiff_range="-51:51")) == [0, 3, 128, 255, 255]


def test_a_range_by_type_leaves_other_types_to_what_their_files_state_and_refuses_those_that_state_nothing() -> None:
    by_type = policy(tiff_range="uint16=0:4095,float32=0:2")
    assert gray_of(written(np.array([[4095]], np.uint16), "minisblack"), by_type) == [255]
    assert gray_of(written(np.array([[1]], np.float32), "minisblack"), by_type) == [128]
    assert gray_of(written(np.array([[1]], np.float64), "minisblack"), by_type) == [255]
    full = np.array([[2**32 - 1]], np.uint32)
    assert refusal_of(written(full, "minisblack"), by_type).code == "no_range"
    stated = written(full // 2**16, "minisblack", extratags=[(281, "I", 1, 2**16 - 1, True)])
    assert gray_of(stated, by_type) == [255]


def test_8_bits_inks_palettes_and_alpha_have_their_own_range() -> None:
    low = policy(tiff_range="0:10")
    np.testing.assert_array_equal(decode_tiff(written(NOISE), low), NOISE)
    inks = np.full((4, 4, 4), 30_000, dtype=np.uint16)
    np.testing.assert_array_equal(
        decode_tiff(written(inks, "separated"), low), decode_tiff(written(inks, "separated"), POLICY)
    )
    # alpha is 51/255 of 65535: 255 * 0.2 + 255 * 0.8
    clear = np.array([[[10, 0, 5, 13107]]], dtype=np.uint16)
    rgb = decode_tiff(written(clear, extrasamples=["unassalpha"]), low)
    assert rgb[0].tolist() == [[255, 204, 230]]


def test_a_range_is_inverted_where_white_is_zero() -> None:
    data = written(np.array([[0, 1000, 4095]], np.uint16), "miniswhite")
    assert gray_of(data, policy(tiff_range="0:4095")) == [255, 193, 0]


def test_not_a_number_has_no_place_in_any_range() -> None:
    data = written(np.array([[0, np.nan]], np.float32), "minisblack")
    assert refusal_of(data, policy(tiff_range="0:1")).code == "not_finite"


def test_percentiles_that_were_never_measured_are_a_refusal() -> None:
    data = written(np.array([[0, 9]], np.uint16), "minisblack")
    assert refusal_of(data, policy(tiff_range="percentile")).code == "no_range"
    assert refusal_of(data, policy(tiff_range="uint8=0:255")).code == "no_range"
    np.testing.assert_array_equal(decode_tiff(written(NOISE), policy(tiff_range="percentile")), NOISE)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_page_is_chosen_by_its_number(compression: str | None) -> None:
    data = written(STACK, compression=compression)
    for number, page in enumerate(STACK):
        np.testing.assert_array_equal(decode_tiff(data, policy(tiff_page=str(number))), page)
    refusal = refusal_of(data, policy(tiff_page="3"))
    assert (refusal.code, refusal.detail) == ("no_such_page", "page 3 of 3, counted from 0")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_projection_is_the_maximum_over_all_pages(compression: str | None) -> None:
    projected = decode_tiff(written(STACK, compression=compression), policy(tiff_page="max-projection"))
    np.testing.assert_array_equal(projected, STACK.max(axis=0))
    np.testing.assert_array_equal(decode_tiff(written(NOISE), policy(tiff_page="max-projection")), NOISE)


def test_a_projection_is_bounded_by_the_pixels_of_all_pages() -> None:
    data = written(STACK)
    assert refusal_of(data, policy(tiff_page="max-projection", max_pixels=3 * 40 * 36 - 1)).code == "too_large"
    assert decode_tiff(data, policy(tiff_page="max-projection", max_pixels=3 * 40 * 36)).shape == NOISE.shape


def test_pages_that_do_not_lie_on_each_other_have_no_projection() -> None:
    first, second = written(NOISE), written(NOISE[:20])
    data = chained(first, second)
    np.testing.assert_array_equal(decode_tiff(data, policy(tiff_page="1")), NOISE[:20])
    assert refusal_of(data, policy(tiff_page="max-projection")).code == "unequal_pages"
    wide = chained(first, written(NOISE.astype(np.uint16)))
    assert refusal_of(wide, policy(tiff_page="max-projection")).code == "unequal_pages"


def chained(first: bytes, second: bytes) -> bytes:
    """Two little-endian files as one file of two pages: every offset of the second moves by the length of the first."""
    data, shift = bytearray(first + second), len(first)
    at = next_pointer(data, struct.unpack_from("<I", data, 4)[0])
    start = struct.unpack_from("<I", second, 4)[0] + shift
    struct.pack_into("<I", data, at, start)
    for entry in range(start + 2, next_pointer(data, start), 12):
        code, kind, count, value = struct.unpack_from("<HHII", data, entry)
        size = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8}[kind] * count
        if code == 273 or size > 4:
            if code == 273 and size > 4:
                raise AssertionError("one strip is expected")
            struct.pack_into("<I", data, entry + 8, value + shift)
    return bytes(data)


def next_pointer(data: bytes | bytearray, directory: int) -> int:
    return int(directory + 2 + 12 * struct.unpack_from("<H", data, directory)[0])


def test_a_chain_of_pages_that_never_ends_is_damaged() -> None:
    data = bytearray(written(NOISE))
    directory = struct.unpack_from("<I", data, 4)[0]
    struct.pack_into("<I", data, next_pointer(data, directory), directory)
    assert refusal_of(bytes(data), policy(tiff_page="max-projection")).code == "damaged"
    assert refusal_of(bytes(data), policy(tiff_page="1")).code == "damaged"
    np.testing.assert_array_equal(decode_tiff(bytes(data), POLICY), NOISE)


def test_a_chain_of_pages_that_leads_outside_the_file_is_truncated_where_it_is_followed() -> None:
    data = bytearray(written(NOISE))
    struct.pack_into("<I", data, next_pointer(data, struct.unpack_from("<I", data, 4)[0]), 2**31)
    assert refusal_of(bytes(data), policy(tiff_page="1")).code == "truncated"
    np.testing.assert_array_equal(decode_tiff(bytes(data), POLICY), NOISE)


def test_an_imagej_stack_with_one_directory_has_no_projection() -> None:
    described = written(NOISE[..., 0], "minisblack", description="ImageJ=1.53t\nimages=5\nslices=5\n")
    assert refusal_of(described, policy(tiff_page="max-projection")).code == "unsupported"


@pytest.mark.parametrize("layout", [{}, {"compression": "lzw"}, {"compression": "packbits"}], ids=str)
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_channels_are_chosen_by_their_number(layout: dict[str, Any], planes: str) -> None:
    stored = SEVEN if planes == "contig" else np.moveaxis(SEVEN, -1, 0)
    data = written(stored, "minisblack", planarconfig=planes, **layout)
    assert refusal_of(data).code == "too_many_channels"
    np.testing.assert_array_equal(decode_tiff(data, policy(tiff_channels="6,0,3")), SEVEN[..., [6, 0, 3]])
    np.testing.assert_array_equal(decode_tiff(data, policy(tiff_channels="2")), SEVEN[..., [2, 2, 2]])
    assert refusal_of(data, policy(tiff_channels="0,1,7")).code == "no_such_channel"


def test_many_channels_count_as_more_pixels() -> None:
    data = written(SEVEN, "minisblack", planarconfig="contig")
    assert refusal_of(data, policy(tiff_channels="0", max_pixels=2 * 120 - 1)).code == "too_large"
    assert decode_tiff(data, policy(tiff_channels="0", max_pixels=2 * 120)).shape == (12, 10, 3)


def test_chosen_channels_leave_alpha_out_and_must_be_intensities() -> None:
    clear = np.dstack([NOISE, NOISE[..., :1]])
    data = written(clear, extrasamples=["unassalpha"])
    np.testing.assert_array_equal(decode_tiff(data, policy(tiff_channels="0,1,2")), NOISE)
    assert refusal_of(written(clear, "separated"), policy(tiff_channels="0,1,2")).code == "unsupported"


def test_alpha_is_dropped_or_refused_if_so_wished() -> None:
    clear = np.dstack([NOISE, np.full((40, 36), 255, np.uint8)])
    opaque = written(clear, extrasamples=["unassalpha"])
    clear[0, 0, 3] = 254
    data = written(clear, extrasamples=["unassalpha"])
    np.testing.assert_array_equal(decode_tiff(data, policy(tiff_alpha="ignore")), NOISE)
    np.testing.assert_array_equal(decode_tiff(opaque, policy(tiff_alpha="refuse")), NOISE)
    assert refusal_of(data, policy(tiff_alpha="refuse")).code == "transparent"
    unknown = written(clear, extrasamples=["unspecified"])
    np.testing.assert_array_equal(decode_tiff(unknown, policy(tiff_alpha="ignore")), NOISE)


def test_the_orientation_can_be_left_as_stored() -> None:
    for orientation in (6, 9):
        data = written(NOISE, extratags=[(274, "H", 1, orientation, True)])
        np.testing.assert_array_equal(decode_tiff(data, policy(tiff_orientation="ignore")), NOISE)


def test_a_constant_image_is_refused_if_so_wished() -> None:
    image = np.full((16, 16, 3), (9, 8, 7), dtype=np.uint8)
    assert refusal_of(written(image), policy(tiff_constant="refuse")).code == "constant"
    image[5, 5, 2] = 8
    np.testing.assert_array_equal(decode_tiff(written(image), policy(tiff_constant="refuse")), image)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tiff_range": "dark"},
        {"tiff_range": "5"},
        {"tiff_range": "9:9"},
        {"tiff_range": "9:1"},
        {"tiff_range": "0:inf"},
        {"tiff_range": "nan:1"},
        {"tiff_range": "uint16=0:1,uint16=0:2"},
        {"tiff_range": "short=0:1"},
        {"tiff_range": ""},
        {"tiff_range": 110},
        {"tiff_page": "last"},
        {"tiff_page": "-1"},
        {"tiff_page": 3},
        {"tiff_channels": "0,1"},
        {"tiff_channels": "red"},
        {"tiff_channels": "0,1,2,3"},
        {"tiff_percentiles": (99, 1)},
        {"tiff_percentiles": (0, 101)},
        {"tiff_alpha": "black"},
        {"tiff_orientation": "up"},
        {"tiff_constant": "maybe"},
    ],
    ids=str,
)
def test_a_policy_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TiffPolicy.model_validate(wrong)


def test_ranges_are_read_by_type_or_for_all() -> None:
    assert parse_ranges("-1.5:1e3") == {"": (-1.5, 1000.0)}
    assert parse_ranges("uint16=0:4095, float32=-1:1") == {"uint16": (0, 4095), "float32": (-1, 1)}


def test_policies_are_flags_and_a_wrong_one_is_one_line() -> None:
    required = ["--source", "/s", "--output", "/o"]
    chosen = ["--tiff-range", "-5:10", "--tiff-page", "3", "--tiff-channels", "0,3,1"]
    others = ["--tiff-percentiles", "1", "99", "--tiff-alpha", "ignore"]
    parsed = parse_settings(ConvertConfig, required + chosen + others, "convert")
    expected = TiffPolicy(
        tiff_range="-5:10", tiff_page="3", tiff_channels="0,3,1", tiff_percentiles=(1, 99), tiff_alpha="ignore"
    )
    assert parsed.part(TiffPolicy) == expected
    with pytest.raises(SettingsError, match=r"^--tiff-range '7': expected auto, percentile, or LOW:HIGH .* as 0:4095$"):
        parse_settings(ConvertConfig, [*required, "--tiff-range", "7"], "convert")
    with pytest.raises(SettingsError, match=r"^--tiff-page 'last': expected first, max-projection, or a number"):
        parse_settings(ConvertConfig, [*required, "--tiff-page", "last"], "convert")


POLICIES = st.builds(
    TiffPolicy,
    max_pixels=st.sampled_from([POLICY.max_pixels, 2000]),
    tiff_range=st.sampled_from(["auto", "percentile", "0:4095", "-1:1", "uint16=0:1023,float32=-1:7,int8=-5:90"]),
    tiff_page=st.sampled_from(["first", "0", "1", "max-projection"]),
    tiff_channels=st.sampled_from(["auto", "0", "0,1,2", "6,0,1"]),
    tiff_alpha=st.sampled_from(["white", "ignore", "refuse"]),
    tiff_orientation=st.sampled_from(["apply", "ignore"]),
    tiff_constant=st.sampled_from(["keep", "refuse"]),
)


@settings(derandomize=True, max_examples=700)
@given(data=damaged_tiffs(), chosen=POLICIES)
def test_a_damaged_tiff_is_an_image_or_a_refusal_under_any_policy(data: bytes, chosen: TiffPolicy) -> None:
    check_verdict(data, chosen)


@settings(derandomize=True, max_examples=150)
@given(tail=st.binary(max_size=300), chosen=POLICIES)
def test_any_bytes_are_an_image_or_a_refusal_under_any_policy(tail: bytes, chosen: TiffPolicy) -> None:
    check_verdict(b"II*\0\x08\0\0\0" + tail, chosen)


def test_an_orientation_of_its_own_makes_a_page_unequal() -> None:
    data = chained(written(NOISE), with_tag(written(NOISE, extratags=[(274, "H", 1, 1, True)]), 274, 3))
    assert refusal_of(data, policy(tiff_page="max-projection")).code == "unequal_pages"
