"""The dataset folder: `dataset.json`, the account of its files, and whether its splits are independent."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from lib.config.images import ImageConfig
from lib.folders.manifest import (
    NOWHERE,
    SPLITS,
    VERDICTS,
    Counts,
    DuplicateCounts,
    PixelDoubt,
    Scale,
    VerdictCounts,
    quarantined_files,
    read_manifest,
)
from lib.folders.output import read_complete
from lib.folders.record import CompletionRecord
from lib.folders.shards import ImageEncoding, ShardFile
from lib.storage.location import Location

MOST_REFUSED = 200
"""Quarantined files that are listed; the page states how many more there are."""
COLUMNS = ["image_id", "path", "label", "split", "group", "checksum", "verdict", "reason", "detail"]


class DatasetRecord(CompletionRecord):
    """What a data set is made of."""

    FILE: ClassVar[str] = "dataset.json"
    JOB: ClassVar[str] = "convert"
    PARTS: ClassVar[str] = "images"

    class_names: list[str]
    """In order; the number of a label is its place here."""
    image_size: int
    """Side of the images in pixels."""
    image_policy: ImageConfig
    """How the TIFFs became these images."""
    encoding: ImageEncoding
    source: str
    """URI of the folder of TIFFs."""
    counts: Counts
    counts_by_split: dict[str, dict[str, VerdictCounts]]
    """Files by split and label; those that have none stand under `NOWHERE`."""
    reasons: dict[str, int]
    """Files by reason code, the most frequent first."""
    shards: list[ShardFile] = Field(default_factory=list)
    """Those with accepted images."""
    content_hash: str
    """Changes when an image, its label, its split or its conversion changes."""
    duplicates: DuplicateCounts | None = None
    pixels: list[PixelDoubt] = Field(default_factory=list)
    """What to doubt of the pixels that came out."""
    micrometres: Scale | None = None
    """Of a pixel; None where no file says."""
    columns: list[str] = Field(default_factory=list)
    """What the table of labels says beyond label, split, group and site."""
    columns_hash: str | None = None
    """Changes when the site of an image or such a column changes; None where there is neither."""
    seconds: float


@dataclass(frozen=True)
class ClassCount:
    """Files of one class in one split."""

    split: str
    class_name: str
    accepted: int
    quarantined: int
    excluded: int

    @property
    def listed(self) -> int:
        """All of them."""
        return self.accepted + self.quarantined + self.excluded


@dataclass(frozen=True)
class RefusedFile:
    """A file that was quarantined, and why."""

    path: str
    label: str | None
    split: str | None
    reason: str
    detail: str | None


@dataclass(frozen=True)
class Overlap:
    """What the manifest tells about the independence of the splits.

    Attributes:
        grouped: Accepted images whose group (slide, patient) is known.
        shared_groups: Groups with accepted images in more than one split.
        checksummed: Accepted images whose checksum is known.
        shared_contents: Accepted images that are byte for byte the same as one in another split.
    """

    grouped: int
    shared_groups: int
    checksummed: int
    shared_contents: int


@dataclass(frozen=True)
class Dataset:
    """A dataset folder.

    Attributes:
        uri: Where it is.
        record: What `dataset.json` says.
        counts_by_class: One row a split and class, in the order of splits and classes.
        refused: The quarantined files that are shown.
        overlap: Whether the splits are independent.
        groups: The group (slide, patient) of each accepted image by its id, None where it is unknown.
    """

    uri: str
    record: DatasetRecord
    counts_by_class: tuple[ClassCount, ...]
    refused: tuple[RefusedFile, ...]
    overlap: Overlap
    groups: Mapping[str, str | None]

    @property
    def counts(self) -> Counts:
        """All files, by verdict."""
        return self.record.counts

    @property
    def splits(self) -> list[str]:
        """The splits that hold files, without `NOWHERE`."""
        return list(dict.fromkeys(row.split for row in self.counts_by_class if row.split != NOWHERE))

    @property
    def classes(self) -> list[str]:
        """The classes that hold files, in order, and `NOWHERE` last if there are files of no class."""
        names = sorted({row.class_name for row in self.counts_by_class} - {NOWHERE})
        return names + [NOWHERE] * any(row.class_name == NOWHERE for row in self.counts_by_class)

    def count(self, *, split: str | None = None, class_name: str | None = None) -> ClassCount:
        """Files of a split, of a class, of both, or of all."""
        rows = [
            row for row in self.counts_by_class if split in {None, row.split} and class_name in {None, row.class_name}
        ]
        sums = (sum(getattr(row, verdict) for row in rows) for verdict in VERDICTS)
        return ClassCount(split or "", class_name or "", *sums)

    @property
    def adds_up(self) -> bool:
        """Whether listed = accepted + quarantined + excluded, in all and summed over splits and classes."""
        total = self.count()
        return all(getattr(total, name) == getattr(self.counts, name) for name in ("listed", *VERDICTS))


def read_dataset(folder: Location) -> Dataset:
    """Read a dataset folder.

    Raises:
        SettingsError: If it is not complete.
        StorageError: If a file cannot be read.
    """
    record = read_complete(folder, DatasetRecord)
    manifest = read_manifest(folder, COLUMNS)
    accepted = manifest.filter(pc.equal(manifest["verdict"], "accepted"))
    return Dataset(
        uri=folder.uri,
        record=record,
        counts_by_class=_class_counts(record.counts_by_split),
        refused=_refused_files(manifest),
        overlap=find_overlap(manifest),
        groups=dict(zip(accepted["image_id"].to_pylist(), accepted["group"].to_pylist(), strict=True)),
    )


def _class_counts(by_split: Mapping[str, Mapping[str, VerdictCounts]]) -> tuple[ClassCount, ...]:
    order = [*SPLITS, *sorted(set(by_split) - set(SPLITS))]
    return tuple(
        ClassCount(split, name, *(getattr(counts, verdict) for verdict in VERDICTS))
        for split in order
        for name, counts in sorted(by_split.get(split, {}).items())
    )


def _refused_files(manifest: pa.Table) -> tuple[RefusedFile, ...]:
    return tuple(RefusedFile(**row) for row in quarantined_files(manifest).slice(0, MOST_REFUSED).to_pylist())


def find_overlap(manifest: pa.Table) -> Overlap:
    """Which groups and which contents are in more than one split.

    Args:
        manifest: With columns `image_id`, `split`, `group`, `checksum` and `verdict`.
    """
    accepted = manifest.filter(pc.equal(manifest["verdict"], "accepted"))
    grouped, shared_groups, _ = _shared_between_splits(accepted, "group")
    checksummed, _, shared_contents = _shared_between_splits(accepted, "checksum")
    return Overlap(grouped, shared_groups, checksummed, shared_contents)


def _shared_between_splits(images: pa.Table, key: str) -> tuple[int, int, int]:
    """Images that have the key, values of it in several splits, and images with such a value."""
    known = images.filter(pc.is_valid(images[key]))
    counted = known.group_by(key).aggregate([("split", "count_distinct"), ("image_id", "count")])
    shared = counted.filter(pc.greater(counted["split_count_distinct"], 1))
    return known.num_rows, shared.num_rows, pc.sum(shared["image_id_count"]).as_py() or 0
