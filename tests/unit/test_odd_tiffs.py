"""The verdicts on a collection of odd TIFFs (`odd_tiffs.tsv`), checked against tifffile and Pillow."""

import csv
import io
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from lib.config.images import TiffPolicy
from lib.ingest.tiff.decode import UInt8Array, decode_tiff
from lib.ingest.tiff.ranges import measure_files, resolve_policy
from tests.fakes.tiff_bytes import ODD_TIFFS, POLICY, refusal_of

pytestmark = [
    pytest.mark.skipif(not ODD_TIFFS.is_dir(), reason=f"{ODD_TIFFS} is not there"),
    pytest.mark.filterwarnings("ignore:Corrupt EXIF data"),  # Pillow, about the directory of noeof.tif
]


class Row(NamedTuple):
    """One line of the table: a file, the policy where it is not the default one, and what becomes of it."""

    file: str
    policy: str
    verdict: str
    reason: str
    shape: str

    @property
    def data(self) -> bytes:
        return (ODD_TIFFS / self.file).read_bytes()

    @property
    def settings(self) -> TiffPolicy:
        changes = dict(change.split("=", 1) for change in self.policy.split())
        return TiffPolicy.model_validate({"max_pixels": POLICY.max_pixels} | changes)


with (Path(__file__).parent / "odd_tiffs.tsv").open(newline="") as table:
    ROWS = [Row(**row) for row in csv.DictReader(table, delimiter="\t")]
BY_DEFAULT = [row for row in ROWS if not row.policy]
ACCEPTED = [row.file for row in BY_DEFAULT if row.verdict == "accepted"]
REFUSED = [row for row in BY_DEFAULT if row.verdict == "refused"]


def decoded(name: str, **policy: Any) -> UInt8Array:
    return decode_tiff((ODD_TIFFS / name).read_bytes(), TiffPolicy(max_pixels=POLICY.max_pixels, **policy))


def as_gray_rgb(values: Any) -> Any:
    """Rounded half up; gray (height, width) repeated to RGB."""
    rounded = np.floor(np.asarray(values, dtype=np.float64) + 0.5)
    return rounded if rounded.ndim == 3 else np.repeat(rounded[..., None], 3, axis=2)


def test_every_odd_tiff_is_in_the_table_once() -> None:
    present = sorted(path.name for path in ODD_TIFFS.iterdir() if path.suffix in {".tif", ".tiff"})
    assert sorted(row.file for row in BY_DEFAULT) == present
    assert len({row[:2] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.file}-{row.policy}")
def test_an_odd_tiff_gets_its_verdict(row: Row) -> None:
    if row.verdict == "refused":
        assert refusal_of(row.data, row.settings).code == row.reason
    else:
        height, width = map(int, row.shape.split("x"))
        assert decode_tiff(row.data, row.settings).shape == (height, width, 3)


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.file)
def test_a_refused_odd_tiff_is_what_tifffile_says_it_is(row: Row) -> None:
    assert row.reason in findings_of_tifffile(row.data)


def findings_of_tifffile(data: bytes) -> set[str]:
    """The reasons for a refusal that tifffile alone, asked for the first page, bears out."""
    if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return {"not_tiff"}
    try:
        with tifffile.TiffFile(io.BytesIO(data), _multifile=False) as file:
            page = file.pages.first
            stated = {
                "no_pixels": 0 in page.shape,
                "too_large": math.prod(page.shape) > POLICY.max_pixels,
                "too_many_channels": page.samplesperpixel > 4,
                "signed_range": page.dtype is not None and page.dtype.kind == "i",
                "damaged": 262 not in page.tags,  # which the format requires; tifffile takes it for 0
            }
            if stated["too_large"]:
                return {"too_large"}
            samples = page.asarray()
            stated["not_finite"] = samples.dtype.kind == "f" and not np.isfinite(samples).all()
            if page.photometric == 3:
                stated["damaged"] = samples.max() >= page.colormap.shape[1]
    except NotImplementedError:
        return {"unsupported", "damaged"}
    except Exception:  # noqa: BLE001 - what tifffile cannot read it says in many types
        return {"damaged", "truncated"}
    return {reason for reason, holds in stated.items() if holds}


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
# White of the samples that tifffile reads; gray or RGB, and not turned.
TIFFFILE_WHITE: dict[str, int] = {
    "16bit.MM.deflate.tif": 65535,
    "binuc1.tiff": 65535,
    "jpeg-lossless-12bit-gray.tif": 4095,
    "seq-3c-24b-contig-27b9f8ce.tiff": 2**24 - 1,
    "floatingpoint-16bit.tif": 1,
    "made_jpeg2000.tif": 255,
    "hopper_webp.tif": 255,
    "BigTIFFMotorola.tif": 255,
}
SHAPES = "shapes_uncompressed.tif"
SAME_PICTURE = [
    "shapes_deflate.tif",
    "shapes_lzw.tif",
    "shapes_zstd.tif",
    "shapes_uncompressed_tiled_planar.tif",
]
SAME_BUT_FOR_ROUNDING = ["shapes_lzw_14bps.tif", "shapes_lzw_planar_10bps.tif", "shapes_lzw_predictor3.tif"]
TURNED_PALETTE = "poppies.tif"


