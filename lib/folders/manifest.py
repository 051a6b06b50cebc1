"""The manifest: what became of each listed file, and the proof that none is lost."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lib.errors import TissueError, TooManyBadImagesError
from lib.folders.record import Record
from lib.storage.drive.names import UNREADABLE
from lib.storage.location import Location
from lib.storage.tables import read_table, write_table

MANIFEST_FILE = "manifest.parquet"
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
    ]
)
SPLITS = ("train", "validation", "test")
VERDICTS = ("accepted", "quarantined", "excluded")
LISTING_SCHEMA = pa.schema([field for field in MANIFEST_SCHEMA if field.name not in {"verdict", "reason", "detail"}])
NOWHERE = "-"
"""Stands for the split and the class of files that have none."""
EXCLUSIONS = {
    **UNREADABLE,
    "hidden_file": "a name that starts with a dot, or in a folder with such a name, as left by an operating system",
    "not_tiff_name": "the name does not end in .tif or .tiff",
    "outside_splits": "not below train/ or test/",
    "no_label": "directly in train/ or test/, not in a folder that names its label",
    "not_in_table": "not named by the table of labels",
    "duplicate": "the same bytes as another image, which is kept",
    "duplicate_conflict": "the same bytes as an image of another class, so that no label can be trusted",
    "test_split": "kept for testing, so not touched by training",
}
"""Why a file is left out, by reason code."""
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


def write_manifest(manifest: pa.Table, folder: Location) -> None:
    """Write the manifest (`MANIFEST_SCHEMA`) of a dataset or predictions folder."""
    write_table(manifest, folder / MANIFEST_FILE)


def read_manifest(folder: Location, columns: list[str] | None = None) -> pa.Table:
    """The manifest of a dataset or predictions folder, or some columns of it.

    Raises:
        StorageError: If it cannot be read.
    """
    return read_table(folder / MANIFEST_FILE, columns)


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
    """

    counts: Counts
    by_split: dict[str, dict[str, VerdictCounts]]
    reasons: dict[str, int]

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
        return cls(counts, by_split, dict(reasons.most_common()))

    def refuse_too_many_bad(self, max_bad_fraction: float) -> None:
        """Stop a run whose images are too often bad.

        Raises:
            TooManyBadImagesError: If more than `max_bad_fraction` of the images are quarantined.
        """
        bad, images = self.counts.quarantined, self.counts.accepted + self.counts.quarantined
        if images and bad / images > max_bad_fraction:
            named = [f"{count} {reason}" for reason, count in self.reasons.items() if reason not in EXCLUSIONS]
            raise TooManyBadImagesError(
                f"{bad} of {images} images are bad ({', '.join(named[:3])}), "
                f"more than --max-bad-fraction {max_bad_fraction:g} allows"
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
