"""A large image is read some rows at a time, and its pixels are those of the whole, to the last bit."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.config.images import ImageConfig, TiffPolicy
from lib.errors import ImageRefused
from lib.ingest.image import resize_image
from lib.ingest.tiff import bands
from lib.ingest.tiff.decode import TiffImage, read_tiff
from lib.ingest.tiff.ranges import measure_files
from tests.fakes.tiff_bytes import POLICY, written

HEIGHT, WIDTH, SIZE = 192, 160, 40
COLOURS = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
DEEP = np.random.default_rng(4).integers(0, 4096, (HEIGHT, WIDTH, 3), dtype=np.uint16)
PALETTE = np.random.default_rng(5).integers(0, 65536, (3, 256), dtype=np.uint16)
LAYOUTS: dict[str, dict[str, Any]] = {
    "in one piece": {},
    "in strips": {"rowsperstrip": 6},
    "in strips by deflate": {"rowsperstrip": 6, "compression": "zlib", "predictor": True},
    "in strips by LZW": {"rowsperstrip": 5, "compression": "lzw"},
    "in strips by zstd": {"rowsperstrip": 8, "compression": "zstd"},
    "in strips by PackBits": {"rowsperstrip": 8, "compression": "packbits"},
    "in tiles": {"tile": (32, 48), "compression": "zlib"},
    "in planes": {"planarconfig": "separate", "rowsperstrip": 6},
    "in planes of one piece": {"planarconfig": "separate"},
    "in planes of tiles": {"planarconfig": "separate", "tile": (16, 32)},
    "big endian": {"byteorder": ">", "rowsperstrip": 6, "compression": "lzw"},
    "as BigTIFF": {"bigtiff": True, "rowsperstrip": 6, "compression": "lzw"},
}
JPEGS: dict[str, dict[str, Any]] = {
    "JPEG in strips": {"rowsperstrip": 16, "compression": "jpeg"},
    "JPEG in tiles": {"tile": (32, 32), "compression": "jpeg", "subsampling": (2, 2)},
    "JPEG 2000 in tiles": {"tile": (64, 64), "compression": "jpeg2000"},
}


@pytest.fixture(autouse=True)
def small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands of a few rows, as 32 MiB are of an image that is large indeed."""
    monkeypatch.setattr(bands, "BAND_BYTES", 8 * WIDTH * 3)


def planes_of(pixels: np.ndarray, layout: dict[str, Any]) -> np.ndarray:
    return np.moveaxis(pixels, -1, 0) if layout.get("planarconfig") == "separate" else pixels


def assert_same(by_bands: TiffImage, whole: TiffImage, size: int = SIZE) -> None:
    np.testing.assert_array_equal(resize_image(by_bands.rgb, size), resize_image(whole.rgb, size))
    np.testing.assert_array_equal(by_bands.some_rows, whole.some_rows)
    assert (by_bands.height, by_bands.width) == (whole.height, whole.width) == (HEIGHT, WIDTH)
    assert (by_bands.sample_type, by_bands.note) == (whole.sample_type, whole.note)


