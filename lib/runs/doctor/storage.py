"""Whether the source can be listed, read and decoded, and the output be written."""

import time
import uuid
from collections import Counter
from dataclasses import dataclass

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc

from lib.config.chain import DoctorConfig
from lib.config.images import ImageConfig, ListingConfig
from lib.errors import DataError, ImageRefused
from lib.folders.manifest import manifest_table
from lib.ingest.image import encode_jpeg, resize_image
from lib.ingest.listing import Listing, list_labelled
from lib.ingest.tiff.decode import read_tiff
from lib.report.formatting import count_of
from lib.runs.doctor.findings import PATIENCE_S, Finding, within
from lib.storage.location import Location
from lib.storage.scan import StoredFile

SAMPLE = 20
FREE_SHARE = 0.9


@dataclass(frozen=True)
class Sample:
    """What a few images of the source told.

    Attributes:
        fetch_s: Seconds to fetch one, with others fetched at the same time.
        convert_s: Seconds of one core to decode, resize and encode one.
        encoded_bytes: Size of one after conversion.
        decoding_bytes: Memory that the most demanding one takes to decode.
        refused: How many were refused, by reason.
        images: How many were looked at.
    """

    fetch_s: float
    convert_s: float
    encoded_bytes: float
    decoding_bytes: int
    refused: Counter[str]
    images: int


def reach_source(config: DoctorConfig) -> str:
    """Whether credentials open the source: its first file is seen within `PATIENCE_S`.

    Raises:
        TissueError: With the remedy, if not.
    """
    source = Location(config.source)
    if within(PATIENCE_S, source.is_empty):
        raise DataError(f"no file found in {config.source}; check the address, and that these credentials may read it")
    return f"{config.source} can be read"


def write_output(config: DoctorConfig) -> str:
    """Whether the output can be written: a small file is, in the output or what there is above it, and deleted.

    Raises:
        TissueError: If not.
    """
    output = Location(config.output)
    within(PATIENCE_S, output.check_writable)
    within(PATIENCE_S, lambda: _write_probe(_existing_folder(output)))
    return f"{config.output} can be written"


def _write_probe(folder: Location) -> None:
    probe = folder / f".{uuid.uuid4().hex}.partial"  # a name that no listing tells
    probe.write_bytes(b"written by `doctor` to see that it can be, and deleted again")
    probe.delete()


def _existing_folder(output: Location) -> Location:
    """The output, or the nearest folder above it that is there, so that none is made; buckets have no folders."""
    while output.scheme != "gs" and not output.exists() and (above := output.above) is not None:
        output = above
    return output


def list_source(config: DoctorConfig) -> Listing:
    """The listing that `pipeline` would make.

    Raises:
        TissueError: As `pipeline` would.
    """
    listing = list_labelled(Location(config.source), config.part(ListingConfig))
    if not pc.any(pc.equal(listing.images["split"], "test")).as_py():
        raise DataError(f"{config.source} has no test images to evaluate")
    return listing


def describe_listing(listing: Listing) -> str:
    """How many images there are, of how many classes."""
    sizes = listing.images["size_bytes"]
    return (
        f"{count_of(listing.images.num_rows, 'image')} of {count_of(len(listing.class_names), 'class')}, "
        f"{(pc.sum(sizes).as_py() or 0) / 1e9:,.1f} GB; {count_of(listing.excluded.num_rows, 'other file')}"
    )


def judge_files(listing: Listing) -> Finding:
    """Whether sizes and names alone, which are all that a listing knows of files, give classes away."""
    from lib.evaluation.checks.file_properties import file_properties, in_words

    columns = {name: listing.images[name] for name in listing.images.column_names}
    columns["verdict"] = pa.array(["accepted"] * listing.images.num_rows, pa.string())
    found = file_properties(manifest_table(columns, listing.images.num_rows))
    if found is None:
        return Finding("files", "ok", "too few images to see whether sizes and names of files give classes away")
    if found.beats_chance:
        return Finding("files", "warning", in_words(found))
    return Finding("files", "ok", "sizes and names of files do not give classes away")


def convert_sample(listing: Listing, config: DoctorConfig) -> Sample:
    """Fetch and convert the first images of the listing, which is in an order as good as random.

    Raises:
        TissueError: If one cannot be fetched.
    """
    rows = listing.images.slice(0, SAMPLE).to_pylist()
    files = [StoredFile.of(row) for row in rows]
    started = time.perf_counter()
    contents = Location(config.source).read_listed(files)
    fetched = time.perf_counter()
    refused: Counter[str] = Counter()
    encoded, needed = [], [0]
    for data, _ in contents:
        try:
            found = read_tiff(data, config.part(ImageConfig), config.image_size)
        except ImageRefused as refusal:
            refused[refusal.code] += 1
            continue
        needed.append(found.decoding_bytes)
        encoded.append(len(encode_jpeg(resize_image(found.rgb, config.image_size), config.quality)))
    ended = time.perf_counter()
    count = len(contents)
    return Sample(
        (fetched - started) / count,
        (ended - fetched) / count,
        float(np.mean(encoded)) if encoded else 0.0,
        max(needed),
        refused,
        count,
    )


def judge_sample(sample: Sample, config: DoctorConfig) -> Finding:
    """Whether the sample decodes, and within what is allowed."""
    bad = sample.refused.total()
    reasons = ", ".join(f"{reason} ({count})" for reason, count in sample.refused.most_common())
    what = f"{sample.images - bad} of {sample.images} sampled TIFFs can be decoded"
    if not bad:
        return Finding("decoding", "ok", f"{what}, in {1000 * sample.convert_s:.1f} ms each on one core")
    if bad == sample.images:
        return Finding("decoding", "blocks", f"{what}: {reasons}; see the --tiff-... settings")
    allowed = bad / sample.images <= config.max_bad_fraction
    advice = "" if allowed else f"; with --max-bad-fraction {config.max_bad_fraction:g} the run would stop"
    return Finding("decoding", "warning" if allowed else "blocks", f"{what}: {reasons}{advice}")


def judge_disk(sample: Sample, listing: Listing, config: DoctorConfig) -> Finding:
    """Whether a local output has room for the converted images."""
    needed = sample.encoded_bytes * listing.images.num_rows
    output = Location(config.output)
    if not output.is_local:
        return Finding("disk", "ok", f"the dataset will need {needed / 1e9:,.2f} GB in {output.scheme}://")
    free = psutil.disk_usage(_existing_folder(output).path).free
    text = f"the dataset will need {needed / 1e9:,.2f} GB; {free / 1e9:,.1f} GB are free"
    return Finding("disk", "ok" if needed < FREE_SHARE * free else "blocks", text)
