"""The range of sample values of a data set: decided once, from its training images, then used for every image.

8-bit images need none. Of 16-bit ones few say how many of their bits are used, and a 12-bit camera's image would be
nearly black if all 16 were taken; a range of each image's own would make the same value look different in each.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.config.images import TiffPolicy
from lib.errors import ImageRefused
from lib.folders.output import OutputFolder
from lib.ingest.tiff.colour import holds_intensities, split_channels
from lib.ingest.tiff.eight_bits import UNRESOLVED, Samples, check_finite, needs_range, sample_type, stated_white
from lib.ingest.tiff.pages import open_pages
from lib.ingest.tiff.refusals import damage_as_refusal
from lib.ingest.tiff.samples import read_samples
from lib.ingest.tiff.structure import check_pages
from lib.storage.location import Location
from lib.storage.scan import StoredFile

PolicyT = TypeVar("PolicyT", bound=TiffPolicy)
Ranges = dict[str, tuple[float, float]]

MEASURED_FILES: Final = 64
MEASURED_BYTES: Final = 2**30  # a few whole slides are as good as many small images
_FILES_AT_ONCE: Final = 16
_SAMPLES_PER_PAGE: Final = 2**16
_USUAL_BITS: Final = (8, 10, 12, 14, 16, 24, 32, 64)
_BRIGHT_PERCENTILE: Final = 99.99  # above it are hot pixels


def with_measured_ranges(source: Location, images: pa.Table, policy: PolicyT) -> PolicyT:
    """Decide the ranges of a data set, from at most `MEASURED_FILES` of its training images (or 1 GiB of them).

    The same listing gives the same ranges: the files are the first by `image_id`, which is a hash of their paths.
    Damaged files do not count; they are refused later, one by one.

    Args:
        source: The folder that the listed paths are relative to.
        images: Rows of `LISTING_SCHEMA`, in the order of `image_id`.
        policy: A policy, or settings with one in them.

    Returns:
        The policy with a `tiff_range` by sample type, as `uint16=0:4095`; the policy itself if its range is given,
        or if no file has samples that need one.

    Raises:
        StorageError: If a file cannot be read as it was listed.
    """
    if policy.tiff_range not in UNRESOLVED:
        return policy
    training = images.filter(pc.equal(images["split"], "train"))
    return resolve_policy(policy, measure_ranges(_read_some(source, training), policy))


def with_ranges_of_run(folder: OutputFolder[Any], source: Location, images: pa.Table, policy: PolicyT) -> PolicyT:
    """As `with_measured_ranges`, but a run that was interrupted does not measure again.

    Args:
        folder: What the run writes; its inputs stand for the listing.
    """
    if policy.tiff_range not in UNRESOLVED:
        return policy
    measured = folder.measured_once("tiff_range", lambda: with_measured_ranges(source, images, policy).tiff_range)
    return policy.model_copy(update={"tiff_range": measured})


def _read_some(source: Location, images: pa.Table) -> Iterator[bytes]:
    read = 0
    for start in range(0, min(images.num_rows, MEASURED_FILES), _FILES_AT_ONCE):
        rows = images.slice(start, min(_FILES_AT_ONCE, MEASURED_FILES - start)).to_pylist()
        files = [StoredFile.of(row) for row in rows]
        for data, _ in source.read_listed(files):
            yield data
            read += len(data)
            if read > MEASURED_BYTES:
                return


def resolve_policy(policy: PolicyT, ranges: Ranges) -> PolicyT:
    """The policy with measured ranges in place of `auto` or `percentile`; unchanged if there are none."""
    if not ranges:
        return policy
    text = ",".join(f"{kind}={low!r}:{high!r}" for kind, (low, high) in sorted(ranges.items()))
    return policy.model_copy(update={"tiff_range": text})


def measure_ranges(files: Iterable[bytes], policy: TiffPolicy) -> Ranges:
    """The values of black and white in a data set, by sample type.

    Each page gives at most 65,536 of its samples, drawn with a fixed seed, and all are pooled. With `auto`:

    - unsigned integers begin at 0 and end at the top of the fewest bits among 8, 10, 12, 14, 16, 24 and 32 that
      hold 99.99 % of the samples, and that no file states more of. Full-range 16-bit data thus stays value / 257,
      and brightness stays comparable with zero. Bits that are the file's own (12 or 14) are not measured.
    - floats within [0, 1] need no range: each file is checked to be within when it is decoded.
    - other floats and signed integers have no natural black: they go by percentiles.

    With `percentile`, all types go by `tiff_percentiles` of the pooled samples.

    Args:
        files: Whole files, a few dozen; those that are refused are passed over.
        policy: Which pages and channels to measure, and how.

    Returns:
        Low and high, low < high, by sample type (`uint16`); none for types that
        need none, were not found, or are constant.
    """
    pooled: dict[str, list[Samples]] = defaultdict(list)
    stated: dict[str, int] = defaultdict(int)
    for data in files:
        for kind, white, samples in _measurable(data, policy):
            if white:
                stated[kind] = max(stated[kind], white)
            else:
                pooled[kind].append(samples)
    kinds = stated.keys() | pooled.keys()
    found = {kind: _range(kind, _pool(pooled[kind]), stated[kind], policy) for kind in kinds}
    return {kind: (low, high) for kind, (low, high) in found.items() if low < high}


def _pool(samples: list[Samples]) -> Samples:
    return np.concatenate(samples) if samples else np.empty(0)


def _measurable(data: bytes, policy: TiffPolicy) -> list[tuple[str, int, Samples]]:
    """The type, the stated white (0 if there is none to keep to) and some samples of each page that needs a range."""
    try:
        with damage_as_refusal(), open_pages(data, policy) as pages:
            check_pages(data, pages, policy)
            wanted = [page for page in pages if holds_intensities(page) and needs_range(page)]
            return [_drawn(data, page, policy) for page in wanted if policy.tiff_range != "auto" or _is_open(page)]
    except ImageRefused:
        return []


def _is_open(page: Any) -> bool:
    """Whether the bits of the samples are those of their container, and so say nothing of what is in them."""
    return bool(page.dtype.kind != "u" or page.bitspersample == 8 * page.dtype.itemsize)


def _drawn(data: bytes, page: Any, policy: TiffPolicy) -> tuple[str, int, Samples]:
    samples = split_channels(read_samples(data, page), page, policy)[0].ravel()
    check_finite(samples)
    white = stated_white(samples, page) if samples.dtype.kind == "u" and policy.tiff_range == "auto" else 0
    drawn = samples
    if samples.size > _SAMPLES_PER_PAGE:
        drawn = samples[np.random.default_rng(0).integers(0, samples.size, _SAMPLES_PER_PAGE)]
    if samples.dtype.kind == "f":
        drawn = np.append(drawn, (samples.min(), samples.max()))  # to know whether all lie within [0, 1]
    return sample_type(page), white if white < 2**page.bitspersample - 1 else 0, drawn


def _range(kind: str, samples: Samples, stated: int, policy: TiffPolicy) -> tuple[float, float]:
    """Low and high, equal if there is no range to set."""
    if policy.tiff_range == "auto" and kind.startswith("uint"):
        needed = int(_percentiles(samples, _BRIGHT_PERCENTILE)[0]) if samples.size else 0
        return 0, max(stated, next(top for bits in _USUAL_BITS if (top := 2**bits - 1) >= needed))
    if policy.tiff_range == "auto" and kind.startswith("float") and samples.min() >= 0 and samples.max() <= 1:
        return 0, 0
    low, high = _percentiles(samples, *policy.tiff_percentiles)
    return low, high


def _percentiles(samples: Samples, *percentages: float) -> list[float]:
    """Percentiles that are samples themselves, as Python numbers."""
    found: list[float] = np.percentile(samples, percentages, method="inverted_cdf").tolist()
    return found
