"""The listing of a source (what there is) and the manifest (what became of each file)."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lib.config import ListingConfig
from lib.errors import SettingsError, TissueError, TooManyBadImagesError
from lib.ingest.labels import (
    EXCLUSIONS,
    Placement,
    check_classes,
    choose_validation,
    place_labelled,
    place_unlabelled,
)
from lib.storage.filesystem import Location, StoredFile

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

SMALLEST_UNIT, LARGEST_UNIT, USUAL_UNITS = 16, 512, 16


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes:
        images: The files that count as images, `LISTING_SCHEMA`, sorted by `image_id`, which is as good as shuffled.
        excluded: The others, `MANIFEST_SCHEMA`, each with its reason.
        class_names: The labels in order; empty for a source without labels.
    """

    images: pa.Table
    excluded: pa.Table
    class_names: list[str]

    @property
    def listed(self) -> int:
        """How many files were found."""
        return int(self.images.num_rows + self.excluded.num_rows)

    @property
    def content_hash(self) -> str:
        """Changes when a file is added, removed, renamed or replaced."""
        digest = hashlib.blake2b(digest_size=16)
        for table in (self.images, self.excluded):
            for row in table.select(["path", "size_bytes", "checksum", "version", "split"]).to_pylist():
                digest.update(repr(tuple(row.values())).encode())
        return digest.hexdigest()

    def units(self, images_per_unit: int | None) -> list[pa.Table]:
        """The images in units of work, each of one split, with the name of their shard in a column `shard`."""
        size = images_per_unit or min(max(self.images.num_rows // USUAL_UNITS, SMALLEST_UNIT), LARGEST_UNIT)
        return [
            unit
            for split in sorted(set(self.images["split"].to_pylist()), key=str)
            for unit in _cut(self.images.filter(_is_split(self.images, split)), split, size)
        ]


def image_id(path: str) -> str:
    """The identity of an image: 16 hexadecimal digits from its path relative to the source."""
    return hashlib.blake2b(path.encode(), digest_size=8).hexdigest()


def list_labelled(source: Location, config: ListingConfig) -> Listing:
    """List `train/<label>/*.tif` and `test/<label>/*.tif`, and choose the validation images.

    Raises:
        SettingsError: If the source is missing or empty, or has no image below `train/`.
        DataError: If the classes cannot be trained on (see `check_classes`).
    """
    images, excluded = _list(source, place_labelled)
    splits = Counter(image["split"] for image in images)
    if not splits["train"]:
        raise SettingsError(
            f"--source {source.uri} has no TIFF below train/; expected train/<label>/*.tif "
            f"(found {len(images) + len(excluded)} files, {splits['test']} of them below test/)"
        )
    class_names = check_classes(((image["label"], image["split"]) for image in images), config.validation_fraction)
    for name in class_names:
        of_class = [image for image in images if (image["label"], image["split"]) == (name, "train")]
        validation = choose_validation(
            [image["image_id"] for image in of_class], config.validation_fraction, config.seed
        )
        for image in of_class:
            image["split"] = "validation" if image["image_id"] in validation else "train"
    return Listing(*_tables(images, excluded), class_names)


def list_unlabelled(source: Location) -> Listing:
    """List every TIFF of a folder tree.

    Raises:
        SettingsError: If the source is missing or has no TIFF.
    """
    images, excluded = _list(source, place_unlabelled)
    if not images:
        raise SettingsError(f"--source {source.uri} has no TIFF ({len(excluded)} other files)")
    return Listing(*_tables(images, excluded), [])


def _list(source: Location, place: Callable[[str], Placement]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    if source.is_file():
        raise SettingsError(f"--source {source.uri} is a file; expected a folder of TIFFs")
    files = source.list_files()
    if not files:
        raise SettingsError(f"--source {source.uri} is missing or empty; expected a folder of TIFFs")
    images, excluded = [], []
    for file in files:
        placement = place(file.path)
        row = _row(file, placement)
        if placement.exclusion is None:
            images.append(row)
        else:
            excluded.append(row | {"verdict": "excluded", "reason": placement.exclusion})
    return sorted(images, key=lambda image: str(image["image_id"])), excluded


def _row(file: StoredFile, placement: Placement) -> dict[str, Any]:
    return {
        "image_id": image_id(file.path),
        "path": file.path,
        "size_bytes": file.size_bytes,
        "checksum": file.checksum,
        "version": file.version,
        "label": placement.label,
        "split": placement.split,
    }


def _tables(images: list[dict[str, Any]], excluded: list[dict[str, Any]]) -> tuple[pa.Table, pa.Table]:
    return (
        pa.Table.from_pylist(images, schema=LISTING_SCHEMA),
        pa.Table.from_pylist(excluded, schema=MANIFEST_SCHEMA),
    )


def _is_split(images: pa.Table, split: str | None) -> pa.ChunkedArray:
    return pc.is_null(images["split"]) if split is None else pc.equal(images["split"], split)


def _cut(images: pa.Table, split: str | None, size: int) -> Iterable[pa.Table]:
    for index, start in enumerate(range(0, images.num_rows, size)):
        unit = images.slice(start, size)
        digest = hashlib.blake2b(repr(unit.to_pylist()).encode(), digest_size=4).hexdigest()
        shard = f"{split or 'images'}-{index:05d}-{digest}.parquet"
        yield unit.append_column("shard", pa.array([shard] * unit.num_rows, pa.string()))


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
    def of(cls, manifest: pa.Table, listing: Listing) -> "Accounting":
        """Account for a manifest against the listing it came from.

        Raises:
            TissueError: If the manifest and the listing do not hold the same files, once each.
        """
        listed = sorted(listing.images["image_id"].to_pylist() + listing.excluded["image_id"].to_pylist())
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
