"""How wide a pixel is: by OME, ImageJ, Aperio or the resolution tags, and never by the dots of a print."""

import io
from typing import Any

import numpy as np
import pytest
import tifffile

from lib.config.images import TiffPolicy
from lib.ingest.tiff.decode import read_tiff

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 20), dtype=np.uint8)


def micrometres(**options: Any) -> float | None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, PIXELS, photometric="minisblack", **({"metadata": None} | options))
    return read_tiff(buffer.getvalue(), TiffPolicy()).micrometres


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, None),
        ({"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}, 0.25),
        ({"resolution": (50_800, 50_800), "resolutionunit": "INCH"}, 0.5),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, None),
        ({"resolution": (2, 2), "resolutionunit": "NONE"}, None),
        ({"description": "Aperio Image Library v11\r\n2220x2967|AppMag = 40|MPP = 0.4990|Filtered = 5"}, 0.499),
        ({"description": "Aperio Image Library |MPP = x|"}, None),
        ({"imagej": True, "resolution": (4, 4), "metadata": {"unit": "um"}}, 0.25),
        ({"imagej": True, "resolution": (4, 4), "metadata": {"unit": "\\u00B5m"}}, 0.25),
        ({"imagej": True, "resolution": (0.002, 0.002), "metadata": {"unit": "nm"}}, 0.5),
        ({"ome": True, "metadata": {"PhysicalSizeX": 0.65, "PhysicalSizeXUnit": "µm"}}, 0.65),
        ({"ome": True, "metadata": {"PhysicalSizeX": 325, "PhysicalSizeXUnit": "nm"}}, 0.325),
        ({"ome": True, "metadata": {"axes": "YX"}}, None),
        ({"description": "<OME broken"}, None),
    ],
)
def test_the_width_of_a_pixel_is_read(options: dict[str, Any], expected: float | None) -> None:
    found = micrometres(**options)
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-3))
