"""Pages that are channels or depths, reduced copies that come first, and tags that contradict what a file holds."""

import io
import struct
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from lib.config.images import TiffPolicy
from lib.ingest.tiff.decode import decode_tiff, read_tiff
from tests.fakes.tiff_bytes import NOISE, POLICY, SMOOTH, entry_of, refusal_of, with_tag, written

PLANES = np.moveaxis(NOISE, -1, 0)
DEPTHS = np.random.default_rng(5).integers(0, 256, (4, 3, 24, 20), dtype=np.uint8)  # depths, channels, rows, columns


def policy(**settings: Any) -> TiffPolicy:
    return TiffPolicy(**settings)


def stack(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric="minisblack", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        stack(PLANES, imagej=True, metadata={"axes": "CYX", "mode": "composite"}),
        stack(PLANES, ome=True, metadata={"axes": "CYX"}),
        stack(PLANES, metadata=None),
    ],
    ids=["ImageJ", "OME", "plain"],
)
def test_three_gray_pages_are_read_as_colours_where_that_is_said(data: bytes) -> None:
    np.testing.assert_array_equal(decode_tiff(data, policy(tiff_pages_as="channels")), NOISE)
    swapped = policy(tiff_pages_as="channels", tiff_channels="2,1,0")
    np.testing.assert_array_equal(decode_tiff(data, swapped), NOISE[..., ::-1])
    gray = decode_tiff(data, policy(tiff_pages_as="channels", tiff_channels="1"))
    np.testing.assert_array_equal(gray, NOISE[..., [1, 1, 1]])
    assert read_tiff(data, POLICY).pages == 3


def test_two_pages_leave_blue_empty_and_four_are_refused_until_three_are_chosen() -> None:
    two = decode_tiff(stack(PLANES[:2], metadata=None), policy(tiff_pages_as="channels"))
    np.testing.assert_array_equal(two[..., :2], NOISE[..., :2])
    assert not two[..., 2].any()
    four = stack(np.concatenate([PLANES, PLANES[:1]]), metadata=None)
    assert refusal_of(four, policy(tiff_pages_as="channels")).code == "too_many_channels"
    chosen = decode_tiff(four, policy(tiff_pages_as="channels", tiff_channels="3,1,2"))
    np.testing.assert_array_equal(chosen, NOISE)
    assert refusal_of(four, policy(tiff_pages_as="channels", tiff_channels="4")).code == "no_such_channel"
    assert refusal_of(written(np.stack([NOISE] * 3)), policy(tiff_pages_as="channels")).code == "unsupported"


@pytest.mark.parametrize(
    "data",
    [
        stack(DEPTHS, imagej=True, metadata={"axes": "ZCYX"}),
        stack(DEPTHS, ome=True, metadata={"axes": "ZCYX"}),
        stack(np.moveaxis(DEPTHS, 1, 0), ome=True, metadata={"axes": "CZYX"}),
    ],
    ids=["ImageJ", "OME, channels first", "OME, depths first"],
)
def test_a_projection_goes_over_depths_alone_and_a_page_is_a_depth(data: bytes) -> None:
    both = policy(tiff_pages_as="channels", tiff_page="max-projection")
    np.testing.assert_array_equal(decode_tiff(data, both), np.moveaxis(DEPTHS.max(axis=0), 0, -1))
    third = policy(tiff_pages_as="channels", tiff_page="2")
    np.testing.assert_array_equal(decode_tiff(data, third), np.moveaxis(DEPTHS[2], 0, -1))
    assert refusal_of(data, policy(tiff_pages_as="channels", tiff_page="4")).code == "no_such_page"
    refused = refusal_of(data, policy(tiff_page="max-projection"))
    assert (refused.code, "--tiff-pages-as channels" in refused.detail) == ("too_many_channels", True)


def test_a_projection_over_time_is_not_taken_for_one_over_depth() -> None:
    times = np.moveaxis(DEPTHS, 1, 0)[:, :2]  # three points in time of two depths
    data = stack(times, imagej=True, metadata={"axes": "TZYX"})
    projected = decode_tiff(data, policy(tiff_page="max-projection"))
    np.testing.assert_array_equal(projected[..., 0], times[0].max(axis=0))


