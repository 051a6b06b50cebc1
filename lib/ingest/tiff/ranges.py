"""The range of sample values of a data set: decided once, from its training images, then used for every image.

8-bit images need none. Of 16-bit ones few say how many of their bits are used, and a 12-bit camera's image would be
nearly black if all 16 were taken; a range of each image's own would make the same value look different in each.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lib.config.images import ImageConfig, TiffPolicy
from lib.errors import DataError, ImageRefused
from lib.folders.output import OutputFolder
from lib.ingest.tiff.bands import Bands, bands_of, read_bands
from lib.ingest.tiff.colour import holds_intensities, of_pages, split_channels
from lib.ingest.tiff.eight_bits import UNRESOLVED, Samples, check_finite, needs_range, sample_type, stated_white
from lib.ingest.tiff.footprint import check_footprint
from lib.ingest.tiff.pages import open_pages
from lib.ingest.tiff.refusals import damage_as_refusal
from lib.ingest.tiff.samples import read_samples
from lib.ingest.tiff.structure import check_pages
from lib.storage.location import Location
from lib.storage.scan import StoredFile

PolicyT = TypeVar("PolicyT", bound=ImageConfig)
Ranges = dict[str, tuple[float, float]]

MEASURED_FILES: Final = 64
FILES_A_CLASS: Final = 2
"""Measured of each class at least, however many classes there are."""
MEASURED_BYTES: Final = 2**30  # a few whole slides are as good as many small images
OTHER_SCALE: Final = 10.0
"""Files whose ranges differ by such a factor, with none between them, are of different scales."""
BLANK: Final = 0.01
"""A file of integers whose range is such a share of the widest shows nothing, and is of no other scale for that."""
EIGHT_BITS: Final = "uint8=0:255"
"""The range of a data set none of whose files needs one: other types have none, and are refused."""
_FILES_AT_ONCE: Final = 16
_SAMPLES_PER_PAGE: Final = 2**16
_USUAL_BITS: Final = (8, 10, 12, 14, 16, 24, 32, 64)
_BRIGHT_PERCENTILE: Final = 99.99  # above it are hot pixels


def with_measured_ranges(source: Location, images: pa.Table, policy: PolicyT) -> PolicyT:
    """Decide the ranges of a data set, from about `MEASURED_FILES` of its training images (or 1 GiB of them).

    They are of every class and, as far as they reach, of every folder and every size of file (see `files_to_measure`).
    The same listing gives the same ranges. Damaged files do not count; they are refused later, one by one.

    Args:
        source: The folder that the listed paths are relative to.
        images: Rows of `LISTING_SCHEMA`, in the order of `image_id`.
        policy: A policy, or settings with one in them.

    Returns:
        The policy with a `tiff_range` by sample type, as `uint16=0:4095`; the policy itself if its range is given.

    Raises:
        DataError: If files of one sample type are of different scales.
        StorageError: If a file cannot be read as it was listed.
    """
    if policy.tiff_range not in UNRESOLVED:
        return policy
    return resolve_policy(policy, _measure(source, images, policy).ranges)


def _measure(source: Location, images: pa.Table, policy: ImageConfig) -> "Measured":
    training = images.filter(pc.equal(images["split"], "train"))
    return measure_files(_read_some(source, files_to_measure(training)), policy, policy.image_size)


def files_to_measure(images: pa.Table) -> pa.Table:
    """Some of the listed images, 64 or 1 GiB of them, in turns of all classes and of all folders in them.

    Of each folder first the smallest file and the largest, then those between: files of other sample types differ in
    size, and this is all that a listing tells.

    Args:
        images: `path`, `label` and `size_bytes`.
    """
    folders = pc.replace_substring_regex(images["path"], "/[^/]*$", "")
    labels, folders = (column.combine_chunks().dictionary_encode() for column in (images["label"], folders))
    label, folder = (pc.fill_null(column.indices, -1).to_numpy() for column in (labels, folders))
    order = np.lexsort((images["size_bytes"].to_numpy(), folder, label))
    starts = np.flatnonzero(np.any(np.diff([label[order], folder[order]], axis=1, prepend=-2), axis=0))
    stops = [*starts[1:], len(order)]
    seen: Counter[int] = Counter()
    turns = []
    for start, stop in zip(starts, stops, strict=True):
        number = int(label[order[start]])
        places = [start + place for place in _spread(int(stop - start), MEASURED_FILES)]
        turns += [(turn, seen[number], number, int(order[place])) for turn, place in enumerate(places)]
        seen[number] += 1
    wanted = max(MEASURED_FILES, FILES_A_CLASS * len(seen))
    some = images.take([row for *_, row in sorted(turns)[:wanted]])
    fitting = np.searchsorted(np.cumsum(some["size_bytes"].to_numpy()), MEASURED_BYTES, side="right")
    return some.slice(0, max(1, int(fitting)))


def _spread(count: int, most: int) -> list[int]:
    """The first place, the last, and then ever finer ones between them, each once."""
    steps = 2 ** np.arange(int(np.log2(max(min(count, most), 1))) + 1)
    places = [round((count - 1) * number / step) for step in steps for number in range(step + 1)]
    return list(dict.fromkeys(places))[:most]


def with_ranges_of_run(
    folder: OutputFolder[Any], source: Location, images: pa.Table, policy: PolicyT
) -> tuple[PolicyT, int]:
    """As `with_measured_ranges`, but a run that was interrupted does not measure again.

    Args:
        folder: What the run writes; its inputs stand for the listing.

    Returns:
        The policy, and the bytes that the most demanding of the measured files takes to decode; 0 if none was measured.
    """
    if policy.tiff_range not in UNRESOLVED:
        return policy, 0
    measured = cache(lambda: _measure(source, images, policy))
    tiff_range = folder.measured_once("tiff_range", lambda: resolve_policy(policy, measured().ranges).tiff_range)
    most = folder.measured_once("decoding_bytes", lambda: str(measured().decoding_bytes))
    return policy.model_copy(update={"tiff_range": tiff_range}), int(most)


def _read_some(source: Location, images: pa.Table) -> Iterator[tuple[str, bytes]]:
    for start in range(0, images.num_rows, _FILES_AT_ONCE):
        files = [StoredFile.of(row) for row in images.slice(start, _FILES_AT_ONCE).to_pylist()]
        for file, (data, _) in zip(files, source.read_listed(files), strict=True):
            yield file.path, data


def resolve_policy(policy: PolicyT, ranges: Ranges) -> PolicyT:
    """The policy with measured ranges in place of `auto` or `percentile`; `EIGHT_BITS` if there are none."""
    text = ",".join(f"{kind}={low!r}:{high!r}" for kind, (low, high) in sorted(ranges.items()))
    return policy.model_copy(update={"tiff_range": text or EIGHT_BITS})


class Measured(NamedTuple):
    """What some files of a data set have shown.

    Attributes:
        ranges: Low and high, low < high, by sample type (`uint16`); none for types that need none or were not found.
        decoding_bytes: See `lib.ingest.tiff.footprint`; of the file that takes most.
    """

    ranges: Ranges
    decoding_bytes: int


def measure_files(files: Iterable[tuple[str, bytes]], policy: TiffPolicy, size: int | None = None) -> Measured:
    """The values of black and white in a data set, by sample type, and the memory that its files take.

    Each page gives at most 65,536 of its samples, drawn with a fixed seed, and all are pooled. With `auto`:

    - unsigned integers of which files state how many bits are used go from 0 to the top of these, or of the fewest
      among 8, 10, 12, 14, 16, 24 and 32 that hold 99.99 % of the samples. Bits that are the type's own (12 or 14) are
      not measured.
    - floats within [0, 1] need no range: each file is checked to be within when it is decoded.
    - all others have no natural white, and go by `tiff_percentiles` of the pooled samples. The top of the bits that
      they need would do for a camera that is lit to its limit; a fluorescent image has most of its light far below.

    With `percentile`, all types go by `tiff_percentiles` of the pooled samples, whatever their scales.

    Args:
        files: Names and contents of whole files, a few dozen; those that are refused are passed over.
        policy: Which pages and channels to measure, and how.
        size: Side of the square that an image becomes, in pixels; see `lib.ingest.tiff.decode.read_tiff`.

    Raises:
        DataError: If files of one sample type are of different scales, with `auto`.
    """
    most = 0
    pooled: dict[str, list[_Drawn]] = defaultdict(list)
    stated: dict[str, int] = defaultdict(int)
    for name, data in files:
        needed, drawn_of_file = _measurable(data, policy, size)
        most = max(most, needed)
        for kind, white, samples in drawn_of_file:
            if white:
                stated[kind] = max(stated[kind], white)
            else:
                pooled[kind].append(_Drawn(name, samples))
    if policy.tiff_range == "auto":
        for kind, drawn in pooled.items():
            _refuse_other_scales(kind, drawn, policy)
    kinds = stated.keys() | pooled.keys()
    found = {kind: _range(kind, _pool(pooled[kind]), stated[kind], policy) for kind in kinds}
    return Measured({kind: (low, high) for kind, (low, high) in found.items() if low < high}, most)


class _Drawn(NamedTuple):
    """Some samples of a file."""

    name: str
    samples: Samples


def _refuse_other_scales(kind: str, drawn: list[_Drawn], policy: TiffPolicy) -> None:
    """Refuse files of which some are of another scale: any one range would blacken or bleach the others.

    Scales differ where ranges leave a gap between them. A data set in which images of all brightnesses occur has none.
    """
    ends = [_percentiles(one.samples, *policy.tiff_percentiles) for one in drawn]
    widths = sorted((high - low, one.name, low, high) for one, (low, high) in zip(drawn, ends, strict=True))
    least = BLANK * widths[-1][0] if kind.startswith(("uint", "int")) else 0.0
    shown = [width for width in widths if width[0] > least]
    for narrow, wide in pairwise(shown):
        if wide[0] >= OTHER_SCALE * narrow[0]:
            raise DataError(
                f"{kind} samples go from {narrow[2]:g} to {narrow[3]:g} in {narrow[1]}, but from {wide[2]:g} to "
                f"{wide[3]:g} in {wide[1]}: no one range fits both. Convert such files apart, or choose: "
                "--tiff-range percentile (one range over all) or LOW:HIGH"
            )


def _pool(drawn: list[_Drawn]) -> Samples:
    return np.concatenate([one.samples for one in drawn]) if drawn else np.empty(0)


def _measurable(data: bytes, policy: TiffPolicy, size: int | None) -> tuple[int, list[tuple[str, int, Samples]]]:
    """The memory that a file takes, and of each page that needs a range its type, its white and some samples.

    White is 0 where there is none to keep to.
    """
    try:
        with damage_as_refusal(), open_pages(data, policy) as channels:
            pages = [page for some in channels for page in some]
            check_pages(data, pages, policy)
            bands = bands_of(channels, policy, size)
            needed = check_footprint(data, channels, policy, bands)
            wanted = [page for page in pages if holds_intensities(page) and needs_range(page)]
            measured = [page for page in wanted if policy.tiff_range != "auto" or _is_open(page)]
            return needed, [_drawn(data, page, policy, bands) for page in measured]
    except ImageRefused:
        return 0, []


def _is_open(page: Any) -> bool:
    """Whether the bits of the samples are those of their container, and so say nothing of what is in them."""
    return bool(page.dtype.kind != "u" or page.bitspersample == 8 * page.dtype.itemsize)


def _drawn(data: bytes, page: Any, policy: TiffPolicy, bands: Bands | None) -> tuple[str, int, Samples]:
    first, drawn, ends, white = 0, list[Samples](), list[Any](), 0
    for band in [read_samples(data, page)] if bands is None else read_bands(data, page, bands.rows):
        samples = split_channels(band, page, of_pages(policy))[0]
        places = _places(samples[0].size * page.imagelength) - first
        samples = samples.ravel()
        check_finite(samples)
        if samples.dtype.kind == "u" and policy.tiff_range == "auto":
            white = stated_white(samples, page)
        drawn.append(samples[places[(places >= 0) & (places < samples.size)]])
        if samples.dtype.kind == "f":
            ends += samples.min(), samples.max()
        first += samples.size
    if ends:
        drawn.append(np.array([min(ends), max(ends)]))  # to know whether all lie within [0, 1]
    return sample_type(page), white if white < 2**page.bitspersample - 1 else 0, np.concatenate(drawn)


def _places(count: int) -> npt.NDArray[np.int64]:
    """Of the samples of a page that are looked at."""
    if count <= _SAMPLES_PER_PAGE:
        return np.arange(count)
    return np.random.default_rng(0).integers(0, count, _SAMPLES_PER_PAGE)


def _range(kind: str, samples: Samples, stated: int, policy: TiffPolicy) -> tuple[float, float]:
    """Low and high, equal if there is no range to set."""
    if policy.tiff_range == "auto" and kind.startswith("float") and samples.min() >= 0 and samples.max() <= 1:
        return 0, 0
    low, high = _percentiles(samples, *policy.tiff_percentiles) if samples.size else (0, 0)
    if policy.tiff_range == "auto" and kind.startswith("uint") and (stated or low == high):
        needed = int(_percentiles(samples, _BRIGHT_PERCENTILE)[0]) if samples.size else 0
        return 0, max(stated, next(top for bits in _USUAL_BITS if (top := 2**bits - 1) >= needed))
    return low, high


def _percentiles(samples: Samples, *percentages: float) -> list[float]:
    """Percentiles that are samples themselves, as Python numbers."""
    found: list[float] = np.percentile(samples, percentages, method="inverted_cdf").tolist()
    return found
