"""The listing of a source: which images there are, with their labels, splits and groups, in units of work."""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lib.config import ListingConfig
from lib.errors import SettingsError
from lib.ingest.duplicates import find_duplicates, make_sure, with_checksums
from lib.ingest.labels import (
    LabelTable,
    Place,
    Placement,
    check_classes,
    label_typos,
    place_labelled,
    place_unlabelled,
)
from lib.ingest.manifest import LISTING_SCHEMA, MANIFEST_SCHEMA
from lib.ingest.shards import shard_name
from lib.ingest.splits import Member, choose_validation, refuse_torn_groups
from lib.storage.filesystem import Location, StoredFile

logger = logging.getLogger(__name__)

SMALLEST_UNIT, LARGEST_UNIT, USUAL_UNITS = 16, 512, 16

Row = dict[str, Any]


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
    def ids(self) -> list[str]:
        """The `image_id` of every listed file."""
        return [*self.images["image_id"].to_pylist(), *self.excluded["image_id"].to_pylist()]

    @property
    def content_hash(self) -> str:
        """Changes when a file is added, removed, renamed, replaced, or gets another label or split."""
        digest = hashlib.blake2b(digest_size=16)
        for table in (self.images, self.excluded):
            for row in table.select(["path", "size_bytes", "checksum", "version", "label", "split"]).to_pylist():
                digest.update(repr(tuple(row.values())).encode())
        return digest.hexdigest()

    def units(self, images_per_unit: int | None, made_with: str = "") -> list[pa.Table]:
        """The images in units of work, each of one split, with the name of their shard in a column `shard`.

        Args:
            images_per_unit: How many; see `lib.config.UnitConfig.images_per_shard`.
            made_with: What was measured on the whole listing; part of a shard's name, as the listed files are.
        """
        size = images_per_unit or min(max(self.images.num_rows // USUAL_UNITS, SMALLEST_UNIT), LARGEST_UNIT)
        return [
            unit
            for split in sorted(set(self.images["split"].to_pylist()), key=str)
            for unit in _cut(self.images.filter(_is_split(self.images, split)), split, size, made_with)
        ]


def image_id(path: str) -> str:
    """The identity of an image: 16 hexadecimal digits from its path relative to the source."""
    return hashlib.blake2b(path.encode(), digest_size=8).hexdigest()


def list_labelled(source: Location, config: ListingConfig) -> Listing:
    """List a training source, and choose the validation images.

    Raises:
        SettingsError: If the source is missing or empty, has no training image, or a setting does not fit it.
        DataError: If the classes cannot be trained on (see `check_classes`), a group is in training and in the test
            split, or the table of labels names files that are not there.
    """
    table = LabelTable.read(Location(config.labels)) if config.labels else None
    images, excluded = _list(source, table.place if table else place_labelled)
    if table:
        table.refuse_missing_files(row["path"] for row in (*images, *excluded))
    _set_groups(images, config, table)
    if config.duplicates == "drop":
        images, excluded = _without_duplicates(images, excluded, source)
    splits = Counter(image["split"] for image in images)
    if not splits["train"]:
        raise SettingsError(
            f"--source {source.uri} has no TIFF below train/; expected train/<label>/*.tif "
            f"(found {len(images) + len(excluded)} files, {splits['test']} of them below test/)"
        )
    class_names = check_classes(((image["label"], image["split"]) for image in images), config.validation_fraction)
    for typo in label_typos(class_names):
        logger.warning("%s", typo)
    refuse_torn_groups((image["group"], image["split"]) for image in images)
    if "validation" not in splits:
        _choose_validation(images, config)
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


def _list(source: Location, place: Place) -> tuple[list[Row], list[Row]]:
    if source.is_file():
        raise SettingsError(f"--source {source.uri} is a file; expected a folder of TIFFs")
    files = source.list_files()
    if not files:
        raise SettingsError(f"--source {source.uri} is missing or empty; expected a folder of TIFFs")
    images, excluded = [], []
    for file in files:
        placement = place(file.path)
        row = _row(file, placement)
        if reason := file.unreadable or placement.exclusion:
            excluded.append(_excluded(row, reason))
        else:
            images.append(row)
    return sorted(images, key=lambda image: str(image["image_id"])), excluded


def _row(file: StoredFile, placement: Placement) -> Row:
    return {
        "image_id": image_id(file.path),
        "path": file.path,
        "size_bytes": file.size_bytes,
        "checksum": file.checksum,
        "version": file.version,
        "label": placement.label,
        "split": placement.split,
        "group": placement.group,
    }


def _excluded(row: Row, reason: str) -> Row:
    return row | {"label": None, "split": None, "group": None, "verdict": "excluded", "reason": reason}


def _set_groups(images: list[Row], config: ListingConfig, table: LabelTable | None) -> None:
    """Set the group of each image from a column of the table or from its path, if asked for."""
    if config.group_by is None:
        return
    if table and images and config.group_by in table.rows[images[0]["path"]]:
        for image in images:
            image["group"] = table.rows[image["path"]][config.group_by] or None
        return
    pattern = re.compile(config.group_by)
    for image in images:
        match = pattern.search(image["path"])
        image["group"] = match.group(1 if pattern.groups else 0) if match else None
    if images and all(image["group"] is None for image in images):
        raise SettingsError(f"--group-by {config.group_by!r} is no column of --labels and matches no path")


def _without_duplicates(images: list[Row], excluded: list[Row], source: Location) -> tuple[list[Row], list[Row]]:
    suspects = find_duplicates(with_checksums(images, source)).sets
    dropped = make_sure(suspects, source).dropped()
    kept = [image for image in images if image["image_id"] not in dropped]
    return kept, [
        *excluded,
        *(_excluded(image, dropped[image["image_id"]]) for image in images if image["image_id"] in dropped),
    ]


def _choose_validation(images: list[Row], config: ListingConfig) -> None:
    members = [
        Member(image["image_id"], image["label"], image["group"] or image["image_id"])
        for image in images
        if image["split"] == "train"
    ]
    validation = choose_validation(members, config.validation_fraction, config.seed)
    for image in images:
        if image["image_id"] in validation:
            image["split"] = "validation"


def _tables(images: list[Row], excluded: list[Row]) -> tuple[pa.Table, pa.Table]:
    return (
        pa.Table.from_pylist(images, schema=LISTING_SCHEMA),
        pa.Table.from_pylist(excluded, schema=MANIFEST_SCHEMA),
    )


def _is_split(images: pa.Table, split: str | None) -> pa.ChunkedArray:
    return pc.is_null(images["split"]) if split is None else pc.equal(images["split"], split)


def _cut(images: pa.Table, split: str | None, size: int, made_with: str) -> Iterable[pa.Table]:
    for index, start in enumerate(range(0, images.num_rows, size)):
        unit = images.slice(start, size)
        shard = shard_name(split, f"{index:05d}", (made_with, unit.to_pylist()))
        yield unit.append_column("shard", pa.array([shard] * unit.num_rows, pa.string()))
