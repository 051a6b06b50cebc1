"""From the samples of a page to 8-bit RGB: channels, colour spaces, alpha."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lib.config.images import TiffPolicy
from lib.errors import ImageRefused
from lib.ingest.tiff.eight_bits import Samples, UInt8Array, by_bands, intensities_to_8_bits, rounded, to_full_scale
from lib.ingest.tiff.structure import (
    BLACK_IS_ZERO,
    CMYK,
    COLOURS,
    LAB,
    PALETTE,
    RGB,
    WHITE_IS_ZERO,
    YCBCR,
    decoder_gives_rgb,
)

_ASSOCIATED, _UNASSOCIATED = 1, 2


def to_rgb(samples: Samples, page: Any, policy: TiffPolicy) -> tuple[UInt8Array, str | None]:
    """Convert by the colour space of the page, or take the channels of the policy as they are.

    Args:
        samples: As stored, shape (height, width, samples).
        page: The page they are from.
        policy: Its channels, range and alpha are used.

    Returns:
        RGB, shape (height, width, 3), as stored: not turned upright. And what was not read as the file states it
        (`lib.folders.manifest.NOTES`), None for nothing.

    Raises:
        ImageRefused: If the meaning of the samples is not stated, or not handled.

    Source:
        TIFF Revision 6.0, sections 4 to 6, 16, 18 and 20 to 23.
    """
    colours, extra = split_channels(samples, page, policy)
    opacity = _opacity(extra, page, policy)
    # An alpha channel that hides all of an image was never meant as one: a program left it unfilled.
    note = "empty_alpha" if opacity is not None and not opacity.any() else None
    photometric = int(page.photometric)
    if photometric == PALETTE:
        rgb = _palette_to_rgb(colours, page)
    elif photometric == LAB:
        rgb = by_bands(_lab_to_rgb, colours)
    elif photometric == CMYK:
        rgb = by_bands(_cmyk_to_rgb, to_full_scale(colours, page))
    elif not holds_intensities(page):
        rgb = by_bands(lambda some: _ycbcr_to_rgb(some, page), colours)
    else:
        rgb = intensities_to_8_bits(colours, page, policy)
        rgb = 255 - rgb if photometric == WHITE_IS_ZERO else rgb
        rgb = np.repeat(rgb, 3, axis=2) if rgb.shape[2] == 1 else rgb
    if opacity is None or note:
        return rgb, note
    associated = _ASSOCIATED in page.extrasamples
    return by_bands(lambda *some: _over_white(*some, associated=associated), rgb, opacity), None


def of_pages(policy: TiffPolicy) -> TiffPolicy:
    """The policy for one page: where pages are channels, `tiff_channels` has chosen among the pages."""
    return policy.model_copy(update={"tiff_channels": "auto"}) if policy.tiff_pages_as == "channels" else policy


def holds_intensities(page: Any) -> bool:
    """Whether the samples are gray or RGB, so that a range of values applies to them."""
    photometric = int(page.photometric)
    return photometric in {WHITE_IS_ZERO, BLACK_IS_ZERO, RGB} or (photometric == YCBCR and decoder_gives_rgb(page))


def split_channels(samples: Samples, page: Any, policy: TiffPolicy) -> tuple[Samples, Samples]:
    """The samples that make the colour, and the others, both of shape (height, width, any number).

    Raises:
        ImageRefused: `no_such_channel`, `unknown_channels`, or `unsupported` if single channels have no meaning.
    """
    if policy.tiff_channels == "auto":
        count = COLOURS[int(page.photometric)]
        if not count <= samples.shape[2] <= count + 1:
            found = f"{samples.shape[2]} samples with photometric {int(page.photometric)}"
            raise ImageRefused("unknown_channels", found)
        return samples[..., :count], samples[..., count:]
    channels = [int(number) for number in policy.tiff_channels.split(",")]
    if not holds_intensities(page):
        raise ImageRefused("unsupported", f"single channels of photometric {int(page.photometric)}")
    if max(channels) >= samples.shape[2]:
        raise ImageRefused("no_such_channel", f"channel {max(channels)} of {samples.shape[2]}, counted from 0")
    return samples[..., channels], samples[..., :0]


def _opacity(extra: Samples, page: Any, policy: TiffPolicy) -> UInt8Array | None:
    """The 8-bit alpha channel, shape (height, width, 1), or None where every pixel counts as opaque."""
    stated = tuple(map(int, page.extrasamples))
    if policy.tiff_channels == "auto" and len(stated) > extra.shape[2]:
        raise ImageRefused("damaged", f"extra samples {stated}, but {extra.shape[2]} are stored")
    if extra.shape[2] == 0 or policy.tiff_alpha == "ignore":
        return None
    opacity = to_full_scale(extra, page)
    if opacity.min() == 255:  # noqa: PLR2004 - opaque, whatever it means
        return None
    if stated not in {(_ASSOCIATED,), (_UNASSOCIATED,)}:
        raise ImageRefused("unknown_channels", "an extra sample that is not stated to be alpha")
    if policy.tiff_alpha == "refuse":
        raise ImageRefused("transparent", f"{np.mean(opacity < 255):.1%} of the pixels are not opaque")  # noqa: PLR2004
    if page.photometric == WHITE_IS_ZERO and stated == (_ASSOCIATED,):
        raise ImageRefused("unsupported", "associated alpha where 0 is white")
    return opacity


def _over_white(rgb: UInt8Array, opacity: UInt8Array, *, associated: bool) -> UInt8Array:
    """Composite over white: c + 1 - a where c is already multiplied by alpha, else c * a + 1 - a."""
    white = 255 - opacity.astype(np.uint16)
    colour = rgb.astype(np.uint16) if associated else (rgb * opacity.astype(np.uint16) + 127) // 255
    return np.asarray(np.minimum(colour + white, 255), dtype=np.uint8)


def _palette_to_rgb(indices: npt.NDArray[Any], page: Any) -> UInt8Array:
    """Look up (height, width, 1) indices in the 16-bit ColorMap."""
    if indices.dtype.kind not in "bu":
        raise ImageRefused("unsupported", f"palette indices of type {indices.dtype}")
    colours = np.asarray(page.tags.valueof(320), dtype=np.uint32).reshape(3, -1).T
    if indices.max() >= len(colours):
        raise ImageRefused("damaged", f"index {indices.max()} in a palette of {len(colours)} colours")
    if 0 < colours.max() < 256:  # noqa: PLR2004
        raise ImageRefused("unsupported", "a palette of 8-bit values where the format has 16")
    table = ((colours * 255 + 32767) // 65535).astype(np.uint8)
    return by_bands(
        lambda some: table[some[..., 0]], indices.astype(np.uint8) if indices.dtype == np.bool_ else indices
    )


def _cmyk_to_rgb(inks: UInt8Array) -> UInt8Array:
    """(255 - ink) * (255 - black) / 255 for each of RGB. Source: libtiff and Pillow, no profile."""
    light = 255 - inks.astype(np.uint32)
    return ((light[..., :3] * light[..., 3:] + 127) // 255).astype(np.uint8)


def _ycbcr_to_rgb(codes: npt.NDArray[Any], page: Any) -> UInt8Array:
    """8-bit YCbCr, not subsampled, to RGB. Source: TIFF 6.0, sections 20 and 21."""
    if codes.dtype != np.uint8:
        raise ImageRefused("unsupported", f"YCbCr of {page.bitspersample} bits")
    red, green, blue = _rationals(page, 529, (0.299, 0.587, 0.114))
    limits = _rationals(page, 532, (0, 255, 128, 255, 128, 255))
    steps = [
        top / (white - black) for top, black, white in zip((255, 127, 127), limits[::2], limits[1::2], strict=True)
    ]
    y, cb, cr = np.moveaxis((codes - np.array(limits[::2])) * np.array(steps), -1, 0)
    r, b = y + cr * (2 - 2 * red), y + cb * (2 - 2 * blue)
    rgb = np.stack([r, (y - red * r - blue * b) / green, b], axis=-1)
    return rounded(np.clip(rgb, 0, 255))


def _rationals(page: Any, code: int, default: Sequence[float]) -> Sequence[float]:
    """The values of a RATIONAL tag, which tifffile gives as numerators and denominators in turn."""
    value = page.tags.valueof(code)
    if value is None:
        return default
    return [top / bottom for top, bottom in zip(value[::2], value[1::2], strict=True)]


def _lab_to_rgb(codes: npt.NDArray[Any]) -> UInt8Array:
    """CIE L*a*b* (D50) to sRGB; a and b are signed. Colours outside sRGB are clipped.

    Source: TIFF 6.0, section 23; CIE 15; the matrix is XYZ (D50, Bradford) to sRGB of IEC 61966-2-1.
    """
    if codes.dtype not in (np.uint8, np.uint16):
        raise ImageRefused("unsupported", f"CIELab of type {codes.dtype}")
    full, step = (255, 1) if codes.dtype == np.uint8 else (65535, 256)
    signed = codes[..., 1:].astype(codes.dtype.str.replace("u", "i")) / step
    fy = (codes[..., 0] * (100 / full) + 16) / 116
    f = np.stack([fy + signed[..., 0] / 500, fy, fy - signed[..., 1] / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, (f - 4 / 29) * 3 * (6 / 29) ** 2) * (0.96422, 1.0, 0.82521)
    to_srgb = [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
    linear = np.clip(xyz @ np.transpose(to_srgb), 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)  # noqa: PLR2004
    return rounded(encoded * 255)
