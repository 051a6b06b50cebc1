"""The listing of a source: which images there are, with what is known of each, in units of work."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from lib.config.images import ListingConfig
from lib.errors import SettingsError
from lib.folders.manifest import LISTING_SCHEMA, ROWS_AT_ONCE, content_digest, manifest_table
from lib.folders.shards import shard_column, shard_name
from lib.ingest.duplicates import find_duplicates, make_sure, with_checksums
from lib.ingest.label_table import LabelTable
from lib.ingest.labels import (
    FOUND,
    Found,
    Place,
    Placement,
    check_classes,
    label_typos,
    place_labelled,
    place_unlabelled,
    with_found,
)
from lib.ingest.splits import choose_validation, refuse_torn_groups
from lib.ingest.unread import advice, tell_left_out, tell_unreadable
from lib.storage.location import Location
from lib.storage.scan import StoredFile

logger = logging.getLogger(__name__)

SMALLEST_UNIT, LARGEST_UNIT, USUAL_UNITS = 16, 512, 16

ADDED = ("site", "columns")
"""What later versions list too: where it is not known, hashes and the names of shards are as they were before."""
PLACED_SCHEMA = LISTING_SCHEMA.append(pa.field("reason", pa.string()))
"""In memory only."""
"""A listed file, and why it does not count as an image, null if it does."""


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes:
        images: The files that count as images, `LISTING_SCHEMA`, sorted by split and then by `image_id`, which is as
            good as shuffled.
        excluded: The others, `MANIFEST_SCHEMA`, each with its reason.
        class_names: The labels in order; empty for a source without labels.
    """

    images: pa.Table
    excluded: pa.Table
    class_names: list[str]

    @property
    def ids(self) -> pa.ChunkedArray:
        """The `image_id` of every listed file."""
        return pa.chunked_array([*self.images["image_id"].chunks, *self.excluded["image_id"].chunks], pa.string())

    @property
    def content_hash(self) -> str:
        """Changes when a file is added, removed, renamed, replaced, or gets another label, split, site or column."""
        columns = ["path", "size_bytes", "checksum", "version", "label", "split"]
        columns += [name for name in ADDED if self.images[name].null_count < self.images.num_rows]
        return content_digest(pa.concat_tables([self.images.select(columns), self.excluded.select(columns)]))

    def units(self, images_per_unit: int | None, made_with: str = "") -> list[pa.Table]:
        """The images in units of work, each of one split, with the name of their shard in a column `shard`.

        Args:
            images_per_unit: How many; see `lib.config.images.UnitConfig.images_per_shard`.
            made_with: What was measured on the whole listing; part of a shard's name, as the listed files are.
        """
        size = images_per_unit or min(max(self.images.num_rows // USUAL_UNITS, SMALLEST_UNIT), LARGEST_UNIT)
        units: list[pa.Table] = []
        start = 0
        for run in self.images["split"].value_counts().to_pylist():  # splits are in order: slices, no copies
            images = self.images.slice(start, run["counts"])
            units += _cut(images, run["values"], size, made_with)
            start += run["counts"]
        return units


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
    by: dict[Found, str | None] = {"group": config.group_by, "site": config.site_by}
    table = LabelTable.read(Location(config.labels), by) if config.labels else None
    patterns = {name: by[name] for name in FOUND if not (table and name in table.found)}
    images, excluded = _list(source, with_patterns(table.place if table else place_labelled, patterns))
    if table:
        table.refuse_missing_files(pa.chunked_array([*images["path"].chunks, *excluded["path"].chunks], pa.string()))
    refuse_unmatched(patterns, images, "is not a column of --labels and is not found in any path")
    if config.duplicates == "drop":
        images, excluded = _without_duplicates(images, excluded, source)
    counts = _class_counts(images)
    splits = {split for _, split in counts}
    if "train" not in splits:
        raise SettingsError(
            f"--source {source.uri} has no TIFF below train/; expected train/<label>/*.tif "
            f"(found {images.num_rows + excluded.num_rows} files, "
            f"{sum(count for (_, split), count in counts.items() if split == 'test')} of them below test/)"
            f"{advice(excluded, source)}"
        )
    tell_left_out(images, excluded, source, by_table=table is not None)
    class_names = check_classes(counts, 0 if "validation" in splits else config.validation_fraction)
    for typo in label_typos(class_names):
        logger.warning("%s", typo)
    refuse_torn_groups(images)
    if "validation" not in splits:
        images = _with_validation(images, config)
    return _sorted(images, excluded, class_names)


def list_unlabelled(source: Location, patterns: Mapping[Found, str | None] | None = None) -> Listing:
    """List every TIFF of a folder tree.

    Args:
        patterns: What finds groups and sites in paths.

    Raises:
        SettingsError: If the source is missing or has no TIFF, or a pattern is found in no path.
    """
    images, excluded = _list(source, with_patterns(place_unlabelled, patterns or {}))
    refuse_unmatched(patterns or {}, images, "is not found in any path")
    tell_unreadable(excluded)
    if not images.num_rows:
        raise SettingsError(f"--source {source.uri} has no TIFF ({excluded.num_rows} other files)")
    return _sorted(images, excluded, [])


def _sorted(images: pa.Table, excluded: pa.Table, class_names: list[str]) -> Listing:
    """The listing in an order that does not depend on that in which files were found."""
    order = [("split", "ascending"), ("image_id", "ascending")]
    return Listing(images.sort_by(order), excluded.sort_by("path"), class_names)


def _list(source: Location, place: Place) -> tuple[pa.Table, pa.Table]:
    """The images and the excluded files of a source; of these few are Python objects at one time."""
    if source.is_file():
        raise SettingsError(f"--source {source.uri} is a file; expected a folder of TIFFs")
    parts = []
    files = source.scan_files()
    while some := list(islice(files, ROWS_AT_ONCE)):
        parts.append(_divided(_placed(some, place)))
    if not parts:
        raise SettingsError(f"--source {source.uri} is missing or empty; expected a folder of TIFFs")
    images, excluded = (pa.concat_tables(tables) for tables in zip(*parts, strict=True))
    return images, excluded


def _placed(files: list[StoredFile], place: Place) -> pa.Table:
    """The files with what is known of them, and reasons (`PLACED_SCHEMA`)."""
    places = [Placement(exclusion=file.unreadable) if file.unreadable else place(file.path) for file in files]
    columns = {
        "image_id": [_identity(file) for file in files],
        "path": [file.path for file in files],
        "size_bytes": [file.size_bytes for file in files],
        "checksum": [file.checksum for file in files],
        "version": [file.version for file in files],
        "label": [place.label for place in places],
        "split": [place.split for place in places],
        "group": [place.group for place in places],
        "site": [place.site for place in places],
        "columns": [place.columns for place in places],
        "reason": [place.exclusion for place in places],
    }
    return pa.Table.from_pydict(columns, schema=PLACED_SCHEMA)


def _identity(file: StoredFile) -> str:
    """The `image_id` of an image; what is not read may have the spelling of an image, and must not be taken for it."""
    return image_id(f"{file.path}\0{file.unreadable}" if file.unreadable else file.path)


def _divided(placed: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Images (`LISTING_SCHEMA`) and excluded files (`MANIFEST_SCHEMA`)."""
    is_image = pc.is_null(placed["reason"])
    images = placed.filter(is_image).select(LISTING_SCHEMA.names)
    excluded = placed.filter(pc.invert(is_image))
    columns = {name: excluded[name] for name in ("image_id", "path", "size_bytes", "checksum", "version", "reason")}
    columns["verdict"] = pa.array(["excluded"] * excluded.num_rows, pa.string())
    return images, manifest_table(columns, excluded.num_rows)


def with_patterns(place: Place, patterns: Mapping[Found, str | None]) -> Place:
    """Places as before, with the groups and sites that patterns find in paths."""
    for name, pattern in patterns.items():
        if pattern is not None:
            place = with_found(place, name, pattern)
    return place


def refuse_unmatched(patterns: Mapping[Found, str | None], images: pa.Table, complaint: str) -> None:
    """Stop where groups or sites were to be found in paths, and there are none.

    Raises:
        SettingsError: Naming the setting.
    """
    for name, pattern in patterns.items():
        if pattern is not None and images.num_rows and images[name].null_count == images.num_rows:
            raise SettingsError(f"--{name}-by {pattern!r} {complaint}")


def _without_duplicates(images: pa.Table, excluded: pa.Table, source: Location) -> tuple[pa.Table, pa.Table]:
    suspects = find_duplicates(with_checksums(images, source)).images
    dropped = make_sure(suspects, source).dropped()
    places = pc.index_in(images["image_id"], pa.array(dropped, pa.string()))
    reasons = pa.array(dropped.values(), pa.string()).take(places)
    kept, duplicates = _divided(images.append_column("reason", reasons))
    return kept, pa.concat_tables([excluded, duplicates])


def _class_counts(images: pa.Table) -> Counter[tuple[str, str]]:
    """How many images have which label and split."""
    counted = images.group_by(["label", "split"]).aggregate([([], "count_all")])
    return Counter({(row["label"], row["split"]): row["count_all"] for row in counted.to_pylist()})


def _with_validation(images: pa.Table, config: ListingConfig) -> pa.Table:
    is_training = pc.equal(images["split"], "train").combine_chunks()
    training = images.select(["image_id", "label", "group"]).filter(is_training)
    validates = choose_validation(training, config.validation_fraction, config.seed)
    mask = pc.replace_with_mask(is_training, is_training, validates)
    split = pc.if_else(mask, "validation", images["split"])
    return images.set_column(images.schema.get_field_index("split"), LISTING_SCHEMA.field("split"), split)


def _cut(images: pa.Table, split: str | None, size: int, made_with: str) -> Iterable[pa.Table]:
    for index, start in enumerate(range(0, images.num_rows, size)):
        unit = images.slice(start, size)
        rows = [{name: row[name] for name in row if name not in ADDED or row[name]} for row in unit.to_pylist()]
        shard = shard_name(split, f"{index:05d}", (made_with, rows))
        yield unit.append_column("shard", shard_column(shard, unit.num_rows))
