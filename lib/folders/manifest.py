"""The manifest: what became of each listed file, and the proof that none is lost."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lib.errors import TissueError, TooManyBadImagesError
from lib.folders.columns import SITE_FIELDS
from lib.folders.record import Record
from lib.storage.location import Location
from lib.storage.scan import UNREADABLE
from lib.storage.tables import read_table, write_spreadsheet, write_table

MANIFEST_FILE, QUARANTINED_FILE = "manifest.parquet", "quarantined.csv"
PIXEL_FIELDS = [
    pa.field("sample_type", pa.string()),  # as the file stores them: uint8, uint12, float32
    pa.field("pages", pa.int32()),  # of the file
    pa.field("micrometres", pa.float32()),  # the side of a pixel of the file; null where it does not say
    pa.field("black", pa.float32()),  # share of the values that came out as 0; of some of its rows
    pa.field("white", pa.float32()),  # as 255
    pa.field("levels", pa.int16()),  # different values from 0 to 255 that came out
    pa.field("note", pa.string()),  # what was not read as the file states it: one of `NOTES`
]
"""What the conversion to 8 bits made of an image; null where it was refused, or is not an image."""
FILE_FIELDS = [
    pa.field("height", pa.int32()),  # of the original, in pixels
    pa.field("width", pa.int32()),
    pa.field("compression", pa.string()),
    pa.field("jpeg_tables", pa.string()),  # digest of the quantisation tables: files of one quality have the same
    pa.field("tags", pa.string()),  # digest of which tags the file has, whatever their values
    pa.field("software", pa.string()),  # by which it says it was written
]
"""How the file of an image was written; null where the image was refused, or by earlier versions."""
PIXEL_DOUBTS = {
    "one_colour": "came out nearly of one colour",
    "clipped": "came out a quarter white or more: their range ends too low",
    "few_levels": "came out with fewer than 16 of 256 levels",
    "empty_alpha": "were read without their alpha channel, by which nothing could be seen",
    "unused_pages": "were read from one page of several",
    "untrained_type": "are of a sample type that no training image has",
    "mixed_scales": "are of scales that differ by more than 1.5 times",
}
"""What makes one doubt the pixels of images, by kind, as it goes on after `images`."""
NOTES = {
    "empty_alpha": "an alpha channel by which nothing could be seen, and which was left out",
    "reduced_first": "the first page is a small copy; the whole image after it was read",
}
"""By code."""
MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("checksum", pa.string()),
        pa.field("label", pa.string()),
        pa.field("split", pa.string()),
        pa.field("group", pa.string()),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("version", pa.string()),
        *PIXEL_FIELDS,
        *FILE_FIELDS,
        *SITE_FIELDS,
    ]
)
SPLITS = ("train", "validation", "test")
VERDICTS = ("accepted", "quarantined", "excluded")
_FOUND_LATER = {"verdict", "reason", "detail", *(field.name for field in [*PIXEL_FIELDS, *FILE_FIELDS])}
LISTING_SCHEMA = pa.schema([field for field in MANIFEST_SCHEMA if field.name not in _FOUND_LATER])
NOWHERE = "-"
"""Stands for the split and the class of files that have none."""
EXCLUSIONS = {
    **UNREADABLE,
    "hidden_file": "a name that starts with a dot, or in a folder with such a name, as left by an operating system",
    "not_tiff_name": "the name does not end in .tif or .tiff",
    "outside_splits": "not below train/, test/ or val/",
    "no_label": "directly in train/ or test/, not in a folder that names its label",
    "not_in_table": "not named by the table of labels",
    "duplicate": "the same bytes as another image, which is kept",
    "duplicate_conflict": "the same bytes as an image of another class, so that no label can be trusted",
    "test_split": "kept for testing, so not touched by training",
}
"""Why a file is left out, by reason code."""
REMEDIES = {
    "unknown_channels": "--tiff-alpha ignore leaves the extra channel out",
    "transparent": "--tiff-alpha white or ignore",
    "too_many_channels": "--tiff-channels 0,1,2 says which to use",
    "too_large": "--max-pixels, --max-image-gib",
    "constant": "--tiff-constant keep",
    "float_range": "--tiff-range LOW:HIGH or percentile",
    "signed_range": "--tiff-range LOW:HIGH or percentile",
    "no_range": "--tiff-range LOW:HIGH",
    "no_such_page": "--tiff-page first",
    "no_such_level": "--tiff-level 0",
    "no_scale": "--tiff-level 0",
}
"""Which setting reads images that were refused, by reason code; for other reasons none does."""
MOST_EXAMPLES = 5
ROWS_AT_ONCE = 10_000
"""Rows that are Python objects at one time: a listing of millions is kept in columns."""


class VerdictCounts(Record):
    """Files of one class in one split, by verdict."""

    accepted: int = 0
    quarantined: int = 0
    excluded: int = 0


class Counts(Record):
    """What became of all listed files: `listed` is the sum of the others."""

    listed: int
    accepted: int
    quarantined: int
    excluded: int


class DuplicateCounts(Record):
    """Sets of images with the same bytes, and how many images are in them."""

    sets: int
    images: int
    sets_across_classes: int
    """Of more than one class."""
    sets_across_test: int
    """With images both in the test split and outside it."""


class Scale(Record):
    """How wide the pixels of some images are, in micrometres."""

    images: int
    """Whose files say so."""
    least: float
    median: float
    greatest: float


class PixelDoubt(Record):
    """Images that the conversion to 8 bits may have spoiled, or that are of another kind than the others."""

    kind: str
    """One of `PIXEL_DOUBTS`."""
    label: str | None
    """Of one class; None for images without labels, or of all classes."""
    sample_type: str | None
    """As the files store them; None for all types."""
    images: int
    of: int
    """All images of the class and type."""
    advice: str
    """What helps."""

    @property
    def group(self) -> str:
        """`12 of 40 of liver (uint16)`."""
        of_class = f" of {self.label}" if self.label else ""
        return f"{self.images:,} of {self.of:,}{of_class}" + (f" ({self.sample_type})" if self.sample_type else "")


def manifest_table(columns: Mapping[str, pa.Array | pa.ChunkedArray], rows: int) -> pa.Table:
    """Rows of `MANIFEST_SCHEMA`; columns that are not given are null."""
    nulls = {field.name: pa.nulls(rows, field.type) for field in MANIFEST_SCHEMA if field.name not in columns}
    return pa.table({name: (nulls | dict(columns))[name] for name in MANIFEST_SCHEMA.names}, schema=MANIFEST_SCHEMA)


def write_manifest(manifest: pa.Table, folder: Location) -> None:
    """Write the manifest (`MANIFEST_SCHEMA`) of a dataset or predictions folder, and a list of its bad images.

    There is no list where no image is bad.
    """
    write_table(manifest, folder / MANIFEST_FILE)
    bad, place = quarantined_files(manifest), folder / QUARANTINED_FILE
    if bad.num_rows:
        write_spreadsheet(bad.column_names, bad.to_pylist(), place)
    elif place.exists():
        place.delete()


def quarantined_files(manifest: pa.Table) -> pa.Table:
    """The images that were refused, by path: `path`, `label`, `split`, `reason` and `detail`."""
    bad = manifest.filter(pc.equal(manifest["verdict"], "quarantined")).sort_by("path")
    return bad.select(["path", "label", "split", "reason", "detail"])


def read_manifest(folder: Location, columns: list[str] | None = None) -> pa.Table:
    """The manifest of a dataset or predictions folder, or some columns of it; null in those of a later version.

    Raises:
        StorageError: If it cannot be read.
    """
    return read_table(folder / MANIFEST_FILE, columns, MANIFEST_SCHEMA)


def content_digest(table: pa.Table, salt: str = "") -> str:
    """32 hexadecimal digits that change with every cell and with the order of the rows."""
    digest = hashlib.blake2b(salt.encode(), digest_size=16)
    for start in range(0, table.num_rows, ROWS_AT_ONCE):
        digest.update(repr(table.slice(start, ROWS_AT_ONCE).to_pydict()).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Accounting:
    """What became of every listed file; making one checks that none is lost and none counted twice.

    Attributes:
        counts: All files, by verdict.
        by_split: Files by split, label and verdict. Excluded files have neither; they stand under `NOWHERE`.
        reasons: Files by reason code, the most frequent first.
        examples: Some quarantined files, each with what was wrong.
    """

    counts: Counts
    by_split: dict[str, dict[str, VerdictCounts]]
    reasons: dict[str, int]
    examples: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, manifest: pa.Table, listed_ids: pa.ChunkedArray) -> "Accounting":
        """Account for a manifest against the `image_id` of every listed file.

        Raises:
            TissueError: If the manifest and the listing do not hold the same files, once each.
        """
        _refuse_other_ids(manifest["image_id"], listed_ids)
        by_split: dict[str, dict[str, VerdictCounts]] = {}
        for (split, label, verdict), count in _counts(manifest, ["split", "label", "verdict"]).items():
            by_class = by_split.setdefault(split or NOWHERE, {})
            found = by_class.get(label or NOWHERE, VerdictCounts(accepted=0, quarantined=0, excluded=0))
            by_class[label or NOWHERE] = found.model_copy(update={verdict: getattr(found, verdict) + count})
        reasons = Counter({reason: count for (reason,), count in _counts(manifest, ["reason"]).items() if reason})
        verdicts = {verdict: count for (verdict,), count in _counts(manifest, ["verdict"]).items()}
        counts = Counts.model_validate({"listed": manifest.num_rows} | dict.fromkeys(VERDICTS, 0) | verdicts)
        bad = quarantined_files(manifest).slice(0, MOST_EXAMPLES).to_pylist()
        examples = [f"{row['path']} ({row['detail'] or row['reason']})" for row in bad]
        return cls(counts, by_split, dict(reasons.most_common()), examples)

    def refuse_too_many_bad(self, max_bad_fraction: float, folder: Location) -> None:
        """Stop a run whose images are too often bad.

        Args:
            max_bad_fraction: What is allowed, in [0, 1].
            folder: Has the manifest.

        Raises:
            TooManyBadImagesError: If more than that are quarantined. The message names some with their reasons, and
                what reads such files.
        """
        bad, images = self.counts.quarantined, self.counts.accepted + self.counts.quarantined
        if images and bad / images > max_bad_fraction:
            reasons = [reason for reason in self.reasons if reason not in EXCLUSIONS]
            named = ", ".join(f"{self.reasons[reason]} {reason}" for reason in reasons[:3])
            remedies = "; ".join(f"{REMEDIES[reason]} ({reason})" for reason in reasons if reason in REMEDIES)
            raise TooManyBadImagesError(
                f"{bad} of {images} images are bad ({named}), more than --max-bad-fraction {max_bad_fraction:g} "
                f"allows: {', '.join(self.examples)}{' ...' if bad > len(self.examples) else ''}; all of them are in "
                f"{(folder / QUARANTINED_FILE).uri}" + (f". What reads such files: {remedies}" if remedies else "")
            )


def _refuse_other_ids(found: pa.ChunkedArray, listed: pa.ChunkedArray) -> None:
    if found.take(pc.sort_indices(found)).equals(listed.take(pc.sort_indices(listed))):
        return
    counts = Counter(listed.to_pylist())
    counts.subtract(found.to_pylist())
    odd = min(image for image, count in counts.items() if count)
    raise TissueError(
        f"the account does not add up: {len(listed)} files were listed and {len(found)} have a verdict; "
        f"image {odd} is missing or counted twice; please report this"
    )


def _counts(table: pa.Table, columns: list[str]) -> "Counter[tuple[Any, ...]]":
    """How many rows have which values, in the order of the values."""
    counted = table.select(columns).group_by(columns).aggregate([([], "count_all")])
    rows = counted.sort_by([(name, "ascending") for name in columns]).select([*columns, "count_all"]).to_pylist()
    return Counter({tuple(row[name] for name in columns): row["count_all"] for row in rows})
