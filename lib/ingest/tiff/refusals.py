"""Why an image is refused: the codes, and what an exception of a decoder means."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from lib.errors import ImageRefused, TissueError

REFUSAL_CODES: Final = {
    "not_tiff": "the bytes do not begin like a TIFF or BigTIFF",
    "truncated": "the file ends before what it declares, or a strip was cut short or never written",
    "sparse": "strips or tiles that were never written, as scanners leave those without tissue",
    "damaged": "the structure contradicts itself, or a strip cannot be decoded",
    "too_large": "more pixels are declared than `max_pixels`, or they take more memory than `max_image_gib`",
    "no_pixels": "the width, the height or the number of samples is 0",
    "unsupported": "a compression, colour space or sample type that is not decoded here",
    "no_such_page": "the file has fewer pages than `tiff_page` asks for",
    "no_such_level": "the file has no level as `tiff_level` asks for",
    "no_scale": "the file does not say how large its pixels are, and `tiff_level` goes by micrometres",
    "unequal_pages": "the pages of a projection differ in size or sample type",
    "too_many_channels": "more than 4 samples a pixel, and `tiff_channels` does not say which to use",
    "no_such_channel": "a pixel has fewer samples than `tiff_channels` asks for",
    "unknown_channels": "samples whose meaning the file does not state",
    "transparent": "pixels that are not opaque, where `tiff_alpha` is `refuse`",
    "constant": "all pixels have the same colour, where `tiff_constant` is `refuse`",
    "not_finite": "NaN or infinity among the samples",
    "float_range": "floating-point samples outside [0, 1]: black and white are not stated",
    "signed_range": "signed integer samples: black and white are not stated",
    "no_range": "samples whose black and white nothing states: the data set had none of their type to measure",
    "decoder_crashed": "the decoder crashed its process",
    "decoder_timeout": "the decoder did not come to an end",
}
"""Every code that `decode_tiff` refuses with, and what it means."""


@contextmanager
def damage_as_refusal() -> Iterator[None]:
    """The boundary around everything that reads a file: what damage makes of it becomes one refusal.

    Raises:
        ImageRefused: With code `damaged` for any exception that is not a verdict already (see `as_verdict`).
    """
    try:
        yield
    except Exception as error:
        verdict = as_verdict(error)
        if verdict is error:
            raise
        raise verdict from error


def as_verdict(error: Exception) -> Exception:
    """What an exception means that escaped while an image was decoded.

    Damaged files escape from tifffile and imagecodecs as almost any type (TypeError, IndexError,
    ZeroDivisionError, AssertionError, a class for each codec), so all of those are one refusal.

    Returns:
        The error itself if it is a refusal already, or no fault of the image (`MemoryError`, `TissueError`).
    """
    if isinstance(error, ImageRefused | MemoryError | TissueError):
        return error
    return ImageRefused("damaged", f"{type(error).__name__}: {error}"[:300])
