"""The manifest: what became of each listed file, and the proof that none is lost."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from lib.errors import TissueError, TooManyBadImagesError
from lib.ingest.labels import EXCLUSIONS

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
    def of(cls, manifest: pa.Table, listed_ids: Iterable[str]) -> "Accounting":
        """Account for a manifest against the `image_id` of every listed file.

        Raises:
            TissueError: If the manifest and the listing do not hold the same files, once each.
        """
        listed = sorted(listed_ids)
        found = manifest["image_id"].to_pylist()
        if sorted(found) != listed:
            odd = min((Counter(listed) - Counter(found)) + (Counter(found) - Counter(listed)))
            raise TissueError(
                f"the account does not add up: {len(listed)} files were listed and {len(found)} have a verdict; "
                f"image {odd} is lost or doubled; this is a bug"
            )
        rows = manifest.select(["split", "label", "verdict", "reason"]).to_pylist()
        verdicts = Counter(row["verdict"] for row in rows)
        by_split: dict[str, dict[str, dict[str, int]]] = {}
        for row in rows:
            by_class = by_split.setdefault(row["split"] or "-", {})
            by_class.setdefault(row["label"] or "-", dict.fromkeys(VERDICTS, 0))[row["verdict"]] += 1
        return cls(
            counts={"listed": len(rows)} | {verdict: verdicts[verdict] for verdict in VERDICTS},
            by_split=by_split,
            reasons=dict(Counter(row["reason"] for row in rows if row["reason"]).most_common()),
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
                f"{self.counts['quarantined']} of {images} images are bad ({reasons}); "
                f"--max-bad-fraction {max_bad_fraction:g} does not allow that"
            )
