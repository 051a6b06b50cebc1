"""The manifest: what became of each listed file, and the proof that none is lost."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lib.errors import TissueError, TooManyBadImagesError
from lib.storage.drive.names import UNREADABLE

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
LISTING_SCHEMA = pa.schema([field for field in MANIFEST_SCHEMA if field.name not in {"verdict", "reason", "detail"}])
VERDICTS = ("accepted", "quarantined", "excluded")
ROWS_AT_ONCE = 10_000
"""Rows that are Python objects at one time: a listing of millions is kept in columns."""


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
        counts: Files by verdict, with `listed` for all of them.
        by_split: Files by split, label and verdict. Excluded files have neither; they stand under `-`.
        reasons: Files by reason code, the most frequent first.
    """

    counts: dict[str, int]
    by_split: dict[str, dict[str, dict[str, int]]]
    reasons: dict[str, int]

    @classmethod
    def of(cls, manifest: pa.Table, listed_ids: pa.ChunkedArray) -> "Accounting":
        """Account for a manifest against the `image_id` of every listed file.

        Raises:
            TissueError: If the manifest and the listing do not hold the same files, once each.
        """
        _refuse_other_ids(manifest["image_id"], listed_ids)
        verdicts = _counts(manifest, ["verdict"])
        by_split: dict[str, dict[str, dict[str, int]]] = {}
        for (split, label, verdict), count in _counts(manifest, ["split", "label", "verdict"]).items():
            by_class = by_split.setdefault(split or "-", {})
            by_class.setdefault(label or "-", dict.fromkeys(VERDICTS, 0))[verdict] += count
        reasons = Counter({reason: count for (reason,), count in _counts(manifest, ["reason"]).items() if reason})
        return cls(
            counts={"listed": manifest.num_rows} | {verdict: verdicts[verdict,] for verdict in VERDICTS},
            by_split=by_split,
            reasons=dict(reasons.most_common()),
        )

    def refuse_too_many_bad(self, max_bad_fraction: float) -> None:
        """Stop a run whose images are too often bad.

        Raises:
            TooManyBadImagesError: If more than `max_bad_fraction` of the images are quarantined.
        """
        images = self.counts["accepted"] + self.counts["quarantined"]
        if images and self.counts["quarantined"] / images > max_bad_fraction:
            bad = [f"{count} {reason}" for reason, count in self.reasons.items() if reason not in EXCLUSIONS]
            reasons = ", ".join(bad[:3])
            raise TooManyBadImagesError(
                f"{self.counts['quarantined']} of {images} images are bad ({reasons}), "
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