def assert_read_by_bands(data: bytes, policy: TiffPolicy) -> None:
    halved = read_tiff(data, policy, SIZE)
    assert halved.rgb.shape == (HEIGHT // 4, WIDTH // 4, 3)
    assert_same(halved, read_tiff(data, policy))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("pixels", [COLOURS, DEEP], ids=["8 bits", "16 bits"])
def test_whatever_the_layout(layout: dict[str, Any], pixels: np.ndarray) -> None:
    assert_read_by_bands(written(planes_of(pixels, layout), **layout), TiffPolicy(tiff_range="uint16=0:4095"))


@pytest.mark.parametrize("layout", JPEGS.values(), ids=JPEGS)
def test_where_strips_and_tiles_are_images_of_their_own(layout: dict[str, Any]) -> None:
    assert_read_by_bands(written(COLOURS, **layout), TiffPolicy())


@pytest.mark.parametrize(
    ("samples", "photometric", "options", "settings"),
    [
        (COLOURS[..., 0], "minisblack", {}, {}),
        (COLOURS[..., 0], "miniswhite", {}, {}),
        (COLOURS[..., 0] > 99, "minisblack", {}, {}),
        (COLOURS[..., 0], "palette", {"colormap": PALETTE}, {}),
        (np.dstack([COLOURS, COLOURS[..., :1]]), "separated", {}, {}),
        (COLOURS, "cielab", {}, {}),
        (np.dstack([COLOURS, COLOURS[..., :1]]), "rgb", {"extrasamples": ["unassalpha"]}, {"tiff_alpha": "ignore"}),
        (DEEP, "rgb", {}, {"tiff_channels": "2,0,1", "tiff_range": "0:4095"}),
        ((DEEP / 4096).astype(np.float32), "rgb", {}, {}),
        (COLOURS, "rgb", {"extratags": [(274, 3, 1, 6, True)]}, {"tiff_orientation": "ignore"}),
    ],
    ids=["gray", "white is 0", "bits", "palette", "CMYK", "Lab", "no alpha", "channels", "floats", "as it lies"],
)
def test_whatever_the_samples_mean(
    samples: np.ndarray, photometric: str, options: dict[str, Any], settings: dict[str, Any]
) -> None:
    data = written(samples, photometric, rowsperstrip=6, compression="zlib", **options)
    assert_read_by_bands(data, TiffPolicy(**settings))


@pytest.mark.parametrize(
    ("samples", "options", "settings"),
    [
        (np.dstack([COLOURS, COLOURS[..., :1]]), {"extrasamples": ["unassalpha"]}, {}),
        (COLOURS, {"extratags": [(274, 3, 1, 6, True)]}, {}),
        (DEEP, {"extratags": [(281, 3, 3, (4095,) * 3, True)]}, {}),
        (COLOURS, {}, {"tiff_constant": "refuse"}),
        (np.stack([COLOURS, COLOURS[::-1]]), {}, {"tiff_page": "max-projection"}),
        (COLOURS, {"rowsperstrip": HEIGHT, "compression": "zlib"}, {}),
    ],
    ids=["alpha", "turned", "greatest sample", "may be constant", "projection", "one strip"],
)
def test_what_depends_on_all_rows_is_read_whole(
    samples: np.ndarray, options: dict[str, Any], settings: dict[str, Any]
) -> None:
    data, policy = written(samples, **options), TiffPolicy(**settings)
    found, whole = read_tiff(data, policy, SIZE), read_tiff(data, policy)
    np.testing.assert_array_equal(found.rgb, whole.rgb)
    assert found.decoding_bytes == whole.decoding_bytes


@given(st.integers(1, 40), st.sampled_from([1, 2, 3, 5, 8, 16, 24, 48, 96]), st.integers(1, 60))
def test_bands_of_any_height_give_the_same_image(rows_of_bytes: int, rows_per_strip: int, size: int) -> None:
    data = written(COLOURS, rowsperstrip=rows_per_strip, compression="zlib")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bands, "BAND_BYTES", rows_of_bytes * WIDTH * 3)
        assert_same(read_tiff(data, TiffPolicy(), size), read_tiff(data, TiffPolicy()), size)


DAMAGED = [written(COLOURS, rowsperstrip=12, compression=name) for name in ("zlib", "lzw", "jpeg")]


@given(st.sampled_from(DAMAGED), st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4))
def test_a_damaged_image_is_refused_as_it_is_whole(data: bytes, where: float, damage: bytes) -> None:
    place = int(where * len(data))
    changed = data[:place] + damage + data[place + len(damage) :]

    def verdict(size: int | None) -> bytes | str:
        try:
            return resize_image(read_tiff(changed, POLICY, size).rgb, SIZE).tobytes()
        except ImageRefused as refusal:
            return refusal.code

    assert verdict(SIZE) == verdict(None)


def test_the_range_of_a_data_set_is_measured_on_the_same_samples() -> None:
    files = [("deep.tif", written(DEEP, rowsperstrip=6)), ("floats.tif", written(np.float32(DEEP), rowsperstrip=6))]
    assert measure_files(files, TiffPolicy(), SIZE).ranges == measure_files(files, TiffPolicy()).ranges


def test_a_large_image_takes_the_memory_of_a_band(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    pixels = np.zeros((8192, 8192, 3), np.uint16)
    pixels[::2] = 999
    data, policy = written(pixels, rowsperstrip=64, compression="zlib"), TiffPolicy(max_image_gib=0.4)
    found = read_tiff(data, policy, ImageConfig().image_size)
    assert found.rgb.shape == (256, 256, 3)
    assert found.decoding_bytes < 0.4 * 2**30 < pixels.nbytes * 9 / 6
