"""From the bytes of a TIFF and a policy to 8-bit RGB, or a refusal with a reason code. Nothing is guessed.

In order: the pages are found (`pages`, by their `planes`), their structure and the memory they take are checked before
anything is allocated (`structure`, `footprint`), the samples are decoded (`samples`), brought to 8 bits (`eight_bits`)
and to RGB (`colour`), and the image is turned upright. What neither the file nor the policy says is refused, once
`repairs` has found nothing to put right.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lib.config.images import WHOLE_LEVEL, TiffPolicy
from lib.errors import ImageRefused
from lib.ingest.tiff.bands import Bands, bands_of, read_bands
from lib.ingest.tiff.colour import holds_intensities, of_pages, to_rgb
from lib.ingest.tiff.eight_bits import UInt8Array, sample_type
from lib.ingest.tiff.footprint import check_footprint
from lib.ingest.tiff.halving import halved
from lib.ingest.tiff.levels import level_micrometres
from lib.ingest.tiff.pages import count_pages, open_pages
from lib.ingest.tiff.refusals import REFUSAL_CODES, damage_as_refusal
from lib.ingest.tiff.repairs import as_plainly_meant
from lib.ingest.tiff.samples import read_samples
from lib.ingest.tiff.structure import ORIENTATION, check_pages
from lib.ingest.tiff.traits import file_traits

__all__ = ["REFUSAL_CODES", "TiffImage", "UInt8Array", "decode_tiff", "read_tiff"]

ROWS: Final = 12
"""Of an image that are kept as they were: whole rows lie together in memory, which single pixels do not."""


@dataclass(frozen=True)
class TiffImage:
    """A decoded TIFF, and what its file said of it.

    Attributes:
        rgb: Contiguous, shape (height, width, 3); or with both sides halved exactly, once or more (see `read_tiff`).
        some_rows: At most `ROWS` rows of the image as it was, evenly spread: shape (n, width, 3).
        height: Rows of the image as it was, in pixels.
        width: Columns of it, in pixels.
        sample_type: How the file stores it, as `uint16`.
        pages: Of the file, as far as their chain can be followed.
        decoding_bytes: What decoding takes at its peak, by what the file declares (`lib.ingest.tiff.footprint`).
        micrometres: The side of a pixel; None where the file does not say, or says what no microscope has.
        note: What was not read as the file states it (`lib.folders.manifest.NOTES`); None for nothing.
        traits: How the file was written (`lib.ingest.tiff.traits`).
    """

    rgb: UInt8Array
    some_rows: UInt8Array
    height: int
    width: int
    sample_type: str
    pages: int
    decoding_bytes: int
    micrometres: float | None
    note: str | None
    traits: Mapping[str, str | None]


def decode_tiff(data: bytes, policy: TiffPolicy) -> UInt8Array:
    """The pixels alone of `read_tiff`."""
    return read_tiff(data, policy).rgb


def read_tiff(data: bytes, policy: TiffPolicy, size: int | None = None) -> TiffImage:
    """Decode a TIFF to 8-bit RGB.

    Samples are scaled to 0..255 by the range that `policy` or the file states, rounding half up. Gray becomes RGB;
    alpha and orientation are dealt with as the policy says; an ICC profile is not applied. A projection is the
    maximum over all pages of each of red, green and blue, after the conversion of each page.

    Args:
        data: The whole file.
        policy: What to accept and how to convert it. `lib.ingest.tiff.ranges.with_measured_ranges` puts the ranges
            of a data set into it; with an unresolved `auto`, integers are scaled by the bits that the file states.
        size: Side of the square that `lib.ingest.image.resize_image` is to make of it, in pixels. The halvings that it
            begins with are then done here, band by band, where a large image allows (`lib.ingest.tiff.bands`).

    Raises:
        ImageRefused: If the bytes cannot be decoded without guessing; `code` is one of `REFUSAL_CODES`.
        MemoryError: If an image within `max_image_gib` does not fit; the machine is at fault, not the image.
        TissueError: If the child process that decodes rare compressions cannot run.

    Source:
        TIFF Revision 6.0, Adobe 1992; tifffile, and libtiff and libjpeg-turbo through imagecodecs.
    """
    with damage_as_refusal():
        try:
            return _decode(data, policy, size)
        except ImageRefused:
            meant = as_plainly_meant(data)
            if meant is None:
                raise
            return _decode(meant, policy, size)


def _decode(data: bytes, policy: TiffPolicy, size: int | None) -> TiffImage:
    with open_pages(data, policy) as channels:
        check_pages(data, [page for pages in channels for page in pages], policy)
        first, bands = channels[0][0], bands_of(channels, policy, size)
        needed = check_footprint(data, channels, policy, bands)
        if bands is None:
            rgb, some_rows, note = _read_whole(data, channels, policy)
        else:
            rgb, some_rows, note = _read_halved(data, first, policy, bands)
        if policy.tiff_page == "first" and policy.tiff_level == WHOLE_LEVEL and first.index:
            note = note or "reduced_first"
        found = TiffImage(
            rgb,
            some_rows,
            first.imagelength if bands else len(rgb),
            some_rows.shape[1],
            sample_type(first),
            count_pages(data),
            needed,
            level_micrometres(first, policy),
            note,
            file_traits(data, first),
        )
    if policy.tiff_constant == "refuse" and (rgb == rgb[0, 0]).all():
        raise ImageRefused("constant", f"every pixel is {rgb[0, 0].tolist()}")
    return found


def _read_whole(
    data: bytes, channels: Sequence[Sequence[Any]], policy: TiffPolicy
) -> tuple[UInt8Array, UInt8Array, str | None]:
    """An image, some of its rows, and what was not read as the file states it."""
    if policy.tiff_pages_as == "pages":
        rgb, note = _project(data, channels[0], policy)
    else:
        rgb, note = _as_colours(data, channels, policy), None
    return rgb, rgb[:: _step(len(rgb))], note


def _read_halved(data: bytes, page: Any, policy: TiffPolicy, bands: Bands) -> tuple[UInt8Array, UInt8Array, str | None]:
    """As `_read_whole`, but the image is halved."""
    step, small, shown, top, note = _step(page.imagelength), [], [], 0, None
    for samples in read_bands(data, page, bands.rows):
        rgb, note = to_rgb(samples, page, policy)
        shown.append(rgb[-top % step :: step].copy())
        small.append(halved(rgb, bands.halvings))
        top += len(rgb)
        del samples, rgb  # before the next ones are read
    return np.concatenate(small), np.concatenate(shown), note


def _step(height: int) -> int:
    return math.ceil(height / ROWS)


def _project(data: bytes, pages: Sequence[Any], policy: TiffPolicy) -> tuple[UInt8Array, str | None]:
    """The brightest of some pages at each pixel, and what was not read as the file states it."""
    image, note = _decode_page(data, pages[0], policy)
    for page in pages[1:]:
        image = np.maximum(image, _decode_page(data, page, policy)[0])
    return image, note


def _as_colours(data: bytes, channels: Sequence[Sequence[Any]], policy: TiffPolicy) -> UInt8Array:
    """Gray pages as red, green and blue; a single one as gray, and nothing blue where there are two."""
    if any(page.samplesperpixel > 1 or not holds_intensities(page) for pages in channels for page in pages):
        raise ImageRefused("unsupported", "pages as channels, but they are no gray images")
    grays = [_project(data, pages, of_pages(policy))[0][..., 0] for pages in channels]
    grays = grays * 3 if len(grays) == 1 else [*grays, *[np.zeros_like(grays[0])] * (3 - len(grays))]
    return np.ascontiguousarray(np.stack(grays, axis=-1))


def _decode_page(data: bytes, page: Any, policy: TiffPolicy) -> tuple[UInt8Array, str | None]:
    rgb, note = to_rgb(read_samples(data, page), page, policy)
    return np.ascontiguousarray(_upright(rgb, page) if policy.tiff_orientation == "apply" else rgb), note


def _upright(rgb: UInt8Array, page: Any) -> UInt8Array:
    """Apply the Orientation tag. Source: TIFF 6.0, section 8, tag 274."""
    orientation = page.tags.valueof(ORIENTATION, 1) or 1  # 0 is none of the eight: nothing was said
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
