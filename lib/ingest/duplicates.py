"""Images with the same bytes: found by size and checksum, made sure of by reading, and dealt with as asked."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lib.errors import DataError
from lib.folders.manifest import ROWS_AT_ONCE, DuplicateCounts
from lib.storage.location import Location
from lib.storage.scan import StoredFile
from lib.storage.tables import Row

BoolArray = npt.NDArray[np.bool_]

SET_COLUMNS = ["image_id", "path", "size_bytes", "checksum", "version", "label", "split"]


@dataclass(frozen=True)
class Duplicates:
    """Sets of listed images with the same bytes, two or more in each set.

    Attributes:
        images: `SET_COLUMNS` of the listing and the first path of their set in a column `set`; sorted by set and path.
    """

    images: pa.Table

    @property
    def across_classes(self) -> "Duplicates":
        """The sets that have more than one label."""
        return self._whose("labels")

    @property
    def across_test(self) -> "Duplicates":
        """The sets that are both in the test split and outside it."""
        return self._whose("sides")

    def __len__(self) -> int:
        return int(pc.count_distinct(self.images["set"]).as_py())

    @property
    def counts(self) -> DuplicateCounts:
        """How many there are."""
        return DuplicateCounts(
            sets=len(self),
            images=self.images.num_rows,
            sets_across_classes=len(self.across_classes),
            sets_across_test=len(self.across_test),
        )

    def refuse(self, source: Location) -> None:
        """Stop when the same bytes are in two classes, or in the test split and outside it.

        Raises:
            DataError: Naming the first such pair.
            StorageError: If a suspect cannot be read again to make sure.
        """
        found = make_sure(self._whose("labels", "sides").images, source)
        for sets, where in (
            (found.across_classes, "two classes"),
            (found.across_test, "the test split and in training"),
        ):
            if len(sets):
                first, second = sets._first_pair()
                raise DataError(
                    f"the same image is in {where}: {first} and {second} ({len(sets)} such images); "
                    "correct this, or use --duplicates drop or keep"
                )

    def dropped(self) -> dict[str, str]:
        """By `image_id`, the reason of each image to leave out.

        Of a set within one class, one image stays: the first of the test split, or else the first. Of a set with
        several labels none stays, since none of them can be trusted.
        """
        reasons: dict[str, str] = {}
        for _, members in groupby(_rows(self.images), key=lambda row: str(row["set"])):
            rows = list(members)
            if len({row["label"] for row in rows}) > 1:
                reasons |= {row["image_id"]: "duplicate_conflict" for row in rows}
            else:
                kept = min(rows, key=lambda row: (row["split"] != "test", row["path"]))
                reasons |= {row["image_id"]: "duplicate" for row in rows if row is not kept}
        return reasons

    def _whose(self, *kinds: str) -> "Duplicates":
        """The sets with more than one label (`labels`), or on both sides of the test split (`sides`)."""
        placed = self.images.select(["set", "label"])
        placed = placed.append_column("side", pc.fill_null(pc.equal(self.images["split"], "test"), False))
        found = placed.group_by("set").aggregate([("label", "count_distinct"), ("side", "count_distinct")])
        found = found.rename_columns({"label_count_distinct": "labels", "side_count_distinct": "sides"})
        wanted = [found["set"].filter(pc.greater(found[kind], 1)) for kind in kinds]
        sets = pa.chunked_array([chunk for names in wanted for chunk in names.chunks], pa.string())
        return Duplicates(self.images.filter(pc.is_in(self.images["set"], sets)))

    def _first_pair(self) -> tuple[str, str]:
        """Two paths of the first set that differ in label, or in being in the test split."""
        rows = _rows(self.images)
        first = next(rows)
        place = (first["label"], first["split"] == "test")
        return first["path"], next(row["path"] for row in rows if (row["label"], row["split"] == "test") != place)


def with_checksums(images: pa.Table, source: Location) -> pa.Table:
    """The images, those that share their size with another having a checksum; files are read only for that.

    Raises:
        StorageError: If a file cannot be read.
    """
    sizes = images["size_bytes"].value_counts()
    shared = sizes.field("values").filter(pc.greater(sizes.field("counts"), 1))
    checksums = images["checksum"].combine_chunks()
    unknown = pc.and_(pc.is_null(checksums), pc.is_in(images["size_bytes"].combine_chunks(), shared))
    found = pa.array([_content(row, source)[1] for row in _rows(images.filter(unknown))], pa.string())
    place = images.schema.get_field_index("checksum")
    return images.set_column(place, images.field(place), pc.replace_with_mask(checksums, unknown, found))


def find_duplicates(images: pa.Table) -> Duplicates:
    """The images of the same size and checksum; rows without a checksum have no duplicate."""
    return _sets(images, ["size_bytes", "checksum"])


def make_sure(suspected: pa.Table, source: Location) -> Duplicates:
    """Those of the suspected images that really have the same bytes as another of them.

    CRC-32C has 32 bits and would call strangers equal in a large listing, so suspects are read and compared.

    Raises:
        StorageError: If a file cannot be read.
    """
    digests = [hashlib.sha256(_content(row, source)[0]).digest() for row in _rows(suspected)]
    return _sets(suspected.append_column("sha256", pa.array(digests, pa.binary())), ["sha256"])


def _sets(images: pa.Table, keys: list[str]) -> Duplicates:
    """The images that agree in the keys with another. A set is known by its first path."""
    order = pc.sort_indices(images, [(name, "ascending") for name in (*keys, "path")])
    goes_on = _is_as_before(images.select(keys).take(order))
    repeated = goes_on | np.append(goes_on[1:], False)
    found = images.select(SET_COLUMNS).take(order.filter(pa.array(repeated)))
    begins = ~goes_on[repeated]
    first_paths = found["path"].filter(pa.array(begins)).take(pa.array(np.cumsum(begins) - 1))
    return Duplicates(found.append_column("set", first_paths).sort_by([("set", "ascending"), ("path", "ascending")]))


def _is_as_before(rows: pa.Table) -> BoolArray:
    """Whether a row is equal to the one before it, shape (n,); a null is equal to nothing."""
    same = np.full(rows.num_rows, True)
    same[:1] = False
    for column in rows.columns:
        equal = pc.equal(column.slice(1), column.slice(0, max(rows.num_rows - 1, 0)))
        same[1:] &= pc.fill_null(equal, False).to_numpy()
    return same


def _rows(images: pa.Table) -> Iterator[Row]:
    for start in range(0, images.num_rows, ROWS_AT_ONCE):
        yield from images.slice(start, ROWS_AT_ONCE).to_pylist()


def _content(row: Row, source: Location) -> tuple[bytes, str]:
    [content] = source.read_listed([StoredFile.of(row)])
    return content
