"""Which pages of a stack are channels and which are depths, as ImageJ and OME say."""

import math
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from lib.errors import ImageRefused


@dataclass(frozen=True)
class PlaneLayout:
    """Where the pages of the first point in time are.

    Attributes:
        channels: How many there are, each a page of its own; 1 where a page has all of them.
        depths: Planes of each channel.
        channel_step: Pages from one channel to the next.
        depth_step: Pages from one depth to the next.
    """

    channels: int
    depths: int
    channel_step: int
    depth_step: int


def plane_layout(file: Any, pages: int) -> PlaneLayout | None:
    """The layout that a file (`tifffile.TiffFile`) states; None where it states none.

    Args:
        pages: Of the file.

    Raises:
        ImageRefused: If it states other pages than there are.

    Source: ImageJ's hyperstacks, whose order is always channels, slices, frames; OME-TIFF 6, `DimensionOrder`.
    """
    sizes = _by_imagej(file) or _by_ome(file)
    if sizes is None:
        return None
    if math.prod(sizes.values()) != pages:
        stated = ", ".join(f"{size} along {axis}" for axis, size in sizes.items())
        raise ImageRefused("unequal_pages", f"{pages} pages where the file states {stated}")
    steps, step = {}, 1
    for axis, size in sizes.items():
        steps[axis] = step
        step *= size
    return PlaneLayout(sizes["C"], sizes["Z"], steps["C"], steps["Z"])


def _by_imagej(file: Any) -> dict[str, int] | None:
    """Pages along each axis, the fastest first."""
    stated = file.imagej_metadata
    if not stated:
        return None
    names = {"C": "channels", "Z": "slices", "T": "frames"}
    sizes = {axis: int(stated.get(name, 1)) for axis, name in names.items()}
    if not file.pages.first.is_imagej or file.pages.first.samplesperpixel > 1:
        sizes["C"] = 1  # the colours are in each page
    return sizes


def _by_ome(file: Any) -> dict[str, int] | None:
    if not file.is_ome:
        return None
    try:
        nodes = ElementTree.fromstring(file.ome_metadata).iter()  # noqa: S314 - expat bounds what entities become
    except ElementTree.ParseError:
        return None
    pixels = next((node for node in nodes if node.tag.endswith("}Pixels")), None)
    if pixels is None:
        return None
    order = pixels.get("DimensionOrder", "XYCZT")[2:]
    sizes = {axis: int(pixels.get(f"Size{axis}", 1)) for axis in order}
    sizes["C"] //= max(int(file.pages.first.samplesperpixel), 1)
    return sizes if {*sizes} == {*"CZT"} and min(sizes.values()) > 0 else None
