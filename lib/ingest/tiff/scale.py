"""How large a pixel is, by what a TIFF says of it: OME, ImageJ, Aperio, or the resolution tags."""

import re
from typing import Any
from xml.etree import ElementTree

X_RESOLUTION, RESOLUTION_UNIT = 282, 296
INCH, CENTIMETRE = 2, 3
MICROMETRES = {INCH: 25_400.0, CENTIMETRE: 10_000.0}
"""Of the units of the resolution tags."""
LARGEST = 20.0
"""Micrometres: a coarser pixel is that of a print at 72 to 1,200 dots per inch, which programs write unasked."""
_LENGTHS = {
    "nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, r"\u00B5m": 1.0, "mm": 1e3, "cm": 1e4,
}  # fmt: skip
"""Micrometres of the units that OME and ImageJ write: the micro sign, the Greek letter, and ImageJ's escape for it."""
_APERIO = re.compile(r"\|\s*MPP\s*=\s*([0-9.]+)")


def pixel_micrometres(page: Any) -> float | None:
    """The width of a pixel of a page (`tifffile.TiffPage`) in micrometres; None where the file does not say.

    Source: OME-TIFF 6 (PhysicalSizeX); ImageJ's description, whose unit belongs to XResolution; Aperio's `MPP`; TIFF
    Revision 6.0, section 8.
    """
    description = page.description or ""
    for found in (_by_ome(description), _by_imagej(description, page), _by_aperio(description), _by_tags(page)):
        if found is not None:
            return found if 0 < found <= LARGEST else None
    return None


def _by_ome(description: str) -> float | None:
    if "<OME" not in description:
        return None
    try:
        pixels = next(node for node in ElementTree.fromstring(description).iter() if node.tag.endswith("}Pixels"))  # noqa: S314 - no entity can grow: expat bounds them
    except (ElementTree.ParseError, StopIteration):
        return None
    size, unit = pixels.get("PhysicalSizeX"), _LENGTHS.get(pixels.get("PhysicalSizeXUnit", "µm"))
    return _number(size) * unit if size and unit else None


def _by_imagej(description: str, page: Any) -> float | None:
    if not description.startswith("ImageJ="):
        return None
    stated = re.search(r"^unit=(.+)$", description, re.MULTILINE)
    unit, per_unit = _LENGTHS.get(stated[1].strip()) if stated else None, _resolution(page)
    return unit / per_unit if unit and per_unit else None


def _by_aperio(description: str) -> float | None:
    found = _APERIO.search(description)
    return _number(found[1]) if found else None


def _by_tags(page: Any) -> float | None:
    stated = page.tags.valueof(RESOLUTION_UNIT, INCH)
    unit, per_unit = MICROMETRES.get(stated) if isinstance(stated, int) else None, _resolution(page)
    return unit / per_unit if unit and per_unit else None


def _resolution(page: Any) -> float | None:
    """Pixels in a unit of length."""
    value = page.tags.valueof(X_RESOLUTION)
    match value:
        case (int(pixels), int(units)) if pixels > 0 and units > 0:
            return pixels / units
    return None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
