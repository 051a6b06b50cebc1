"""Pyramids: whole-slide files hold an image in several sizes, of which `tiff_level` reads one."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tifffile
from pydantic import ValidationError

from lib.config.images import TiffPolicy
from lib.ingest.tiff.decode import decode_tiff, read_tiff
from tests.fakes.tiff_bytes import refusal_of, written

WHOLE = np.random.default_rng(0).integers(0, 256, (192, 240, 3), dtype=np.uint8)
LEVELS = [WHOLE, WHOLE[::2, ::2], WHOLE[::4, ::4]]
TILED: dict[str, Any] = {"tile": (48, 64), "photometric": "rgb", "metadata": None}
HALF_A_MICROMETRE = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}


def in_sub_directories(compression: str | None = None, **of_whole: Any) -> bytes:
    """As OME and Bio-Formats write pyramids."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(LEVELS[0], subifds=2, compression=compression, **TILED, **of_whole)
        for level in LEVELS[1:]:
            writer.write(level, subfiletype=1, compression=compression, **TILED)
    return buffer.getvalue()


def as_pages(**of_whole: Any) -> bytes:
    """As libvips writes pyramids."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(LEVELS[0], **TILED, **of_whole)
        for level in LEVELS[1:]:
            writer.write(level, subfiletype=1, **TILED)
    return buffer.getvalue()


def by_aperio() -> bytes:
    """A slide with a thumbnail, a label and an overview among its levels."""
    named = {"photometric": "rgb", "metadata": None}
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(LEVELS[0], description="Aperio Image Library v11.2\n240x192|AppMag = 20|MPP = 0.5", **TILED)
        writer.write(WHOLE[::3, ::3], description="Aperio Image Library v11.2\n", **named)
        for level in LEVELS[1:]:
            writer.write(level, description="Aperio Image Library v11.2\n", **TILED)
        writer.write(WHOLE[:50, :50], subfiletype=1, description="Aperio Image Library v11.2\nlabel", **named)
        writer.write(WHOLE[:30], subfiletype=9, description="Aperio Image Library v11.2\nmacro", **named)
    return buffer.getvalue()


def at(level: str) -> TiffPolicy:
    return TiffPolicy(tiff_level=level)


@pytest.mark.parametrize("pyramid", [in_sub_directories, as_pages, by_aperio])
@pytest.mark.parametrize("number", range(3))
def test_a_level_is_read_by_its_number(pyramid: Callable[[], bytes], number: int) -> None:
    np.testing.assert_array_equal(decode_tiff(pyramid(), at(str(number))), LEVELS[number])


@pytest.mark.parametrize("compression", ["lzw", "zlib", "packbits", "lzma"])
def test_levels_in_sub_directories_are_read_in_every_compression(compression: str) -> None:
    data = in_sub_directories(compression)
    for number in range(3):
        np.testing.assert_array_equal(decode_tiff(data, at(str(number))), LEVELS[number])


@pytest.mark.parametrize(("wanted", "number"), [("0.5um", 0), ("0.9um", 0), ("1um", 1), ("1.9um", 1), ("8um", 2)])
def test_of_levels_by_micrometres_the_coarsest_is_read_that_is_no_coarser(wanted: str, number: int) -> None:
    for data in (as_pages(**HALF_A_MICROMETRE), in_sub_directories(**HALF_A_MICROMETRE), by_aperio()):
        found = read_tiff(data, at(wanted))
        np.testing.assert_array_equal(found.rgb, LEVELS[number])
        assert found.micrometres == pytest.approx(0.5 * 2**number)


def test_what_no_level_satisfies_is_refused_with_what_there_is() -> None:
    assert refusal_of(as_pages(), at("3")).detail == "level 3 of 3, counted from 0"
    assert refusal_of(written(WHOLE), at("1")).detail == "level 1 of 1, counted from 0"
    finer = refusal_of(as_pages(**HALF_A_MICROMETRE), at("0.25um"))
    assert (finer.code, finer.detail) == ("no_such_level", "its finest level has 0.5 micrometres a pixel")
    assert refusal_of(as_pages(), at("1um")).code == "no_scale"


def test_a_damaged_level_is_refused() -> None:
    data = in_sub_directories("zlib")
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        offset = file.series[0].levels[2].keyframe.dataoffsets[0]
    damaged = data[: offset + 4] + b"\xff" * 8 + data[offset + 12 :]
    assert refusal_of(damaged, at("2")).code == "damaged"
    np.testing.assert_array_equal(decode_tiff(damaged, at("1")), LEVELS[1])


@pytest.mark.parametrize("level", ["-1", "1.5", "um", "0um", "0.0um", "2mm", "100"])
def test_other_levels_are_no_settings(level: str) -> None:
    with pytest.raises(ValidationError, match="micrometres a pixel above 0"):
        at(level)


@pytest.mark.parametrize("other", [{"tiff_page": "1"}, {"tiff_page": "max-projection"}, {"tiff_pages_as": "channels"}])
def test_levels_are_those_of_the_first_page(other: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="--tiff-level needs --tiff-page first"):
        TiffPolicy.model_validate({"tiff_level": "1"} | other)
