"""The level of a pyramid that a policy chooses: whole-slide files hold an image in several sizes."""

from typing import Any, Final

from lib.config.images import WHOLE_LEVEL, TiffPolicy
from lib.errors import ImageRefused
from lib.ingest.tiff.scale import pixel_micrometres

_ROUNDING: Final = 1.02
"""Levels are halved in whole pixels, so that their scales are not quite those that a person writes."""


def choose_level(file: Any, policy: TiffPolicy) -> Any:
    """The page of the level of a file (`tifffile.TiffFile`) that the policy names, by number or by micrometres a pixel.

    Of levels by micrometres the coarsest is taken that is no coarser than asked for.

    Raises:
        ImageRefused: `no_such_level`, or `no_scale` where the file does not say how large its pixels are.

    Source: tifffile's series, which know SubIFDs, reduced pages, and the order of Aperio, Hamamatsu, Leica, Philips
    and OME.
    """
    levels = [level.keyframe for level in file.series[0].levels]
    number, wanted = policy.level
    if wanted is None:
        if number >= len(levels):
            raise ImageRefused("no_such_level", f"level {number} of {len(levels)}, counted from 0")
        return levels[number]
    scales = [_micrometres(page, levels[0]) for page in levels]
    fine_enough = [page for page, scale in zip(levels, scales, strict=True) if scale <= wanted * _ROUNDING]
    if not fine_enough:
        raise ImageRefused("no_such_level", f"its finest level has {scales[0]:.3g} micrometres a pixel")
    return min(fine_enough, key=lambda page: page.imagewidth)


def level_micrometres(page: Any, policy: TiffPolicy) -> float | None:
    """The width of a pixel of a chosen page; of a level by that of the whole image, as few levels state their own."""
    if policy.tiff_level == WHOLE_LEVEL:
        return pixel_micrometres(page)
    whole = page.parent.pages.first
    return None if pixel_micrometres(whole) is None else _micrometres(page, whole)


def _micrometres(page: Any, whole: Any) -> float:
    stated = pixel_micrometres(whole)
    if stated is None:
        raise ImageRefused("no_scale", "the file does not say how large its pixels are; choose --tiff-level by number")
    return float(stated * whole.imagewidth / page.imagewidth)