def test_every_accepted_odd_tiff_is_compared_with_another_reader() -> None:
    assert set(ACCEPTED) == {*PILLOW_TOLERANCE, *TIFFFILE_WHITE, *SAME_BUT_FOR_ROUNDING, TURNED_PALETTE}


@pytest.mark.parametrize("name", PILLOW_TOLERANCE)
def test_an_odd_tiff_looks_as_pillow_shows_it(name: str) -> None:
    difference = np.abs(decoded(name).astype(int) - by_pillow(ODD_TIFFS / name))
    assert difference.max() <= PILLOW_TOLERANCE[name]


def by_pillow(path: Path, page: int = 0) -> np.ndarray[Any, Any]:
    """Pillow's picture, upright, over white."""
    with Image.open(path) as image:
        image.seek(page)
        upright = ImageOps.exif_transpose(image)
        rgba = upright.convert("RGBA" if upright.mode in {"LA", "RGBA"} else "RGB").convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return np.asarray(Image.alpha_composite(white, rgba).convert("RGB")).astype(int)


@pytest.mark.parametrize(
    ("name", "tolerance"), [(n, 0) for n in SAME_PICTURE] + [(n, 1) for n in SAME_BUT_FOR_ROUNDING]
)
def test_one_picture_in_many_encodings_is_one_picture(name: str, tolerance: int) -> None:
    assert np.abs(decoded(name).astype(int) - decoded(SHAPES)).max() <= tolerance


@pytest.mark.parametrize(("name", "white"), TIFFFILE_WHITE.items())
def test_an_odd_tiff_is_scaled_from_what_tifffile_reads(name: str, white: int) -> None:
    stored = tifffile.imread(ODD_TIFFS / name, key=0).astype(np.float64)
    np.testing.assert_array_equal(decoded(name), as_gray_rgb(stored * 255 / white))


def test_a_palette_image_that_lies_on_its_side_is_turned_a_quarter_clockwise() -> None:
    with tifffile.TiffFile(ODD_TIFFS / TURNED_PALETTE) as file:
        page = file.pages.first
        colours = np.floor(page.tags[320].value.T * (255 / 65535) + 0.5)
        as_stored = colours[page.asarray()]
    np.testing.assert_array_equal(decoded(TURNED_PALETTE), np.rot90(as_stored, -1))
    np.testing.assert_array_equal(decoded(TURNED_PALETTE, tiff_orientation="ignore"), as_stored)


@pytest.mark.parametrize(
    ("name", "page"), [("mri.tif", 3), ("made_rgb_4page_stack.tif", 3), ("total-pages-zero.tif", 2)]
)
def test_a_page_of_an_odd_stack_is_the_one_that_pillow_shows(name: str, page: int) -> None:
    np.testing.assert_array_equal(decoded(name, tiff_page=str(page)), by_pillow(ODD_TIFFS / name, page))


def test_the_overview_of_a_geotiff_is_a_page_like_any_other() -> None:
    overview = tifffile.imread(ODD_TIFFS / "cogeo.tif", key=2)
    np.testing.assert_array_equal(decoded("cogeo.tif", tiff_page="2"), overview)


@pytest.mark.parametrize(("name", "pages"), [("mri.tif", 27), ("made_rgb_4page_stack.tif", 4)])
def test_the_projection_of_an_odd_stack_is_the_maximum_of_pillows_pages(name: str, pages: int) -> None:
    expected = np.max([by_pillow(ODD_TIFFS / name, page) for page in range(pages)], axis=0)
    np.testing.assert_array_equal(decoded(name, tiff_page="max-projection"), expected)


def test_12_bit_data_in_16_bits_is_no_longer_nearly_black_with_the_range_of_its_data_set() -> None:
    name = "made_uint16_rgb_lowrange.tif"
    ranges = measure_files([(name, (ODD_TIFFS / name).read_bytes())], POLICY).ranges
    low, high = ranges["uint16"]
    assert 0 < low < high <= 4095
    stored = tifffile.imread(ODD_TIFFS / name).astype(np.float64)
    measured = decoded(name, tiff_range=resolve_policy(POLICY, ranges).tiff_range)
    np.testing.assert_array_equal(measured, as_gray_rgb((stored.clip(low, high) - low) * 255 / (high - low)))
    assert decoded(name).mean() < 8
    assert measured.mean() > 100


def test_a_channel_and_slice_of_a_signed_z_series_is_scaled_from_what_tifffile_reads() -> None:
    name, key = "multi-channel-z-series.ome.tif", 14
    with tifffile.TiffFile(ODD_TIFFS / name) as file:
        stored = file.pages[key].asarray().astype(np.float64)
    rgb = decoded(name, tiff_range="0:100", tiff_page=str(key), tiff_channels="0")
    np.testing.assert_array_equal(rgb, as_gray_rgb(np.clip(stored, 0, 100) * 255 / 100))


def test_one_channel_of_a_colour_picture_is_gray() -> None:
    expected = by_pillow(ODD_TIFFS / "made_rgb_4page_stack.tif")[..., 1]
    np.testing.assert_array_equal(decoded("made_rgb_4page_stack.tif", tiff_channels="1"), as_gray_rgb(expected))
