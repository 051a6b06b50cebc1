"""Resizing and JPEG: values by hand, OpenCV's own area mean and Pillow as references."""

import io
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lib.errors import DataError
from lib.ingest.image import decode_jpeg, encode_jpeg, resize_image


def waves(height: int, width: int) -> np.ndarray[Any, Any]:
    """A picture with detail at many scales, and three channels that differ."""
    rows, columns = np.mgrid[:height, :width]
    channels = [
        np.sin(rows / 3) + np.cos(columns / 5),
        np.sin(rows * columns / 999),
        np.cos(rows / 31 + columns / 17),
    ]
    return np.asarray(np.clip(128 + 60 * np.dstack(channels), 0, 255), dtype=np.uint8)


def decibels(image: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> float:
    """Peak signal-to-noise ratio of two 8-bit images."""
    return float(10 * np.log10(255**2 / max(1e-6, np.mean((image.astype(float) - reference) ** 2))))


def test_an_exact_half_is_the_mean_of_two_by_two_pixels() -> None:
    rgb = waves(64, 64)
    means = rgb.reshape(32, 2, 32, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(resize_image(rgb, 32) - means).max() <= 0.5


def test_an_exact_quarter_is_the_mean_of_four_by_four_pixels() -> None:
    rgb = waves(128, 128)
    means = rgb.reshape(32, 4, 32, 4, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(resize_image(rgb, 32) - means).max() <= 1


@pytest.mark.parametrize("shape", [(512, 512), (511, 509), (400, 512), (300, 300), (2000, 250)])
@pytest.mark.parametrize("size", [96, 180, 224])
def test_shrinking_is_close_to_the_mean_over_areas(shape: tuple[int, int], size: int) -> None:
    rgb = waves(*shape)
    by_area = cv2.resize(rgb, (size, size), interpolation=cv2.INTER_AREA)
    assert decibels(resize_image(rgb, size), by_area) > 30


def test_no_pixel_is_skipped_however_elongated_the_image() -> None:
    for shape in [(20, 2000), (2000, 20), (2001, 999)]:
        stripes = np.zeros((*shape, 3), dtype=np.uint8)
        stripes[::2, ::2] = stripes[1::2, 1::2] = 255
        assert np.abs(resize_image(stripes, 50).astype(int)[5:-5, 5:-5] - 128).mean() < 40


def test_an_image_of_the_right_size_is_left_as_it_is() -> None:
    rgb = waves(48, 48)
    np.testing.assert_array_equal(resize_image(rgb, 48), rgb)


def test_growing_interpolates_linearly() -> None:
    rgb = np.zeros((1, 2, 3), dtype=np.uint8)
    rgb[0, 1] = 200
    assert resize_image(rgb, 4)[2, :, 0].tolist() == [0, 50, 150, 200]


@settings(derandomize=True, max_examples=80)
@given(height=st.integers(1, 400), width=st.integers(1, 400), size=st.integers(1, 100), level=st.integers(0, 255))
def test_any_shape_becomes_the_square_and_a_plain_colour_stays(height: int, width: int, size: int, level: int) -> None:
    rgb = np.full((height, width, 3), (level, 255 - level, 7), dtype=np.uint8)
    square = resize_image(rgb, size)
    assert square.shape == (size, size, 3)
    assert square.dtype == np.uint8
    assert (square == rgb[0, 0]).all()


def test_channels_keep_their_order_through_jpeg() -> None:
    red = np.zeros((16, 16, 3), dtype=np.uint8)
    red[..., 0] = 250
    encoded = encode_jpeg(red, 95)
    assert np.abs(decode_jpeg(encoded).astype(int) - red).max() <= 3
    with Image.open(io.BytesIO(encoded)) as image:
        assert image.format == "JPEG"
        assert np.abs(np.asarray(image).astype(int) - red).max() <= 3


def test_jpeg_is_decoded_as_pillow_decodes_it() -> None:
    encoded = encode_jpeg(waves(90, 70), 90)
    with Image.open(io.BytesIO(encoded)) as image:
        assert np.abs(decode_jpeg(encoded).astype(int) - np.asarray(image)).max() <= 2


def test_more_quality_is_more_bytes_and_less_loss() -> None:
    rgb = waves(90, 70)
    low, high = encode_jpeg(rgb, 40), encode_jpeg(rgb, 95)
    assert len(low) < len(high)
    assert decibels(decode_jpeg(low), rgb) < decibels(decode_jpeg(high), rgb)


def test_the_same_image_gives_the_same_bytes() -> None:
    assert encode_jpeg(waves(64, 64), 95) == encode_jpeg(waves(64, 64), 95)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "without an end"])
def test_what_is_not_a_whole_jpeg_is_an_error(damage: str) -> None:
    whole = encode_jpeg(waves(64, 64), 95)
    data = {
        "empty": b"",
        "text": b"not a picture",
        "cut": whole[: len(whole) // 2],
        "without an end": whole[:-2],
    }
    with pytest.raises(DataError, match="not a whole JPEG"):
        decode_jpeg(data[damage])


def test_an_orientation_in_exif_is_not_applied() -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(waves(40, 60)).save(buffer, "JPEG", exif=exif)
    assert decode_jpeg(buffer.getvalue()).shape == (40, 60, 3)
