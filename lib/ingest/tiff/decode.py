"""From the bytes of a TIFF and a policy to 8-bit RGB, or a refusal with a reason code. Nothing is guessed.

In order: the pages are found (`tiff_pages`), their structure is checked before anything is allocated
(`tiff_structure`), the samples are decoded (`tiff_decoding`), brought to 8 bits (`tiff_samples`) and to RGB
(`tiff_colour`), and the image is turned upright. What neither the file nor the policy says is refused.
"""

from typing import Any

import numpy as np

from lib.config.images import TiffPolicy
from lib.errors import ImageRefused
from lib.ingest.tiff.colour import to_rgb
from lib.ingest.tiff.eight_bits import UInt8Array
from lib.ingest.tiff.pages import open_pages
from lib.ingest.tiff.refusals import REFUSAL_CODES, damage_as_refusal
from lib.ingest.tiff.samples import read_samples
from lib.ingest.tiff.structure import check_pages

__all__ = ["REFUSAL_CODES", "UInt8Array", "decode_tiff"]


def decode_tiff(data: bytes, policy: TiffPolicy) -> UInt8Array:
    """Decode a TIFF to 8-bit RGB.

    Samples are scaled to 0..255 by the range that `policy` or the file states, rounding half up. Gray becomes RGB;
    alpha and orientation are dealt with as the policy says; an ICC profile is not applied. A projection is the
    maximum over all pages of each of red, green and blue, after the conversion of each page.

    Args:
        data: The whole file.
        policy: What to accept and how to convert it. `lib.ingest.tiff.ranges.with_measured_ranges` puts the ranges
            of a data set into it; with an unresolved `auto`, integers are scaled by the bits that the file states.

    Returns:
        RGB, shape (height, width, 3), contiguous.

    Raises:
        ImageRefused: If the bytes cannot be decoded without guessing; `code` is one of `REFUSAL_CODES`.
        MemoryError: If an image within `max_pixels` does not fit; the machine is at fault, not the image.
        TissueError: If the child process that decodes rare compressions cannot run.

    Source:
        TIFF Revision 6.0, Adobe 1992; tifffile, and libtiff and libjpeg-turbo through imagecodecs.
    """
    with damage_as_refusal():
        return _decode(data, policy)


def _decode(data: bytes, policy: TiffPolicy) -> UInt8Array:
    with open_pages(data, policy) as pages:
        check_pages(data, pages, policy)
        image = _decode_page(data, pages[0], policy)
        for page in pages[1:]:
            image = np.maximum(image, _decode_page(data, page, policy))
    if policy.tiff_constant == "refuse" and (image == image[0, 0]).all():
        raise ImageRefused("constant", f"every pixel is {image[0, 0].tolist()}")
    return image


def _decode_page(data: bytes, page: Any, policy: TiffPolicy) -> UInt8Array:
    rgb = to_rgb(read_samples(data, page), page, policy)
    return np.ascontiguousarray(_upright(rgb, page) if policy.tiff_orientation == "apply" else rgb)


def _upright(rgb: UInt8Array, page: Any) -> UInt8Array:
    """Apply the Orientation tag. Source: TIFF 6.0, section 8, tag 274."""
    orientation = page.tags.valueof(274, 1)
    if orientation not in range(1, 9):
        raise ImageRefused("damaged", f"orientation {orientation}, expected 1 to 8")
    mirrored, quarter_turns = {
        1: (0, 0),
        2: (1, 0),
        3: (0, 2),
        4: (1, 2),
        5: (1, 1),
        6: (0, 3),
        7: (1, 3),
        8: (0, 1),
    }[orientation]
    return np.rot90(rgb[:, ::-1] if mirrored else rgb, quarter_turns)