def test_a_file_that_states_other_pages_than_it_has_is_refused() -> None:
    data = stack(PLANES, ome=True, metadata={"axes": "CYX"})
    lying = data.replace(b'SizeC="3"', b'SizeC="2"')
    assert lying != data
    assert refusal_of(lying, policy(tiff_pages_as="channels")).code == "unequal_pages"


def reduced_first(*, larger: bool = True) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(NOISE[::4, ::4], photometric="rgb", subfiletype=1, metadata=None)
        file.write(NOISE[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
        if larger:
            file.write(NOISE, photometric="rgb", metadata=None)
    return buffer.getvalue()


def test_the_whole_image_is_read_where_the_first_page_says_that_it_is_a_small_copy() -> None:
    found = read_tiff(reduced_first(), POLICY)
    np.testing.assert_array_equal(found.rgb, NOISE)
    assert (found.pages, found.note) == (3, "reduced_first")
    np.testing.assert_array_equal(decode_tiff(reduced_first(), policy(tiff_page="0")), NOISE[::4, ::4])
    alone = read_tiff(reduced_first(larger=False), POLICY)
    np.testing.assert_array_equal(alone.rgb, NOISE[::4, ::4])
    assert alone.note is None


def test_an_image_depth_that_counts_levels_is_put_right_and_a_true_volume_is_refused() -> None:
    data = written(SMOOTH, tile=(16, 16), extratags=[(65010, "I", 1, 9, True)])
    changed = bytearray(data)
    struct.pack_into("<H", changed, entry_of(data, 65010), 32997)
    np.testing.assert_array_equal(decode_tiff(bytes(changed), POLICY), SMOOTH)
    volume = written(np.stack([NOISE[..., 0]] * 4), "minisblack", volumetric=True, tile=(1, 16, 16))
    assert refusal_of(volume).code == "unsupported"


def test_a_byte_count_of_zero_is_put_right_where_all_pixels_are_there() -> None:
    data = with_tag(written(NOISE), 279, 0)
    np.testing.assert_array_equal(decode_tiff(data, POLICY), NOISE)
    assert refusal_of(data[: len(data) // 2]).code in {"truncated", "damaged"}
    assert refusal_of(with_tag(written(NOISE, compression="zlib", rowsperstrip=40), 279, 0)).code == "truncated"


def test_tiles_that_were_never_written_are_a_reason_of_their_own() -> None:
    data = written(NOISE, tile=(16, 16))
    changed = bytearray(data)
    for code in (324, 325):
        kind, _, place = struct.unpack_from("<HII", data, entry_of(data, code) + 2)
        layout = {3: "<H", 4: "<I"}[kind]
        struct.pack_into(layout, changed, place + 3 * struct.calcsize(layout), 0)
    assert refusal_of(bytes(changed)).code == "sparse"


def test_bytes_that_fill_up_a_jpeg_tile_are_passed_over() -> None:
    tile = imagecodecs.jpeg8_encode(SMOOTH[:32, :32], level=95)
    for filling in (b"\xff\xff\xff", b"\0\0", b"\xff\0"):
        buffer = io.BytesIO()
        tifffile.imwrite(
            buffer, iter([tile + filling]), shape=(32, 32, 3), dtype=np.uint8, tile=(32, 32), compression="jpeg",
            photometric="ycbcr", subsampling=(2, 2), metadata=None,
        )  # fmt: skip
        assert np.abs(decode_tiff(buffer.getvalue(), POLICY).astype(int) - SMOOTH[:32, :32]).mean() < 8
    assert refusal_of(buffer.getvalue().replace(b"\xff\xd9\xff\0", b"\xff\0\xff\0")).code == "truncated"


def test_orientation_0_says_nothing_and_9_is_refused() -> None:
    upright = written(NOISE, extratags=[(274, "H", 1, 1, True)])
    np.testing.assert_array_equal(decode_tiff(with_tag(upright, 274, 0), POLICY), NOISE)
    assert refusal_of(with_tag(upright, 274, 9)).code == "damaged"


def test_floats_may_be_above_1_by_rounding_alone() -> None:
    samples = np.array([[0, 0.5, 1 + 1e-6]], np.float32)
    assert decode_tiff(written(samples, "minisblack"), POLICY)[0, :, 0].tolist() == [0, 128, 255]
    assert refusal_of(written(samples * 1.001, "minisblack")).code == "float_range"
