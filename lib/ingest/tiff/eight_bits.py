"""From samples of any type to 8 bits: which value is black and which is white.

The range of a data set is decided once, by `lib.ingest.tiff.ranges`, and then stands in `tiff_range` by sample type.
Without it, only what a file itself states is used.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lib.config.images import TiffPolicy, parse_ranges
from lib.errors import ImageRefused

UInt8Array = npt.NDArray[np.uint8]
Samples = npt.NDArray[Any]

UNRESOLVED: Final = ("auto", "percentile")
_TABLE_BYTES = 2  # samples of so many bytes are converted by a table of all their values
_BAND_VALUES = 2**20


def needs_range(page: Any) -> bool:
    """Whether `tiff_range` applies to the samples of a page: more than 8 bits, signed, or floating point."""
    return bool(page.dtype.kind in "if" or page.bitspersample > 8)  # noqa: PLR2004


def sample_type(page: Any) -> str:
    """The name of the samples of a page in `tiff_range`, with the bits that the file declares, as `uint12`."""
    kind = {"b": "uint", "u": "uint", "i": "int", "f": "float"}[page.dtype.kind]
    return f"{kind}{page.bitspersample}"


def intensities_to_8_bits(samples: Samples, page: Any, policy: TiffPolicy) -> UInt8Array:
    """Gray or RGB samples as uint8, by the range of the policy if it has one for their type.

    Args:
        samples: Any shape; bool, unsigned, signed or float.
        page: The page they are from.
        policy: Its `tiff_range` is used.

    Returns:
        The same shape; 255 * (value - low) / (high - low), rounded half up, clipped.

    Raises:
        ImageRefused: `not_finite`, `float_range`, `signed_range` or `no_range`.
    """
    if not needs_range(page):
        return to_full_scale(samples, page)
    if policy.tiff_range == "percentile":
        raise ImageRefused("no_range", f"{sample_type(page)} samples, for which no range was measured")
    ranges = _ranges(policy.tiff_range)
    stated = ranges.get(sample_type(page)) or ranges.get("")
    if stated is None:
        if ranges and samples.dtype.kind == "u" and stated_white(samples, page) == np.iinfo(samples.dtype).max:
            raise ImageRefused("no_range", f"{sample_type(page)} samples, of which the training images have none")
        return to_full_scale(samples, page)
    check_finite(samples)
    return _scaled(samples, *stated)


@lru_cache
def _ranges(tiff_range: str) -> dict[str, tuple[float, float]]:
    return {} if tiff_range in UNRESOLVED else parse_ranges(tiff_range)


def to_full_scale(samples: Samples, page: Any) -> UInt8Array:
    """Samples as uint8 by what the file alone states, for inks and alpha too: [0, `stated_white`], floats [0, 1].

    Raises:
        ImageRefused: `signed_range`; for floats `not_finite`, or `float_range` if any lies outside [0, 1].
    """
    if samples.dtype == np.bool_:
        return samples * np.uint8(255)
    if samples.dtype.kind == "u":
        return samples if page.bitspersample == 8 else _scaled(samples, 0, stated_white(samples, page))  # noqa: PLR2004
    check_finite(samples)
    low, high = float(samples.min()), float(samples.max())
    if samples.dtype.kind == "i":
        raise ImageRefused("signed_range", f"{samples.dtype} from {low:g} to {high:g}: which is black or white?")
    rounding = 16 * max(float(np.finfo(samples.dtype).eps), float(np.finfo(np.float32).eps))
    if low < -rounding or high > 1 + rounding:
        raise ImageRefused("float_range", f"samples from {low:g} to {high:g}, expected within [0, 1]")
    return _scaled(samples, 0, 1)


def check_finite(samples: Samples) -> None:
    """Refuse NaN and infinity.

    Raises:
        ImageRefused: `not_finite`.
    """
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        raise ImageRefused("not_finite", f"{np.count_nonzero(~np.isfinite(samples))} samples are NaN or infinite")


def stated_white(samples: Samples, page: Any) -> int:
    """The value of white: 2^bits - 1 with the significant bits that the file states.

    MaxSampleValue or SMaxSampleValue narrows BitsPerSample (12-bit data in 16 bits) when it is the top of at
    least 8 whole bits and no sample exceeds it; otherwise it is only a statistic of this image.
    """
    stated = np.unique(np.concatenate([np.ravel(page.tags.valueof(code, ())) for code in (281, 341)]))
    bits = int(stated[0]).bit_length() if stated.size == 1 and np.isfinite(stated[0]) else 0
    if 8 <= bits < page.bitspersample and stated[0] == 2**bits - 1 >= samples.max():  # noqa: PLR2004
        return int(2**bits - 1)
    return int(2**page.bitspersample - 1)


def _scaled(samples: Samples, low: float, high: float) -> UInt8Array:
    if samples.dtype.kind in "ui" and samples.dtype.itemsize <= _TABLE_BYTES:
        # Every index is inside the table, so that `clip` changes nothing but the time, which it halves.
        unsigned = samples.view(f"u{samples.dtype.itemsize}")
        table = _table(samples.dtype.str, low, high)
        return by_bands(lambda some: np.asarray(np.take(table, some, mode="clip")), unsigned)
    return by_bands(lambda some: _scaled_directly(some, low, high), samples)


@lru_cache(maxsize=16)
def _table(dtype: str, low: float, high: float) -> UInt8Array:
    """The 8-bit value of each value of an integer type, in the order of its bit patterns."""
    itemsize = np.dtype(dtype).itemsize
    patterns = np.arange(2 ** (8 * itemsize), dtype=f"{dtype[0]}u{itemsize}")
    return _scaled_directly(patterns.view(dtype), low, high)


def _scaled_directly(samples: Samples, low: float, high: float) -> UInt8Array:
    # Exact where it matters: the quotient is correctly rounded, so that a half stays a half.
    clipped = np.clip(samples.astype(np.float64), low, high)
    return rounded((clipped - low) * 255 / (high - low))


def rounded(values: npt.NDArray[Any]) -> UInt8Array:
    """Values in [0, 255] as uint8, rounding half up."""
    return np.asarray(np.floor(values + 0.5), dtype=np.uint8)


def by_bands(convert: Callable[..., UInt8Array], *arrays: Samples) -> UInt8Array:
    """Convert some rows at a time: on the way to 8 bits, a value takes up to 24 bytes, and even a table asks for 8.

    Args:
        convert: From some rows of each array to uint8, each row by itself.
        *arrays: As many rows each, at least one.
    """
    count = len(arrays[0])
    rows = max(1, _BAND_VALUES * count // max(1, arrays[0].size))
    if rows >= count:
        return convert(*arrays)
    first = convert(*(array[:rows] for array in arrays))
    converted = np.empty((count, *first.shape[1:]), np.uint8)
    converted[:rows] = first
    for start in range(rows, count, rows):
        converted[start : start + rows] = convert(*(array[start : start + rows] for array in arrays))
    return converted
